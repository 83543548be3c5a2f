"""Orientations from nothing: lines that two central slices share.

Any two central slices of one volume meet in a line, along which their amplitudes agree. Every
line of a pattern is compared with every line of another; an orientation is judged by how well the
lines agree that it implies with all patterns already oriented (voting, after van Heel,
Ultramicroscopy 21, 111 (1987), and Singer et al., J. Struct. Biol. 169, 312 (2010)). Amplitudes
leave half a turn about the beam of each view open, which the images settle, and the hand, which
they can't (`hand.hand_of`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.orientations import quasi_uniform
from diffragan.reconstruct.fourier import to_half
from diffragan.reconstruct.orient import align_to_images, image_agreement, turned
from diffragan.reconstruct.start import image_map, ring_of, ring_power
from diffragan.reconstruct.views import Views

ANGLES = 240  # lines over half a turn
_POOL = 4  # lines that the coarse search takes together
_REFERENCES = 24  # views of the core that the others are searched against
_HALF_TURN = torch.tensor([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Lines:
    """Lines through the origin of each view's pattern and image.

    pattern: (v, ANGLES, r) float32, each line of mean 0 and norm 1. Line a runs at a pi / ANGLES.
    image: (v, ANGLES, ri) complex64, the image's object, rings whitened and damped by noise.
    image_radius: (ri,) in units of 1 / box.
    """

    pattern: Tensor
    image: Tensor
    image_radius: Tensor


def lines_of(views: Views, coarsest_A: float, finest_A: float) -> Lines:
    """Lines of all views between two resolutions, whitened ring by ring."""
    rings = ring_of(views)
    bins = int(rings.max()) + 1
    box = views.optics.box_A
    radius = torch.arange(math.ceil(box / coarsest_A), math.floor(box / finest_A) + 1.0)
    last = float(views.flat.radius[len(views.transfer) - 1])
    image_radius = torch.arange(float(radius[0]), math.floor(last))
    pattern = torch.empty(len(views), ANGLES, len(radius))
    image = torch.empty(len(views), ANGLES, len(image_radius), dtype=torch.complex64)
    size = torch.bincount(rings, minlength=bins).clamp_min(1)
    power = ring_power(views)[rings[: len(views.transfer)]]
    for block in views.blocks():
        seen = views.observed(block, views.flat)
        seen = seen.clamp_min(0).sqrt() if views.electrons is not None else seen
        mean = torch.zeros(len(seen), bins).index_add_(1, rings, seen) / size
        left = seen - mean[:, rings]
        width = torch.zeros(len(seen), bins).index_add_(1, rings, left * left) / size
        left = left / width[:, rings].clamp_min(1e-30).sqrt()
        pattern[block] = _sampled(views, left, radius)
        noise = views.image_noise[block][:, None].clamp_min(1e-6 * float(power.max()))
        wanted = views.transfer * power.sqrt() / (views.transfer**2 * power + noise)
        spectrum = views.contrast[block] * views.image_phase_ramp(block) * wanted
        real, imag = (
            _sampled(views, part, image_radius, odd)
            for part, odd in ((spectrum.real, False), (spectrum.imag, True))
        )
        image[block] = torch.complex(real, imag)
    pattern = pattern - pattern.mean(-1, keepdim=True)
    pattern /= torch.linalg.vector_norm(pattern, dim=-1, keepdim=True).clamp_min(1e-20)
    return Lines(pattern, image, image_radius)


def _sampled(views: Views, values: Tensor, radius: Tensor, odd: bool = False) -> Tensor:
    """(b, ANGLES, r) values of pairs (b, k) on polar lines, by cubic splines on the grid."""
    from scipy.ndimage import map_coordinates

    flat, m = views.flat, views.flat.m
    k = values.shape[1]
    grid = torch.zeros(len(values), m * m)
    grid[:, flat.pixel[:k]] = values
    grid[:, flat.mate[:k]] = -values if odd else values
    angle = torch.arange(ANGLES) * (math.pi / ANGLES)
    at = torch.stack((angle.sin()[:, None] * radius, angle.cos()[:, None] * radius)) + m // 2
    out = [map_coordinates(g.numpy(), at.numpy(), order=3) for g in grid.reshape(-1, m, m)]
    return torch.from_numpy(np.stack(out)).float()


def tables(lines: Tensor, views: NDArray[np.int64], references: NDArray[np.int64]) -> Tensor:
    """(views, references, ANGLES, ANGLES) float32 gain of matching line a with line b.

    The gain is that of a normal likelihood, - log(1 - c²) / 2, for correlations c > 0.
    """
    other = lines[references].reshape(-1, lines.shape[-1])
    out = torch.empty(len(views), len(references), ANGLES, ANGLES)
    for row, view in enumerate(views):
        match = (lines[view] @ other.T).reshape(ANGLES, len(references), ANGLES)
        match = match.clamp(0, 0.98).permute(1, 0, 2)
        out[row] = -0.5 * torch.log1p(-match * match)
    return out


_jit: Any = numba.njit(parallel=True, fastmath=True, nogil=True, cache=True, error_model="numpy")


@_jit
def _votes(
    table: Any, candidates: Any, references: Any, offset: Any, out: Any
) -> None:  # pragma: no cover - compiled
    count = table.shape[1]
    scale = np.float32(count / math.pi)
    for g in numba.prange(candidates.shape[0]):
        r = candidates[g]
        total = np.float32(0)
        for j in range(references.shape[0]):
            s = references[j]
            a = r[0, 0] * s[2, 0] + r[0, 1] * s[2, 1] + r[0, 2] * s[2, 2]
            b = r[1, 0] * s[2, 0] + r[1, 1] * s[2, 1] + r[1, 2] * s[2, 2]
            c = s[0, 0] * r[2, 0] + s[0, 1] * r[2, 1] + s[0, 2] * r[2, 2]
            d = s[1, 0] * r[2, 0] + s[1, 1] * r[2, 1] + s[1, 2] * r[2, 2]
            own = int(math.floor(math.atan2(a, -b) * scale + offset)) % count
            its = int(math.floor(math.atan2(-c, d) * scale + offset)) % count
            total += table[j, own, its]
        out[g] = total / references.shape[0]


def votes(table: Tensor, candidates: Tensor, references: Tensor, offset: float = 0.5) -> Tensor:
    """(g,) mean gain of candidate orientations (g, 3, 3) of one view.

    Args:
        table: (j, a, a) gains of the view's lines with those of references (j, 3, 3).
        offset: where in entry 0 of the table angle 0 lies, as a fraction.
    """
    out = torch.empty(len(candidates))
    _votes(
        table.contiguous().numpy(),
        candidates.contiguous().numpy(),
        references.contiguous().numpy(),
        np.float32(offset),
        out.numpy(),
    )
    return out


@dataclass(frozen=True)
class Found:
    """Orientations found from nothing, in one of the two hands.

    rotations: (v, 3, 3) float32. shifts_A: (v, 2). score: (v,) correlation of each pattern with
        that of the images' map (`orient.Refined`).
    agreement: (v,) typical correlation along the lines a view shares with the core's views.
    chance: the same for mirrored patterns, which fit nowhere: what a search finds in noise.
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


