"""Orientations and shifts of views from nothing: common lines, then the images.

The patterns' shared lines give every orientation up to half a turn about the beam and one hand for
all (`common_lines`); the images settle the half turns and the shifts. Which of the two hands the
map has is told only by the curvature of the Ewald sphere (`hand.hand_of`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.fourier.volumes import volume_spectrum
from diffragan.reconstruction.maps.image_map import image_map, ring_power
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.common_lines import (
    ANGLES,
    Lines,
    Search,
    lines_of,
    placed,
    pooled,
    star,
    strongest_lines,
    tables,
)
from diffragan.reconstruction.orientations.refine import image_agreement, refine_orientations

_HALF_TURN = torch.tensor([-1.0, -1.0, 1.0])[:, None]


_REFERENCES = 24  # views of the core that the others are searched against


_CONTROLS = 10  # views that the search is also made for with scrambled references


_SHIFTS_A = (12.0, 10.0, 8.0, 6.0, 5.0)  # resolutions at which shifts are found


@dataclass(frozen=True)
class Found:
    """Orientations found from nothing, in one of the two hands.

    rotations: (v, 3, 3) float32. shifts_A: (v, 2). score: (v,) correlation of each pattern with
        that of the images' map (`orient.Alignment`).
    agreement: (v,) typical correlation along the lines a view shares with the core's views.
    chance: the same where nothing fits: what a search finds in scrambled lines.
    volume: (n, n, n) the images' map, FFT order. core: items of views the search began with.
    log: what was done, in words.
    """

    rotations: Tensor
    shifts_A: Tensor
    score: Tensor
    agreement: Tensor
    chance: float
    volume: Tensor
    core: NDArray[np.int64]
    log: tuple[str, ...]


def half_turns(lines: Lines, rotations: Tensor, core: Tensor, box_A: float) -> Tensor:
    """(v,) bool, which views are to be turned by half a turn about the beam.

    Along a shared line two images agree as they are or reversed, whichever way they lie shifted;
    the leading eigenvector of these preferences over the core gives its turns, and their votes
    the others'.
    """
    move = torch.arange(-10.0, 10.5) / box_A * 2 * math.pi
    waves = torch.polar(torch.ones(len(move), 1), move[:, None] * lines.image_radius)
    v = len(rotations)
    prefer = torch.zeros(v, len(core))
    relative = rotations[:, None] @ rotations[core].mT
    own = _directed(
        lines.image, torch.arange(v)[:, None], -relative[..., 1, 2], relative[..., 0, 2]
    )
    its = _directed(lines.image, core[None, :], relative[..., 2, 1], -relative[..., 2, 0])
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


def _directed(lines: Tensor, view: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(v, k, r) lines toward (x, y), conjugated where the stored one runs the other way."""
    at = torch.round(torch.atan2(y, x) * (ANGLES / math.pi)).long() % (2 * ANGLES)
    values = lines[view.expand_as(at), at % ANGLES]
    return torch.where((at >= ANGLES)[..., None], values.conj(), values)


def find_orientations(
    views: Views,
    *,
    seed: int = 0,
    core: int = 40,
    finest_A: float = 2.0,
    coarsest_A: float = 20.0,
    voters: int = 100,
    grid: int = 60_000,
    progress: Callable[[str], None] | None = None,
) -> Found:
    """Orientations and shifts of views of one molecule, from their patterns and images alone.

    Args:
        core: how many views are oriented with each other; the others are then searched against it.
        finest_A, coarsest_A: the part of the patterns that is compared line by line.
        voters: how many views' lines vote on how two of them lie.
        grid: orientations of the coarse search over SO(3).

    Raises:
        DiffraganError: fewer than 4 views.
    """
    if len(views) < 4:
        raise DiffraganError(
            f"{len(views)} views are too few to find orientations; give 4 or more."
        )
    log: list[str] = []

    def note(text: str) -> None:
        log.append(text)
        if progress is not None:
            progress(text)

    random = np.random.default_rng(seed)
    lines = lines_of(views, coarsest_A, finest_A)
    search = Search(seed, grid)
    jury = np.sort(random.permutation(len(views))[:voters])
    members, orientations = star(*strongest_lines(lines, jury), core)
    chosen = jury[members.numpy()]
    best, chance = _core(lines, chosen, orientations, search, random)
    note(
        f"core of {len(chosen)} views, placed by {len(jury)}: correlation "
        f"{lines.correlation(best[1]).median():.3f} along shared lines, "
        f"{lines.correlation(torch.tensor(chance)):.3f} by chance"
    )
    rotations, gains = torch.eye(3).repeat(len(views), 1, 1), torch.zeros(len(views))
    index = torch.from_numpy(chosen)
    rotations[index], gains[index] = best
    sure = chosen[best[1].argsort(descending=True)[:_REFERENCES].numpy()]
    for view in np.setdiff1d(np.arange(len(views)), chosen):
        own = tables(lines, view[None], sure)[0]
        rotations[view], gains[view] = search.best(own, pooled(own), rotations[sure])
    note(f"all views: {lines.correlation(gains).median():.3f} along shared lines")
    turn = half_turns(lines, rotations, index, views.optics.box_A)
    rotations[turn] = _HALF_TURN * rotations[turn]
    views = replace(views, rotations=rotations)
    power = ring_power(views)
    for resolution_A in _SHIFTS_A:
        half = volume_spectrum(image_map(views, power).volume)
        here = image_agreement(half, views, resolution_A)
        other = replace(views, rotations=_HALF_TURN * views.rotations)
        wrong = image_agreement(half, other, resolution_A) > here
        if resolution_A < _SHIFTS_A[0]:  # the first map is smeared by the shifts
            kept = torch.where(wrong[:, None, None], other.rotations, views.rotations)
            views = replace(views, rotations=kept)
            note(f"{resolution_A:g} Å: {int(wrong.sum())} views turned by half a turn")
        refined = refine_orientations(
            half, views, resolution_A=resolution_A, max_step_deg=0, rounds=0, shift_reach_A=10.0
        )
        views = refined.put_into(views)
    image = image_map(views, power)
    refined = refine_orientations(
        volume_spectrum(image.volume), views, resolution_A=_SHIFTS_A[-1], max_step_deg=0, rounds=0
    )
    note(f"patterns and the images' map correlate by {refined.score.median():.3f}")
    return Found(
        rotations=refined.rotations,
        shifts_A=refined.shifts_A,
        score=refined.score,
        agreement=lines.correlation(gains),
        chance=float(lines.correlation(torch.tensor(chance))),
        volume=image.volume,
        core=views.items[chosen],
        log=tuple(log),
    )


def _core(
    lines: Lines,
    chosen: NDArray[np.int64],
    start: Tensor,
    search: Search,
    random: np.random.Generator,
) -> tuple[tuple[Tensor, Tensor], float]:
    """Orientations and gains of the core's views, and the gain that chance reaches.

    Chance is the search's best for views whose tables are turned by random angles, one for each
    reference, so that no orientation can agree with two of them.
    """
    table = tables(lines, chosen, chosen)
    best = placed(table, start, search)
    controls = []
    sure = best[1].argsort(descending=True)[: _REFERENCES + 1]
    for view in range(0, len(chosen), max(1, len(chosen) // _CONTROLS)):
        others = sure[sure != view][:_REFERENCES]
        angle = random.integers(ANGLES, size=len(others))
        own = torch.stack(
            [table[view, j].roll(int(a), 1) for j, a in zip(others, angle, strict=True)]
        )
        controls.append(search.best(own, pooled(own), best[0][others])[1])
    return best, float(np.median(controls))
