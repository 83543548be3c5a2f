"""What a batch of training is measured under, and what the generator is shown of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from diffragan.fourier.grids import frequency_grid, resized_spectrum
from diffragan.microscope.imaging import measure
from diffragan.microscope.noise import item_seed
from diffragan.networks.maps_generator import Evidence
from diffragan.optics import Defocus, Optics, q_from_angle
from diffragan.phasing.method import PairBatch
from diffragan.phasing.modulus import friedel_mate
from diffragan.phasing.proposals import maps_evidence
from diffragan.settings import ConditionsSettings, Settings
from diffragan.training.on_maps.molecules import Molecules, whole_pixels


@dataclass(frozen=True)
class Batch:
    """b items of one box: `evidence`, one a draw of noise, and `truth`, the true spectra (b, n, n)
    of the real object to the maps' resolution."""

    evidence: tuple[Evidence, ...]
    truth: Tensor
    box_A: float


def draw_batch(
    molecules: Molecules,
    settings: Settings,
    seed: int,
    size: int,
    *,
    box_A: float | None = None,
    device: torch.device | str = "cpu",
) -> Batch:
    """Molecules in random orientations, measured under random conditions; all from one seed.

    Args:
        size: items in a box of 70 Å; other boxes hold as many pixels in all.
        box_A: a box under the settings' own optics, molecules centred; none: all drawn.
    """
    rng = np.random.default_rng([seed])
    c = settings.conditions
    fixed = box_A is not None
    box = whole_pixels(float(rng.choice(c.box_A)) if box_A is None else box_A, molecules.finest_A)
    count = size if fixed else max(1, round(size * 70**2 / box**2))
    fit = molecules.that_fit(box)
    chosen = [fit[k] for k in rng.integers(len(fit), size=count)]
    turns = torch.from_numpy(Rotation.random(count, rng=rng).as_matrix()).float()
    room = [min(c.shift_A, box / 2 - 1 - molecules.each[k].radius_A) for k in chosen]
    shifts = rng.uniform(-1, 1, (count, 2)) * np.array(room)[:, None] * (not fixed)
    wave = cut_field(
        molecules.waves(chosen, turns, torch.from_numpy(shifts).float()), molecules.field_A, box
    )
    own = settings if fixed else drawn_conditions(settings, rng)
    own = at_resolution(own, molecules.finest_A)
    seeds = [item_seed(seed, k) for k in range(count)]
    return measured_batch(wave.to(device), box, own, seeds, rng if not fixed else None)


def measured_batch(
    wave: Tensor,
    box_A: float,
    settings: Settings,
    seeds: list[int],
    rng: np.random.Generator | None,
) -> Batch:
    """Waves at the centre plane (b, n, n) as a batch; `rng` scatters the images' defocus."""
    optics = Optics(settings.energy_ev, box_A, 0.0)
    defocus = None
    if rng is not None:
        c = settings.conditions
        spread = c.defocus_spread_A * rng.standard_normal(len(wave))
        defocus = Defocus.of(settings.image.defocus_A + spread)
    measured = measure(wave, optics, settings, seeds, defocus)
    terms = None if defocus is None else torch.from_numpy(defocus.terms_A).to(wave.device)
    pairs = PairBatch(
        measured.pattern,
        measured.pattern_mask,
        measured.image,
        measured.image_dose_e_per_A2.to(wave.device),
        optics,
        settings,
        seeds,
        terms,
    )
    finest = settings.network.maps_finest_A
    evidence = tuple(maps_evidence(pairs, finest, k) for k in range(settings.train.draws))
    n = evidence[0].amplitude.shape[-1]
    spectrum = resized_spectrum(torch.fft.fft2(wave, norm="forward"), n) / 1j
    inside = frequency_grid(n, box_A, wave.device) < ((n // 2 - 0.5) / box_A) ** 2
    inside[0, 0] = False
    truth = 0.5 * (spectrum + friedel_mate(spectrum).conj()) * inside
    return Batch(evidence, truth, box_A)


def cut_field(wave: Tensor, field_A: float, box_A: float) -> Tensor:
    """The middle of waves (b, m, m), in a box of whole pixels."""
    m = wave.shape[-1]
    n = 2 * round(m * box_A / field_A / 2)
    low = m // 2 - n // 2
    return wave[:, low : low + n, low : low + n]


def drawn_conditions(settings: Settings, rng: np.random.Generator) -> Settings:
    """The settings of a batch: with the chance `usual` their own, else drawn from `conditions`."""
    c: ConditionsSettings = settings.conditions
    if rng.random() < c.usual:
        return settings
    sign = 1 if rng.random() < c.positive_defocus else -1
    low, high = (math.log(x) for x in c.snr)
    image = settings.image.model_copy(
        update={
            "defocus_A": sign * rng.uniform(*c.defocus_A),
            "aperture_mrad": rng.uniform(*c.aperture_mrad),
            "snr": math.exp(rng.uniform(low, high)),
        }
    )
    dose = None
    if rng.random() < c.counted:
        low, high = (math.log(x) for x in c.dose_e_per_A2)
        dose = math.exp(rng.uniform(low, high))
    pattern = settings.pattern.model_copy(update={"dose_e_per_A2": dose})
    return settings.model_copy(update={"image": image, "pattern": pattern})


def at_resolution(settings: Settings, finest_A: float) -> Settings:
    """The settings with patterns that end where maps do."""
    edge = 1e3 / finest_A / q_from_angle(1e3, settings.energy_ev)
    if settings.pattern.max_angle_mrad <= edge:
        return settings
    pattern = settings.pattern.model_copy(update={"max_angle_mrad": edge})
    return settings.model_copy(update={"pattern": pattern})
