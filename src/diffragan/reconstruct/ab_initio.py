"""Orientations from nothing by the images: expectation and maximisation from random starts.

Each start merges the images at random orientations. Then, again and again, every image is compared
with the map's projections over a grid of orientations and shifts, and merged anew at the likely
ones (Scheres, J. Mol. Biol. 415, 406 (2012)). The variance that an image is judged by is that of
its noise and of what the map leaves unexplained, so that early turns choose loosely. Many starts
end in wrong maps, each in its own; those that end right end in the same, and that tells them. The
hand stays open, since projections of a map and of its mirror image are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.orientations import quasi_uniform
from diffragan.reconstruct.envelope import envelope
from diffragan.reconstruct.fourier import Inserter, extract, to_half, to_volume
from diffragan.reconstruct.hand import mirrored
from diffragan.reconstruct.orient import align_to_images, misorientation_deg
from diffragan.reconstruct.start import power_of_half, ring_of, ring_power
from diffragan.reconstruct.views import Views

LEAST_VIEWS = 20
_COARSEST_A = 25.0  # of the images' frequencies that are compared
_TOP = 12  # orientations that an image is merged at, at most
_LEAST = 0.02  # of an image's say, below which an orientation is dropped
_ROOM_A = 4.0  # how far the mask is grown: early maps are vague
_BLOCK = 16
_SAME_DEG = 20.0  # starts whose views differ by less, in the median, came to the same map
_ALIGNED_A = (8.0, 6.5, 5.5, 5.0)


@dataclass(frozen=True)
class Stage:
    """Turns at one resolution.

    grid: number of orientations, all over SO(3): 4,600 lie 15° apart, 15,000 10°, 45,000 7°.
    shift_step_A: of the grid of shifts.
    """

    resolution_A: float
    turns: int
    grid: int
    shift_step_A: float


STAGES = (Stage(10.0, 8, 4600, 3.0), Stage(8.0, 12, 15000, 3.0), Stage(6.5, 8, 15000, 2.0))


@dataclass(frozen=True)
class Matches:
    """Where images lie in a map.

    rotations, shifts_A: (v, 3, 3) and (v, 2), the likeliest of each image.
    places: for each likely place of any image its item, weight, rotation and shift.
    likelihood: mean log likelihood ratio of an image with and without the map.
    explained: part of the images' signal that the map accounts for, over all compared frequencies.
    variance: (ki,) of an image frequency against the map.
    """

    rotations: Tensor
    shifts_A: Tensor
    places: tuple[Tensor, Tensor, Tensor, Tensor]
    likelihood: float
    explained: float
    variance: Tensor


@dataclass(frozen=True)
class Model:
    """A map (n, n, n), FFT order, and the variance (ki,) of image frequencies against it."""

    volume: Tensor
    variance: Tensor


class AbInitio:
    """Views, and maps made from their images alone.

    Args:
        shift_reach_A: how far from the centre of its field a molecule may lie.
    """

    def __init__(self, views: Views, mass_kda: float | None, *, shift_reach_A: float = 6.0) -> None:
        last = float(views.flat.radius[len(views.transfer) - 1])
        power = ring_power(views)
        self.views = views.limited(views.optics.box_A / (last + 1))
        self.mass_kda = mass_kda
        self.reach_A = shift_reach_A
        self.rings = ring_of(self.views)[: len(views.transfer)]
        self.signal = power_of_half(power, self.views.n, self.views.flat.padding)
        noise = views.image_noise.clamp_min(1e-6 * float(power[1:].max())).mean()
        shown = self.views.transfer**2 * power[self.rings]
        self.noise = noise.expand_as(shown)
        self.blank = self.noise + shown  # the variance where nothing is explained

    def random(self, chosen: Tensor, seed: int) -> Model:
        """Images merged at random orientations."""
        drawn = Rotation.random(len(chosen), rng=np.random.default_rng([seed, 3]))
        rotations = torch.from_numpy(drawn.as_matrix()).float().to(self.views.device)
        still = rotations.new_zeros(len(chosen), 2)
        return self._merged(chosen, still.new_ones(len(chosen)), rotations, still, self.blank)

    def turn(self, chosen: Tensor, model: Model, stage: Stage, grid: Tensor) -> Model:
        """One turn: the chosen images compared with the map, and merged anew."""
        found = self.compare(chosen, model, stage, grid)
        return self._merged(*found.places, found.variance)

    def compare(self, chosen: Tensor, model: Model, stage: Stage, grid: Tensor) -> Matches:
        """Every chosen image against the map at all orientations of the grid (g, 3, 3).

        Args:
            chosen: (v,) int64 on the CPU, places in the views.
        """
        views, box = self.views, self.views.optics.box_A
        radius = views.flat.radius[: len(views.transfer)]
        coarse, fine = box / _COARSEST_A, box / stage.resolution_A
        band = slice(int((radius < coarse).sum()), int((radius <= fine).sum()))
        blur_A = max(3.0, stage.resolution_A / 3)
        mask = envelope(
            model.volume, views.volume_box_A, self.mass_kda, blur_A=blur_A, margin_A=_ROOM_A
        )
        points, weight = views.flat.points[band], model.variance[band].rsqrt()
        shown = extract(to_half(model.volume * mask), grid, points)
        shown = shown * (views.transfer[band] * weight)
        size = shown.abs().square().sum(1)
        flat = torch.cat((shown.real, shown.imag), 1)
        shifts = self._shifts(stage.shift_step_A)
        ramps = self._ramps(shifts, points)
        columns: list[tuple[Tensor, ...]] = []
        total = 0.0
        left = weight.new_zeros(2, int(self.rings.max()) + 1)
        for start in range(0, len(chosen), _BLOCK):
            some = chosen[start : start + _BLOCK]
            seen = views.contrast[some].to(views.device)[:, band] * weight
            moved = (seen[:, None] * ramps).reshape(-1, len(points))
            match = flat @ torch.cat((moved.real, moved.imag), 1).T
            match = match.reshape(len(grid), len(some), len(shifts))
            top, at = (2 * match.amax(2) - size[:, None]).T.topk(min(_TOP, len(grid)), 1)
            total += float(torch.logsumexp(top, 1).sum())
            row = torch.arange(len(some), device=views.device)
            shift_at = match.permute(1, 0, 2)[row[:, None], at].argmax(2)
            share = torch.softmax(top, 1)
            share = share * (share > _LEAST)
            share = share / share.sum(1, keepdim=True)
            columns.append((some.to(views.device)[:, None].expand_as(at), share, at, shift_at))
            near = moved.reshape(len(some), len(shifts), -1)[row, shift_at[:, 0]]
            error = (near - shown[at[:, 0]]).abs().square().sum(0) / weight**2
            left[0].index_add_(0, self.rings[band], error)
            left[1].index_add_(0, self.rings[band], torch.full_like(error, len(some)))
        item, share, at, shift_at = (torch.cat(c) for c in zip(*columns, strict=True))
        rest = (left[0] / left[1].clamp_min(1))[self.rings]
        rest = torch.where(left[1][self.rings] > 0, rest, self.blank)
        unexplained = (rest - self.noise)[band].sum() / (self.blank - self.noise)[band].sum()
        likely = share > 0
        return Matches(
            grid[at[:, 0]],
            shifts[shift_at[:, 0]],
            (item[likely], share[likely], grid[at[likely]], shifts[shift_at[likely]]),
            total / len(chosen),
            float(1 - unexplained),
            torch.minimum(torch.maximum(rest, self.noise), self.blank),
        )

    def _shifts(self, step_A: float) -> Tensor:
        """(s, 2) shifts on a grid within reach, Å."""
        count = int(self.reach_A / step_A)
        line = step_A * torch.arange(-count, count + 1.0)
        both = torch.cartesian_prod(line, line)
        near = both[torch.linalg.vector_norm(both, dim=1) <= self.reach_A + 1e-3]
        return near.to(self.views.device)

    def _ramps(self, shifts: Tensor, points: Tensor) -> Tensor:
        """(s, k) factors that move a molecule from each shift to the centre."""
        cycles = (shifts / self.views.volume_box_A) @ points[:, :2].T
        return torch.polar(torch.ones_like(cycles), 2 * math.pi * cycles)

    def _merged(
        self, item: Tensor, weight: Tensor, rotations: Tensor, shifts: Tensor, variance: Tensor
    ) -> Model:
        """The map of images at given places, damped where noise rules."""
        views, n = self.views, self.views.n
        points = views.flat.points[: len(views.transfer)]
        total, known = (Inserter(n, points.device) for _ in range(2))
        for start in range(0, len(item), 256):
            here = slice(start, start + 256)
            factor = weight[here, None] * views.transfer / variance
            seen = views.contrast[item[here].cpu()].to(views.device)
            seen = seen * self._ramps(shifts[here], points)
            turn = rotations[here].contiguous()
            total.add((seen * factor).contiguous(), turn, points)
            known.add((factor * views.transfer + 0j).contiguous(), turn, points)
        information = known.half().real
        merged = total.half() * self.signal / (information * self.signal + 1)
        return Model(to_volume(merged), variance)


@dataclass(frozen=True)
class FoundFromImages:
    """Views placed by their images, in one of two hands.

    starts: what part of the sample's signal each random start came to explain.
    agree_deg: median angle between the two starts that agree best; None if there was one start.
    sure: whether these two came to the same map.
    """

    views: Views
    starts: tuple[float, ...]
    agree_deg: float | None
    sure: bool


def find_from_images(
    views: Views,
    mass_kda: float | None,
    *,
    seed: int = 0,
    starts: int = 12,
    sample: int = 100,
    stages: tuple[Stage, ...] = STAGES,
    progress: Callable[[str], None] | None = None,
) -> FoundFromImages:
    """Orientations and shifts from images alone.

    A sample of the views is tried from random starts until two of them agree. Their better map
    places all views, and these are aligned to their own map.

    Args:
        starts: how many random starts are tried at most. sample: how many views a start uses.

    Raises:
        DiffraganError: too few views.
    """
    if len(views) < LEAST_VIEWS:
        raise DiffraganError(
            f"{len(views)} views are too few to find orientations; give {LEAST_VIEWS} or more."
        )
    tell = progress or (lambda text: None)
    work = AbInitio(views, mass_kda)
    grids = {
        s.grid: torch.from_numpy(quasi_uniform(s.grid, seed)).float().to(views.device)
        for s in stages
    }
    few = torch.arange(0, len(views), max(1, len(views) // sample))
    last = stages[-1]
    models: list[Model] = []
    ends: list[Matches] = []
    pair, agree_deg = (0, 0), math.inf
    for number in range(starts):
        model = work.random(few, 1000 * seed + number)
        for stage in stages:
            for _ in range(stage.turns):
                model = work.turn(few, model, stage, grids[stage.grid])
        models.append(model)
        ends.append(work.compare(few, model, last, grids[last.grid]))
        for other in range(number):
            apart = _apart_deg(ends[other].rotations, ends[number].rotations)
            if apart < agree_deg:
                pair, agree_deg = (other, number), apart
        tell(
            f"start {number + 1} of at most {starts}: explains {ends[-1].explained:.2f}"
            + (f"; the best two differ by {agree_deg:.0f}°" if number else "")
        )
        if agree_deg < _SAME_DEG:
            break
    sure = agree_deg < _SAME_DEG
    among = pair if sure else tuple(range(len(ends)))
    best = max(among, key=lambda k: ends[k].likelihood)
    everyone = torch.arange(len(views))
    model = work.turn(everyone, models[best], last, grids[last.grid])
    found = work.compare(everyone, model, last, grids[last.grid])
    placed = replace(views, rotations=found.rotations, shifts_A=found.shifts_A)
    aligned = align_to_images(placed, schedule_A=_ALIGNED_A)
    tell(f"all views: patterns and the images' map correlate by {aligned.score.median():.3f}")
    return FoundFromImages(
        aligned.put_into(placed),
        tuple(end.explained for end in ends),
        agree_deg if len(ends) > 1 else None,
        sure,
    )


def _apart_deg(one: Tensor, two: Tensor) -> float:
    """Median angle between two sets of orientations (v, 3, 3), in the hand and after the turn of
    the whole map that suit best."""
    hands = (two, mirrored(two))
    return min(float(misorientation_deg(one, hand).median()) for hand in hands)
