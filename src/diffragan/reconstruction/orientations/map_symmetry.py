"""The rotations that leave a map as it is, and the point group that they make."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.fourier.slices import Extractor
from diffragan.fourier.volumes import CPU, centred, frequency_radius, moved, volume_spectrum
from diffragan.symmetry import about

# Where a map is compared with itself, in cycles over its diameter: coarser, any globule is round;
# finer, axes a few degrees apart would not find it.
_BAND = (2.5, 6.0)
_POINTS = 2000  # frequencies of that band, at most
_AXES = 2000  # of half a sphere: 3.3 degrees apart
_MANY, _FEWER = 1000, 4  # of so many axes each is tried by a quarter of the frequencies
_FOLDS = (2, 3, 5, 7)
# Correlation of a map with itself after a turn about an axis of symmetry. A chain that folds into
# two halves alike reaches .63 (1DUR).
_LEAST = 0.85
_SQUARE_DEG = 8.0  # two axes within so much of a right angle, or of each other, are so


@dataclass(frozen=True)
class SymmetryAxis:
    """A direction (3,), x, y, z, a fold, and the map's correlation with itself after that turn."""

    direction: tuple[float, float, float]
    fold: int
    correlation: float


@dataclass(frozen=True)
class MapSymmetry:
    """A point group by RELION's name, and the least correlation of its axes; C1 has none."""

    name: str
    correlation: float | None = None
    axes: tuple[SymmetryAxis, ...] = ()


