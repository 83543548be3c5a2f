"""Counting noise: the electrons of an exposure, by dose or by SNR, and Poisson counts of them.

Noise is drawn per item from its own seed, on the CPU, so that an item's noise depends neither
on the batch nor on the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diffragan.fourier.grids import frequency_grid
from diffragan.optics import Optics
from diffragan.settings import ImageSettings

# What is drawn for an item, each from a seed of its own.
PATTERN_NOISE, IMAGE_NOISE, DEFOCUS, MOTION, ICE, DEAD_PIXELS = range(6)
SUPPORT, BEAM, GEOMETRY, POSE, READOUT, APART, THICKNESS = range(6, 13)


def image_dose(expected: Tensor, optics: Optics, settings: ImageSettings) -> Tensor:
    """Dose (e/Å²) of each noise-free image (b, m, m): as set, or found for the wanted SNR.

    The SNR in a band is the image's power there over the expected power of counting noise there,
    for a field of `snr_field_A` around the molecule. The power of a molecule's contrast per unit
    of q area does not depend on the box, that of the noise grows with the field, so a stated SNR
    fixes a dose whatever the box. Infinite where neither a dose nor an SNR is set.
    """
    b, m, _ = expected.shape
    if settings.dose_e_per_A2 is not None:
        return torch.full((b,), settings.dose_e_per_A2, dtype=torch.float64)
    if settings.snr is None:
        return torch.full((b,), math.inf, dtype=torch.float64)
    q = frequency_grid(m, optics.box_A, expected.device).sqrt()
    coarse, fine = settings.snr_band_A
    band = (q >= 1 / coarse) & (q <= 1 / fine)
    power = (torch.fft.fft2(expected.double(), norm="forward").abs() ** 2 * band).sum((-2, -1))
    noise_at_unit_dose = band.sum() * settings.snr_field_A**2 / optics.box_A**4
    result: Tensor = (settings.snr * noise_at_unit_dose / power).cpu()
    return result


def item_seed(seed: int, item: int, *more: int) -> int:
    """One 63-bit seed for an item, from the run's seed and whatever else tells it apart."""
    state = np.random.SeedSequence([seed, item, *more]).generate_state(1, np.uint64)
    return int(state[0] >> 1)


def counted(expected: Tensor, electrons: float | Tensor, seeds: Sequence[int], kind: int) -> Tensor:
    """Poisson counts of `expected` x `electrons`, divided by `electrons` again.

    Args:
        expected: (b, y, x). electrons: one number, or (b,); infinite for no noise.
        seeds: one for each of the b. kind: `PATTERN_NOISE` or `IMAGE_NOISE`.
    """
    if len(seeds) != len(expected):
        raise ValueError(f"{len(seeds)} seeds for {len(expected)} items")
    scale = torch.as_tensor(electrons, dtype=torch.float64).expand(len(expected))
    out = []
    for values, factor, seed in zip(expected.cpu().double(), scale, seeds, strict=True):
        if torch.isinf(factor):
            out.append(values)
            continue
        generator = torch.Generator().manual_seed(item_seed(seed, kind))
        out.append(torch.poisson(values * factor, generator) / factor)
    return torch.stack(out).to(expected)


def random_objects(seeds: Sequence[int], kind: int, part: int, side: int) -> Tensor:
    """(b, y, x) Fourier values of real white noise, of mean square 1."""
    drawn = [
        torch.randn(
            (side, side),
            generator=torch.Generator().manual_seed(item_seed(seed, kind, part)),
            dtype=torch.float64,
        )
        for seed in seeds
    ]
    result: Tensor = torch.fft.fft2(torch.stack(drawn), norm="ortho")
    return result


def random_waves(seeds: Sequence[int], kind: int, side: int) -> Tensor:
    """(b, y, x) Fourier values of complex white noise, of mean square 1."""
    real, imaginary = (random_objects(seeds, kind, part, side) for part in (0, 1))
    return (real + 1j * imaginary) / 2**0.5


def each_apart(seeds: Sequence[int], kind: int, side: int, molecules: int) -> Tensor:
    """(b, y, x) mean intensity of several random waves of mean square 1 about their common mean:
    a gamma distribution, 0 for a single one."""
    if molecules == 1:
        return torch.zeros(len(seeds), side, side, dtype=torch.float64)
    drawn = [
        np.random.default_rng([seed, APART, kind]).standard_gamma(molecules - 1, (side, side))
        for seed in seeds
    ]
    return torch.from_numpy(np.stack(drawn)) / molecules
