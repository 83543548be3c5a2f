"""Side chains: each residue's atoms against the twenty it may be.

A type's atoms are looked for one after the other among those bonded to what is placed already. The
evidence of an atom is that of its bond, its angle and, in rigid groups, its torsion, and of its
element; an atom that is missing costs, and so does one that the type leaves unexplained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diffragan.atoms.bonds.chain import Backbone
from diffragan.atoms.bonds.geometry import (
    SULPHUR_SPAN_A,
    Distance,
    distance_evidence,
    evidence,
    geometry,
)
from diffragan.atoms.bonds.graph import AtomGraph
from diffragan.atoms.bonds.scattering import ELEMENTS
from diffragan.molecules.clean import HEAVY_ATOMS

TYPES = tuple(HEAVY_ATOMS)
_MISSING = float(np.log(0.03))
_UNREACHED = float(np.log(0.3))  # an atom whose own parent is missing: it may be there
_UNEXPLAINED = float(np.log(0.01))
_BEAM = 24
_VOLUME_SPAN_A3 = 6.0
# Hydrogens that turn freely are not modelled, and pull the atom that carries them towards them.
_PULLED = ("OG", "OG1", "OH", "NZ", "SG")
_PULL_A = 0.03


@dataclass(frozen=True)
class SideChain:
    """A residue read as one type: log evidence, and its atoms by name (of the side chain)."""

    evidence: float
    atoms: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Seen:
    """What side chains are read from. taken: atoms of the main chain. elements: (n, 4)."""

    graph: AtomGraph
    taken: frozenset[int]
    elements: NDArray[np.float64]


def side_chains(
    graph: AtomGraph,
    residues: Sequence[Backbone],
    elements: NDArray[np.float64],
) -> list[dict[str, SideChain]]:
    """Every residue read as each of the twenty types.

    Args:
        elements: (n, 4) evidence of weight and B, `element_evidence`.
    """
    taken = frozenset(k for residue in residues for k in residue.atoms)
    seen = _Seen(graph, taken, elements)
    return [{name: _read(seen, residue, name) for name in TYPES} for residue in residues]


def evidence_table(read: Sequence[Mapping[str, SideChain]]) -> NDArray[np.float64]:
    """(residues, 20) log evidence in the order of `TYPES`."""
    return np.array([[row[name].evidence for name in TYPES] for row in read]).reshape(-1, 20)


def posterior(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """(residues, 20) probability of each type by its evidence and how frequent it is."""
    prior = np.log([geometry().fractions[name] for name in TYPES])
    odds = table + prior
    odds = np.exp(odds - odds.max(1, keepdims=True))
    result: NDArray[np.float64] = odds / odds.sum(1, keepdims=True)
    return result


def _read(seen: _Seen, residue: Backbone, name: str) -> SideChain:
    """The best way to place a type's atoms on those there are."""
    start = {"N": residue.n, "CA": residue.ca, "C": residue.c}
    beam: list[tuple[float, dict[str, int]]] = [
        (0.0, {atom: k for atom, k in start.items() if k >= 0})
    ]
    for step in geometry().steps[name]:
        grown = []
        for total, placed in beam:
            grown += _placed(seen, total, placed, step.atom, step.distances)
        grown.sort(key=lambda row: -row[0])
        beam = grown[:_BEAM]
    finished = [(total + _whole(seen, name, placed), placed) for total, placed in beam]
    total, placed = max(finished, key=lambda row: row[0])
    return SideChain(total, {atom: k for atom, k in placed.items() if atom not in start})


def _placed(
    seen: _Seen,
    total: float,
    placed: dict[str, int],
    atom: str,
    distances: tuple[Distance, ...],
) -> list[tuple[float, dict[str, int]]]:
    """The ways to go on: each free neighbour of the atom's parent, or none."""
    parent = placed.get(distances[0].to)
    if parent is None:
        return [(total + _UNREACHED, placed)]
    out = [(total + _MISSING, placed)]
    used = set(placed.values())
    for k in seen.graph.neighbours[parent]:
        if k not in seen.taken and k not in used:
            gain = _atom_evidence(seen, placed, atom, k, distances)
            out.append((total + gain, {**placed, atom: k}))
    return out


def _atom_evidence(
    seen: _Seen, placed: dict[str, int], atom: str, k: int, distances: tuple[Distance, ...]
) -> float:
    graph = seen.graph
    gain = float(seen.elements[k, ELEMENTS.index(atom[0])])
    for row in distances:
        other = placed.get(row.to)
        if other is None:
            continue
        apart = graph.apart_A(k, other)
        row_sd_A = float(np.hypot(row.sd_A, _PULL_A if atom in _PULLED else 0.0))
        if atom[0] == "S" or row.to[0] == "S":
            sd = np.hypot(row_sd_A, np.sqrt(2) * graph.noise_A)
            gain += float(evidence(apart, row.mean_A, sd, SULPHUR_SPAN_A))
        else:
            gain += float(distance_evidence(apart, row.mean_A, row_sd_A, graph.noise_A))
    return gain


def _whole(seen: _Seen, name: str, placed: dict[str, int]) -> float:
    """Hands, and atoms bonded to the residue that the type has no place for."""
    graph, total = seen.graph, 0.0
    for centre in geometry().centres[name]:
        if all(atom in placed for atom in centre.atoms):
            middle, *arms = (placed[atom] for atom in centre.atoms)
            volume = graph.volume_A3(middle, (arms[0], arms[1], arms[2]))
            sd = np.hypot(centre.sd_A3, 3.2 * graph.noise_A)
            total += float(evidence(volume, centre.mean_A3, sd, _VOLUME_SPAN_A3))
    own = set(placed.values())
    beyond = {
        j
        for atom, k in placed.items()
        if atom != "C"
        for j in graph.neighbours[k]
        if j not in own and j not in seen.taken and not (graph.sulphur[j] and graph.sulphur[k])
    }
    return total + _UNEXPLAINED * len(beyond)
