"""Orientations from nothing, by the images: expectation and maximisation from random starts.

Each start merges the images at random orientations. Then, again and again, every image is compared
with the map's projections over a grid of orientations and shifts, and merged anew at the likely
ones (`match_images`). Many starts end in wrong maps, each in its own; those that end right end in
the same, and that tells them. The hand stays open, since projections of a map and of its mirror
image are the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from diffragan.files.atomic import save_tensors
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.lost_views import place_lost
from diffragan.reconstruction.orientations.matching.elsewhere import orientation_grid
from diffragan.reconstruction.orientations.matching.match_images import (
    ImageSearch,
    Model,
    Stage,
    compare,
    image_search,
    information,
)
from diffragan.reconstruction.orientations.matching.merge_images import Descent, turn
from diffragan.reconstruction.orientations.refine import align_to_images
from diffragan.reconstruction.orientations.search_result import OrientationSearchResult
from diffragan.rotations import apart_deg

# Where a start's first turns end, Å, for a molecule of that weight, and the limits for others.
_END_A, _END_KDA, _FINEST_A, _COARSEST_A = 8.0, 47.0, 5.5, 10.0
_UNKNOWN_KDA = 20.0
_SAME_DEG = 20.0  # starts whose views differ by less, in the median, came to the same map
_LEAST_EXPLAINED = 0.1  # of the images' signal: a map that explains less says nothing
_ALIGNED_A = (8.0, 6.5)  # before lost views are looked for
_LAST_ALIGNED_A = (5.5, 5.0)
_LOST_A = 1.2  # of where the turns end: patterns are compared to here for them


@dataclass(frozen=True)
class SearchPlan:
    """How thoroughly a search goes.

    starts: how many random starts are tried at most. sample: how many views a start uses.
    stages: of each start, coarse to fine; all views are placed by the last. None: as the molecular
        weight has them (`stages_for`).
    """

    starts: int = 12
    sample: int = 500
    stages: tuple[Stage, ...] | None = None


def end_resolution_A(mass_kda: float | None) -> float:
    """Where the turns with few images end, for a molecule of this weight."""
    size = float(((mass_kda or _UNKNOWN_KDA) / _END_KDA) ** (1 / 3))
    return min(_COARSEST_A, max(_FINEST_A, _END_A * size))


def images_tell(views: Views, mass_kda: float | None) -> float:
    """The `information` of an image, to where the turns with few images end."""
    end_A = end_resolution_A(mass_kda)
    return information(image_search(views, mass_kda, resolution_A=end_A), end_A)


def stages_for(mass_kda: float | None) -> tuple[Stage, ...]:
    """The stages of a start: many turns with few images each, then some with all.

    A small molecule's views are told apart by finer detail, and it has as many details at that
    resolution as a large one at a coarser.
    """
    end_A = end_resolution_A(mass_kda)
    return (
        Stage(end_A, 60, 4600, 3.0, images=100, from_A=1.5 * end_A),
        Stage(0.85 * end_A, 3, 15000, 3.0),
    )


@dataclass(frozen=True)
class _Start:
    """Where one random start ended: its map, as `Model` and `Matches` have it, and the likeliest
    orientations (v, 3, 3) of its views."""

    volume: Tensor
    unexplained: Tensor
    gain: float
    explained: float
    rotations: Tensor


@dataclass(frozen=True)
class _Agreement:
    """The two starts whose views agree best, and the median angle between them."""

    pair: tuple[int, int] = (0, 0)
    angle_deg: float = math.inf

    def with_last(self, starts: list[_Start], symmetry: Tensor | None) -> _Agreement:
        """The same with the last start compared with all before it."""
        best, last = self, len(starts) - 1
        for other in range(last):
            first, second = starts[other].rotations, starts[last].rotations
            apart = float(apart_deg(first, second, symmetry).median())
            if apart < best.angle_deg:
                best = _Agreement((other, last), apart)
        return best

    def sure(self, starts: list[_Start]) -> bool:
        """Whether the two came to the same map, and to one that explains something."""
        explained = min(starts[k].explained for k in self.pair)
        return self.angle_deg < _SAME_DEG and explained > _LEAST_EXPLAINED


def find_from_images(
    views: Views,
    mass_kda: float | None,
    *,
    seed: int = 0,
    plan: SearchPlan = SearchPlan(),
    keep: Path | None = None,
    progress: Progress = no_progress,
) -> OrientationSearchResult:
    """Orientations and shifts from nothing.

    A sample of the images is tried from random starts until two of them agree. The better map
    places all views; at the end these are aligned to their own map, by images and patterns, and
    those whose patterns lie better elsewhere are moved there (`place_lost`).

    Args:
        mass_kda: molecular weight, for the mask; None where it is not known.
        keep: file of the starts that are done, from which an interrupted search goes on.
    """
    stages = plan.stages or stages_for(mass_kda)
    finest_A = min(stage.resolution_A for stage in stages)
    search = image_search(views, mass_kda, resolution_A=finest_A)
    grids = [orientation_grid(stage.grid, seed, views) for stage in stages]
    count = min(plan.sample, len(views))
    few = torch.arange(count) * len(views) // count
    done = _kept(keep, views.device)
    agreement = _Agreement()
    for number in range(plan.starts):
        if number == len(done):
            done.append(_run_start(search, few, 1000 * seed + number, stages, grids))
            if keep is not None:
                save_tensors(keep, [vars(start) for start in done])
        agreement = agreement.with_last(done[: number + 1], views.symmetry)
        word = f"explains {done[number].explained:.2f}"
        if number:
            word += f"; the best two differ by {agreement.angle_deg:.0f}°"
        progress("random starts", number + 1, plan.starts, f"({word})")
        if agreement.sure(done):
            break
    sure = agreement.sure(done)
    best = max((done[k] for k in agreement.pair) if sure else done, key=lambda start: start.gain)
    placed = _placed(search, views, best, stages[-1], grids[-1])
    placed = align_to_images(placed, schedule_A=_ALIGNED_A).put_into(placed)
    placed = place_lost(placed, mass_kda, resolution_A=_LOST_A * end_resolution_A(mass_kda))
    aligned = align_to_images(placed, schedule_A=_LAST_ALIGNED_A)
    word = f"(patterns and the images' map correlate by {float(aligned.score.median()):.3f})"
    progress("placing all views", len(views), len(views), word)
    return OrientationSearchResult(
        views=aligned.put_into(placed),
        sure=sure,
        starts=tuple(start.explained for start in done),
        agree_deg=agreement.angle_deg if len(done) > 1 else None,
    )


def _kept(keep: Path | None, device: torch.device) -> list[_Start]:
    """The starts that an interrupted search had done."""
    if keep is None or not keep.exists():
        return []
    return [_Start(**s) for s in torch.load(keep, weights_only=True, map_location=device)]


def _run_start(
    search: ImageSearch,
    few: Tensor,
    seed: int,
    stages: tuple[Stage, ...],
    grids: list[Tensor],
) -> _Start:
    """One random start, through all stages."""
    on = Descent.begin(search, few, seed)
    model = on.model
    for stage, grid in zip(stages, grids, strict=True):
        for k in range(stage.turns):
            if stage.images is None:
                model = turn(search, few, model, stage, grid)
            else:
                on = on.step(search, few, stage.at(k), grid)
                model = on.model
    end = compare(search, few, model, stages[-1], grids[-1])
    return _Start(model.volume, model.unexplained, end.gain, end.explained, end.rotations)


def _placed(search: ImageSearch, views: Views, start: _Start, stage: Stage, grid: Tensor) -> Views:
    """All views where a start's map, merged once more from all of them, has them."""
    everyone = torch.arange(len(views))
    model = turn(search, everyone, Model(start.volume, start.unexplained), stage, grid)
    matches = compare(search, everyone, model, stage, grid)
    return replace(views, rotations=matches.rotations, shifts_A=matches.shifts_A)
