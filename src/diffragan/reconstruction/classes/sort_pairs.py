"""Pairs to sorted views: orientations given, corrected or found, then classes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from diffragan.devices import to_device
from diffragan.fourier.volumes import CPU
from diffragan.pairs.pairs import Pairs
from diffragan.progress import Progress
from diffragan.reconstruction.choose_views import ViewSelection
from diffragan.reconstruction.classes.sorted_views import SortedViews
from diffragan.reconstruction.maps.load_views import load_views
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.finders import doubts, find_finder
from diffragan.reconstruction.sorting.placing import (
    Search,
    placed_from_nothing,
    turned_and_resorted,
)
from diffragan.reconstruction.sorting.sort import Sorting, SortPlan, how_many, sort_views
from diffragan.settings import ClassesSettings, Settings

_SORTED_AT_A = 5.0  # finest resolution that sorting looks at
_LEAST_PART = 0.15


def least_part(classes: ClassesSettings) -> float:
    """Of the views, what a class must hold."""
    if classes.least_part is not None:
        return classes.least_part
    wanted = classes.number if isinstance(classes.number, int) else 1
    return min(_LEAST_PART, 0.5 / wanted)


def sort_pairs(
    pairs: Pairs,
    selection: ViewSelection,
    settings: Settings,
    scratch: Path,
    device: torch.device,
    progress: Progress,
) -> SortedViews:
    """The views of a selection by class; the scratch folder keeps what was found."""
    kept = SortedViews.kept(scratch)
    if kept is not None:
        return kept
    count = len(selection.items)
    identity = torch.eye(3, dtype=torch.float64).expand(count, 3, 3).numpy()
    given = identity if selection.rotations is None else selection.rotations
    loaded = load_views(
        pairs, selection.items, given, scratch, shifts_A=selection.shifts_A, progress=progress
    )
    views = to_device(loaded, device).limited(_SORTED_AT_A)
    classes = settings.classes
    plan = SortPlan(
        mass_kda=selection.mass_kda,
        foreign_below=classes.foreign_below,
        least_part=least_part(classes),
        starts=classes.starts,
        seed=settings.seed,
    )
    warnings: list[str] = []
    if settings.many_views.orientations == "find":
        wanted = classes.number if isinstance(classes.number, int) else None
        search = _search(settings, selection.mass_kda, scratch, progress)
        placed = placed_from_nothing(views, search, wanted, classes.most, plan, progress)
        views, sorting, warnings = placed.views, placed.sorting, placed.warnings
        means = [float(sorting.held_out.mean())]
    else:
        sorting, means = sort_as_asked(views, classes, plan, progress)
        if settings.many_views.orientations == "refine":
            views, sorting = turned_and_resorted(views, sorting, plan, progress)
    found = _in_words(sorting, views, means, warnings)
    found.save(scratch)
    return found


def sort_as_asked(
    views: Views, classes: ClassesSettings, plan: SortPlan, progress: Progress
) -> tuple[Sorting, list[float]]:
    """Views where they lie, in as many classes as the settings say, or as they bear; and the mean
    likelihoods that tell how many."""
    if isinstance(classes.number, int):
        sorting = sort_views(views, classes.number, plan, progress)
        return sorting, [float(sorting.held_out.mean())]
    return how_many(views, classes.most, plan, progress)


def _search(
    settings: Settings, mass_kda: float | None, scratch: Path, progress: Progress
) -> Search:
    """The finder that the settings name; what an interrupted search had done lies in the scratch
    folder, by the number of the search."""
    find = find_finder(settings.many_views.find_by)

    def search(some: Views, number: int) -> tuple[Views, list[str]]:
        place = scratch / f"search{number + 1}"
        place.mkdir(parents=True, exist_ok=True)
        result = find(some, mass_kda, settings, place, progress)
        return result.views, doubts(result, settings.many_views.find_by)

    return search


def _in_words(
    sorting: Sorting, views: Views, means: list[float], warnings: list[str]
) -> SortedViews:
    """Classes from the largest down, counted from 1."""
    sizes = torch.bincount(sorting.of + 1, minlength=sorting.classes + 1)[1:]
    order = torch.argsort(sizes, descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    number = torch.where(sorting.foreign, 0, rank[sorting.of.clamp_min(0)] + 1)

    def on_cpu(values: Tensor) -> Tensor:
        return values.to(CPU)

    return SortedViews(
        number=on_cpu(number),
        probability=on_cpu(sorting.probability[:, order]),
        odds=on_cpu(sorting.odds),
        fit=on_cpu(sorting.fit),
        rotations=on_cpu(views.rotations),
        shifts_A=on_cpu(views.shifts_A),
        means=means,
        warnings=warnings,
    )
