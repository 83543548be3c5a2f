"""Peptide units among bonded atoms: CA, C, O, N and the next CA, flat and rigid.

Five bonded atoms whose ten distances are those of a peptide. Which of the middle two carries the
oxygen tells the chain's direction, so no bond length has to.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from diffragan.atoms.bonds.geometry import distance_evidence, geometry
from diffragan.atoms.bonds.graph import AtomGraph

NAMES = ("CA", "C", "O", "N+", "CA+")
NONE = -1
_PRIOR = -6.0  # log odds that five atoms bonded like this are a peptide
_CIS = np.log(0.01)
_MISSING_OXYGEN = np.log(0.03)
_EXTRA_BOND = np.log(0.03)
_INFERRED = np.log(0.02)  # that an atom in the middle of a chain is not there
# An atom in fifty lies where two peaks have run together, some 0.2 Å off.
_LOOSE, _LOOSE_A = np.log(0.02), 0.2
_LEAST = -10.0  # of a unit's evidence: neighbours in the chain may still speak for it


@dataclass(frozen=True)
class Units:
    """Candidates, best first.

    atoms: (u, 5) indices of CA, C, O, N+, CA+; the oxygen may be -1. evidence: (u,) log odds.
    residual_A2: (u,) mean squared deviation of the unit's distances.
    """

    atoms: NDArray[np.int64]
    evidence: NDArray[np.float64]
    residual_A2: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.atoms)


def peptide_units(graph: AtomGraph) -> Units:
    """Every candidate that geometry does not rule out."""
    found = _bonded_fives(graph)
    if not len(found):
        return Units(np.zeros((0, 5), dtype=np.int64), np.zeros(0), np.zeros(0))
    total, residual = _geometry_evidence(graph, found)
    total = total + _PRIOR + _degree_evidence(graph, found)
    total += _inferred_evidence(graph, found)
    total[graph.sulphur[found].any(1) & (found >= 0).all(1)] = -np.inf
    keep = np.flatnonzero(total > _LEAST)
    keep = keep[np.argsort(-total[keep], kind="stable")]
    return Units(found[keep], total[keep], residual[keep])


def _bonded_fives(graph: AtomGraph) -> NDArray[np.int64]:
    """(u, 5) paths CA, C, N, CA with an oxygen on C, or none where C has no third bond."""
    out: list[tuple[int, ...]] = []
    for c, near in enumerate(graph.neighbours):
        if not 2 <= len(near) <= 5:
            continue
        for first, n in permutations(near, 2):
            oxygens = [k for k in near if k not in (first, n)] or [NONE]
            for second in graph.neighbours[n]:
                if second not in (c, first):
                    out += [(first, c, o, n, second) for o in oxygens if o != second]
    return np.array(out, dtype=np.int64).reshape(-1, 5)


def _geometry_evidence(
    graph: AtomGraph, found: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Evidence of the distances, whichever is most likely: cis or trans, and all atoms well
    placed or one of them loose; and their residual."""
    readings = [
        _one_reading(graph, found, kind, loose)
        for kind in ("trans", "cis")
        for loose in (None, *range(len(NAMES)))
    ]
    best = np.argmax([total for total, _ in readings], axis=0)
    rows = np.arange(len(found))
    total, residual = (np.array([reading[k] for reading in readings])[best, rows] for k in (0, 1))
    return total + np.where(found[:, 2] < 0, _MISSING_OXYGEN, 0), residual


def _one_reading(
    graph: AtomGraph, found: NDArray[np.int64], kind: str, loose: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Evidence and residual where the atom of `NAMES[loose]` says little of where it belongs."""
    total = np.full(len(found), (_CIS if kind == "cis" else 0.0) + (0 if loose is None else _LOOSE))
    squares, count = np.zeros(len(found)), np.zeros(len(found))
    for one, other, mean, sd in geometry().peptide[kind]:
        a, b = NAMES.index(one), NAMES.index(other)
        there = (found[:, a] >= 0) & (found[:, b] >= 0)
        there &= graph.seen[found[:, a]] & graph.seen[found[:, b]]
        apart = graph.apart_A(found[:, a], found[:, b])
        if loose in (a, b):
            total = total + there * distance_evidence(apart, mean, float(np.hypot(sd, _LOOSE_A)), 0)
            continue
        total = total + there * distance_evidence(apart, mean, sd, graph.noise_A)
        squares, count = squares + there * (apart - mean) ** 2, count + there
    return total, squares / np.maximum(count, 1)


def _inferred_evidence(graph: AtomGraph, found: NDArray[np.int64]) -> NDArray[np.float64]:
    """What it costs that an atom is not seen: one in a unit, in the part that it was placed for."""
    unseen = (found >= 0) & ~graph.seen[found]
    kinds = np.array(["", *graph.inferred])
    first = len(graph) - len(graph.inferred)
    kind = kinds[np.where(unseen, found - first + 1, 0)]
    misplaced = unseen & (kind != np.array([name.replace("CA+", "CA") for name in NAMES]))
    count = unseen.sum(1)
    return np.where((count > 1) | misplaced.any(1), -np.inf, count * _INFERRED)


def _degree_evidence(graph: AtomGraph, found: NDArray[np.int64]) -> NDArray[np.float64]:
    """Bonds too many: an oxygen has one, C three, N two or in proline three, CA four."""
    degree = np.array([int(graph.seen[list(near)].sum()) for near in graph.neighbours], dtype=int)
    most = {"CA": 3, "C": 3, "O": 1, "N+": 3, "CA+": 3}
    total = np.zeros(len(found))
    for name, bonds in most.items():
        k = found[:, NAMES.index(name)]
        total += np.where(k >= 0, np.maximum(degree[k] - bonds, 0), 0) * _EXTRA_BOND
    return total
