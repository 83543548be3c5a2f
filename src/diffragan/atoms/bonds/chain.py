"""The main chain: peptide units linked by their CA, each atom in one part only.

Which candidates are true is chosen for all of them at once, by an integer program: the sum of the
evidence of units and of links is largest where no atom plays two parts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffragan.atoms.bonds.geometry import distance_evidence, evidence, geometry
from diffragan.atoms.bonds.graph import AtomGraph
from diffragan.atoms.bonds.inferred import candidates
from diffragan.atoms.bonds.peptides import NONE, Units, peptide_units

_N_C_A = (2.464, 0.045)  # across the angle at CA
_N_CA_A, _CB_CA_A, _CB_C_A, _CB_N_A = (1.459, 0.011), (1.532, 0.012), (2.504, 0.027), (2.457, 0.024)
_C_CA_A, _O_C_A, _O_CA_A, _OO_A = (1.523, 0.011), (1.245, 0.014), (2.395, 0.020), (2.22, 0.03)
_LINK = 7.0  # log odds that a unit goes on where another ends
_VOLUME_A3, _VOLUME_SD_A3, _VOLUME_SPAN_A3 = 2.50, 0.10, 6.0
_LEAST_NOISE_A = 0.004
NOISES_A = (0.015, 0.03, 0.06, 0.10, 0.14)  # along an axis
_FEWEST_UNITS = 2  # a flat group of a side chain may pass for one


@dataclass(frozen=True)
class Backbone:
    """A residue's main chain: indices of atoms, -1 where one is missing. o2: the second oxygen of
    a chain's end."""

    n: int = NONE
    ca: int = NONE
    c: int = NONE
    o: int = NONE
    o2: int = NONE

    @property
    def atoms(self) -> tuple[int, ...]:
        """Those that are there."""
        return tuple(k for k in (self.n, self.ca, self.c, self.o, self.o2) if k >= 0)


Fragment = tuple[Backbone, ...]


def trace(graph: AtomGraph) -> tuple[AtomGraph, list[Fragment]]:
    """Fragments of main chain, longest first, from N to C; and the graph with its noise, the one
    under which the chain is most likely."""
    best_total, noise_A = 0.0, NOISES_A[0]
    for trial_A in NOISES_A:
        units = peptide_units(replace(graph, noise_A=trial_A))
        chosen, total = _chosen(replace(graph, noise_A=trial_A), units)
        if total > best_total:
            best_total, noise_A = total, _noise_A(units.residual_A2[chosen])
    graph = replace(graph, noise_A=noise_A)
    return graph, _traced(graph)


def bridged(graph: AtomGraph, fragments: list[Fragment]) -> tuple[AtomGraph, list[Fragment]]:
    """The same with main-chain atoms that the map does not show, last in the graph, where they join
    fragments or make them longer; else what was given."""
    places_A, kinds = candidates(graph)
    found = _traced(graph.with_inferred(places_A, kinds)) if kinds else []
    held = {k for fragment in found for residue in fragment for k in residue.atoms}
    used = [k for k in range(len(places_A)) if len(graph) + k in held]
    if not used:
        return graph, fragments
    # Once more without those that join nothing, whose bonds would be in the way.
    wide = graph.with_inferred(places_A[used], tuple(kinds[k] for k in used))
    found = _traced(wide)
    better = sum(map(len, found)) - len(found) > sum(map(len, fragments)) - len(fragments)
    return (wide, found) if better else (graph, fragments)


def _traced(graph: AtomGraph) -> list[Fragment]:
    """Fragments under the graph's noise, longest first."""
    units = peptide_units(graph)
    chosen, _ = _chosen(graph, units)
    found = _fragments(units, chosen)
    complete = [_completed(graph, fragment, found) for fragment in found]
    return sorted(complete, key=lambda f: (-len(f), f[0].ca))