class _Search:
    """Best orientation of a view by voting: a coarse grid, then hill climbing from its best."""

    def __init__(self, seed: int, grid: int, kept: int) -> None:
        self.grid = torch.from_numpy(quasi_uniform(grid, seed)).float()
        self.kept = kept
        axis = torch.tensor([-1.0, 0.0, 1.0])
        self.steps = torch.cartesian_prod(axis, axis, axis)

    def best(self, table: Tensor, references: Tensor) -> tuple[Tensor, float]:
        """Orientation (3, 3) and its mean gain, from tables (j, ANGLES, ANGLES)."""
        circled = torch.nn.functional.pad(table[:, None], (1, 2, 1, 2), mode="circular")
        coarse = torch.nn.functional.max_pool2d(circled, _POOL + 3, _POOL)[:, 0]
        rough = votes(coarse.contiguous(), self.grid, references, offset=0.5 - 0.5 / _POOL)
        start = self.grid[rough.topk(self.kept).indices]
        return self.climb(table, references, start)

    def climb(
        self, table: Tensor, references: Tensor, start: Tensor, widest_deg: float = 3.0
    ) -> tuple[Tensor, float]:
        """The best orientation near any of `start` (s, 3, 3)."""
        best = start
        for step in (widest_deg, widest_deg / 2, widest_deg / 3, widest_deg / 6, widest_deg / 6):
            turns = self.steps.repeat(len(best), 1) * math.radians(step)
            near = turned(best.repeat_interleave(len(self.steps), 0), turns)
            gain = votes(table, near, references).reshape(len(best), -1)
            value, at = gain.max(1)
            rows = torch.arange(len(best)) * len(self.steps)
            best = near[rows + at]
        winner = int(value.argmax())
        return best[winner], float(value[winner])


