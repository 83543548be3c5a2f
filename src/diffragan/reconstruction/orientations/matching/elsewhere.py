"""Where else a view might lie: its pattern against a map's slices over all orientations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffragan.fourier.slices import extract
from diffragan.fourier.volumes import volume_spectrum
from diffragan.reconstruction.maps.image_map import image_map
from diffragan.reconstruction.maps.mask import envelope
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.matching.match_views import Comparison, Regression
from diffragan.rotations import half_about_beam, quasi_uniform
from diffragan.symmetry import one_of_each

_GRID = 30000  # orientations, 8° apart: as close as the local search reaches
# Of squared misfit over variance: the best of so many places that say nothing is better by that.
BY_CHANCE = 2 * math.log(_GRID)
FAR_DEG = 25.0  # places nearer than this to where a view lies are not elsewhere
_TRIED = 8  # likeliest places of each view
_POINTS = 2_000_000  # taken from a map together
_BLUR_A, _MARGIN_A = 5.0, 4.0  # of the mask


def orientation_grid(count: int, seed: int, views: Views) -> Tensor:
    """Orientations (g, 3, 3) spread as `count` over SO(3), one of each that the molecule's
    symmetry makes alike."""
    rotations = quasi_uniform(count, seed)
    if views.symmetry is not None:
        rotations = rotations[one_of_each(rotations, views.symmetry.double().cpu().numpy())]
    return torch.from_numpy(rotations).float().to(views.device)


def masked_image_map(views: Views, mass_kda: float | None) -> Tensor:
    """Spectrum (n, n, n // 2 + 1) of the map that the views' images make, inside its mask."""
    volume = image_map(views).volume
    # Where the map varies, since images hold no lowest frequencies.
    mask = envelope(volume**2, views.volume_box_A, mass_kda, blur_A=_BLUR_A, margin_A=_MARGIN_A)
    return volume_spectrum(volume * mask)


@dataclass(frozen=True)
class Elsewhere:
    """How far views are explained where they lie and elsewhere, by squared misfit over variance
    that is saved.

    own: (v,) where they lie, or the best of the grid near there. saved: (v,) at the best
    place elsewhere. likely: (v, tried, 3, 3) the best places, of which patterns do not tell how
    they lie half a turn about the beam.
    """

    own: Tensor
    saved: Tensor
    likely: Tensor


def look_elsewhere(spectrum: Tensor, views: Views, regression: Regression) -> Elsewhere:
    """Every view's pattern against the map's slices over all orientations."""
    grid = orientation_grid(_GRID, 0, views)
    count = len(regression.slope)
    points = views.flat.points[:count]
    weight = regression.mean_weight(counts=views.electrons is not None)
    present, deviations = [], []
    for block in views.blocks():
        comparison = Comparison(spectrum, views, block, count)
        beyond = comparison.observed - regression.y_mean
        slices = comparison.slices(views.rotations[block])
        told = regression.slope * (comparison.observable(slices) - regression.x_mean)
        present.append((weight * told * (2 * beyond - told)).sum(1))
        deviations.append(weight * beyond)
    deviation, own = torch.cat(deviations), torch.cat(present)
    saved = own.new_zeros(len(views), 0)
    place = torch.zeros(len(views), 0, dtype=torch.int64, device=views.device)
    together = max(1, _POINTS // count)
    for start in range(0, len(grid), together):
        some = grid[start : start + together]
        size = extract(spectrum, some, points).abs()
        size = size * size if views.electrons is not None else size
        told = regression.slope * (size - regression.x_mean)
        gain = 2 * deviation @ told.T - (told * told) @ weight
        near = _near(views, some)
        own = torch.maximum(own, gain.where(near, -math.inf).amax(1))
        number = torch.arange(start, start + len(some), device=views.device)
        saved = torch.cat((saved, gain.where(~near, -math.inf)), 1)
        place = torch.cat((place, number.expand(len(views), -1)), 1)
        saved, best = saved.topk(min(_TRIED, saved.shape[1]), 1)
        place = place.gather(1, best)
    return Elsewhere(own, saved[:, 0], grid[place])


def _near(views: Views, grid: Tensor) -> Tensor:
    """(v, g) whether an orientation is where a view lies, or half a turn about the beam from
    there, or at an equivalent of these."""
    own = torch.stack((views.rotations, half_about_beam(views.rotations)))
    if views.symmetry is not None:
        own = (own[:, :, None] @ views.symmetry).movedim(2, 0).flatten(0, 1)
    trace = (own.flatten(2) @ grid.flatten(1).T).amax(0)
    return trace > 1 + 2 * math.cos(math.radians(FAR_DEG))
