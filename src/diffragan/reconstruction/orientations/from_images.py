"""Orientations from nothing, by the images: expectation and maximisation from random starts.

Each start merges the images at random orientations. Then, again and again, every image is compared
with the map's projections over a grid of orientations and shifts, and merged anew at the likely
ones (Scheres, J. Mol. Biol. 415, 406 (2012)). An image is judged by its own noise and by what the
map leaves unexplained, so that early turns choose loosely. Many starts end in wrong maps, each in
its own; those that end right end in the same, and that tells them. The hand stays open, since
projections of a map and of its mirror image are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from diffragan.files.atomic import save_tensors
from diffragan.fourier.slices import Inserter, extract
from diffragan.fourier.volumes import spectrum_volume, volume_spectrum
from diffragan.reconstruction.maps.image_map import power_by_voxel, ring_of, ring_power
from diffragan.reconstruction.maps.mask import envelope
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.refine import align_to_images
from diffragan.rotations import apart_deg, quasi_uniform

_COARSEST_A = 25.0  # of the images' frequencies that are compared


_TOP = 12  # orientations that an image is merged at, at most


_LEAST = 0.02  # of an image's say, below which an orientation is dropped


_BLUR_A = 5.0  # of the map squared, for its mask


_ROOM_A = 4.0  # how far the mask is grown: early maps are vague


_IMAGES = 16  # compared together


_SLICES = 1_000_000  # points taken from a map together


_SAME_DEG = 20.0  # starts whose views differ by less, in the median, came to the same map


_SOMETHING = 0.1  # of the images' signal: a map that explains less says nothing


_ALIGNED_A = (8.0, 6.5, 5.5, 5.0)


@dataclass(frozen=True)
class Stage:
    """Turns at one resolution.

    grid: number of orientations, all over SO(3): 4,600 lie 15° apart, 15,000 10°.
    shift_step_A: of the grid of shifts.
    """

    resolution_A: float
    turns: int
    grid: int
    shift_step_A: float


STAGES = (Stage(10.0, 8, 4600, 3.0), Stage(8.0, 12, 15000, 3.0), Stage(6.5, 8, 15000, 2.0))


@dataclass(frozen=True)
class Model:
    """A map (n, n, n), FFT order, and the power (ki,) of what it leaves unexplained at the images'
    frequencies, their noise apart."""

    volume: Tensor
    unexplained: Tensor


@dataclass(frozen=True)
class Matches:
    """Where images lie in a map.

    rotations, shifts_A: (v, 3, 3) and (v, 2), the likeliest of each image.
    places: for each likely place of any image its item, weight, rotation and shift.
    gain: by how much squared misfit over variance falls by the map, in the mean of the images.
    explained: part of the images' power beyond their noise that the map accounts for.
    unexplained: as `Model` has it.
    """

    rotations: Tensor
    shifts_A: Tensor
    places: tuple[Tensor, Tensor, Tensor, Tensor]
    gain: float
    explained: float
    unexplained: Tensor


class AbInitio:
    """Views to a resolution, and maps made from their images.

    Args:
        resolution_A: the finest that is looked at.
        shift_reach_A: how far from the centre of its field a molecule may lie.
    """

    def __init__(
        self,
        views: Views,
        mass_kda: float | None,
        *,
        resolution_A: float = STAGES[-1].resolution_A,
        shift_reach_A: float = 6.0,
    ) -> None:
        power = ring_power(views)
        last = float(views.flat.radius[len(views.transfer) - 1])
        self.views = views.limited(max(resolution_A, views.optics.box_A / (last + 1)))
        self.mass_kda = mass_kda
        self.reach_A = shift_reach_A
        self.transfer = self.views.transfer[: len(self.views.flat)]
        self.rings = ring_of(self.views)[: len(self.transfer)]
        self.signal = power_by_voxel(power, self.views.n, self.views.flat.padding)
        self.noise = views.image_noise.clamp_min(1e-6 * float(power[1:].max()))
        # What an image is judged by where nothing is explained: all that patterns say is there.
        self.shown = self.transfer**2 * power[self.rings]

    def random(self, chosen: Tensor, seed: int) -> Model:
        """Images merged at random orientations."""
        drawn = Rotation.random(len(chosen), rng=np.random.default_rng([seed, 3]))
        rotations = torch.from_numpy(drawn.as_matrix()).float().to(self.views.device)
        still = rotations.new_zeros(len(chosen), 2)
        item = chosen.to(self.views.device)
        return self._merged(item, still.new_ones(len(chosen)), rotations, still, self.shown)

    def turn(self, chosen: Tensor, model: Model, stage: Stage, grid: Tensor) -> Model:
        """One turn: the chosen images compared with the map, and merged anew."""
        found = self.compare(chosen, model, stage, grid)
        return self._merged(*found.places, found.unexplained)

    def compare(self, chosen: Tensor, model: Model, stage: Stage, grid: Tensor) -> Matches:
        """Every chosen image against the map at all orientations of the grid (g, 3, 3).

        Args:
            chosen: (v,) int64 on the CPU, places in the views.
        """
        views, box = self.views, self.views.optics.box_A
        radius = views.flat.radius[: len(self.transfer)]
        coarse, fine = box / _COARSEST_A, box / stage.resolution_A
        band = slice(int((radius < coarse).sum()), int((radius <= fine).sum()))
        points, rings = views.flat.points[band], self.rings[band]
        shown = self._shown(model, grid, band)
        power = shown.abs().square()
        flat = torch.cat((shown.real, shown.imag), 1)
        shifts = self._shifts(stage.shift_step_A)
        ramps = self._ramps(shifts, points)
        columns: list[tuple[Tensor, ...]] = []
        total = 0.0
        left = points.new_zeros(3, int(self.rings.max()) + 1)  # misfit, power, images by ring
        for start in range(0, len(chosen), _IMAGES):
            some = chosen[start : start + _IMAGES]
            item = some.to(views.device)
            seen = views.contrast[some].to(views.device)[:, band]
            noise = self.noise[item][:, None]
            weight = 1 / (noise + model.unexplained[band])
            moved = (seen[:, None] * ramps).reshape(-1, len(points))
            heavy = (moved.reshape(len(some), -1, len(points)) * weight[:, None]).flatten(0, 1)
            match = flat @ torch.cat((heavy.real, heavy.imag), 1).T
            match = match.reshape(len(grid), len(some), len(shifts))
            gain = (2 * match.amax(2) - power @ weight.T).T
            top, at = gain.topk(min(_TOP, len(grid)), 1)
            total += float(top[:, 0].sum())
            row = torch.arange(len(some), device=views.device)
            shift_at = match.permute(1, 0, 2)[row[:, None], at].argmax(2)
            share = torch.softmax(top, 1)
            share = share * (share > _LEAST)
            share = share / share.sum(1, keepdim=True)
            columns.append((item[:, None].expand_as(at), share, at, shift_at))
            near = moved.reshape(len(some), len(shifts), -1)[row, shift_at[:, 0]]
            error = (near - shown[at[:, 0]]).abs().square() - noise
            beyond = seen.abs().square() - noise
            for line, term in zip(left, (error, beyond, torch.ones_like(error)), strict=True):
                line.index_add_(0, rings, term.sum(0))
        item, share, at, shift_at = (torch.cat(c) for c in zip(*columns, strict=True))
        rest = (left[0] / left[2].clamp_min(1))[self.rings].clamp_min(0)
        rest = torch.where(left[2][self.rings] > 0, torch.minimum(rest, self.shown), self.shown)
        signal = float(left[1].sum())
        likely = share > 0
        return Matches(
            grid[at[:, 0]],
            shifts[shift_at[:, 0]],
            (item[likely], share[likely], grid[at[likely]], shifts[shift_at[likely]]),
            total / len(chosen),
            1 - float(left[0].sum()) / signal if signal > 0 else 0.0,
            rest,
        )

    def _shown(self, model: Model, grid: Tensor, band: slice) -> Tensor:
        """(g, k) what images would show of a map's projections, without noise."""
        # Where the map varies, since images hold no lowest frequencies and its density misleads.
        mask = envelope(
            model.volume**2,
            self.views.volume_box_A,
            self.mass_kda,
            blur_A=_BLUR_A,
            margin_A=_ROOM_A,
        )
        spectrum, points = volume_spectrum(model.volume * mask), self.views.flat.points[band]
        together = max(1, _SLICES // len(points))
        parts = [extract(spectrum, some, points) for some in torch.split(grid, together)]
        return torch.cat(parts) * self.transfer[band]

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
        self, item: Tensor, weight: Tensor, rotations: Tensor, shifts: Tensor, unexplained: Tensor
    ) -> Model:
        """The map of images at given places, damped where noise rules."""
        views, n = self.views, self.views.n
        points = views.flat.points[: len(self.transfer)]
        total, known = (Inserter(n, points.device) for _ in range(2))
        for start in range(0, len(item), 256):
            here = slice(start, start + 256)
            variance = self.noise[item[here]][:, None] + unexplained
            factor = weight[here, None] * self.transfer / variance
            seen = views.contrast[item[here].cpu()].to(views.device)[:, : len(self.transfer)]
            seen = seen * self._ramps(shifts[here], points)
            turn = rotations[here].contiguous()
            total.add((seen * factor).contiguous(), turn, points)
            known.add((factor * self.transfer + 0j).contiguous(), turn, points)
        information = known.spectrum().real
        merged = total.spectrum() * self.signal / (information * self.signal + 1)
        return Model(spectrum_volume(merged), unexplained)