def _seeds(peaks: Tensor, gains: Tensor, count: int) -> list[tuple[int, int, Tensor]]:
    """Pairs of views and their relative orientation, the most certain first.

    The angle between two slices about their common line follows from each third view, whose lines
    with both close a spherical triangle; the right angle is the one many third views agree on.

    Args:
        peaks: (k, k) int64 line of view i that best matches view j. gains: (k, k) how well.
    """
    angle = peaks * (math.pi / ANGLES)
    k = len(peaks)
    wanted = torch.linspace(0, math.pi, 91)[6:-6]
    found = []
    for i in range(k):
        for j in range(i):
            others = torch.tensor([o for o in range(k) if o not in (i, j)])
            a = (angle[i, others] - angle[i, j]) % math.pi
            b = (angle[j, others] - angle[j, i]) % math.pi
            c = torch.cos(angle[others, i] - angle[others, j])
            weight = torch.minimum(gains[i, others], gains[j, others]).repeat(2)
            under = (a.sin() * b.sin()).repeat(2)
            cosine = (torch.cat((c, -c)) - (a.cos() * b.cos()).repeat(2)) / under.clamp_min(1e-3)
            real = (cosine.abs() < 1) & (under > 0.1)
            phi = torch.acos(cosine.clamp(-1, 1))
            near = torch.exp(-0.5 * ((phi[:, None] - wanted) / math.radians(4)) ** 2)
            tally = (near * (weight * real)[:, None]).sum(0) * gains[i, j]
            best = int(tally.argmax())
            found.append((float(tally[best]), i, j, float(wanted[best])))
    found.sort(reverse=True)
    out = []
    for _, i, j, phi in found[:count]:
        own, its = float(angle[i, j]), float(angle[j, i])
        u, w = (
            torch.tensor(x)
            for x in ((math.cos(own), math.sin(own), 0.0), (-math.sin(own), math.cos(own), 0.0))
        )
        z = torch.tensor([0.0, 0.0, 1.0])
        there = torch.stack(
            (u, math.cos(phi) * w + math.sin(phi) * z, math.cos(phi) * z - math.sin(phi) * w), 1
        )
        here = torch.tensor(
            [
                [math.cos(its), math.sin(its), 0.0],
                [-math.sin(its), math.cos(its), 0.0],
                [0.0, 0.0, 1.0],
            ]
        )
        out.append((i, j, (there @ here).T.contiguous()))
    return out


