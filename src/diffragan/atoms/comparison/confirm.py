"""What to believe of atoms: built twice from views that never met, and held against the other's.

An atom of all views is confirmed if both half sets, each from its own map and its own patterns,
put an atom within 0.3 Å of it.
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
_CHANCE_TRIES = 4


@dataclass(frozen=True)
class Match:
    """Atoms against the places of known ones, one to one.

    recall: part of the known that has an atom within reach. precision: part of the atoms that has
    a known one. rms_A: of the pairs' distances, nan without any.
    """

    recall: float
    precision: float
    rms_A: float


def confirmed(all_views: Atoms, halves: tuple[Atoms, Atoms]) -> Tensor:
    """(n,) bool: which of the atoms have one of each half set within 0.3 Å."""
    places = all_views.positions_A.numpy()
    near = [_nearest(places, half.positions_A.numpy()) for half in halves]
    return torch.from_numpy((near[0] <= CONFIRMED_WITHIN_A) & (near[1] <= CONFIRMED_WITHIN_A))


def chance_of_confirming(all_views: Atoms, halves: tuple[Atoms, Atoms], seed: int = 0) -> float:
    """Part of the atoms that would be confirmed if the half sets knew nothing of them: both half
    sets moved by 2 to 3 Å, each its own way, again and again."""
    generator = np.random.default_rng(seed)
    places = all_views.positions_A.numpy()
    parts = []
    for _ in range(_CHANCE_TRIES):
        near = []
        for half in halves:
            step = generator.normal(size=3)
            step *= generator.uniform(2, 3) / np.linalg.norm(step)
            near.append(_nearest(places, half.positions_A.numpy() + step))
        both = (near[0] <= CONFIRMED_WITHIN_A) & (near[1] <= CONFIRMED_WITHIN_A)
        parts.append(both.mean())
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
