"""Orientations and shifts of views from nothing: common lines, then the images.

The patterns' shared lines give every orientation up to half a turn about the beam and one hand for
all (`common_lines`); the images settle the half turns and the shifts. Which of the two hands the
map has is told only by the curvature of the Ewald sphere (`hand.hand_of`).

High correlations along the lines are no proof: at 20 e/Å² a wrong core reaches .44, and a right
one at 200 e/Å² .46. A right core tells twice: either half of it, alone, puts other views in the
same place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.devices import to_device
from diffragan.errors import DiffraganError
from diffragan.fourier.volumes import CPU, volume_spectrum
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.maps.image_map import image_map, ring_power
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.lines.common_lines import (
    ANGLES,
    CentralLines,
    LineSearch,
    lines_of,
    match_tables,
    place_about_hub,
    pool_tables,
    settle_core,
    strongest_lines,
)
from diffragan.reconstruction.orientations.refine import image_agreement, refine_orientations
from diffragan.reconstruction.orientations.search_result import OrientationSearchResult
from diffragan.rotations import angle_deg

_HALF_TURN = torch.tensor([-1.0, -1.0, 1.0])[:, None]
_REFERENCES = 24  # views of the core that the others are searched against
_WITNESSES = 20  # views that either half of the core places
_SAME_DEG = 10.0  # two halves that place views by less apart, in the median, are both right
_LEAST_ALIKE = 0.1  # correlation along shared lines: where they say nothing, nothing is sure
_LEAST_TOLD = 0.9  # of the views, whose half turns other views' images confirm
_SHIFTS_A = (12.0, 10.0, 8.0, 6.0, 5.0)  # resolutions at which shifts are found


@dataclass(frozen=True)
class LinePlan:
    """How thoroughly a search by lines goes.

    core: how many views are oriented with each other; the others are then searched against it.
    finest_A, coarsest_A: the part of the patterns that is compared line by line.
    voters: how many views' lines vote on how two of them lie.
    grid: orientations of the coarse search over SO(3).
    """

    core: int = 40
    finest_A: float = 2.0
    coarsest_A: float = 20.0
    voters: int = 100
    grid: int = 60_000


@dataclass(frozen=True)
class _Core:
    """Views oriented with each other: their places (c,) among all views, orientations (c, 3, 3),
    and mean gains (c,) along the lines that each shares with the others."""

    chosen: NDArray[np.int64]
    rotations: Tensor
    gains: Tensor


def find_from_lines(
    views: Views,
    *,
    seed: int = 0,
    plan: LinePlan = LinePlan(),
    progress: Progress = no_progress,
) -> OrientationSearchResult:
    """Orientations and shifts of views of one molecule, from their patterns and images alone.

    The lines are compared on the CPU, wherever the views lie.

    Raises:
        DiffraganError: fewer than 4 views.
    """
    if len(views) < 4:
        raise DiffraganError(
            f"{len(views)} views are too few to find orientations; give 4 or more."
        )
    device, views = views.device, to_device(views, CPU)
    lines = lines_of(views, plan.coarsest_A, plan.finest_A)
    search = LineSearch(seed, plan.grid)
    core = _find_core(lines, search, plan, seed)
    alike = float(lines.correlation(core.gains).median())
    word = f"(correlation {alike:.2f} along shared lines)"
    progress("core by common lines", len(core.chosen), len(core.chosen), word)
    apart = _halves_apart(lines, search, core)
    rotations = _all_placed(lines, search, core, progress)
    index = torch.from_numpy(core.chosen)
    turn = half_turns(lines, rotations, index, views.optics.box_A)
    rotations[turn] = _HALF_TURN * rotations[turn]
    aligned = _aligned(replace(views, rotations=rotations), progress)
    told = half_turns_told(aligned)
    return OrientationSearchResult(
        views=to_device(aligned, device),
        sure=apart < _SAME_DEG and alike > _LEAST_ALIKE and told > _LEAST_TOLD,
        agree_deg=apart,
    )


def _find_core(lines: CentralLines, search: LineSearch, plan: LinePlan, seed: int) -> _Core:
    """Some of the views oriented with each other, the others voting on how any two lie."""
    random = np.random.default_rng(seed)
    jury = np.sort(random.permutation(len(lines.pattern))[: plan.voters])
    members, start = place_about_hub(*strongest_lines(lines, jury), plan.core)
    chosen = jury[members.numpy()]
    rotations, gains = settle_core(match_tables(lines, chosen, chosen), start, search)
    return _Core(chosen, rotations, gains)


def _halves_apart(lines: CentralLines, search: LineSearch, core: _Core) -> float:
    """Median angle between where either half of the core alone places some views, half turns
    about the beam apart; views of the core only where there are too few others."""
    others = np.setdiff1d(np.arange(len(lines.pattern)), core.chosen)
    witnesses = others[:: max(1, len(others) // _WITNESSES)][:_WITNESSES]
    witnesses = np.concatenate((witnesses, core.chosen))[:_WITNESSES]
    order = core.gains.argsort(descending=True).numpy()
    places = []
    for half in (order[0::2], order[1::2]):
        own = [half[core.chosen[half] != view] for view in witnesses]
        best = [_placed(lines, search, core, v, o)[0] for v, o in zip(witnesses, own, strict=True)]
        places.append(torch.stack(best))
    first, second = places
    apart = torch.minimum(angle_deg(first, second), angle_deg(_HALF_TURN * first, second))
    return float(apart.median())


def _placed(
    lines: CentralLines, search: LineSearch, core: _Core, view: int, references: NDArray[np.int64]
) -> tuple[Tensor, float]:
    """A view searched against some of the core, by their places in it: orientation and gain."""
    table = match_tables(lines, np.array([view]), core.chosen[references])[0]
    return search.best(table, pool_tables(table), core.rotations[references])


def _all_placed(lines: CentralLines, search: LineSearch, core: _Core, progress: Progress) -> Tensor:
    """(v, 3, 3) orientations of all views: the core's own, the others searched against its best."""
    count = len(lines.pattern)
    rotations = torch.eye(3).repeat(count, 1, 1)
    rotations[torch.from_numpy(core.chosen)] = core.rotations
    references = core.gains.argsort(descending=True)[:_REFERENCES].numpy()
    for view in np.setdiff1d(np.arange(count), core.chosen):
        rotations[view], _ = _placed(lines, search, core, view, references)
        progress("placing all views", int(view) + 1, count)
    return rotations


