"""How a model compares with patterns, ring by ring."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_FLOOR = 0.02  # of a ring's intensity: the model is never thought more exact than this
_TINY = 1e-30


@dataclass(frozen=True)
class RingSums:
    """Sums over pixels by ring (rings,), float64: of 1, model m, observed i, and their products.

    m and i are intensities in units of the plane wave.
    """

    one: Tensor
    m: Tensor
    i: Tensor
    mm: Tensor
    mi: Tensor
    ii: Tensor
    root: Tensor

    @property
    def r_factor(self) -> float:
        """Amplitude R over all rings: norm(|P| - sqrt(i)) / norm(sqrt(i))."""
        apart = (self.m - 2 * self.root + self.i).clamp_min(0).sum()
        return float((apart / self.i.sum().clamp_min(_TINY)).sqrt())

    @property
    def unexplained(self) -> Tensor:
        """(rings,) intensity that the model leaves: the intercept of i over m, at least a part of
        the ring's mean."""
        count = self.one.clamp_min(1)
        m, i, mm, mi = (x / count for x in (self.m, self.i, self.mm, self.mi))
        slope = ((mi - m * i) / (mm - m**2).clamp_min(_TINY)).clamp(0, 1.2)
        return torch.maximum(i - slope * m, _FLOOR * i).clamp_min(_TINY)

    def correlation(self, electrons: float | Tensor | None) -> Tensor:
        """(rings,) expected correlation of the model's wave with the true one: the root of the
        intensities' correlation, counting noise taken off; nan where there is too little to tell.

        Args:
            electrons: `Views.electrons_by_ring`.
        """
        count = self.one.clamp_min(1)
        m, i, mm, mi, ii = (x / count for x in (self.m, self.i, self.mm, self.mi, self.ii))
        noise = 0 if electrons is None else i / electrons
        spread = (mm - m**2).clamp_min(0) * (ii - i**2 - noise).clamp_min(0)
        # The noise's own spread in the variance of i: below it nothing is told.
        error = (ii - i**2).clamp_min(0) * (2 / count).sqrt()
        enough = (self.one > 50) & ((ii - i**2 - noise) > 3 * error)
        squared = (mi - m * i) / spread.sqrt().clamp_min(_TINY)
        return torch.where(enough, squared.clamp(0, 1).sqrt(), torch.nan)
