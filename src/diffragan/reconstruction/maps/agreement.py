"""What two half sets say of each other, and of patterns they have not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffragan.fourier.correlation import HALF_SET_THRESHOLD, fsc, resolution_at
from diffragan.fourier.volumes import best_shift, moved
from diffragan.reconstruction.maps.data_step import DataStep
from diffragan.reconstruction.maps.free_set import free_correlation, other_half_correlation

CLAIM_THRESHOLD = 0.5  # of the expected correlation with the truth


# The exponent in `Agreement.expected`, measured on runs that failed (docs/many-views.md).
_APART, _SHARED = 0.5, 0.85


SHARED_BY_SCATTERERS = 1.2  # the second where halves climb the likelihood: more alike when wrong


_ERRORS = 2.0  # standard errors that the other half's patterns are allowed


_ALL_SHARED_FROM = 1.5  # image edges: from here on the patterns alone tell the phases


@dataclass(frozen=True)
class Agreement:
    """Agreement by ring of the patterns, ring r at r / box; (rings,) each, from ring 1 on, and on
    the CPU.

    q: 1/Å. fsc: the half maps' Fourier shell correlation. free: squared correlation of the half
    maps' slices with what they left out of their patterns; nan where that cannot be told.
    image_edge: where the images end, 1/Å. shared: the power of `expected` far beyond it.
    other: (2, rings) squared correlation of a half map with the truth by the other half's patterns,
        and its standard error (`other_half_correlation`), where something scatters beside the
        molecule; else None.
    """

    q: Tensor
    fsc: Tensor
    free: Tensor
    image_edge: float
    shared: float = _SHARED
    other: Tensor | None = None

    @property
    def fsc_resolution_A(self) -> float:
        """Where the FSC falls below 0.143."""
        return resolution_at(self.fsc, self.q, HALF_SET_THRESHOLD)

    @property
    def borne_out(self) -> Tensor:
        """The half maps' FSC, beyond the images as far as the other half's patterns bear it out.

        In the images' band halves have their own images, and electrons that lost energy leave
        patterns little to tell.
        """
        if self.other is None:
            return self.fsc
        found, error = self.other
        limit = (found + _ERRORS * error).clamp_min(0)
        free = limit.isnan() | (self.q <= self.image_edge)
        return torch.where(free, self.fsc, torch.minimum(self.fsc, limit))

    @property
    def both(self) -> Tensor:
        """The lesser of FSC and free correlation; the FSC alone where that is not told."""
        fsc = self.borne_out
        return torch.where(self.free.isnan(), fsc, torch.minimum(fsc, self.free))

    @property
    def mean(self) -> float:
        """Mean of the lesser over all rings: the progress of a run."""
        return float(self.both.clamp_min(0).mean())

    @property
    def expected(self) -> Tensor:
        """(rings,) expected correlation of the map of all views with the truth.

        With F the FSC, 2 F / (1 + F) is what a map of all views would correlate with another of
        its kind. Where errors are the halves' own, its root is the correlation with the truth
        (Rosenthal & Henderson, J. Mol. Biol. 333, 721 (2003)): so it is in the images' band, whose
        noise is independent. Beyond it phases come from the same physics, and halves go astray
        alike: there the power is 0.85, for scatterers 1.2. The root of the free correlation is the
        upper limit. F is never more than what the other half's patterns bear out.
        """
        own = self.borne_out.clamp(0, 1)
        all_views = 2 * own / (1 + own)
        beyond = (self.q / self.image_edge - 1) / (_ALL_SHARED_FROM - 1)
        power = _APART + (self.shared - _APART) * beyond.clamp(0, 1)
        by_halves = all_views ** power.to(all_views)
        by_free = self.free.clamp(0, 1).sqrt()
        return torch.where(by_free.isnan(), by_halves, torch.minimum(by_halves, by_free))

    @property
    def resolution_A(self) -> float:
        """What a run claims: where the expected correlation with the truth falls below 0.5."""
        return resolution_at(self.expected, self.q, CLAIM_THRESHOLD)

    @property
    def trust(self) -> Tensor:
        """(rings + 1,) the expected correlation with the truth, ring 0 first."""
        return torch.cat((torch.ones(1), self.expected))


def agreement(
    first: Tensor, second: Tensor, steps: tuple[DataStep, DataStep], *, aligned: bool = True
) -> Agreement:
    """The agreement of two half sets' maps (n, n, n) in the band that their data steps use.

    Args:
        steps: each half's projection, with what it left out.
        aligned: whether both maps lie in one frame. Where shifts are free each lies where its own
            images put it, and the second is moved onto the first.
    """
    views = steps[0].views
    moved_second = second
    if not aligned:
        moved_second = moved(second, best_shift(second, torch.fft.rfftn(first)))
    rings = int((views.flat.radius + 0.5).long().max()) + 1
    q = torch.arange(1, rings, dtype=torch.float64) / views.optics.box_A
    shells = fsc(first, moved_second).cpu()
    at = torch.arange(len(shells), dtype=torch.float64) / views.volume_box_A
    curve = torch.from_numpy(np.interp(q.numpy(), at.numpy(), shells.numpy())).float()
    free = torch.full((rings,), torch.nan)
    if steps[0].free is not None:
        one, two = (free_correlation(v, s) for v, s in zip((first, second), steps, strict=True))
        free = 0.5 * (one + two)
    other = None
    if views.background is not None:
        unseen = zip((first, second), reversed(steps), strict=True)
        one, two = (other_half_correlation(v, s.views, s.geometry) for v, s in unseen)
        other = (0.5 * (one + two))[:, 1:]
    image_edge = float(views.flat.radius[len(views.transfer) - 1]) / views.optics.box_A
    return Agreement(q, curve, free[1:], image_edge, other=other)