def _grown(table: Tensor, seed: tuple[int, int, Tensor], search: _Search) -> tuple[Tensor, Tensor]:
    """Orientations (k, 3, 3) and gains (k,) of a core, from a first pair, surest views first.

    Args:
        table: (k, k, ANGLES, ANGLES).
    """
    k = len(table)
    rotations = torch.eye(3).repeat(k, 1, 1)
    first, second, rotations[seed[1]] = seed
    known = [first, second]
    gains = torch.zeros(k)
    while len(known) < k:
        left = [i for i in range(k) if i not in known]
        found = [search.best(table[i, known], rotations[known]) for i in left]
        order = sorted(range(len(left)), key=lambda at: -found[at][1])
        for at in order[: max(1, len(known) // 2)]:
            rotations[left[at]] = found[at][0]
            known.append(left[at])
        _polish(table, rotations, gains, known, search)
    for _ in range(2):
        _polish(table, rotations, gains, known, search)
    return rotations, gains


def _polish(
    table: Tensor, rotations: Tensor, gains: Tensor, known: list[int], search: _Search
) -> None:
    """Turn each known view to where it agrees best with the others, in place."""
    for i in known:
        others = [j for j in known if j != i]
        rotations[i], gains[i] = search.climb(
            table[i, others], rotations[others], rotations[i : i + 1]
        )


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
    return (prefer @ vectors[:, -1].sign()) < 0


def _directed(lines: Tensor, view: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(v, k, r) lines of views toward (x, y), conjugated where the stored one runs the other way."""
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
    seeds: int = 3,
    grid: int = 60_000,
    progress: Callable[[str], None] | None = None,
) -> Found:
    """Orientations and shifts of views of one molecule, from their patterns and images alone.

    Args:
        core: how many views are oriented with each other; the others are then searched against it.
        finest_A, coarsest_A: the part of the patterns that is compared line by line.
        seeds: how many first pairs are tried; the one whose core agrees best is kept.
    """
    log: list[str] = []

    def note(text: str) -> None:
        log.append(text)
        if progress is not None:
            progress(text)

    lines = lines_of(views, coarsest_A, finest_A)
    search = _Search(seed, grid, kept=30)
    k = min(core, len(views))
    chosen = np.random.default_rng(seed).permutation(len(views))[:k]
    table = tables(lines.pattern, chosen, chosen)
    value, at = table.flatten(2).max(2)
    best: tuple[Tensor, Tensor] | None = None
    for pair in _seeds(torch.div(at, ANGLES, rounding_mode="floor"), value, seeds):
        grown = _grown(table, pair, search)
        note(
            f"core of {k} views from pair {pair[0]}, {pair[1]}: "
            f"correlation {float(_typical(grown[1]).median()):.3f} along shared lines"
        )
        if best is None or grown[1].median() > best[1].median():
            best = grown
    assert best is not None
    rotations = torch.eye(3).repeat(len(views), 1, 1)
    gains = torch.zeros(len(views))
    index = torch.from_numpy(chosen)
    rotations[index], gains[index] = best
    sure = chosen[best[1].argsort(descending=True)[:_REFERENCES].numpy()]
    for view in sorted(set(range(len(views))) - {int(i) for i in chosen}):
        own = tables(lines.pattern, np.array([view]), sure)[0]
        rotations[view], gains[view] = search.best(own, rotations[sure])
    controls = [
        search.best(tables(lines.pattern, np.array([view]), sure)[0].flip(1), rotations[sure])[1]
        for view in chosen[:8]
    ]
    chance = float(_typical(torch.tensor(controls)).median())
    note(
        f"all views: {float(_typical(gains).median()):.3f} along shared lines, "
        f"{chance:.3f} by chance"
    )
    turn = half_turns(lines, rotations, index, views.optics.box_A)
    rotations[turn] = _HALF_TURN[:, None] * rotations[turn]
    views = replace(views, rotations=rotations)
    for resolution_A in (15.0, 10.0, 8.0):
        views = align_to_images(views, schedule_A=(resolution_A,), shift_reach_A=10.0).put_into(
            views
        )
        views, count = _turned_back(views, resolution_A)
        note(f"{resolution_A:g} Å: {count} views turned by half a turn")
    refined = align_to_images(views, schedule_A=(8.0, 7.0, 6.0, 6.0, 5.0, 5.0, 5.0))
    views = refined.put_into(views)
    note(f"agreement with the images' map {float(refined.score.median()):.3f}")
    return Found(
        views.rotations,
        views.shifts_A,
        refined.score,
        _typical(gains),
        chance,
        image_map(views).volume,
        views.items[chosen],
        tuple(log),
    )


def _typical(gain: Tensor) -> Tensor:
    """The correlation that a mean gain stands for."""
    return (1 - torch.exp(-2 * gain)).clamp_min(0).sqrt()


def _turned_back(views: Views, resolution_A: float) -> tuple[Views, int]:
    """Views turned by half a turn about the beam where their images then fit the images' map
    better, and how many were."""
    half = to_half(image_map(views).volume)
    other = replace(
        views, rotations=_HALF_TURN[:, None] * views.rotations, shifts_A=-views.shifts_A
    )
    here, there = (image_agreement(half, v, resolution_A) for v in (views, other))
    better = there > here
    rotations = torch.where(better[:, None, None], other.rotations, views.rotations)
    return replace(views, rotations=rotations), int(better.sum())
