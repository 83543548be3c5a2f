"""Views that may lie in either of two places, all of them settled together.

Where half of the views lie on the wrong side of a molecule that nearly has a symmetry, their map
has it exactly: every view fits as well in its other place, and none is moved. A map of few views
has more of one side by chance. The others, put where they fit that map better, are more on that
side, and a map of few of these still more: within some turns all are on one side, and each then
fits there far better than in its other place. If the molecule does have the symmetry, none ever
does, and either place is right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.matching.elsewhere import (
    BY_CHANCE,
    FAR_DEG,
    Elsewhere,
    masked_image_map,
)
from diffragan.reconstruction.orientations.matching.match_views import (
    Comparison,
    Regression,
    regress,
)
from diffragan.reconstruction.orientations.refine import LocalSearch
from diffragan.rotations import angle_deg, half_about_beam

_FEW_VIEWS = 100  # make the map of a turn, and no more than half of all
_TURNS = 20
_SETTLED = 0.01  # part of the views that changes its place in a turn when all are settled


@dataclass(frozen=True)
class TwoPlaces:
    """Rotations (2, v, 3, 3) and shifts_A (2, v, 2): where views lie, and the best other place."""

    rotations: Tensor
    shifts_A: Tensor

    def put_into(self, views: Views, other: Tensor) -> Views:
        """The views, those of `other` (v,) in their other place."""
        at = other.long()[None, :, None]
        rotations = self.rotations.gather(0, at[..., None].expand(1, -1, 3, 3))[0]
        return replace(
            views, rotations=rotations, shifts_A=self.shifts_A.gather(0, at.expand(1, -1, 2))[0]
        )


def undecided(elsewhere: Elsewhere) -> bool:
    """Whether most views fit elsewhere as well as where they lie, but for chance."""
    return float((elsewhere.own - elsewhere.saved).median()) < BY_CHANCE


def two_places(
    spectrum: Tensor, views: Views, search: LocalSearch, likely: Tensor
) -> tuple[TwoPlaces, Tensor]:
    """Where views lie, refined, and the best of the places (v, tried, 3, 3), each as it is and
    turned half about the beam, by pattern and image; and (2, v) the misfit at either."""
    regression = search.regression
    weight = regression.mean_weight(counts=views.electrons is not None)
    rotations, shifts_A = views.rotations.repeat(2, 1, 1, 1), views.shifts_A.repeat(2, 1, 1)
    misfit = views.shifts_A.new_full((2, len(views)), torch.inf)
    trials = torch.cat((likely, half_about_beam(likely)), 1)
    for block in views.blocks():
        comparison = Comparison(spectrum, views, block, len(regression.slope))
        present, shift = views.rotations[block], views.shifts_A[block]
        for trial in (present, *trials[block].unbind(1)):
            found = search.descend(comparison, trial.contiguous(), shift)
            left = comparison.misfit(found.slices, found.shifts_A, weight, regression, True)
            side = int(trial is not present)
            far = angle_deg(found.rotations, present) > FAR_DEG
            better = (left < misfit[side, block]) & (far if side else True)
            misfit[side, block] = torch.where(better, left, misfit[side, block])
            for kept, new in ((rotations, found.rotations), (shifts_A, found.shifts_A)):
                where = better.reshape(-1, *[1] * (new.ndim - 1))
                kept[side, block] = torch.where(where, new, kept[side, block])
    return TwoPlaces(rotations, shifts_A), misfit


def settle(views: Views, places: TwoPlaces, mass_kda: float | None, count: int) -> Views:
    """The views each in that of its two places which suits the others, if there is such a choice:
    if not, where they were.

    Args:
        places: of the views.
        mass_kda: molecular weight, for the mask; None where it is not known.
        count: leading pairs of the patterns that are compared.
    """
    generator = torch.Generator().manual_seed(0)
    other = torch.zeros(len(views), dtype=torch.bool, device=views.device)
    before = _preference(views, places, other, slice(None), mass_kda, count)
    for _ in range(_TURNS):
        order = torch.randperm(len(views), generator=generator).to(views.device)
        few, rest = order.tensor_split([min(_FEW_VIEWS, len(views) // 2)])
        gain = _preference(views, places, other, few, mass_kda, count)[rest]
        changed = other[rest] != (gain > 0)
        other[rest] = gain > 0
        if float(changed.float().mean()) < _SETTLED:
            break
    after = _preference(views, places, other, slice(None), mass_kda, count)
    clear = float(after.abs().median())
    if clear < BY_CHANCE or clear < float(before.abs().median()):
        return views
    return places.put_into(views, after > 0)


def _preference(
    views: Views,
    places: TwoPlaces,
    other: Tensor,
    few: Tensor | slice,
    mass_kda: float | None,
    count: int,
) -> Tensor:
    """(v,) by how much less the misfit of each view is in its other place, to the map that a few
    of the views make where they now lie."""
    placed = places.put_into(views, other)
    makers = placed if isinstance(few, slice) else placed.some(few)
    spectrum = masked_image_map(makers, mass_kda)
    regression, _ = regress(spectrum, placed, count, 0.0)
    first, second = (_misfit(spectrum, views, regression, places, side) for side in (0, 1))
    return first - second


def _misfit(
    spectrum: Tensor, views: Views, regression: Regression, places: TwoPlaces, side: int
) -> Tensor:
    """(v,) misfit of pattern and image in one of the places."""
    weight = regression.mean_weight(counts=views.electrons is not None)
    misfits = []
    for block in views.blocks():
        comparison = Comparison(spectrum, views, block, len(regression.slope))
        slices = comparison.slices(places.rotations[side, block])
        shifts_A = places.shifts_A[side, block]
        misfits.append(comparison.misfit(slices, shifts_A, weight, regression, True))
    return torch.cat(misfits)
