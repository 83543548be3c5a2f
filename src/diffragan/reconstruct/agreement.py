"""What two half sets say of each other, and of patterns they have not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diffragan.metrics import fsc, resolution_at
from diffragan.reconstruct.data_step import free_correlation
from diffragan.reconstruct.start import best_shift, moved

if TYPE_CHECKING:
    from diffragan.reconstruct.half_set import HalfSet

HALF_SET_THRESHOLD = 0.143
# Half sets share more than the truth: the same images' outline, positivity, and without noise the
# same amplitudes. Over unfinished runs (docs/many-views.md) an agreement of 0.25 is where the map
# of all views correlates 0.5 with the truth; 0.143, for halves that share nothing, flatters.
CLAIM_THRESHOLD = 0.25


@dataclass(frozen=True)
class Agreement:
    """Agreement by ring of the patterns, ring r at r / box; (rings,) each, from ring 1 on, and on
    the CPU.

    q: 1/Å. fsc: the half maps' Fourier shell correlation. free: squared correlation of the half
    maps' slices with what they left out of their patterns; nan where nothing was left out.
    """

    q: Tensor
    fsc: Tensor
    free: Tensor

    @property
    def fsc_resolution_A(self) -> float:
        """Where the FSC falls below 0.143."""
        return resolution_at(self.fsc, self.q, HALF_SET_THRESHOLD)

    @property
    def both(self) -> Tensor:
        """The lesser of the two; the FSC alone where nothing was left out."""
        return torch.where(self.free.isnan(), self.fsc, torch.minimum(self.fsc, self.free))

    @property
    def resolution_A(self) -> float:
        """What a run claims: where the lesser falls below 0.25."""
        return resolution_at(self.both, self.q, CLAIM_THRESHOLD)

    @property
    def mean(self) -> float:
        """Mean of the lesser over all rings: the progress of a run."""
        return float(self.both.clamp_min(0).mean())

    @property
    def trust(self) -> Tensor:
        """(rings + 1,) expected correlation of the map of all views with the truth, ring 0 first:
        sqrt(2 c / (1 + c)) for a half-set correlation c."""
        c = self.both.clamp(0, 1)
        return torch.cat((torch.ones(1), (2 * c / (1 + c)).sqrt()))


def agreement(first: HalfSet, second: HalfSet) -> Agreement:
    """The half sets' agreement in the band that they use at present."""
    views, other = first.views, second.map
    if first.settings.orientations != "given":
        # With shifts free each half lies where its own images put it.
        other = moved(other, best_shift(other, torch.fft.rfftn(first.map)))
    rings = int((views.flat.radius + 0.5).long().max()) + 1
    q = torch.arange(1, rings, dtype=torch.float64) / views.optics.box_A
    shells = fsc(first.map, other).cpu()
    at = torch.arange(len(shells), dtype=torch.float64) / views.volume_box_A
    curve = torch.from_numpy(np.interp(q.numpy(), at.numpy(), shells.numpy())).float()
    free = torch.full((rings,), torch.nan)
    if first.project.free is not None:
        one, other = (free_correlation(h.map, h.project) for h in (first, second))
        free = 0.5 * (one + other)
    return Agreement(q, curve, free[1:])
