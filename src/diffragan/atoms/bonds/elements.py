"""Which element each atom is, with a probability, from its weight, B, bonds and their lengths.

A class of atoms is an element, its number of bonds, and whether it is flat. How often classes are
bonded to each other and how long those bonds are was measured from known structures; belief
propagation over the bonds (Pearl 1988) gives the probability of each class of each atom, so that an
oxygen is told by the flat carbon it hangs on as much as by its own weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffragan.atoms.bonds.chain import Fragment
from diffragan.atoms.bonds.geometry import SULPHUR_SPAN_A, evidence, geometry, span_A
from diffragan.atoms.bonds.graph import AtomGraph
from diffragan.atoms.bonds.scattering import ELEMENTS

WATER = "O0"  # nothing is bonded to it
CLASSES = (*sorted(geometry().classes), WATER)
_WATERS = 0.01
_OTHER_DEGREE = (0.94, 0.025, 0.004)  # bonds seen as many as there are, one off, more off
_UNSEEN_PAIR = 1e-4
_ANGLE_SPAN_DEG, _HEIGHT_SPAN_A = 40.0, 0.7
_ROUNDS, _DAMPED = 30, 0.3
_PART = 6.0  # log odds of what the trace says of an atom
_PARTS = {
    "n": ("N1", "N2=", "N3="),
    "ca": ("C2", "C3"),
    "c": ("C3=",),
    "o": ("O1=",),
    "o2": ("O1=",),
}


def element_probabilities(
    graph: AtomGraph, elements: NDArray[np.float64], fragments: Sequence[Fragment] = ()
) -> NDArray[np.float64]:
    """(n, 4) probability of C, N, O and S.

    Args:
        elements: (n, 4) evidence of weight and B. fragments: main chain, whose parts are known.
    """
    own = _own(graph, elements)
    for fragment in fragments:
        for residue in fragment:
            for part, names in _PARTS.items():
                k = getattr(residue, part)
                if k >= 0:
                    own[k, [CLASSES.index(name) for name in names]] += _PART
    belief = _propagated(graph, own)
    first = [name[0] for name in CLASSES]
    out = np.stack([belief[:, [f == e for f in first]].sum(1) for e in ELEMENTS], 1)
    result: NDArray[np.float64] = out / out.sum(1, keepdims=True)
    return result


def _own(graph: AtomGraph, elements: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, classes) log probability by an atom's own bonds, their shape, and its scattering."""
    table = geometry().classes
    out = np.zeros((len(graph), len(CLASSES)))
    degree = np.array([len(near) for near in graph.neighbours], dtype=int)
    for c, name in enumerate(CLASSES):
        fraction, mean, sd = table.get(name, (_WATERS, 0.0, 0.0))
        off = np.minimum(np.abs(degree - int(name[1])), 2)
        out[:, c] = np.log(fraction) + np.log(np.array(_OTHER_DEGREE)[off])
        out[:, c] += elements[:, ELEMENTS.index(name[0])]
        for k in np.flatnonzero(degree == int(name[1])):
            out[k, c] += _shape_evidence(graph, int(k), mean, sd)
    return out


def _shape_evidence(graph: AtomGraph, k: int, mean: float, sd: float) -> float:
    """Of the angle between two bonds, or the height over the plane of three neighbours."""
    near = list(graph.neighbours[k])
    arms = graph.places_A[near] - graph.places_A[k]
    if len(near) == 2:
        cosine = arms[0] @ arms[1] / np.linalg.norm(arms[0]) / np.linalg.norm(arms[1])
        angle = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        # An end's noise turns its bond, the middle's turns both.
        noise_deg = float(np.degrees(2.0 * graph.noise_A / 1.4))
        return float(evidence(angle, mean, np.hypot(sd, noise_deg), _ANGLE_SPAN_DEG))
    if len(near) == 3:
        normal = np.cross(arms[1] - arms[0], arms[2] - arms[0])
        height = float(abs(arms[0] @ normal) / max(float(np.linalg.norm(normal)), 1e-9))
        return float(evidence(height, mean, np.hypot(sd, 1.2 * graph.noise_A), _HEIGHT_SPAN_A))
    return 0.0


def _propagated(graph: AtomGraph, own: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, classes) belief after messages along every bond, both ways."""
    pairs = [(i, j) for i, near in enumerate(graph.neighbours) for j in near]
    if not pairs:
        alone: NDArray[np.float64] = np.exp(own - own.max(1, keepdims=True))
        return alone
    source, goal = np.array(pairs).T
    number = {pair: k for k, pair in enumerate(pairs)}
    back = np.array([number[j, i] for i, j in pairs])
    table = np.exp(_bond_evidence(graph, source, goal))
    message = np.zeros((len(pairs), len(CLASSES)))
    for _ in range(_ROUNDS):
        total = own.copy()
        np.add.at(total, goal, message)
        out = total[source] - message[back]
        out = np.exp(out - out.max(1, keepdims=True))
        new = np.log(np.einsum("ka,kab->kb", out, table))
        new -= new.max(1, keepdims=True)
        message = _DAMPED * message + (1 - _DAMPED) * new
    total = own.copy()
    np.add.at(total, goal, message)
    result: NDArray[np.float64] = np.exp(total - total.max(1, keepdims=True))
    return result


def _bond_evidence(
    graph: AtomGraph, source: NDArray[np.int64], goal: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(bonds, classes, classes): how much more often two classes are bonded than by chance, and
    what the length says of them."""
    bonds, size = geometry().bonds, len(CLASSES)
    count, mean, sd = np.zeros((size, size)), np.zeros((size, size)), np.ones((size, size))
    for (one, other), (n, length, deviation) in bonds.items():
        for a, b in ((one, other), (other, one)):
            k = (CLASSES.index(a), CLASSES.index(b))
            count[k], mean[k], sd[k] = n * (1 + (one == other)), length, deviation
    joint = count / count.sum()
    alone = joint.sum(1)
    chance = np.outer(alone, alone)
    lift = np.log(np.maximum(joint / np.maximum(chance, 1e-12), _UNSEEN_PAIR))
    apart = graph.apart_A(source, goal)[:, None, None]
    sulphur = np.array([name[0] == "S" for name in CLASSES])
    span = np.where(sulphur[:, None] | sulphur, SULPHUR_SPAN_A, span_A(mean))
    length_evidence = evidence(apart, mean, np.hypot(sd, np.sqrt(2) * graph.noise_A), span)
    result: NDArray[np.float64] = lift + np.where(count > 0, length_evidence, 0.0)
    return result
