"""The patterns' detector: how it spreads electrons, which pixels work, how many they count."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffragan.fourier.grids import frequency_grid
from diffragan.microscope.noise import DEAD_PIXELS
from diffragan.settings import DetectorSettings, Settings


def detected(pattern: Tensor, mask: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Expected patterns (b, m, m) as the detector spreads them, and the pixels (m, m) that work."""
    blur_px = settings.detector.blur_px
    if blur_px:
        q2 = frequency_grid(pattern.shape[-1], pattern.shape[-1], pattern.device)
        spread = torch.exp(-2 * (torch.pi * blur_px) ** 2 * q2)
        blurred = torch.fft.ifft2(torch.fft.fft2(pattern.double()) * spread).real
        pattern = blurred.clamp_min(0).to(pattern.dtype)
    mask = mask & working_pixels(mask.shape[-1], settings).to(mask.device)
    return pattern * mask, mask


def working_pixels(side: int, settings: Settings) -> Tensor:
    """(side, side) bool: neither dead nor in a gap between modules, the same in all patterns. The
    beam falls on the middle of a module."""
    detector = settings.detector
    works = torch.ones(side, side, dtype=torch.bool)
    if detector.dead_fraction:
        generator = np.random.default_rng([settings.seed, DEAD_PIXELS])
        works &= torch.from_numpy(generator.random((side, side)) >= detector.dead_fraction)
    if detector.gap_px:
        step = torch.arange(side) - side // 2 + detector.module_px // 2
        inside = step % (detector.module_px + detector.gap_px) < detector.module_px
        works &= inside[:, None] & inside[None, :]
    return works


def saturated(pattern: Tensor, electrons: float, settings: DetectorSettings) -> Tensor:
    """Counted patterns, fractions of `electrons`, of pixels that count no further than they can."""
    if settings.saturation_e is None:
        return pattern
    return pattern.clamp_max(settings.saturation_e / electrons)
