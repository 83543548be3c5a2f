"""Reads pairs into the scratch arrays that the 3D methods map."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.fourier.grids import double_angle_grid, frequency_grid
from diffragan.fourier.slices import Slices, slices
from diffragan.microscope.effective_dose import MUCH_BESIDE, protein_intensity
from diffragan.microscope.imaging import contrast_of_images, counted_electrons
from diffragan.microscope.specimen import pattern_fade
from diffragan.optics import lens_envelope
from diffragan.pairs.open import mean_pattern
from diffragan.pairs.pairs import Pairs
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.maps.image_map import ring_of, ring_power
from diffragan.reconstruction.maps.image_transfer import ImageTransfer, OwnDefocus
from diffragan.reconstruction.maps.views import BLOCK, Views, side_of

_SHAPE_FROM_PER_A = 0.2
_DOUBTED_PER_A = (0.25, 0.5)
_TELLING_ERROR = 0.1  # of a squared correlation, by the other half's patterns
_READ = {"seed", "image", "pattern", "specimen", "detector"}  # settings that arrays depend on


def load_views(
    pairs: Pairs,
    items: NDArray[np.int64],
    rotations: NDArray[np.float64],
    scratch: Path,
    *,
    shifts_A: NDArray[np.float64] | None = None,
    progress: Progress = no_progress,
) -> Views:
    """The views of some items; the scratch folder keeps them for a run that goes on later.

    Args:
        rotations: (len(items), 3, 3). shifts_A: (len(items), 2) as x, y; none: all centred.
        scratch: made if missing; a folder that holds the same items is used as it is.
    """
    mask = torch.from_numpy(pairs.pattern_mask)
    optics = pairs.optics
    flat = slices(mask, optics.box_A, optics.wavelength_A, curved=False)
    curved = slices(mask, optics.box_A, optics.wavelength_A, curved=True)
    transfer = _transfer(flat, pairs, items)
    v, k, ki = len(items), len(flat), len(transfer)
    electrons = counted_electrons(optics, pairs.settings)
    q = flat.radius.double() / optics.box_A
    fade = pattern_fade(q, optics.energy_ev, pairs.settings)
    measured, contrast, noise = _arrays(
        scratch, pairs, items, flat, ki, fade=fade, progress=progress
    )
    assert measured.shape == (v, 2, k)
    shifts = np.zeros((v, 2)) if shifts_A is None else shifts_A
    return Views(
        optics=optics,
        flat=flat,
        curved=curved,
        n=side_of(flat),
        measured=measured,
        contrast=contrast,
        transfer=transfer,
        image_noise=noise,
        rotations=torch.from_numpy(np.ascontiguousarray(rotations)).float(),
        shifts_A=torch.from_numpy(np.ascontiguousarray(shifts)).float(),
        weights=torch.ones(v),
        items=items,
        electrons=electrons,
        fade=None if fade is None else fade.float(),
        molecules=pairs.settings.specimen.molecules,
    )


def with_background(views: Views, mass_kda: float) -> Views:
    """Counted views with the intensity, ring by ring, that a molecule of this weight does not
    explain: what ice, damage and lost energy add.

    Beyond 5 Å a protein's mean intensity is that of its atoms one by one; nearer to the beam, where
    it has a shape of its own, the background goes on as it is at 5 Å, or as all that was measured,
    if that is less.
    """
    rings = ring_of(views)
    q = torch.arange(int(rings.max()) + 1, dtype=torch.float64) / views.optics.box_A
    own = protein_intensity(q, views.optics, mass_kda)
    beside = (ring_power(replace(views, background=None)).double().cpu() - own).clamp_min(0)
    inner = q < _SHAPE_FROM_PER_A
    near = (q >= _SHAPE_FROM_PER_A) & (q <= 1.2 * _SHAPE_FROM_PER_A)
    beside[inner] = beside[inner].clamp(max=float(beside[near].mean()))
    return replace(views, background=beside.float().to(views.device)[rings])


def with_empty_positions(views: Views, path: Path) -> Views:
    """Counted views with the intensity, ring by ring, that patterns of positions without a molecule
    show: of ice and support, under the same exposure. What damage makes of the molecule as an even
    background is not among it.

    Args:
        path: a store, or a file of patterns (n, m, m): counts, or fractions of the beam.

    Raises:
        DiffraganError: they can't be read, or are of another size.
    """
    assert views.electrons is not None
    mean, flat = mean_pattern(path, views.electrons), views.flat
    if mean.shape != (flat.m, flat.m):
        raise DiffraganError(
            f"The patterns of empty positions in {path} are {mean.shape[0]} pixels a side, the "
            f"pairs' {flat.m}; give some of the same detector and camera length."
        )
    both = torch.from_numpy(mean).flatten().to(views.device)
    seen = flat.valid.double()
    told = (torch.stack((both[flat.pixel], both[flat.mate])) * seen).sum(0)
    rings = ring_of(views)
    total, count = (
        torch.zeros(int(rings.max()) + 1, dtype=torch.float64, device=views.device).index_add_(
            0, rings, values
        )
        for values in (told, seen.sum(0))
    )
    beside = (total / count.clamp_min(1))[rings]
    if views.fade is not None:
        beside = beside / views.fade
    return replace(views, background=beside.float())


def background_doubt(views: Views, mass_kda: float, other: Tensor) -> str | None:
    """That so much scatters beside the molecule, between 4 and 2 Å, that half maps may agree by it,
    and patterns tell too little to show that they do; None where it is not so.

    Args:
        other: (2, rings) what the other half's patterns say of a map, from ring 1 on, and the
            standard error (`Agreement.other`).
    """
    if views.background is None:
        return None
    q = views.flat.radius.double().cpu() / views.optics.box_A
    band = (q >= _DOUBTED_PER_A[0]) & (q <= _DOUBTED_PER_A[1])
    if not band.any():
        return None
    own = protein_intensity(q, views.optics, mass_kda)
    times = float(views.background.double().cpu()[band].mean() / own[band].mean())
    error = float(other[1].double()[ring_of(views).cpu()[band] - 1].nanmean())
    if times <= MUCH_BESIDE or error < _TELLING_ERROR:
        return None
    return (
        f"Beside the molecule scatters {times:.0f} times its own intensity, and the patterns are "
        "too few to tell whether half maps agree by that alone, so the resolution claimed is not "
        "to be relied on; thinner ice, a narrower beam or more patterns help."
    )


def _transfer(flat: Slices, pairs: Pairs, items: NDArray[np.int64]) -> ImageTransfer:
    """Contrast per unit of object at the leading pairs that the aperture lets through."""
    optics, image = pairs.optics, pairs.settings.image
    q2 = torch.fft.fftshift(frequency_grid(flat.m, optics.box_A)).flatten()[flat.pixel]
    passed = lens_envelope(
        q2,
        optics.energy_ev,
        focal_spread_A=image.focal_spread_A,
        aperture_mrad=image.aperture_mrad,
    )
    inside = torch.nonzero(passed > 0.01).flatten()
    if not len(inside):
        raise DiffraganError(
            "The images' aperture lets no frequency of the patterns through; check "
            f"image.aperture_mrad ({image.aperture_mrad:g})."
        )
    last = int(inside.max()) + 1
    if pairs.defocus is None:
        return ImageTransfer(contrast_of_images(q2, optics, image)[:last].float())
    double = torch.fft.fftshift(double_angle_grid(flat.m), dim=(-2, -1)).flatten(-2)
    own = OwnDefocus(
        torch.from_numpy(pairs.defocus[items].terms_A),
        q2[:last],
        double[:, flat.pixel[:last]],
        optics,
        image,
    )
    return ImageTransfer(torch.ones(last), own)


def _arrays(
    scratch: Path,
    pairs: Pairs,
    items: NDArray[np.int64],
    flat: Slices,
    ki: int,
    *,
    fade: Tensor | None,
    progress: Progress,
) -> tuple[Tensor, Tensor, Tensor]:
    """Measured amplitudes, image spectra and noise from the scratch folder, filled where needed."""
    scratch.mkdir(parents=True, exist_ok=True)
    exact = pairs.settings.pattern.dose_e_per_A2 is None
    shapes = {"measured": (len(items), 2, len(flat)), "contrast": (len(items), ki)}
    types = {"measured": np.float32, "contrast": np.complex64}
    key = {
        "input": pairs.sha256,
        "settings": pairs.settings.model_dump(mode="json", include=_READ),
        "items": [int(i) for i in items],
        "box_A": pairs.box_A,
        "energy_ev": pairs.optics.energy_ev,
    }
    record = scratch / "views.json"
    complete = record.exists() and json.loads(record.read_text("utf-8")) == key
    opened = {
        name: np.lib.format.open_memmap(
            scratch / f"{name}.npy", mode="r+" if complete else "w+", dtype=types[name], shape=shape
        )
        for name, shape in shapes.items()
    }
    noise_file = scratch / "noise.npy"
    if not complete:
        record.unlink(missing_ok=True)
        noise = np.empty(len(items))
        for start in range(0, len(items), BLOCK):
            span = slice(start, min(start + BLOCK, len(items)))
            chosen = items[span]
            pattern = pairs.pattern(chosen).reshape(len(chosen), -1)
            values = np.stack((pattern[:, flat.pixel], pattern[:, flat.mate]), 1)
            if not pairs.settings.detector.readout_noise_e:  # which would be cut to one side
                values = np.maximum(values, 0)
            values = values * flat.valid.numpy()
            if fade is not None:
                values = values / fade.numpy()
            opened["measured"][span] = np.sqrt(values) if exact else values
            opened["contrast"][span] = image_spectrum(torch.from_numpy(pairs.image(chosen)))[
                :, flat.pixel[:ki]
            ].numpy()
            noise[span] = 1 / (pairs.image_dose(chosen) * pairs.box_A**2)
            progress("reading views", span.stop, len(items))
        for array in opened.values():
            array.flush()
        np.save(noise_file, noise)
        write_atomically(record, json.dumps(key).encode())
    tensors = {name: torch.from_numpy(array) for name, array in opened.items()}
    return tensors["measured"], tensors["contrast"], torch.from_numpy(np.load(noise_file)).float()


def image_spectrum(image: Tensor) -> Tensor:
    """(b, m * m) complex64 Fourier values of images (b, m, m), the field's centre as origin."""
    spectrum = torch.fft.fft2(torch.fft.ifftshift(image.double(), dim=(-2, -1)), norm="forward")
    centred = torch.fft.fftshift(spectrum, dim=(-2, -1))
    result: Tensor = centred.flatten(-2).to(torch.complex64)
    return result
