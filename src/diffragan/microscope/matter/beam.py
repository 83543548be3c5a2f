"""A beam that is a disc with a soft edge: how it lights the specimen, and spreads by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import chndtr, erfc
from torch import Tensor

_SIGMAS_AN_EDGE = 4.0
_STRAIGHT = 0.02  # of the radius: an edge this narrow does not feel that it is bent


@dataclass(frozen=True)
class SoftDisc:
    """A disc blurred by a Gaussian, as a condenser aperture's image that a lens blurs: its own
    diffraction ends where the Gaussian's does.

    diameter_A: to half its amplitude. edge_A: over which that falls from 0.98 to 0.02, four
    standard deviations of the Gaussian.
    """

    diameter_A: float
    edge_A: float

    def amplitude(self, distance_A: NDArray[np.float64]) -> NDArray[np.float64]:
        """Amplitude at distances from the middle."""
        radius = self.diameter_A / 2
        if not self.edge_A:
            return (distance_A <= radius).astype(np.float64)
        sigma = self.edge_A / _SIGMAS_AN_EDGE
        if sigma < _STRAIGHT * radius:
            straight: NDArray[np.float64] = 0.5 * erfc((distance_A - radius) / (2**0.5 * sigma))
            return straight
        # Within a disc after a Gaussian step: Rice's distribution, as a non-central chi-square's.
        blurred: NDArray[np.float64] = chndtr((radius / sigma) ** 2, 2, (distance_A / sigma) ** 2)
        return blurred

    @cached_property
    def area_A2(self) -> float:
        """The area that full intensity would have to light."""
        if not self.edge_A:
            return math.pi / 4 * self.diameter_A**2
        r = np.linspace(0, self.diameter_A / 2 + 2 * self.edge_A, 4001)
        return float(np.trapezoid(self.amplitude(r) ** 2 * 2 * math.pi * r, r))

    def spectrum(self, q: Tensor) -> Tensor:
        """Fourier transform of the amplitude in Å² at q (1/Å), the same shape: Airy's of a disc,
        damped by the Gaussian's."""
        x = math.pi * self.diameter_A * q
        disc = torch.where(x > 1e-6, 2 * torch.special.bessel_j1(x) / x.clamp_min(1e-6), 1.0)
        sigma_A = self.edge_A / _SIGMAS_AN_EDGE
        area = math.pi / 4 * self.diameter_A**2
        result: Tensor = area * disc * torch.exp(-2 * (math.pi * sigma_A * q) ** 2)
        return result
