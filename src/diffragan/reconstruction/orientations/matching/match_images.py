"""Images against a map: at which orientations and shifts each is likely.

The expectation of expectation and maximisation (Scheres, J. Mol. Biol. 415, 406 (2012)); the map of
images that lie there is `merge_images`. An image is judged by its own noise and by what the map
leaves unexplained, so that early turns choose loosely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from diffragan.fourier.slices import Extractor
from diffragan.fourier.volumes import volume_spectrum
from diffragan.reconstruction.maps.image_map import power_by_voxel, ring_of, ring_power
from diffragan.reconstruction.maps.image_transfer import ImageTransfer
from diffragan.reconstruction.maps.mask import envelope
from diffragan.reconstruction.maps.views import Views

_COARSEST_A = 25.0  # of the images' frequencies that are compared
_MOST_PLACES = 12  # orientations that an image is merged at, at most
_LEAST_WEIGHT = 0.02  # of an image, below which an orientation is dropped
_BLUR_A = 5.0  # of the map squared, for its mask
_MARGIN_A = 4.0  # how far the mask is grown: early maps are vague
_IMAGES = 16  # compared together
_POINTS = 1_000_000  # taken from a map together
_ARRIVED = 0.7  # of a stage's turns, after which it has come to its resolution


@dataclass(frozen=True)
class Stage:
    """Turns of comparing and merging, to one resolution.

    grid: number of orientations, all over SO(3): 4,600 lie 15° apart, 15,000 10°.
    shift_step_A: of the grid of shifts.
    images: how many are drawn anew for each turn; none: all of a start's.
    from_A: the resolution of the first turn, from which the others go on to `resolution_A`; none:
        that.
    """

    resolution_A: float
    turns: int
    grid: int
    shift_step_A: float
    images: int | None = None
    from_A: float | None = None

    def at(self, turn: int) -> Stage:
        """The stage as it is in one of its turns: two thirds of them go to its resolution."""
        if self.from_A is None:
            return self
        part = min(1.0, turn / max(1, _ARRIVED * self.turns))
        return replace(self, resolution_A=self.from_A + part * (self.resolution_A - self.from_A))


@dataclass(frozen=True)
class ImageSearch:
    """What all comparisons of one search share.

    views: to the finest resolution that is looked at. mass_kda: for the mask, None where unknown.
    shift_reach_A: how far from the centre of its field a molecule may lie.
    transfer: contrast per unit of object. rings: (ki,) ring of each frequency.
    signal: (n, n, n // 2 + 1) power of the object by voxel, from the patterns.
    noise: (v,) power of each image's noise at a frequency.
    expected: (ki,) power of the noise-free images, as the patterns imply it.
    """

    views: Views
    mass_kda: float | None
    shift_reach_A: float
    transfer: ImageTransfer
    rings: Tensor
    signal: Tensor
    noise: Tensor
    expected: Tensor


@dataclass(frozen=True)
class Model:
    """A map (n, n, n), FFT order, and the power (ki,) of what it leaves unexplained at the images'
    frequencies, their noise apart."""

    volume: Tensor
    unexplained: Tensor


class Places(NamedTuple):
    """Likely places of images in a map, any number of each: the item (p,) int64, its weight (p,),
    rotation (p, 3, 3) and shift (p, 2) in Å. The weights of an item add up to 1."""

    item: Tensor
    weight: Tensor
    rotations: Tensor
    shifts_A: Tensor


@dataclass(frozen=True)
class Matches:
    """Where images lie in a map.

    rotations, shifts_A: (v, 3, 3) and (v, 2), the likeliest of each image.
    places: all likely ones.
    gain: by how much squared misfit over variance falls by the map, in the mean of the images.
    explained: part of the images' power beyond their noise that the map accounts for.
    unexplained: as `Model` has it.
    """

    rotations: Tensor
    shifts_A: Tensor
    places: Places
    gain: float
    explained: float
    unexplained: Tensor


@dataclass(frozen=True)
class _Projections:
    """A map as images would show it without noise, at g orientations and k frequencies, apart from
    what each image's own defocus does.

    values: (g, k) complex64; real_imag: (g, 2 k), the same side by side; power: (g, k).
    shifts: (s, 2) in Å that each is compared at. ramps: (s, k) factors that move a molecule from
        each shift to the centre.
    band: the frequencies among the images'.
    """

    values: Tensor
    real_imag: Tensor
    power: Tensor
    shifts: Tensor
    ramps: Tensor
    band: slice


class _Best(NamedTuple):
    """The best places of b images, best first: gain, place in the grid of orientations and in that
    of shifts, each (b, places); and by frequency (b, k) what the best leaves of the image's power
    beyond noise, and that power."""

    gain: Tensor
    orientation: Tensor
    shift: Tensor
    error: Tensor
    beyond_noise: Tensor


def image_search(
    views: Views, mass_kda: float | None, *, resolution_A: float, shift_reach_A: float = 6.0
) -> ImageSearch:
    """A search in views, to the finest resolution that it will look at.

    Args:
        shift_reach_A: how far from the centre of its field a molecule may lie.
    """
    power = ring_power(views)
    last = float(views.flat.radius[len(views.transfer) - 1])
    limited = views.limited(max(resolution_A, views.optics.box_A / (last + 1)))
    transfer = limited.transfer.leading(len(limited.flat))
    rings = ring_of(limited)[: len(transfer)]
    return ImageSearch(
        views=limited,
        mass_kda=mass_kda,
        shift_reach_A=shift_reach_A,
        transfer=transfer,
        rings=rings,
        signal=power_by_voxel(power, limited.n, limited.flat.padding),
        noise=views.image_noise.clamp_min(1e-6 * float(power[1:].max())),
        expected=transfer.mean_square() * power[rings],
    )


def information(search: ImageSearch, resolution_A: float) -> float:
    """What an image tells of where it lies, in the mean of the images: power of the molecule over
    that of noise, summed over its frequencies from 25 Å to a resolution. By so much log likelihood
    the true place is better, in the mean, than no molecule at all."""
    radius, box = search.views.flat.radius[: len(search.transfer)], search.views.optics.box_A
    band = (radius >= box / _COARSEST_A) & (radius <= box / resolution_A)
    return float(search.expected[band].sum() * (1 / search.noise).mean())


def compare(
    search: ImageSearch, chosen: Tensor, model: Model, stage: Stage, grid: Tensor
) -> Matches:
    """Every chosen image against the map at all orientations of the grid (g, 3, 3).

    Args:
        chosen: (v,) int64 on the CPU, places in the views.
    """
    projections = _projections(search, model, stage, grid)
    rings = search.rings[projections.band]
    columns: list[tuple[Tensor, ...]] = []
    gain = 0.0
    sums = grid.new_zeros(3, int(search.rings.max()) + 1)  # misfit, power, images by ring
    for some in torch.split(chosen, _IMAGES):
        best = _best_places(search, model, projections, some)
        gain += float(best.gain[:, 0].sum())
        weight = torch.softmax(best.gain, 1)
        weight = weight * (weight > _LEAST_WEIGHT)
        weight = weight / weight.sum(1, keepdim=True)
        item = some.to(grid.device)[:, None].expand_as(weight)
        columns.append((item, weight, best.orientation, best.shift))
        terms = (best.error, best.beyond_noise, torch.ones_like(best.error))
        for line, term in zip(sums, terms, strict=True):
            line.index_add_(0, rings, term.sum(0))
    item, weight, orientation, shift = (torch.cat(c) for c in zip(*columns, strict=True))
    likely = weight > 0
    power = float(sums[1].sum())
    return Matches(
        rotations=grid[orientation[:, 0]],
        shifts_A=projections.shifts[shift[:, 0]],
        places=Places(
            item[likely],
            weight[likely],
            grid[orientation[likely]],
            projections.shifts[shift[likely]],
        ),
        gain=gain / len(chosen),
        explained=1 - float(sums[0].sum()) / power if power > 0 else 0.0,
        unexplained=_unexplained(search, sums[0], sums[2]),
    )


def _projections(search: ImageSearch, model: Model, stage: Stage, grid: Tensor) -> _Projections:
    """The map's projections over a grid of orientations (g, 3, 3), to a stage's resolution."""
    views, box = search.views, search.views.optics.box_A
    radius = views.flat.radius[: len(search.transfer)]
    coarse, fine = box / _COARSEST_A, box / stage.resolution_A
    band = slice(int((radius < coarse).sum()), int((radius <= fine).sum()))
    points = views.flat.points[band]
    # Where the map varies, since images hold no lowest frequencies and its density misleads.
    mask = envelope(
        model.volume**2,
        views.volume_box_A,
        search.mass_kda,
        blur_A=_BLUR_A,
        margin_A=_MARGIN_A,
    )
    extracted = Extractor(volume_spectrum(model.volume * mask))
    together = max(1, _POINTS // len(points))
    parts = [extracted(some, points) for some in torch.split(grid, together)]
    values = torch.cat(parts) * search.transfer.common[band]
    shifts = _shift_grid(search, stage.shift_step_A)
    return _Projections(
        values=values,
        real_imag=torch.cat((values.real, values.imag), 1),
        power=values.abs().square(),
        shifts=shifts,
        ramps=shift_ramps(search, shifts, points),
        band=band,
    )


def _best_places(
    search: ImageSearch, model: Model, projections: _Projections, some: Tensor
) -> _Best:
    """Where some images (b,) fit best: the gain of a place is by how much squared misfit over
    variance falls against no map at all."""
    views, count, k = search.views, len(some), projections.values.shape[1]
    images = views.contrast[some].to(views.device)[:, projections.band]
    noise = search.noise[some.to(views.device)][:, None]
    own = search.transfer.beside_common(some.to(views.device))[:, projections.band]
    weight = 1 / (noise + model.unexplained[projections.band])
    moved = (images[:, None] * projections.ramps).reshape(-1, k)
    weighted = (moved.reshape(count, -1, k) * (weight * own)[:, None]).flatten(0, 1)
    match = projections.real_imag @ torch.cat((weighted.real, weighted.imag), 1).T
    match = match.reshape(len(projections.values), count, len(projections.shifts))
    gain = (2 * match.amax(2) - projections.power @ (weight * own**2).T).T
    top, orientation = gain.topk(min(_MOST_PLACES, len(projections.values)), 1)
    row = torch.arange(count, device=views.device)
    shift = match.permute(1, 0, 2)[row[:, None], orientation].argmax(2)
    centred = moved.reshape(count, len(projections.shifts), k)[row, shift[:, 0]]
    error = (centred - own * projections.values[orientation[:, 0]]).abs().square() - noise
    return _Best(top, orientation, shift, error, images.abs().square() - noise)


def _unexplained(search: ImageSearch, misfit: Tensor, images: Tensor) -> Tensor:
    """(ki,) mean power that the map leaves in each ring, from sums by ring; all that is expected
    where nothing was compared, and never more."""
    mean = (misfit / images.clamp_min(1))[search.rings].clamp_min(0)
    compared = images[search.rings] > 0
    return torch.where(compared, torch.minimum(mean, search.expected), search.expected)


def _shift_grid(search: ImageSearch, step_A: float) -> Tensor:
    """(s, 2) shifts on a grid within reach, Å."""
    count = int(search.shift_reach_A / step_A)
    line = step_A * torch.arange(-count, count + 1.0)
    both = torch.cartesian_prod(line, line)
    near = both[torch.linalg.vector_norm(both, dim=1) <= search.shift_reach_A + 1e-3]
    return near.to(search.views.device)


def shift_ramps(search: ImageSearch, shifts: Tensor, points: Tensor) -> Tensor:
    """(s, k) factors that move a molecule from each shift to the centre."""
    cycles = (shifts / search.views.volume_box_A) @ points[:, :2].T
    return torch.polar(torch.ones_like(cycles), 2 * math.pi * cycles)
