"""What lies on a grid square, and the path of the beam over it: all drawn from the seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.microscope.session.raster import Beam, Places, Raster
from diffragan.settings import SessionSettings

# Hexagonal ice: spacings in Å and how strongly they reflect, roughly.
_ICE_SPACINGS_A = (3.90, 3.67, 3.44, 2.67, 2.25, 2.07, 1.95, 1.92)
_ICE_WEIGHTS = (1.0, 1.0, 0.8, 0.4, 0.6, 0.3, 0.2, 0.3)
_MAIN, _LARGEST_HEAP = -1, 5


@dataclass(frozen=True)
class Molecules:
    """Molecules of a square: places (n, 2) Å, kind and number of the exit wave (n,), and the
    aggregate they belong to (n,), -1 for none."""

    places_A: Places
    kind: NDArray[np.int64]
    wave: NDArray[np.int64]
    heap: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.kind)


@dataclass(frozen=True)
class Crystal:
    """An ice crystal: place (y, x), diameter, and its reflections: q (k, 2) in 1/Å (y, x), and the
    part of the beam on the crystal that each takes (k,)."""

    place_A: tuple[float, float]
    diameter_A: float
    q_per_A: NDArray[np.float64]
    parts: NDArray[np.float64]


@dataclass(frozen=True)
class Carbon:
    """A film at the left side of the square, its edge wavy: x below `edge_A(y)` is covered."""

    mean_A: float
    wave_A: float
    period_A: float
    phase: float

    def edge_A(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """x of the edge at y, Å."""
        turn = 2 * math.pi * y / self.period_A + self.phase
        edge: NDArray[np.float64] = self.mean_A + self.wave_A * np.sin(turn)
        return edge

    def part_lit(self, positions: Places, beam: Beam) -> NDArray[np.float64]:
        """(n,) part of the beam that falls on the film, its edge taken as straight."""
        depth = self.edge_A(positions[:, 0]) - positions[:, 1]
        u = np.clip(depth / (beam.diameter_A / 2), -1, 1)
        part: NDArray[np.float64] = (np.arccos(-u) + u * np.sqrt(1 - u**2)) / math.pi
        return part


@dataclass(frozen=True)
class Square:
    """A grid square and the scan over it.

    side_A: (height, width) of the overview. positions_A: (n, 2) where the beam truly stood.
    nominal: the raster without drift.
    """

    side_A: tuple[float, float]
    nominal: Raster
    positions_A: Places
    molecules: Molecules
    crystals: tuple[Crystal, ...]
    carbon: Carbon | None


def draw_square(
    settings: SessionSettings, seed: int, diameters_A: list[float], waves: list[int]
) -> Square:
    """A square for molecules of these diameters, of which so many exit waves each are there.

    Raises:
        DiffraganError: shares that are not one for each kind.
    """
    if settings.shares and len(settings.shares) != len(diameters_A):
        raise DiffraganError(
            f"There are {len(settings.shares)} shares for {len(diameters_A)} kinds of molecules; "
            "give one for each (session.shares)."
        )
    rng = np.random.default_rng([seed, 1])
    raster = _nominal(settings, rng)
    positions = raster.positions() + _drift(settings, rng)
    # The frame begins a margin before the scan.
    low = positions.min(0) - settings.margin_A
    raster = Raster(raster.rows, raster.columns, raster.origin_A - low, raster.matrix_A)
    positions = positions - low
    height, width = (float(side) + settings.margin_A for side in positions.max(0))
    carbon = None
    if settings.carbon_part:
        mean = settings.margin_A + settings.carbon_part * (width - 2 * settings.margin_A)
        carbon = Carbon(mean, 0.25 * settings.step_A, 0.4 * height, float(rng.uniform(0, 6.28)))
    molecules = _molecules(settings, rng, (height, width), diameters_A, waves)
    free = carbon is None or molecules.places_A[:, 1] > carbon.edge_A(molecules.places_A[:, 0]) + 40
    kept = np.broadcast_to(free, len(molecules))
    molecules = Molecules(*(values[kept] for values in vars(molecules).values()))
    crystals = tuple(_crystal(rng, (height, width)) for _ in range(settings.ice_crystals))
    return Square((height, width), raster, positions, molecules, crystals, carbon)


def _nominal(settings: SessionSettings, rng: np.random.Generator) -> Raster:
    turn = math.radians(settings.rotation_deg) * rng.uniform(-1, 1)
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    error = np.eye(2) + settings.distortion * rng.uniform(-1, 1, (2, 2))
    matrix = settings.step_A * rotation @ error
    return Raster(settings.rows, settings.columns, np.zeros(2), matrix)


def _drift(settings: SessionSettings, rng: np.random.Generator) -> Places:
    """(n, 2) Å: fast at first and slower later, as a stage comes to rest, with a slow bend."""
    time = np.linspace(0, 1, settings.rows * settings.columns)
    turn = rng.uniform(0, 2 * math.pi)
    along = np.array([math.sin(turn), math.cos(turn)])
    rest = (1 - np.exp(-2.5 * time)) / (1 - math.exp(-2.5))
    bend = 0.15 * np.sin(math.pi * time)
    result: Places = settings.drift_A * (
        rest[:, None] * along + bend[:, None] * np.array([-along[1], along[0]])
    )
    return result


def _molecules(
    settings: SessionSettings,
    rng: np.random.Generator,
    side_A: tuple[float, float],
    diameters_A: list[float],
    waves: list[int],
) -> Molecules:
    """Single molecules anywhere, and heaps whose members overlap."""
    kinds = len(diameters_A)
    parts = np.array(settings.shares or (1.0,) * kinds)
    sizes = np.concatenate(
        (
            np.ones(settings.molecules, np.int64),
            rng.integers(2, _LARGEST_HEAP + 1, settings.aggregates),
        )
    )
    heap = np.repeat([*[_MAIN] * settings.molecules, *range(settings.aggregates)], sizes).astype(
        np.int64
    )
    n = int(sizes.sum())
    kind = rng.choice(kinds, n, p=parts / parts.sum())
    centres = rng.uniform(0, 1, (len(sizes), 2)) * side_A
    places = np.repeat(centres, sizes, axis=0)
    spread = 0.35 * np.asarray(diameters_A)[kind][:, None] * rng.standard_normal((n, 2))
    places = places + np.where((heap >= 0)[:, None], spread, 0.0)
    wave = np.zeros(n, np.int64)
    for k in range(kinds):
        own = np.nonzero(kind == k)[0]
        # Every wave once before one comes again.
        order = np.concatenate([rng.permutation(waves[k]) for _ in range(-(-len(own) // waves[k]))])
        wave[own] = order[: len(own)]
    return Molecules(places, kind, wave, heap)


def _crystal(rng: np.random.Generator, side_A: tuple[float, float]) -> Crystal:
    weights = np.array(_ICE_WEIGHTS)
    count = int(rng.integers(3, 9))
    ring = rng.choice(len(weights), count, p=weights / weights.sum())
    phi = rng.uniform(0, 2 * math.pi, count)
    q = np.stack((np.sin(phi), np.cos(phi)), -1) / np.array(_ICE_SPACINGS_A)[ring][:, None]
    strength = 0.01 * weights[ring] * rng.lognormal(0, 0.8, count)
    # Friedel mates off the exact Bragg angle differ.
    mates = strength * rng.uniform(0.1, 1.0, count)
    y, x = rng.uniform(0, 1, 2) * side_A
    return Crystal(
        (float(y), float(x)),
        float(rng.uniform(80, 260)),
        np.concatenate((q, -q)),
        np.concatenate((strength, mates)).clip(max=0.08),
    )
