"""Main-chain atoms that the map does not show, where their neighbours leave one place for them.

Between two atoms at the distance across an angle that share no neighbour there may be one missing:
the nitrogen between C and CA, C between CA and nitrogen, CA between nitrogen and C. The distances
of a peptide to what lies about them tell where. Such an atom only says which units follow each
other: none of its own distances speaks for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from diffragan.atoms.bonds.geometry import geometry
from diffragan.atoms.bonds.graph import LONGEST_BOND_A, SHORTEST_BOND_A, AtomGraph

_ACROSS_A = (2.2, 2.7)  # across an angle, as noise may have it
_NEAR_A = 0.35  # how far an oxygen may lie from where a missing C would have it
_CROWDED_A = 0.6  # two candidates so near are one
_LEAST_MISFIT_A, _MISFITS = 0.12, 2.5  # rms that distances may be off, at least and in noises
# Bonds to others than those that an atom is placed by: CA has its CB, proline's N its CD.
_OTHERS = {"N+": 1, "CA": 1, "C": 0}
# A missing CA's CB lies so near to where its other neighbours have it.
_BETA_A, _CB_CA_A = 2.1, 1.532
_STEPS = 12

Anchors = list[tuple[int, float]]


def candidates(graph: AtomGraph) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """(m, 3) places at which a main-chain atom may be missing, best first, and what it would be:
    N+, CA or C, by the names of `peptides`."""
    found: list[tuple[float, str, NDArray[np.float64]]] = []
    allowed_A = max(_LEAST_MISFIT_A, _MISFITS * graph.noise_A)
    for one, other in _across(graph):
        for kind, anchors in _hypotheses(graph, one, other):
            place, misfit_A = _fitted(graph, kind, anchors)
            if misfit_A > allowed_A:
                continue
            if kind == "CA" and (beta := _near(graph, place, anchors, _BETA_A)):
                place, misfit_A = _fitted(graph, kind, [*anchors, (beta[0], _CB_CA_A)])
            if misfit_A <= allowed_A and _has_room(graph, place, kind, anchors):
                found.append((misfit_A, kind, place))
    kept: list[tuple[str, NDArray[np.float64]]] = []
    for _, kind, place in sorted(found, key=lambda row: row[0]):
        if all(k != kind or np.linalg.norm(place - p) > _CROWDED_A for k, p in kept):
            kept.append((kind, place))
    places_A = np.array([place for _, place in kept]).reshape(-1, 3)
    return places_A, tuple(kind for kind, _ in kept)


def _across(graph: AtomGraph) -> Iterator[tuple[int, int]]:
    """Ordered pairs of atoms two bonds apart by their distance, without an atom between them."""
    from scipy.spatial import cKDTree

    if not len(graph):
        return
    tree = cKDTree(graph.places_A)
    for i, j in sorted(tree.query_pairs(_ACROSS_A[1])):
        near = set(graph.neighbours[i]) & set(graph.neighbours[j])
        if graph.apart_A(i, j) < _ACROSS_A[0] or near or graph.sulphur[[i, j]].any():
            continue
        yield i, j
        yield j, i


def _hypotheses(graph: AtomGraph, one: int, other: int) -> Iterator[tuple[str, Anchors]]:
    """What may be missing between two atoms, and the distances that it would have."""
    length = _lengths()
    first, second = graph.neighbours[one], graph.neighbours[other]
    for ca, o in permutations(first, 2):  # CA, O - C . CA
        # Its oxygen lies nearer to C by 0.3 Å; the other way round N would lie that far off.
        if other not in (ca, o) and graph.apart_A(one, o) < graph.apart_A(one, ca):
            yield "N+", [(one, length["C", "N+"]), (other, length["CA+", "N+"]),
                         (ca, length["CA", "N+"]), (o, length["N+", "O"])]  # fmt: skip
    for following in second:  # CA . N - CA
        base = [(one, length["C", "CA"]), (other, length["C", "N+"])]
        base.append((following, length["C", "CA+"]))
        for o in _oxygens(graph, one, other):
            yield "C", [*base, (o, length["C", "O"])]
    for before, (o, following) in product(first, permutations(second, 2)):  # C - N . C - O, N
        if len({before, o, following, one, other}) == 5:
            yield "CA", [(one, length["CA+", "N+"]), (other, length["C", "CA"]),
                         (before, length["C", "CA+"]), (o, length["CA", "O"]),
                         (following, length["CA", "N+"])]  # fmt: skip


def _oxygens(graph: AtomGraph, ca: int, n: int) -> list[int]:
    """Atoms where the oxygen of a missing C between CA and N may lie."""
    length = _lengths()
    off = np.maximum(
        np.abs(graph.apart_A(np.arange(len(graph)), ca) - length["CA", "O"]),
        np.abs(graph.apart_A(np.arange(len(graph)), n) - length["N+", "O"]),
    )
    free = [k for k in np.flatnonzero(off < _NEAR_A).tolist() if not graph.neighbours[k]]
    return [k for k in free if k not in (ca, n)]


def _lengths() -> dict[tuple[str, str], float]:
    """Mean distances of a trans peptide, by two names in the order of the alphabet."""
    table: dict[tuple[str, str], float] = {}
    for a, b, mean, _ in geometry().peptide["trans"]:
        one, other = sorted((a, b))
        table[one, other] = mean
    return table


def _fitted(graph: AtomGraph, kind: str, anchors: Anchors) -> tuple[NDArray[np.float64], float]:
    places_A = graph.places_A[[k for k, _ in anchors]]
    return _placed(places_A, np.array([length for _, length in anchors]), flat=kind != "CA")


def _placed(
    anchors_A: NDArray[np.float64], lengths_A: NDArray[np.float64], *, flat: bool
) -> tuple[NDArray[np.float64], float]:
    """The place (3,) whose distances to anchors (k, 3), the first two of them bonded to it, are as
    near as can be to (k,) lengths, and how far they are off: rms for each beyond those that any
    place explains. `flat`: in the plane of the anchors, as distances hardly tell how far from it.
    """
    along = anchors_A[1] - anchors_A[0]
    apart = float(np.linalg.norm(along))
    along /= apart
    foot = (apart**2 + lengths_A[0] ** 2 - lengths_A[1] ** 2) / (2 * apart)
    radius = np.sqrt(max(lengths_A[0] ** 2 - foot**2, 0.01))
    across = np.cross(along, np.eye(3)[np.abs(along).argmin()])
    across /= np.linalg.norm(across)
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)[:, None]
    ring = np.cos(turn) * across + np.sin(turn) * np.cross(along, across)
    tried = anchors_A[0] + foot * along + radius * ring
    off = np.linalg.norm(tried[:, None] - anchors_A, axis=-1) - lengths_A
    place = tried[np.square(off).sum(1).argmin()]
    middle = anchors_A.mean(0)
    free = np.linalg.svd(anchors_A - middle)[2][: 2 if flat else 3]  # directions it may move in
    if flat:
        place = middle + (place - middle) @ free.T @ free
    for _ in range(_STEPS):
        arms = place - anchors_A
        apart_A = np.linalg.norm(arms, axis=1)
        slopes = arms @ free.T / apart_A[:, None]
        step, *_ = np.linalg.lstsq(slopes, lengths_A - apart_A, rcond=1e-3)
        place = place + step @ free
    off = np.linalg.norm(place - anchors_A, axis=1) - lengths_A
    return place, float(np.sqrt(np.square(off).sum() / (len(off) - len(free))))


def _has_room(graph: AtomGraph, place: NDArray[np.float64], kind: str, anchors: Anchors) -> bool:
    """No atom where it would be, and no more bonds than it may have."""
    crowded = bool(np.linalg.norm(graph.places_A - place, axis=1).min() <= SHORTEST_BOND_A)
    return not crowded and len(_near(graph, place, anchors, LONGEST_BOND_A)) <= _OTHERS[kind]


def _near(
    graph: AtomGraph, place: NDArray[np.float64], anchors: Anchors, reach_A: float
) -> list[int]:
    """Atoms about a place, the nearest first, without those that it was placed by."""
    apart = np.linalg.norm(graph.places_A - place, axis=1)
    told = {k for k, _ in anchors}
    return [k for k in np.argsort(apart).tolist() if apart[k] < reach_A and k not in told]
