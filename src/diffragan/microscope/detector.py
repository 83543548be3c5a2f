"""The patterns' detector: how it spreads electrons, which pixels work, how many they count."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diffragan.fourier.grids import frequency_grid
from diffragan.microscope.noise import DEAD_PIXELS, READOUT, item_seed
from diffragan.optics import Optics, q_from_angle
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


def converged(intensity: Tensor, convergence_mrad: float, optics: Optics) -> Tensor:
    """Intensities (b, y, x), FFT order, of a beam whose directions fill a cone evenly and do not
    interfere: each point a disc, in pixels of 1 / field; one within a pixel changes nothing."""
    radius_px = q_from_angle(convergence_mrad, optics.energy_ev) * optics.box_A
    side = intensity.shape[-1]
    fine = 16
    reach = math.ceil(radius_px + 0.5)
    step = (torch.arange((2 * reach + 1) * fine, dtype=torch.float64) + 0.5) / fine - reach - 0.5
    inside = (step[:, None] ** 2 + step[None, :] ** 2 <= radius_px**2).double()
    disc = torch.nn.functional.avg_pool2d(inside[None, None], fine)[0, 0]
    kernel = torch.zeros(side, side, dtype=torch.float64)
    kernel[: 2 * reach + 1, : 2 * reach + 1] = disc / disc.sum()
    kernel = torch.roll(kernel, (-reach, -reach), (0, 1)).to(intensity.device)
    spread = torch.fft.rfft2(intensity.double()) * torch.fft.rfft2(kernel)
    result: Tensor = torch.fft.irfft2(spread, s=(side, side)).clamp_min(0)
    return result


def integrated(
    pattern: Tensor, electrons: float, settings: DetectorSettings, seeds: Sequence[int]
) -> Tensor:
    """Counted patterns (b, m, m), fractions of `electrons`, as a detector gives them that adds up
    charge: every electron leaves another signal, and every reading adds noise, so that a pixel may
    go below zero."""
    if not (settings.gain_spread or settings.readout_noise_e):
        return pattern
    out = []
    for values, seed in zip(pattern, seeds, strict=True):
        generator = torch.Generator().manual_seed(item_seed(seed, READOUT))
        noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
        counts = values.double().cpu() * electrons
        spread = (settings.gain_spread**2 * counts + settings.readout_noise_e**2).sqrt()
        out.append((counts + spread * noise) / electrons)
    return torch.stack(out).to(pattern)


def saturated(pattern: Tensor, electrons: float, settings: DetectorSettings) -> Tensor:
    """Counted patterns, fractions of `electrons`, of pixels that count no further than they can."""
    if settings.saturation_e is None:
        return pattern
    return pattern.clamp_max(settings.saturation_e / electrons)
