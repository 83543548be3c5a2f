"""Views that lie wrong altogether, found by their patterns and put right.

A molecule may look, as coarse as images show it, nearly the same when it is turned about some axis
(1DUR, a ferredoxin of two like halves). A search by images then puts a part of the views on the
wrong side, and small turns do not bring them back. The map of all views is right if most of them
are, and patterns, which see finer, tell the two sides apart.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from diffragan.fourier.slices import extract
from diffragan.fourier.volumes import volume_spectrum
from diffragan.reconstruction.maps.image_map import image_map
from diffragan.reconstruction.maps.mask import envelope
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.matching.match_views import (
    Comparison,
    Regression,
    pixel_count,
    regress,
)
from diffragan.reconstruction.orientations.refine import LocalSearch
from diffragan.rotations import angle_deg, quasi_uniform
from diffragan.symmetry import one_of_each

_GRID = 30000  # orientations, 8° apart: as close as the local search reaches
# Of squared misfit over variance: the best of so many places that say nothing is better by that.
_BY_CHANCE = 2 * math.log(_GRID)
_TRIED = 8  # of them for each view, and each with half a turn about the beam
_STEP_DEG, _ROUNDS, _SHIFT_REACH_A = 5.0, 3, 6.0
_PASSES, _FEW = 4, 0.01  # until fewer than this part of the views is moved
_FAR_DEG = 25.0  # views that lie nearer than this are not lost
_POINTS = 2_000_000  # taken from a map together
_BLUR_A, _MARGIN_A = 5.0, 4.0  # of the mask


def orientation_grid(count: int, seed: int, views: Views) -> Tensor:
    """Orientations (g, 3, 3) spread as `count` over SO(3), one of each that the molecule's
    symmetry makes alike."""
    rotations = quasi_uniform(count, seed)
    if views.symmetry is not None:
        rotations = rotations[one_of_each(rotations, views.symmetry.double().cpu().numpy())]
    return torch.from_numpy(rotations).float().to(views.device)


def place_lost(views: Views, mass_kda: float | None, *, resolution_A: float) -> Views:
    """The views, those of them moved that fit the images' map better elsewhere, and again in the
    better map that follows, until few are moved.

    All patterns are compared with the map's slices over all orientations. A view that some of
    these explain better than its own is refined from the best ones, by pattern and image. It goes
    where its misfit is clearly less, if that is far away; near places are for alignment to tell.

    Args:
        mass_kda: molecular weight, for the mask; None where it is not known.
        resolution_A: the finest resolution compared.
    """
    for _ in range(_PASSES):
        before = views.rotations
        views = _placed_once(views, mass_kda, resolution_A)
        moved = angle_deg(views.rotations, before) > 0.5 * _FAR_DEG
        if float(moved.float().mean()) < _FEW:
            break
    return views


def _placed_once(views: Views, mass_kda: float | None, resolution_A: float) -> Views:
    """The same, once."""
    coarse = views.limited(resolution_A)
    volume = image_map(coarse).volume
    # Where the map varies, since images hold no lowest frequencies.
    mask = envelope(volume**2, coarse.volume_box_A, mass_kda, blur_A=_BLUR_A, margin_A=_MARGIN_A)
    spectrum = volume_spectrum(volume * mask)
    count = pixel_count(coarse, resolution_A)
    regression, _ = regress(spectrum, coarse, count, 0.0)
    better, likely = _elsewhere(spectrum, coarse, regression)
    if not len(better):
        return views
    moved = _moved(spectrum, coarse.some(better), regression, likely)
    rotations, shifts_A = views.rotations.clone(), views.shifts_A.clone()
    rotations[better], shifts_A[better] = moved.rotations, moved.shifts_A
    return replace(views, rotations=rotations, shifts_A=shifts_A)


def _elsewhere(spectrum: Tensor, views: Views, regression: Regression) -> tuple[Tensor, Tensor]:
    """Views (b,) whose patterns another orientation explains better than their own, and the
    likeliest orientations (b, tried, 3, 3) of each."""
    grid = orientation_grid(_GRID, 0, views)
    count = len(regression.slope)
    points = views.flat.points[:count]
    weight = regression.mean_weight(counts=views.electrons is not None)
    own, deviations = [], []
    for block in views.blocks():
        comparison = Comparison(spectrum, views, block, count)
        beyond = comparison.observed - regression.y_mean
        slices = comparison.slices(views.rotations[block])
        told = regression.slope * (comparison.observable(slices) - regression.x_mean)
        own.append((weight * told * (beyond - 0.5 * told)).sum(1))
        deviations.append(weight * beyond)
    deviation, present = torch.cat(deviations), torch.cat(own)
    gain = present.new_zeros(len(views), 0)
    place = torch.zeros(len(views), 0, dtype=torch.int64, device=views.device)
    together = max(1, _POINTS // count)
    for start in range(0, len(grid), together):
        size = extract(spectrum, grid[start : start + together], points).abs()
        size = size * size if views.electrons is not None else size
        told = regression.slope * (size - regression.x_mean)
        some = deviation @ told.T - 0.5 * (told * told) @ weight
        number = torch.arange(start, start + len(told), device=views.device)
        gain = torch.cat((gain, some), 1)
        place = torch.cat((place, number.expand(len(views), -1)), 1)
        gain, best = gain.topk(min(_TRIED, gain.shape[1]), 1)
        place = place.gather(1, best)
    better = (gain[:, 0] > present).nonzero()[:, 0]
    return better, grid[place[better]]


def _moved(spectrum: Tensor, views: Views, regression: Regression, likely: Tensor) -> Views:
    """Views where their misfit is least, if that is far from where they are and less by more than
    the best of so many places would be by chance: refined from the likely orientations (b, tried,
    3, 3), as they are and turned half about the beam, which flat patterns do not tell apart."""
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0], device=likely.device))
    trials = torch.cat((likely, half_turn @ likely), 1)
    search = LocalSearch(regression, _STEP_DEG, _ROUNDS, _SHIFT_REACH_A, images=True)
    weight = regression.mean_weight(counts=views.electrons is not None)
    rotations, shifts_A = views.rotations.clone(), views.shifts_A.clone()
    for block in views.blocks():
        comparison = Comparison(spectrum, views, block, len(regression.slope))
        present, shift = views.rotations[block], views.shifts_A[block]
        here = search.descend(comparison, present, shift)
        least = comparison.misfit(here.slices, here.shifts_A, weight, regression, True) - _BY_CHANCE
        for trial in trials[block].unbind(1):
            found = search.descend(comparison, trial.contiguous(), shift)
            misfit = comparison.misfit(found.slices, found.shifts_A, weight, regression, True)
            better = (misfit < least) & (angle_deg(found.rotations, present) > _FAR_DEG)
            least = torch.where(better, misfit, least)
            rotations[block] = torch.where(better[:, None, None], found.rotations, rotations[block])
            shifts_A[block] = torch.where(better[:, None], found.shifts_A, shifts_A[block])
    return replace(views, rotations=rotations, shifts_A=shifts_A)