class _Self:
    """A map against itself, turned about its centre of mass."""

    def __init__(self, volume: Tensor) -> None:
        n = volume.shape[-1]
        axis = torch.arange(n) - n // 2
        weight = centred(volume).double().clamp_min(0).cpu()
        total = weight.sum().clamp_min(1e-30)
        centre = [
            float((weight.sum(tuple({0, 1, 2} - {k})) * axis).sum() / total) for k in range(3)
        ]
        self._extracted = Extractor(volume_spectrum(moved(volume.cpu(), -torch.tensor(centre))))
        radius = frequency_radius(n, CPU)
        across = _diameter_px(weight, centre) / n
        band = (radius >= _BAND[0] / across) & (radius <= _BAND[1] / across)
        z, y, x = torch.nonzero(band & (torch.arange(n // 2 + 1) > 0)).unbind(1)
        places = [torch.where(k > n // 2, k - n, k) for k in (x, y, z)]
        points = torch.stack(places, 1).float()
        self.points = points[:: 1 + len(points) // _POINTS].contiguous()
        self.rings = (torch.linalg.vector_norm(self.points, dim=1) + 0.5).long()
        self.own = self._extracted(torch.eye(3)[None], self.points)

    @staticmethod
    def _white(values: Tensor, rings: Tensor) -> Tensor:
        """Values (b, k) of rings (k,) with the power of each ring the same."""
        power = torch.zeros(len(values), int(rings.max()) + 1)
        power.index_add_(1, rings, values.abs().square())
        count = torch.bincount(rings).clamp_min(1)
        return values / (power / count).clamp_min(1e-30).sqrt()[:, rings]

    def correlation(self, turns: Tensor, every: int = 1) -> Tensor:
        """(b,) with the map turned by (b, 3, 3), by every so manieth frequency."""
        points, rings = self.points[::every].contiguous(), self.rings[::every]
        own = self._white(self.own[:, ::every], rings).conj()
        parts = [
            (self._white(self._extracted(some, points), rings) * own).real.mean(1)
            for some in torch.split(turns, 256)
        ]
        return torch.cat(parts)

    def best(self, fold: int, directions: NDArray[np.float64]) -> SymmetryAxis:
        """The best of some directions (a, 3), after two rounds of looking closer."""
        for step_deg in (2.0, 0.7, None):
            turns = about(directions, 360 / fold)
            # An axis stands out by far; where it lies exactly is for the few near it.
            every = _FEWER if len(directions) > _MANY else 1
            match = self.correlation(torch.from_numpy(turns).float(), every)
            top = directions[int(match.argmax())]
            if step_deg is not None:
                directions = _around(top, step_deg)
        x, y, z = (float(v) for v in top)
        return SymmetryAxis((x, y, z), fold, float(match.max()))


def symmetry_of(volume: Tensor) -> MapSymmetry:
    """The point group of a map (n, n, n), FFT order, as it shows at a sixth of its diameter.

    The map is turned about axes through its centre of mass, all over half a sphere, by a half, a
    third, a fifth and a seventh of a circle, and correlated with itself, rings of equal weight. The
    axes that leave it as it is name the group. Works on the CPU.
    """
    compared = _Self(volume)
    everywhere = _half_sphere(_AXES)
    found = [
        axis for fold in _FOLDS if (axis := compared.best(fold, everywhere)).correlation > _LEAST
    ]
    if not found:
        return MapSymmetry("C1")
    main = max((_highest(compared, axis) for axis in found), key=lambda axis: axis.fold)
    across = compared.best(2, _ring_across(main))
    twofold = across.correlation > _LEAST
    axes = [main, *(a for a in found if _apart_deg(a, main) > _SQUARE_DEG)]
    oblique = [a for a in axes[1:] if a.fold > 2 and a.fold != main.fold]
    if main.fold == 5 and any(a.fold == 3 for a in oblique):
        name = "I"
    elif main.fold == 4 and any(a.fold == 3 for a in oblique):
        name = "O"
    elif main.fold == 3 and any(abs(_apart_deg(a, main) - 54.7) < _SQUARE_DEG for a in axes[1:]):
        name = "T"
    else:
        name = f"{'D' if twofold else 'C'}{main.fold}"
        axes = [main, across] if twofold else [main]
    return MapSymmetry(name, min(axis.correlation for axis in axes), tuple(axes))


def _diameter_px(weight: Tensor, centre: list[float]) -> float:
    """Of the ball with a map's radius of gyration; weight (n, n, n) with its centre at n // 2."""
    n = weight.shape[-1]
    axis = torch.arange(n) - n // 2
    z, y, x = (
        (axis - c).square().reshape([-1 if k == d else 1 for d in range(3)])
        for k, c in enumerate(centre)
    )
    square = float((weight * (z + y + x)).sum() / weight.sum().clamp_min(1e-30))
    return max(1.0, 2 * math.sqrt(5 / 3 * square))


def _highest(compared: _Self, axis: SymmetryAxis) -> SymmetryAxis:
    """The same direction with the highest fold that it has."""
    best = axis
    for fold in range(2 * axis.fold, 13, axis.fold):
        turn = torch.from_numpy(about(axis.direction, 360 / fold)).float()[None]
        match = float(compared.correlation(turn))
        if match > _LEAST:
            best = SymmetryAxis(axis.direction, fold, min(match, axis.correlation))
    return best


def _apart_deg(a: SymmetryAxis, b: SymmetryAxis) -> float:
    cosine = abs(float(np.dot(a.direction, b.direction)))
    return math.degrees(math.acos(min(1.0, cosine)))


def _half_sphere(count: int) -> NDArray[np.float64]:
    """Directions (count, 3) evenly over z >= 0, on Fibonacci's spiral."""
    k = np.arange(count) + 0.5
    z, turn = k / count, math.pi * (3 - math.sqrt(5)) * k
    r = np.sqrt(1 - z**2)
    return np.stack((r * np.cos(turn), r * np.sin(turn), z), 1)


def _across(direction: tuple[float, float, float]) -> tuple[NDArray[np.float64], ...]:
    """Two directions (3,) square to a third and to each other."""
    z = np.asarray(direction)
    x = np.cross(z, np.eye(3)[np.abs(z).argmin()])
    x /= np.linalg.norm(x)
    return x, np.cross(z, x)


def _ring_across(axis: SymmetryAxis) -> NDArray[np.float64]:
    """Directions (90, 3) across an axis, 2 degrees apart."""
    x, y = _across(axis.direction)
    turn = np.deg2rad(np.arange(0, 180, 2.0))[:, None]
    ring: NDArray[np.float64] = np.cos(turn) * x + np.sin(turn) * y
    return ring


def _around(direction: NDArray[np.float64], step_deg: float) -> NDArray[np.float64]:
    """Directions (49, 3) about one, on a grid."""
    x, y = _across((float(direction[0]), float(direction[1]), float(direction[2])))
    line = np.tan(np.deg2rad(step_deg)) * np.arange(-3, 4)
    grid = direction + line[:, None, None] * x + line[None, :, None] * y
    flat = grid.reshape(-1, 3)
    near: NDArray[np.float64] = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    return near
