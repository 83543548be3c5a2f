"""Classes from nothing: how views lie and which of several molecules each shows, both unknown.

One search over all views ends in the map of one molecule: the one that most of them show, or all
conformations of it at once, which share an outline. Views that this map does not explain are of
something else, and are searched by themselves. So groups come off one after the other, each in a
frame of its own. Within a group, whose views lie in one frame, conformations are told as where
orientations are given. Views that are of no class then are looked for once more in the map of every
class, over all orientations; those that none explains are thrown out, and those whose image alone
finds a place there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffragan.fourier.volumes import volume_spectrum
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.matching.match_images import (
    Places,
    Stage,
    compare,
    image_search,
)
from diffragan.reconstruction.orientations.matching.merge_images import merge
from diffragan.reconstruction.orientations.refine import align_to_images, refine_orientations
from diffragan.reconstruction.sorting.sort import (
    Sorting,
    SortPlan,
    how_many,
    resorted,
    sort_views,
)
from diffragan.rotations import quasi_uniform

LEAST_TO_SEARCH = 20  # views
_ALIGNED_A = (8.0, 6.5, 5.5, 5.0)  # of views that are turned to their class's map
_ROUNDS = 2  # of turning and sorting
# A view whose pattern fits its class by less than this part of what is usual there, and by so many
# standard deviations less, shows something else.
_LEAST_FIT, _DEVIATIONS = 0.5, 3.0
_MISPLACED_FIT = 0.8  # of the best class's usual fit: one that fits less is searched by itself
_SEARCHES_OF_CLASSES = 100  # number of the first such search
_SEARCHED_AGAIN = Stage(6.5, 1, 15000, 2.0)  # where views of no class are looked for

# Told some of the views and a number of its own: the same with orientations and shifts found, and
# what makes these doubtful.
Search = Callable[[Views, int], tuple[Views, list[str]]]


@dataclass(frozen=True)
class Group:
    """Views that lie in one frame. chosen: (g,) their places among all. views: as they lie."""

    chosen: Tensor
    views: Views
    sorting: Sorting


@dataclass(frozen=True)
class Placed:
    """All views where they were found to lie, by class. warnings: of the searches."""

    views: Views
    sorting: Sorting
    warnings: list[str]


def placed_from_nothing(
    views: Views,
    search: Search,
    wanted: int | None,
    most: int,
    plan: SortPlan,
    progress: Progress = no_progress,
) -> Placed:
    """Views of unknown orientation by class.

    Args:
        views: to the resolution that sorting looks at. search: finds orientations.
        wanted: how many classes; None: as many as the views bear, `most` at most.
    """
    groups, warnings = _groups(views, search, wanted or most, plan, progress)
    done: list[Group] = []
    for number, group in enumerate(groups):
        room = (wanted or most) - len(groups) + 1
        alone = wanted is not None and number == len(groups) - 1
        others = sum(one.sorting.classes - 1 for one in done)
        if room - others > 1:
            done.append(_split(group, room - others, alone, plan, len(views), progress))
        else:
            done.append(group)
    placed, sorting = _together(views, done)
    for _ in range(_ROUNDS):
        if not bool(sorting.foreign.any()):
            break
        placed, sorting = searched_again(placed, sorting, plan, progress)
        placed, sorting = turned_and_resorted(placed, sorting, plan, progress)
    placed, sorting, doubts = _misplaced_classes(placed, sorting, search, plan, progress)
    sorting = replace(sorting, foreign=sorting.foreign | unlike_patterns(sorting))
    found = Placed(placed, sorting, [*warnings, *doubts])
    used = int(_held(sorting.of, sorting.classes).sum())
    left = torch.nonzero(sorting.foreign).flatten()
    room = (wanted or most) - used
    enough = len(left) >= max(LEAST_TO_SEARCH, plan.least_part * len(views))
    if not (used and room and enough):
        return found
    rest = placed_from_nothing(
        views.some(left),
        lambda some, number: search(some, number + len(groups) + 1),
        None if wanted is None else room,
        room,
        replace(plan, least_part=min(0.5, plan.least_part * len(views) / len(left))),
        progress,
    )
    return found if bool(rest.sorting.foreign.all()) else _joined(found, left, rest)


def _misplaced_classes(
    views: Views, sorting: Sorting, search: Search, plan: SortPlan, progress: Progress
) -> tuple[Views, Sorting, list[str]]:
    """Classes whose patterns fit far worse than those of the best one, searched by themselves: all
    their images may have found places in the map of another molecule, and stayed near them. And
    what makes the searches that were taken up doubtful."""
    warnings: list[str] = []
    fits = [sorting.fit[sorting.of == k] for k in range(sorting.classes)]
    usual = [float(fit.median()) if len(fit) else 0.0 for fit in fits]
    for k, fit in enumerate(usual):
        own = torch.nonzero(sorting.of == k).flatten()
        if len(own) < LEAST_TO_SEARCH or fit > _MISPLACED_FIT * max(usual):
            continue
        found, doubts = search(views.some(own), _SEARCHES_OF_CLASSES + k)
        if float(sort_views(found, 1, plan).fit.median()) <= fit:
            continue
        warnings += doubts
        rotations, shifts = views.rotations.clone(), views.shifts_A.clone()
        rotations[own], shifts[own] = found.rotations, found.shifts_A
        views = replace(views, rotations=rotations, shifts_A=shifts)
        views, sorting = turned_and_resorted(views, sorting, plan, progress)
    return views, sorting, warnings


def _joined(found: Placed, left: Tensor, rest: Placed) -> Placed:
    """Views of a class, and those at places `left`, of none so far, as another search has them: in
    a map of the others' their images had found a place, and their patterns had not."""
    kept = torch.nonzero(~found.sorting.foreign).flatten()
    own = _some(found.sorting, kept)
    others = _some(rest.sorting, torch.arange(len(left)))
    groups = (Group(kept, found.views.some(kept), own), Group(left, rest.views, others))
    views, sorting = _together(found.views, groups)
    return Placed(views, sorting, [*found.warnings, *rest.warnings])