def hand(graph: AtomGraph, fragments: list[Fragment]) -> tuple[int, int]:
    """How many CA with a CB are L-, and how many D-amino acids."""
    left = right = 0
    main = {k for fragment in fragments for residue in fragment for k in residue.atoms}
    for fragment in fragments:
        for residue in fragment:
            if min(residue.n, residue.ca, residue.c) < 0:
                continue
            others = [k for k in graph.neighbours[residue.ca] if k not in main]
            if len(others) == 1:
                volume = graph.volume_A3(residue.ca, (residue.n, residue.c, others[0]))
                left, right = left + (volume > 1), right + (volume < -1)
    return left, right


def _noise_A(residual_A2: NDArray[np.float64]) -> float:
    """Noise along an axis, from the residuals of distances, which are of two atoms each."""
    own_A2 = float(np.mean([sd**2 for *_, sd in geometry().peptide["trans"]]))
    variance_A2 = max(float(np.median(residual_A2)) - own_A2, 0.0) / 2
    return max(float(np.sqrt(variance_A2)), _LEAST_NOISE_A)


def _chosen(graph: AtomGraph, units: Units) -> tuple[NDArray[np.int64], float]:
    """Indices of the units in the best set, and its evidence."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    u = len(units)
    if not u:
        return np.zeros(0, dtype=np.int64), 0.0
    pairs = _links(graph, units)
    gains = np.concatenate((units.evidence, [gain for _, _, gain in pairs]))
    rows: list[list[int]] = [*_parts(units, len(graph))]
    upper = [1.0] * len(rows)
    entries = [(r, k, 1.0) for r, row in enumerate(rows) for k in row]
    for number, (i, j, _) in enumerate(pairs):
        for end in (i, j):  # a link stands only where both its units do
            entries += [(len(upper), u + number, 1.0), (len(upper), end, -1.0)]
            upper.append(0.0)
    table = np.array(entries).reshape(-1, 3)
    where = (table[:, 0].astype(int), table[:, 1].astype(int))
    matrix = csr_array((table[:, 2], where), shape=(len(upper), len(gains)))
    result = milp(
        -gains,
        constraints=LinearConstraint(matrix, ub=np.array(upper)),
        integrality=np.ones(len(gains)),
        bounds=Bounds(0, 1),
        options={"time_limit": 60.0},
    )
    if result.x is None:
        return np.zeros(0, dtype=np.int64), 0.0
    return np.flatnonzero(np.round(result.x[:u]) == 1), float(-result.fun)


def _links(graph: AtomGraph, units: Units) -> list[tuple[int, int, float]]:
    """(i, j, gain): unit j may follow i at their common CA."""
    starts: dict[int, list[int]] = {}
    for j, row in enumerate(units.atoms):
        starts.setdefault(int(row[0]), []).append(j)
    out = []
    for i, one in enumerate(units.atoms):
        for j in starts.get(int(one[4]), ()):
            other = units.atoms[j]
            if set(one[1:4]) & set(other[other >= 0]) or int(one[0]) in other:
                continue
            apart = graph.apart_A(int(one[3]), int(other[1]))
            gain = _LINK + float(distance_evidence(apart, *_N_C_A, graph.noise_A))
            if gain > 0:
                out.append((i, j, gain))
    return out


def _parts(units: Units, n: int) -> list[list[int]]:
    """Sets of units of which one at most is true: those that use an atom in the middle, together
    with those that start at it, and with those that end at it."""
    middle: list[list[int]] = [[] for _ in range(n)]
    first: list[list[int]] = [[] for _ in range(n)]
    last: list[list[int]] = [[] for _ in range(n)]
    for k, row in enumerate(units.atoms):
        first[row[0]].append(k)
        last[row[4]].append(k)
        for atom in row[1:4]:
            if atom >= 0:
                middle[atom].append(k)
    sets = [m + some for m, *ends in zip(middle, first, last, strict=True) for some in ends]
    return [some for some in sets if len(some) > 1]


def _fragments(units: Units, chosen: NDArray[np.int64]) -> list[Fragment]:
    """Residues in the order of the chain."""
    rows = [tuple(int(k) for k in row) for row in units.atoms[chosen]]
    by_start = {row[0]: row for row in rows}
    ends = {row[4] for row in rows}
    starts = [row for row in rows if row[0] not in ends]
    out: list[Fragment] = []
    used: set[tuple[int, ...]] = set()
    for start in starts + rows:  # rows again: a ring has no start
        if start in used:
            continue
        n, row, residues = NONE, start, []
        while row not in used:
            used.add(row)
            residues.append(Backbone(n, row[0], row[1], row[2]))
            n, last = row[3], row[4]
            row = by_start.get(last, row)
        if len(residues) >= _FEWEST_UNITS:
            out.append((*residues, Backbone(n, last)))
    return out


def _completed(graph: AtomGraph, fragment: Fragment, everything: list[Fragment]) -> Fragment:
    """The fragment with the nitrogen of its first residue and the end of its last one."""
    taken = {k for other in everything for residue in other for k in residue.atoms}
    first = _with_nitrogen(graph, fragment[0], taken)
    taken |= set(first.atoms)
    last = _with_end(graph, fragment[-1], taken)
    return (first, *fragment[1:-1], last)


def _with_nitrogen(graph: AtomGraph, residue: Backbone, taken: set[int]) -> Backbone:
    """N of a residue of which CA and C are known: its bond, its distance to C, and on which side
    of CA it lies."""
    free = [k for k in graph.neighbours[residue.ca] if k not in taken and not graph.sulphur[k]]
    best, best_gain = residue, 0.0
    for n in free:
        gain = _bond(graph, residue.ca, n, _N_CA_A) - _bond(graph, residue.ca, n, _CB_CA_A)
        gain += _bond(graph, residue.c, n, _N_C_A) - _bond(graph, residue.c, n, _CB_C_A)
        for cb in free:
            if cb != n:
                gain += _side(graph, residue.ca, (n, residue.c, cb))
                gain += _bond(graph, residue.ca, cb, _CB_CA_A) - _bond(
                    graph, residue.ca, cb, _N_CA_A
                )
        if gain > best_gain:
            best, best_gain = replace(residue, n=n), gain
    return best


def _with_end(graph: AtomGraph, residue: Backbone, taken: set[int]) -> Backbone:
    """C and both oxygens of a residue of which N and CA are known."""
    free = [k for k in graph.neighbours[residue.ca] if k not in taken and not graph.sulphur[k]]
    best, best_gain = residue, 0.0
    for c in free:
        gain = _bond(graph, residue.n, c, _N_C_A) - _bond(graph, residue.n, c, _CB_N_A)
        gain += _bond(graph, residue.ca, c, _C_CA_A) - _bond(graph, residue.ca, c, _CB_CA_A)
        for cb in free:
            if cb != c:
                gain += _side(graph, residue.ca, (residue.n, c, cb))
        oxygens = _oxygens(graph, residue.ca, c, taken)
        if len(oxygens) > 2:
            continue
        gain += sum(oxygens.values())
        if len(oxygens) == 2:
            first, second = oxygens
            gain += _bond(graph, first, second, _OO_A)
        if gain > best_gain:
            o, o2 = (*oxygens, NONE, NONE)[:2]
            best, best_gain = replace(residue, c=c, o=o, o2=o2), gain
    return best


def _oxygens(graph: AtomGraph, ca: int, c: int, taken: set[int]) -> dict[int, float]:
    """Atoms bonded to C alone that may be its oxygens, each with its evidence."""
    free = [k for k in graph.neighbours[c] if k != ca and k not in taken]
    ends = [k for k in free if len(graph.neighbours[k]) == 1]
    found = {k: _bond(graph, c, k, _O_C_A) + _bond(graph, ca, k, _O_CA_A) for k in ends}
    return {k: gain for k, gain in found.items() if gain > 0}


def _bond(graph: AtomGraph, one: int, other: int, length_A: tuple[float, float]) -> float:
    return float(distance_evidence(graph.apart_A(one, other), *length_A, graph.noise_A))


def _side(graph: AtomGraph, centre: int, arms: tuple[int, int, int]) -> float:
    """Evidence of an L-amino acid's hand at CA."""
    sd = np.hypot(_VOLUME_SD_A3, 3.2 * graph.noise_A)
    return float(evidence(graph.volume_A3(centre, arms), _VOLUME_A3, sd, _VOLUME_SPAN_A3))