@dataclass(frozen=True)
class ImageSearchResult:
    """Views placed by their images, in one of two hands.

    starts: what part of the images' signal each random start came to explain.
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
    sample: int = 500,
    stages: tuple[Stage, ...] = STAGES,
    keep: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> ImageSearchResult:
    """Orientations and shifts from nothing.

    A sample of the images is tried from random starts until two of them agree. The better map
    places all views; at the end these are aligned to their own map, by images and patterns.

    Args:
        starts: how many random starts are tried at most. sample: how many views a start uses.
        keep: file of the starts that are done, from which an interrupted search goes on.
    """
    tell = progress or (lambda text: None)
    work = AbInitio(views, mass_kda, resolution_A=min(s.resolution_A for s in stages))
    grids = {
        s.grid: torch.from_numpy(quasi_uniform(s.grid, seed)).float().to(views.device)
        for s in stages
    }
    count = min(sample, len(views))
    few = torch.arange(count) * len(views) // count
    last = stages[-1]
    done: list[dict[str, Any]] = []
    if keep is not None and keep.exists():
        done = torch.load(keep, weights_only=True, map_location=views.device)
    pair, agree_deg = (0, 0), math.inf
    for number in range(starts):
        if number == len(done):
            model = work.random(few, 1000 * seed + number)
            for stage in stages:
                for _ in range(stage.turns):
                    model = work.turn(few, model, stage, grids[stage.grid])
            end = work.compare(few, model, last, grids[last.grid])
            told = {"gain": end.gain, "explained": end.explained, "rotations": end.rotations}
            done.append({"volume": model.volume, "unexplained": model.unexplained, **told})
            if keep is not None:
                save_tensors(keep, done)
        for other in range(number):
            both = (done[other]["rotations"], done[number]["rotations"])
            apart = float(apart_deg(*both).median())
            if apart < agree_deg:
                pair, agree_deg = (other, number), apart
        tell(
            f"start {number + 1} of at most {starts}: explains {done[number]['explained']:.2f}"
            + (f"; the best two differ by {agree_deg:.0f}°" if number else "")
        )
        something = min(done[k]["explained"] for k in pair) > _SOMETHING
        sure = agree_deg < _SAME_DEG and something
        if sure:
            break
    among = pair if sure else tuple(range(len(done)))
    best = done[max(among, key=lambda k: float(done[k]["gain"]))]
    everyone = torch.arange(len(views))
    model = Model(best["volume"], best["unexplained"])
    model = work.turn(everyone, model, last, grids[last.grid])
    found = work.compare(everyone, model, last, grids[last.grid])
    placed = replace(views, rotations=found.rotations, shifts_A=found.shifts_A)
    aligned = align_to_images(placed, schedule_A=_ALIGNED_A)
    score = float(aligned.score.median())
    tell(f"all views: patterns and the images' map correlate by {score:.3f}")
    return ImageSearchResult(
        aligned.put_into(placed),
        tuple(float(one["explained"]) for one in done),
        agree_deg if len(done) > 1 else None,
        sure,
    )