def _held(of: Tensor, classes: int) -> Tensor:
    """(classes,) bool, those that hold some of the views, whose classes are `of`."""
    return torch.bincount(of + 1, minlength=classes + 1)[1:] > 0


def _some(sorting: Sorting, chosen: Tensor) -> Sorting:
    """What was found of the views at places `chosen`, without classes that hold none of them."""
    held = _held(sorting.of[chosen], sorting.classes)
    return Sorting(
        sorting.probability[chosen][:, held],
        sorting.odds[chosen],
        sorting.foreign[chosen],
        sorting.fit[chosen],
        sorting.held_out[chosen],
    )


def unlike_patterns(sorting: Sorting) -> Tensor:
    """(v,) bool, views of a class whose patterns fit its map far worse than those of the others do.

    An image with noise finds a place in the map of another molecule, as coarse as it is, and by the
    odds seems to belong there. Its pattern, which sees finer and does not fit, tells.
    """
    unlike = torch.zeros_like(sorting.foreign)
    for k in range(sorting.classes):
        own = sorting.of == k
        if not bool(own.any()):
            continue
        fit = sorting.fit[own]
        usual = fit.median()
        deviation = 1.4826 * (fit - usual).abs().median()
        unlike[own] = fit < usual - torch.maximum((1 - _LEAST_FIT) * usual, _DEVIATIONS * deviation)
    return unlike


def turned_and_resorted(
    views: Views, sorting: Sorting, plan: SortPlan, progress: Progress = no_progress
) -> tuple[Views, Sorting]:
    """Every class's views turned to their own map, and all sorted again."""
    for _ in range(_ROUNDS):
        rotations, shifts = views.rotations.clone(), views.shifts_A.clone()
        for k in range(sorting.classes):
            own = torch.nonzero(sorting.of == k).flatten()
            if not len(own):
                continue
            aligned = align_to_images(views.some(own), schedule_A=_ALIGNED_A, progress=progress)
            rotations[own], shifts[own] = aligned.rotations, aligned.shifts_A
        views = replace(views, rotations=rotations, shifts_A=shifts)
        sorting = resorted(views, sorting, plan)
    return views, sorting


