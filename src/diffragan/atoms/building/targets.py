"""What atoms are refined against: a map's Fourier values, or the patterns themselves
(`reconstruction/likelihood/patterns.py`).

A target gives the misfit of a model's volume with its gradient; atoms know nothing of either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diffragan.fourier.volumes import frequency_radius

_TINY = 1e-30


class Target(Protocol):
    """What a refinement needs of its data."""

    def misfit(self, spectrum: Tensor) -> Tensor:
        """A number, with gradient, for a model's plain spectrum (n, n, n // 2 + 1)."""

    def difference(self, spectrum: Tensor) -> Tensor:
        """(n, n, n) in FFT order: where the data ask for more than the model has."""

    def adapted(self, spectrum: Tensor) -> Target:
        """The same data, weighted by what the present model leaves unexplained."""


@dataclass(frozen=True)
class MapTarget:
    """Fourier values of a map, each ring scaled to the model and whitened.

    spectrum: (n, n, n // 2 + 1) complex, norm "forward". weight: the same shape, 0 outside the
    rings that count. ring: the same shape, int64. atoms: about how many, which sets the misfit's
    unit.
    """

    spectrum: Tensor
    weight: Tensor
    ring: Tensor

    def misfit(self, spectrum: Tensor) -> Tensor:
        scale = self._scale(spectrum.detach())
        result: Tensor = (self.weight * (self.spectrum - scale * spectrum).abs().square()).sum()
        return result

    def difference(self, spectrum: Tensor) -> Tensor:
        apart = (self.spectrum - self._scale(spectrum) * spectrum) * (self.weight > 0)
        n = apart.shape[0]
        result: Tensor = torch.fft.irfftn(apart, s=(n, n, n), norm="forward")
        return result

    def adapted(self, spectrum: Tensor) -> MapTarget:
        return self

    def _scale(self, spectrum: Tensor) -> Tensor:
        """The factor on the model, ring by ring, that fits the map best; a map fades outward."""
        rings = int(self.ring.max()) + 1
        cross = (self.spectrum * spectrum.conj()).real
        sums = [
            torch.zeros(rings, device=cross.device).index_add_(0, self.ring.flatten(), x.flatten())
            for x in (cross, spectrum.abs().square())
        ]
        return (sums[0] / sums[1].clamp_min(_TINY)).clamp(0, 3)[self.ring]


def map_target(
    volume: Tensor, box_A: float, band_A: tuple[float, float], trust: Tensor, atoms: int
) -> MapTarget:
    """A map as a target, between two resolutions.

    Args:
        volume: (n, n, n) in FFT order. trust: (rings,) expected correlation with the truth by ring
            of 1 / `box_A`; rings count by its square.
        atoms: about how many there are; the misfit of no model at all is this number.
    """
    n = volume.shape[-1]
    radius = frequency_radius(n, volume.device)
    ring = (radius + 0.5).long()
    q = radius / box_A
    spectrum = torch.fft.rfftn(volume, norm="forward")
    power = spectrum.abs().square()
    count = torch.bincount(ring.flatten())
    mean = torch.zeros(len(count), device=volume.device).index_add_(
        0, ring.flatten(), power.flatten()
    ) / count.clamp_min(1)
    known = torch.zeros(len(count), device=volume.device)
    shared = min(len(known), len(trust))
    known[:shared] = trust[:shared].to(volume.device).clamp(0, 1) ** 2
    coarse, fine = band_A
    band = (q > 1 / coarse) & (q <= 1 / fine)
    weight = band * (known / mean.clamp_min(_TINY))[ring]
    weight = weight * (atoms / (weight * power).sum().clamp_min(_TINY))
    return MapTarget(spectrum, weight, ring)
