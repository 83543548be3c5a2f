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
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.fourier.compiled import run_loop
from diffragan.reconstruction.maps.image_map import ring_of, ring_power
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.lines.line_votes import vote_loop
from diffragan.rotations import quasi_uniform, turned

ANGLES = 240  # lines over half a turn
_POOL = 4  # lines that the coarse search takes together
_POOL_OFFSET = 0.5 - 1 / _POOL  # where in an entry 0 of `pool_tables` angle 0 lies
_STEPS_DEG = (3.0, 1.5, 1.0, 0.5, 0.5, 0.25)  # of the hill climbing


@dataclass(frozen=True)
class CentralLines:
    """Lines through the origin of each view's pattern and image.

    pattern: (v, ANGLES, r) float32, each line of mean 0 and norm 1. Line a runs at a pi / ANGLES.
    image: (v, ANGLES, ri) complex64, the image's object, rings whitened and damped by noise.
    image_radius: (ri,) in units of 1 / box. noisy: whether patterns are counts.
    """

    pattern: Tensor
    image: Tensor
    image_radius: Tensor
    noisy: bool

    def correlation(self, gain: Tensor) -> Tensor:
        """The correlation that a mean gain stands for."""
        return gain if self.noisy else (1 - torch.exp(-2 * gain)).clamp_min(0).sqrt()


def lines_of(views: Views, coarsest_A: float, finest_A: float) -> CentralLines:
    """Lines of all views between two resolutions, whitened ring by ring."""
    rings = ring_of(views)
    bins = int(rings.max()) + 1
    box = views.optics.box_A
    reach = min(box / finest_A, float(views.flat.radius.max()) - 1)
    radius = torch.arange(math.ceil(box / coarsest_A), math.floor(reach) + 1.0)
    last = float(views.flat.radius[len(views.transfer) - 1])
    image_radius = torch.arange(float(radius[0]), math.floor(last))
    pattern = torch.empty(len(views), ANGLES, len(radius))
    image = torch.empty(len(views), ANGLES, len(image_radius), dtype=torch.complex64)
    size = torch.bincount(rings, minlength=bins).clamp_min(1)
    by_ring = ring_power(views)
    power = by_ring[rings[: len(views.transfer)]]
    trust = torch.ones(len(rings))
    if views.electrons is not None:  # what the intensity varies by, over that and shot noise
        counts = (views.flat.valid.sum(0) * views.electrons) * by_ring[rings]
        trust = (counts / (1 + counts)).sqrt()
    for block in views.blocks():
        observed = views.observed(block, views.flat)
        observed = observed.clamp_min(0).sqrt() if views.electrons is not None else observed
        mean = torch.zeros(len(observed), bins).index_add_(1, rings, observed) / size
        deviation = observed - mean[:, rings]
        width = torch.zeros(len(observed), bins).index_add_(1, rings, deviation * deviation) / size
        deviation = deviation / width[:, rings].clamp_min(1e-30).sqrt() * trust
        pattern[block] = _polar_lines(views, deviation, radius)
        noise = views.image_noise[block][:, None].clamp_min(1e-6 * float(power.max()))
        transfer = views.transfer.of(block)
        wiener = transfer * power.sqrt() / (transfer**2 * power + noise)
        spectrum = views.spectra(block) * views.image_phase_ramp(block) * wiener
        real, imag = (
            _polar_lines(views, part, image_radius, odd)
            for part, odd in ((spectrum.real, False), (spectrum.imag, True))
        )
        image[block] = torch.complex(real, imag)
    pattern = pattern - pattern.mean(-1, keepdim=True)
    pattern /= torch.linalg.vector_norm(pattern, dim=-1, keepdim=True).clamp_min(1e-20)
    return CentralLines(pattern, image, image_radius, views.electrons is not None)


def _polar_lines(views: Views, values: Tensor, radius: Tensor, odd: bool = False) -> Tensor:
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