def searched_again(
    views: Views, sorting: Sorting, plan: SortPlan, progress: Progress = no_progress
) -> tuple[Views, Sorting]:
    """Views of no class looked for anew, over all orientations, in each class's map; those that a
    class explains now join it.

    A first search may have put a part of a molecule's views wrong, where most showed another.
    """
    finest = _SEARCHED_AGAIN
    search = image_search(views, plan.mass_kda, resolution_A=finest.resolution_A)
    grid = torch.from_numpy(quasi_uniform(finest.grid, plan.seed)).float().to(views.device)
    for k in range(sorting.classes):
        out = torch.nonzero(sorting.foreign).flatten()
        own = torch.nonzero(sorting.of == k).flatten()
        if not len(out) or not len(own):
            continue
        placed = Places(own, views.weights[own], views.rotations[own], views.shifts_A[own])
        unexplained = 0.1 * search.expected
        model = merge(search, placed, unexplained).model(search, unexplained)
        matches = compare(search, out.cpu(), model, finest, grid)
        trial = replace(views.some(out), rotations=matches.rotations, shifts_A=matches.shifts_A)
        aligned = refine_orientations(
            volume_spectrum(model.volume),
            trial,
            resolution_A=finest.resolution_A,
            max_step_deg=5.0,
            rounds=6,
        )
        rotations, shifts = views.rotations.clone(), views.shifts_A.clone()
        rotations[out], shifts[out] = aligned.rotations, aligned.shifts_A
        tried = replace(views, rotations=rotations, shifts_A=shifts)
        after = resorted(tried, sorting, plan)
        if after.classes != sorting.classes:
            continue
        views, sorting = tried, after
        progress("views of no class, looked for again", k + 1, sorting.classes)
    return views, sorting


def _groups(
    views: Views, search: Search, most: int, plan: SortPlan, progress: Progress
) -> tuple[list[Group], list[str]]:
    """Views by frame: those that one search explains, then those that another does of the rest."""
    left = torch.arange(len(views), device=views.device)
    groups: list[Group] = []
    warnings: list[str] = []
    while len(left) >= max(LEAST_TO_SEARCH, plan.least_part * len(views)) and len(groups) < most:
        found, doubts = search(views.some(left), len(groups))
        sorting = sort_views(found, 1, plan, progress)
        explained = ~sorting.foreign
        if float(explained.sum()) < plan.least_part * len(views) and groups:
            break
        warnings += doubts
        inside, outside = (torch.nonzero(part).flatten() for part in (explained, ~explained))
        kept = found.some(inside)
        groups.append(Group(left[inside], kept, sort_views(kept, 1, plan)))
        left = left[outside]
    return groups, warnings


def _split(
    group: Group, classes: int, exactly: bool, plan: SortPlan, of: int, progress: Progress
) -> Group:
    """A group's views by conformation: into that many classes, or as many as they bear."""
    part = len(group.chosen) / of
    own = replace(plan, least_part=min(0.5, plan.least_part / part))
    if exactly:
        sorting = sort_views(group.views, classes, own, progress)
    else:
        sorting, _ = how_many(group.views, classes, own, progress)
    views, sorting = turned_and_resorted(group.views, sorting, own, progress)
    return Group(group.chosen, views, sorting)


def _together(views: Views, groups: Sequence[Group]) -> tuple[Views, Sorting]:
    """All views where their groups have them; views of none are foreign and stay as they lay."""
    count, classes = len(views), sum(group.sorting.classes for group in groups)
    rotations, shifts = views.rotations.clone(), views.shifts_A.clone()
    probability = torch.zeros(count, classes, dtype=torch.float64, device=views.device)
    foreign = torch.ones(count, dtype=torch.bool, device=views.device)
    odds, fit, held_out = (probability.new_zeros(count) for _ in range(3))
    first = 0
    for group in groups:
        own, last = group.chosen, first + group.sorting.classes
        rotations[own], shifts[own] = group.views.rotations, group.views.shifts_A
        probability[own, first:last] = group.sorting.probability
        foreign[own], odds[own] = group.sorting.foreign, group.sorting.odds
        fit[own], held_out[own] = group.sorting.fit, group.sorting.held_out
        first = last
    never = probability.sum(1) == 0
    probability[never] = 1 / max(1, classes)
    placed = replace(views, rotations=rotations, shifts_A=shifts)
    return placed, Sorting(probability, odds, foreign, fit, held_out)
