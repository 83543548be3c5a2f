"""Views that lie wrong altogether, found by their patterns and put right.

A molecule may look, as coarse as images show it, nearly the same when it is turned about some axis
(1DUR, a ferredoxin of two like halves). A search by images then puts a part of the views on the
wrong side, and small turns do not bring them back. Patterns, which see finer, tell the two sides
apart, once the map has one side more than the other.
"""

from __future__ import annotations

from dataclasses import replace

from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.matching.elsewhere import (
    BY_CHANCE,
    FAR_DEG,
    look_elsewhere,
    masked_image_map,
)
from diffragan.reconstruction.orientations.matching.match_views import pixel_count, regress
from diffragan.reconstruction.orientations.refine import LocalSearch
from diffragan.reconstruction.orientations.two_places import settle, two_places, undecided
from diffragan.rotations import angle_deg

_STEP_DEG, _ROUNDS, _SHIFT_REACH_A = 5.0, 3, 6.0
_PASSES, _FEW = 4, 0.01  # until fewer than this part of the views is moved


def place_lost(views: Views, mass_kda: float | None, *, resolution_A: float) -> Views:
    """The views, those of them moved that fit the images' map better elsewhere, and again in the
    better map that follows, until few are moved.

    All patterns are compared with the map's slices over all orientations. A view that some of
    these explain better than its own is refined from the best ones, by pattern and image. It goes
    where its misfit is clearly less, if that is far away; near places are for alignment to tell.
    If most views fit elsewhere as well as where they lie, all are settled together (`settle`).

    Args:
        mass_kda: molecular weight, for the mask; None where it is not known.
        resolution_A: the finest resolution compared.
    """
    for _ in range(_PASSES):
        before = views.rotations
        views = _placed_once(views, mass_kda, resolution_A)
        moved = angle_deg(views.rotations, before) > 0.5 * FAR_DEG
        if float(moved.float().mean()) < _FEW:
            break
    return views


def _placed_once(views: Views, mass_kda: float | None, resolution_A: float) -> Views:
    """The same, once."""
    coarse = views.limited(resolution_A)
    spectrum = masked_image_map(coarse, mass_kda)
    count = pixel_count(coarse, resolution_A)
    regression, _ = regress(spectrum, coarse, count, 0.0)
    search = LocalSearch(regression, _STEP_DEG, _ROUNDS, _SHIFT_REACH_A, images=True)
    elsewhere = look_elsewhere(spectrum, coarse, regression)
    if undecided(elsewhere):
        places, _ = two_places(spectrum, coarse, search, elsewhere.likely)
        settled = settle(coarse, places, mass_kda, count)
        return replace(views, rotations=settled.rotations, shifts_A=settled.shifts_A)
    better = (elsewhere.saved > elsewhere.own).nonzero()[:, 0]
    if not len(better):
        return views
    some = coarse.some(better)
    places, misfit = two_places(spectrum, some, search, elsewhere.likely[better])
    moved = places.put_into(some, misfit[1] < misfit[0] - BY_CHANCE)
    rotations, shifts_A = views.rotations.clone(), views.shifts_A.clone()
    rotations[better], shifts_A[better] = moved.rotations, moved.shifts_A
    return replace(views, rotations=rotations, shifts_A=shifts_A)
