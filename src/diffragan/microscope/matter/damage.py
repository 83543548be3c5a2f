"""Radiation damage: how the coherent scattering of a molecule fades under the beam.

What is lost is no electron: atoms that no longer lie where they lay scatter by themselves.
"""

from __future__ import annotations

import torch
from scipy import constants
from torch import Tensor

from diffragan.settings import SpecimenSettings

# Critical exposure in e/Å² at 300 kV: a q^b + c, q in 1/Å (Grant & Grigorieff, eLife 4:e06980,
# 2015).
_A, _B, _C = 0.24499, -1.6649, 2.8141
_MEASURED_AT_EV = 300e3


def critical_exposure_e_per_A2(q: Tensor, energy_ev: float, specimen: SpecimenSettings) -> Tensor:
    """Exposure after which the coherent intensity at q (1/Å) has fallen to 1/e; infinite where
    nothing fades. Same shape as q.

    Grant & Grigorieff measured it at 300 kV; at another voltage it goes as the electrons' speed
    squared, which is 0.80 at 200 kV.
    """
    if specimen.damage is None:
        return torch.full_like(q, torch.inf)
    if specimen.damage == "b_factor":
        return 2 / (specimen.damage_b_A2_per_e * q**2)
    speed = _speed_squared(energy_ev) / _speed_squared(_MEASURED_AT_EV)
    return speed * (_A * q**_B + _C)


def intensity_fade(
    critical: Tensor, exposure_e_per_A2: float | Tensor, before_e_per_A2: float
) -> Tensor:
    """What is left of coherent intensities, averaged over an exposure that follows another.

    Args:
        critical: `critical_exposure_e_per_A2`.
    """
    rate = 1 / critical
    left = torch.exp(-before_e_per_A2 * rate)
    return left * _mean_decay(exposure_e_per_A2 * rate)


def amplitude_fade(critical: Tensor, exposure_e_per_A2: Tensor, before_e_per_A2: float) -> Tensor:
    """The same of amplitudes, which an image shows; exposures (b,) give (b, ...)."""
    rate = 0.5 / critical
    exposure = exposure_e_per_A2.reshape(-1, *[1] * critical.ndim)
    # After an endless exposure nothing of what fades is left.
    decay = torch.nan_to_num(exposure * rate, nan=0.0, posinf=torch.inf)
    return torch.exp(-before_e_per_A2 * rate) * _mean_decay(decay)


def _mean_decay(x: Tensor) -> Tensor:
    """(1 - exp(-x)) / x, 1 at x = 0."""
    return torch.where(x > 1e-6, -torch.expm1(-x) / x.clamp_min(1e-6), 1 - 0.5 * x)


def _speed_squared(energy_ev: float) -> float:
    """(v / c)² of an electron."""
    gamma = 1 + energy_ev * constants.e / (constants.electron_mass * constants.c**2)
    return float(1 - 1 / gamma**2)
