"""What to believe of atoms: built twice from views that never met, and held against the other's.

An atom of all views is confirmed if both half sets, each from its own map and its own patterns,
put an atom within 0.3 Å of it, or nearer where chance would confirm too many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.atoms.model.atoms import Atoms

CONFIRMED_WITHIN_A = 0.3
_RADII_A = (CONFIRMED_WITHIN_A, 0.25, 0.2, 0.15, 0.1)
_FALSE = 0.01  # of the confirmed: with more by chance the half sets have to agree better
_CHANCE_TRIES = 8


@dataclass(frozen=True)
class Match:
    """Atoms against the places of known ones, one to one.

    recall: part of the known that has an atom within reach. precision: part of the atoms that has
    a known one. rms_A: of the pairs' distances, nan without any.
    """

    recall: float
    precision: float
    rms_A: float


@dataclass(frozen=True)
class Confirmation:
    """Which atoms both half sets confirm.

    sure: (n,) bool. within_A: how near an atom of each half set lies, at most. false: about how
    many of the confirmed ones are so by chance.
    """

    sure: Tensor
    within_A: float
    false: float


def confirmed(all_views: Atoms, halves: tuple[Atoms, Atoms], seed: int = 0) -> Confirmation:
    """Atoms with one of each half set near them: within 0.3 Å, or less where at that distance more
    than 1 % of them would be confirmed by chance.

    An atom of all views shares its noise with that of either half set, so wrong ones often have one
    of one half set near; chance is that the other set, which knows nothing of it, has one there
    too. About so many are false: those that one set alone has, times the odds that a place has an
    atom near that was not put there. The odds are counted on half sets moved by 2 to 3 Å, and
    taken to go with the volume.
    """
    places = all_views.positions_A.numpy()
    if not len(places):
        return Confirmation(torch.zeros(0, dtype=torch.bool), CONFIRMED_WITHIN_A, 0.0)
    near = [_nearest(places, half.positions_A.numpy()) for half in halves]
    chance = _chance(places, halves, seed)
    for within in _RADII_A:
        one, other = (distance <= within for distance in near)
        odds = chance * (within / CONFIRMED_WITHIN_A) ** 3
        false = float((one ^ other).sum() * odds / (1 - odds))
        if false <= _FALSE * (one & other).sum():
            break
    return Confirmation(torch.from_numpy(one & other), within, false)


def _chance(places: NDArray[Any], halves: tuple[Atoms, Atoms], seed: int) -> float:
    """How often a half set that was moved has an atom within 0.3 Å of a place."""
    generator = np.random.default_rng(seed)
    parts = []
    for half in halves * _CHANCE_TRIES:
        step = generator.normal(size=3)
        step *= generator.uniform(2, 3) / np.linalg.norm(step)
        apart = _nearest(places, half.positions_A.numpy() + step)
        parts.append((apart <= CONFIRMED_WITHIN_A).mean())
    return float(np.mean(parts))


def match(
    places_A: NDArray[np.float64], known_A: NDArray[np.float64], within_A: float = 0.5
) -> Match:
    """Places (n, 3) against known ones (k, 3), Å, each matched at most once."""
    one, other = nearest_pairs(places_A, known_A, within_A)
    if not len(one):
        return Match(0.0, 0.0, float("nan"))
    apart = np.linalg.norm(places_A[one] - known_A[other], axis=1)
    return Match(
        len(one) / len(known_A), len(one) / len(places_A), float(np.sqrt((apart**2).mean()))
    )


def nearest_pairs(
    places_A: NDArray[np.float64], known_A: NDArray[np.float64], within_A: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of places (n, 3) and of the known ones (k, 3) that belong to them: one to one, of
    least distance in all, pairs further apart than `within_A` left out."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    if not len(places_A) or not len(known_A):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    apart = cdist(places_A, known_A)
    one, other = linear_sum_assignment(np.where(apart <= within_A, apart, 1e3))
    near = apart[one, other] <= within_A
    return one[near], other[near]


def _nearest(places: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    from scipy.spatial import cKDTree

    if not len(others):
        return np.full(len(places), np.inf)
    distance: NDArray[np.float64] = cKDTree(others).query(places)[0]
    return distance