def match_tables(
    lines: CentralLines, views: NDArray[np.int64], references: NDArray[np.int64]
) -> Tensor:
    """(views, references, ANGLES, ANGLES) float32 gain of matching line a with line b.

    The gain of a correlation c > 0 is that of a normal likelihood: - log(1 - c²) / 2 where the
    correlation of a true match is unknown and may be high, c where shot noise makes it small.
    """
    other = lines.pattern[references].reshape(-1, lines.pattern.shape[-1])
    out = torch.empty(len(views), len(references), ANGLES, ANGLES)
    for row, view in enumerate(views):
        match = (lines.pattern[view] @ other.T).reshape(ANGLES, len(references), ANGLES)
        match = match.clamp(0, 0.98).permute(1, 0, 2)
        out[row] = match if lines.noisy else -0.5 * torch.log1p(-match * match)
    return out


def votes(table: Tensor, candidates: Tensor, references: Tensor, offset: float = 0.5) -> Tensor:
    """(g,) mean gain of candidate orientations (g, 3, 3) of one view.

    Args:
        table: (j, a, a) gains of the view's lines with those of references (j, 3, 3).
        offset: where in entry 0 of the table angle 0 lies, as a fraction.
    """
    out = torch.empty(len(candidates))
    run_loop(
        vote_loop,
        table.contiguous().numpy(),
        candidates.contiguous().numpy(),
        references.contiguous().numpy(),
        np.float32(offset),
        out.numpy(),
    )
    return out


class LineSearch:
    """Best orientation of a view by voting: a coarse grid, then hill climbing from its best.

    Orientations half a turn about the beam apart vote alike, and the grid holds one of each two.
    """

    def __init__(self, seed: int, grid: int, kept: int = 16) -> None:
        candidates = torch.from_numpy(quasi_uniform(grid, seed)).float()
        self.grid = candidates[candidates[:, 0, 2] >= 0].contiguous()
        self.kept = kept
        axis = torch.tensor([-1.0, 0.0, 1.0])
        steps = torch.cartesian_prod(axis, axis, axis)
        still = torch.eye(3).expand(len(steps), 3, 3)
        self.turns = [turned(still, steps * math.radians(size)) for size in _STEPS_DEG]

    def best(self, table: Tensor, coarse: Tensor, references: Tensor) -> tuple[Tensor, float]:
        """Orientation (3, 3) and its mean gain over references (j, 3, 3).

        Args:
            table: (j, ANGLES, ANGLES). coarse: the same, `pool_tables`.
        """
        rough = votes(coarse, self.grid, references, offset=_POOL_OFFSET)
        return self.best_near(table, references, self.grid[rough.topk(self.kept).indices])

    def best_near(self, table: Tensor, references: Tensor, start: Tensor) -> tuple[Tensor, float]:
        """The best orientation near any of `start` (s, 3, 3)."""
        best, value = start, torch.zeros(len(start))
        for turns in self.turns:
            near = (turns[None] @ best[:, None]).reshape(-1, 3, 3)
            value, at = votes(table, near, references).reshape(len(best), -1).max(1)
            best = near[torch.arange(len(best)) * len(turns) + at]
        winner = int(value.argmax())
        return best[winner], float(value[winner])


def pool_tables(table: Tensor) -> Tensor:
    """Tables (j, a / 4, a / 4) of the largest gain near each four by four lines."""
    circled = torch.nn.functional.pad(table[:, None], (2, 1, 2, 1), mode="circular")
    result: Tensor = torch.nn.functional.max_pool2d(circled, _POOL + 3, _POOL)[:, 0]
    return result.contiguous()