def half_turns(lines: CentralLines, rotations: Tensor, core: Tensor, box_A: float) -> Tensor:
    """(v,) bool, which views are to be turned by half a turn about the beam.

    Along a shared line two images agree as they are or reversed, whichever way they lie shifted;
    the leading eigenvector of these preferences over the core gives its turns, and their votes
    the others'.
    """
    move = torch.arange(-10.0, 10.5) / box_A * 2 * torch.pi
    waves = torch.polar(torch.ones(len(move), 1), move[:, None] * lines.image_radius)
    v = len(rotations)
    prefer = torch.zeros(v, len(core))
    relative = rotations[:, None] @ rotations[core].mT
    own = _lines_toward(
        lines.image, torch.arange(v)[:, None], -relative[..., 1, 2], relative[..., 0, 2]
    )
    its = _lines_toward(lines.image, core[None, :], relative[..., 2, 1], -relative[..., 2, 0])
    for column in range(len(core)):
        a, b = own[:, column], its[:, column]
        same, reverse = ((x @ waves.T).real.amax(1) for x in (a.conj() * b, a * b))
        size = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
        prefer[:, column] = (same - reverse) / size.clamp_min(1e-20)
    prefer[core, torch.arange(len(core))] = 0
    inner = prefer[core]
    _, vectors = torch.linalg.eigh(inner + inner.T)
    result: Tensor = (prefer @ vectors[:, -1].sign()) < 0
    return result


def _lines_toward(lines: Tensor, view: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(v, k, r) lines toward (x, y), conjugated where the stored one runs the other way."""
    at = torch.round(torch.atan2(y, x) * (ANGLES / torch.pi)).long() % (2 * ANGLES)
    values = lines[view.expand_as(at), at % ANGLES]
    return torch.where((at >= ANGLES)[..., None], values.conj(), values)


def _aligned(views: Views, progress: Progress) -> Views:
    """The views shifted to agree with their images' map, coarse to fine; those whose image agrees
    better half a turn about the beam on are turned."""
    power = ring_power(views)
    for done, resolution_A in enumerate(_SHIFTS_A, 1):
        spectrum = volume_spectrum(image_map(views, power).volume)
        if resolution_A < _SHIFTS_A[0]:  # the first map is smeared by the shifts
            agreement = image_agreement(spectrum, views, resolution_A)
            other = replace(views, rotations=_HALF_TURN * views.rotations)
            wrong = image_agreement(spectrum, other, resolution_A) > agreement
            turned = torch.where(wrong[:, None, None], other.rotations, views.rotations)
            views = replace(views, rotations=turned)
        views = _shifted(spectrum, views, resolution_A, reach_A=10.0)
        progress("aligning views to images", done, len(_SHIFTS_A))
    spectrum = volume_spectrum(image_map(views, power).volume)
    return _shifted(spectrum, views, _SHIFTS_A[-1], reach_A=6.0)


def half_turns_told(views: Views) -> float:
    """Part of the views whose image agrees better as the view lies than half a turn about the beam
    on, each against the map of the other half of the images: a half where these tell nothing."""
    halves = views.every_second(0), views.every_second(1)
    as_is = []
    for own, others in (halves, halves[::-1]):
        spectrum = volume_spectrum(image_map(others).volume)
        turned = replace(own, rotations=_HALF_TURN * own.rotations)
        agreement = image_agreement(spectrum, own, _SHIFTS_A[-1])
        as_is.append(agreement > image_agreement(spectrum, turned, _SHIFTS_A[-1]))
    return float(torch.cat(as_is).float().mean())


def _shifted(spectrum: Tensor, views: Views, resolution_A: float, reach_A: float) -> Views:
    """The views with the shifts that a map tells, orientations as they are."""
    shifts = refine_orientations(
        spectrum,
        views,
        resolution_A=resolution_A,
        max_step_deg=0,
        rounds=0,
        shift_reach_A=reach_A,
    )
    return shifts.put_into(views)
