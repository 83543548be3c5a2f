"""From atoms back to views: waves, and projections past the measured band.

Inside the measured band a wave is the atoms' own prediction; beyond it there is nothing else. The
store says so: its method is `atoms`, and `evaluate` counts the extrapolated band apart.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffragan.atoms.building.build import Built
from diffragan.atoms.model.density import AtomGrid
from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.fourier.grids import even_fast_length, resample
from diffragan.fourier.slices import Slices, extract, slices
from diffragan.fourier.volumes import volume_spectrum
from diffragan.microscope.imaging import projection_of_centre_wave
from diffragan.pairs.pairs import Pairs
from diffragan.phasing.method import Phased
from diffragan.phasing.run import make_pair_batch, result_arrays, result_header, result_specs
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.maps.merge_waves import wave_from_object
from diffragan.reconstruction.maps.views import Views, side_of

METHOD = "atoms"
EXTENDED_A = 0.8  # how far past the measured band waves are drawn: as far as evaluation looks
_BATCH = 8


def extended_slices(views: Views, finest_A: float = EXTENDED_A) -> Slices:
    """Every frequency out to a resolution on the views' field, on the curved sphere."""
    optics = views.optics
    m = even_fast_length(2 * (optics.box_A / finest_A + 1))
    axis = torch.arange(m) - m // 2
    radius = torch.hypot(axis[:, None].double(), axis[None, :].double())
    mask = (radius > 0.5) & (radius <= optics.box_A / finest_A)
    padding = views.flat.padding
    return slices(mask, optics.box_A, optics.wavelength_A, curved=True, padding=padding)


def grid_of(views: Views, geometry: Slices) -> AtomGrid:
    """The atoms' grid that holds a geometry's slices."""
    n, optics = side_of(geometry), views.optics
    return AtomGrid(n, views.volume_box_A, optics.box_A, optics.energy_ev)


def waves_of(
    spectrum: Tensor, views: Views, block: slice, geometry: Slices, beam: Tensor
) -> Tensor:
    """(b, m, m) waves at the centre plane on the geometry's own grid.

    Args:
        spectrum: `volume_spectrum` of the atoms' volume. beam: (b,) the direct beam's amplitude.
    """
    k, m = len(geometry), geometry.m
    values = extract(spectrum, views.rotations[block], geometry.points)
    cycles = (views.shifts_A[block] / views.volume_box_A) @ geometry.points[:k, :2].T
    ramp = torch.polar(torch.ones_like(cycles), -2 * torch.pi * cycles)
    flat = torch.zeros((len(values), m * m), dtype=torch.complex64)
    flat[:, geometry.pixel] = values[:, :k] * ramp
    flat[:, geometry.mate] = (values[:, k:] * ramp).conj()
    return wave_from_object(flat, beam, m)


def write_waves(
    out: Path,
    pairs: Pairs,
    views: Views,
    built: Built,
    trust: Tensor,
    *,
    solved: bool,
    progress: Progress = no_progress,
) -> Path:
    """A result store of every view as the atoms predict it, projections out to 0.8 Å.

    Args:
        trust: (rings,) expected correlation with the truth, ring k at k / field.
    """
    geometry, settings = extended_slices(views), pairs.settings
    spectrum = volume_spectrum(grid_of(views, geometry).volume(built.atoms, built.riding))
    m = views.flat.m
    by_ring = torch.zeros(m // 2 + 1)
    by_ring[: min(len(trust), len(by_ring))] = trust.nan_to_num()[: len(by_ring)]
    keep = torch.fft.ifftshift(torch.from_numpy(pairs.pattern_mask))
    keep[0, 0] = True

    def drawn(places: slice) -> Phased:
        batch = make_pair_batch(pairs, views.items[places], settings, torch.device("cpu"))
        wave = waves_of(spectrum, views, places, geometry, batch.direct_beam)
        measured = torch.fft.ifft2(torch.fft.fft2(resample(wave, m)) * keep)
        projection = projection_of_centre_wave(
            wave, batch.optics, settings.projection, batch.projection_px
        )
        count = len(wave)
        return Phased(
            projection,
            measured.to(torch.complex64),
            trust=by_ring.expand(count, -1),
            solved=torch.full((count,), solved),
        )

    specs = result_specs(drawn(slice(0, 1)), pairs) | {
        "rotation": ArraySpec((3, 3), "float64", "1")
    }
    header = result_header(METHOD, pairs, settings, invents=True)
    with StoreWriter(out, "result", len(views), specs, header, overwrite=True) as writer:
        writer.put("item", views.items)
        writer.put("structure", pairs.structure_index[views.items].astype(np.int32))
        writer.put("rotation", views.rotations.double().numpy())
        size = max(_BATCH // writer.block, 1) * writer.block
        for start in range(0, len(views), size):
            places = slice(start, min(start + size, len(views)))
            arrays = result_arrays(drawn(places))
            writer.write(
                np.arange(places.start, places.stop),
                **arrays,
                seconds=np.zeros(len(arrays["wave"])),
            )
            progress("drawing views", places.stop, len(views))
        writer.finish()
    return out