def strongest_lines(lines: CentralLines, views: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """The line of view i that best matches one of view j, (k, k) int64, and its gain (k, k)."""
    k = len(views)
    peaks, gains = torch.zeros(k, k, dtype=torch.int64), torch.zeros(k, k)
    for row in range(k):
        gains[row], at = match_tables(lines, views[row : row + 1], views)[0].flatten(1).max(1)
        peaks[row] = torch.div(at, ANGLES, rounding_mode="floor")
    return peaks, gains


def place_about_hub(peaks: Tensor, gains: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """A view and those most surely placed to it: their numbers (c,), the hub first, and their
    orientations (c, 3, 3) if the hub's is 1, each in either hand.

    The angle between two slices about their common line follows from each third view, whose lines
    with both close a spherical triangle; the right angle is the one many third views agree on.
    Best lines may be wrong nine times in ten if there are enough views to vote.

    Args:
        peaks, gains: from `strongest_lines`.
    """
    angle = peaks * (math.pi / ANGLES)
    k = len(peaks)
    wanted = torch.linspace(0, math.pi, 91)[8:-8]
    tally, tilt = torch.zeros(k, k), torch.zeros(k, k)
    for i in range(k):
        for j in range(i):
            a = (angle[i] - angle[i, j]) % math.pi
            b = (angle[j] - angle[j, i]) % math.pi
            c = torch.cos(angle[:, i] - angle[:, j])
            under = (a.sin() * b.sin()).repeat(2)
            cosine = (torch.cat((c, -c)) - (a.cos() * b.cos()).repeat(2)) / under.clamp_min(1e-3)
            weight = torch.minimum(gains[i], gains[j])
            weight[[i, j]] = 0
            weight = weight.repeat(2) * ((cosine.abs() < 1) & (under > 0.1))
            near = torch.acos(cosine.clamp(-1, 1))[:, None] - wanted
            votes_for = torch.exp(-0.5 * (near / math.radians(4)) ** 2).T @ weight
            top = int(votes_for.argmax())
            tally[i, j] = tally[j, i] = gains[i, j] * votes_for[top]
            tilt[i, j] = tilt[j, i] = wanted[top]
    hub = int(tally.topk(min(count, k) - 1, dim=1).values.sum(1).argmax())
    members = torch.cat((torch.tensor([hub]), tally[hub].topk(min(count, k) - 1).indices))
    rotations = torch.eye(3).repeat(len(members), 1, 1)
    for row, j in enumerate(members.tolist()[1:], 1):
        rise, run = math.sin(float(tilt[hub, j])), math.cos(float(tilt[hub, j]))
        about = torch.tensor([[1.0, 0, 0], [0, run, -rise], [0, rise, run]])
        own, its = _about_beam(float(angle[hub, j])), _about_beam(float(angle[j, hub]))
        rotations[row] = (own @ about @ its.T).T
    return members, rotations


def _about_beam(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def settle_core(table: Tensor, rotations: Tensor, search: LineSearch) -> tuple[Tensor, Tensor]:
    """Orientations (k, 3, 3) and gains (k,) of views about a hub, brought to agree.

    The hand of each pair is settled first: two views agree better in the same hand.

    Args:
        table: (k, k, ANGLES, ANGLES). rotations: (k, 3, 3), the hub's first, each in either hand.
    """
    k = len(table)
    flip = torch.tensor([1.0, 1.0, -1.0])
    coarse = torch.stack([pool_tables(row) for row in table])
    rotations, other = rotations.clone(), flip[:, None] * rotations * flip
    same, opposite = torch.zeros(k, k), torch.zeros(k, k)
    for i in range(1, k):
        for j in range(1, k):
            if i != j:
                both = torch.stack((rotations[i], other[i]))
                gain = votes(coarse[i, j][None], both, rotations[j][None], _POOL_OFFSET)
                same[i, j], opposite[i, j] = gain[0], gain[1]
    prefer = same - opposite
    wrong = torch.linalg.eigh(prefer + prefer.T)[1][:, -1] < 0
    rotations[wrong] = other[wrong]
    gains, everyone = torch.zeros(k), list(range(k))
    for _ in range(2):
        _refine_each(table, rotations, gains, everyone, search)
    for _ in range(2):
        for i in everyone:
            rest = [j for j in everyone if j != i]
            rotations[i], gains[i] = search.best(table[i, rest], coarse[i, rest], rotations[rest])
    _refine_each(table, rotations, gains, everyone, search)
    return rotations, gains


def _refine_each(
    table: Tensor, rotations: Tensor, gains: Tensor, everyone: list[int], search: LineSearch
) -> None:
    """Turn each view to where it agrees best with the others, in place."""
    for i in everyone:
        others = [j for j in everyone if j != i]
        rotations[i], gains[i] = search.best_near(
            table[i, others], rotations[others], rotations[i : i + 1]
        )
