"""What lies beside a protein chain, by name: waters, ions, clusters of metal and sulphur, ligands.

A metal is told from sulphur and water by what it scatters and by what surrounds it. Form factors
at the frequencies of the patterns differ little from one metal to the next, so each has candidates
with probabilities: how well weight and B agree, calibrated on the carbons of the main chain, and
how well the distances to oxygen, nitrogen and sulphur do (Harding, Acta Cryst. D 62, 678, 2006).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffragan.atoms.bonds.geometry import evidence
from diffragan.atoms.bonds.graph import AtomGraph
from diffragan.atoms.bonds.scattering import ELEMENTS, Scattering
from diffragan.atoms.model.hydrogens import inorganic

Kind = Literal["water", "ion", "cluster", "ligand", "attached", "unknown"]

# Usual distances in Å to oxygen, nitrogen and sulphur.
_METALS = {
    "Na": (2.40, 2.50, 2.90),
    "Mg": (2.07, 2.20, 2.60),
    "K": (2.80, 2.90, 3.30),
    "Ca": (2.38, 2.50, 2.90),
    "Mn": (2.17, 2.21, 2.35),
    "Fe": (2.06, 2.16, 2.28),
    "Co": (2.07, 2.14, 2.25),
    "Ni": (2.07, 2.10, 2.22),
    "Cu": (2.00, 2.02, 2.15),
    "Zn": (2.03, 2.03, 2.31),
}
_ANIONS = {"S": (3.3, 3.3, 3.6), "Cl": (3.1, 3.2, 3.6)}
_WATER = (2.85, 2.90, 3.40)
_TIGHT_A, _LOOSE_A, _SHELL_A, _SPAN_A = 0.12, 0.25, 3.0, 1.5
# Deviations of what an element is expected to weigh and of its B: riding hydrogens that are not
# there, charges and multiple scattering move both.
_WEIGHT_SD, _B_SD_A2 = 0.06, 0.6
_SULPHIDE_A, _METALS_A = 2.52, 3.0  # metal to sulphide below, metal to metal below
_PAIR = 4.0  # log odds against two neighbours of the wrong kind
_ENUMERATED = 12
_BOND_A, _HEAVY_BOND_A = (1.0, 1.86), (1.4, 2.25)
_BINDS_A = 2.6
_LEAST_A = 1.9  # from an ion to anything
_TOUCHES_A, _HYDROGEN_BOND_A = 2.35, (2.35, 3.45)
_IRON = 3.0  # log odds of iron for a metal among sulphides
_SULPHUR_FROM = 1.6


@dataclass(frozen=True)
class Unbound:
    """Atoms beside the chain that belong together.

    kind: `cluster` of metals and sulphides, `ion` of one atom, `ligand` of bonded light atoms,
    `attached` where these are bonded to the chain though no residue explains them, `water`, or
    `unknown`: a single atom that is none of these, or a group that the half sets don't confirm.
    elements: the most probable one of each atom, and its probability. candidates: of metals, by
    atom. bonds: pairs of atoms, some of them in the chain. nearest_A: distance to the nearest other
    atom. confirmed: at least half of its atoms are.
    """

    kind: Kind
    atoms: tuple[int, ...]
    elements: tuple[str, ...]
    probabilities: tuple[float, ...]
    candidates: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    bonds: tuple[tuple[int, int], ...] = ()
    nearest_A: float = float("inf")
    confirmed: bool = True

    def __len__(self) -> int:
        return len(self.atoms)

    @property
    def formula(self) -> str:
        """Such as Fe4S4."""
        counts = {e: self.elements.count(e) for e in sorted(set(self.elements))}
        return "".join(f"{e}{n if n > 1 else ''}" for e, n in counts.items())


@dataclass(frozen=True)
class _Seen:
    """What groups are read from. explained: (n,) bool, atoms of residues. light: (n, 4) probability
    of C, N, O, S. apart: (n,) bool, `inorganic`."""

    graph: AtomGraph
    explained: NDArray[np.bool_]
    light: NDArray[np.float64]
    scattering: Scattering
    apart: NDArray[np.bool_]

    def near(self, k: int, within_A: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Other atoms within a distance of atom k, nearest first, and their distances."""
        apart = self.graph.apart_A(np.arange(len(self.graph)), k)
        apart[k] = np.inf
        order = np.argsort(apart, kind="stable")[: int((apart <= within_A).sum())]
        return order, apart[order]


def unbound(
    graph: AtomGraph,
    residues: Sequence[Mapping[str, int]],
    elements: NDArray[np.float64],
    scattering: Scattering,
) -> tuple[Unbound, ...]:
    """Every atom that no residue holds, in groups, largest first.

    Args:
        residues: the atoms of each, by name. elements: (n, 4) probability of C, N, O and S.
        scattering: what carbon, nitrogen and oxygen weigh in this run.
    """
    explained = np.zeros(len(graph), dtype=bool)
    explained[[k for residue in residues for k in residue.values()]] = True
    apart = inorganic(graph.places_A, graph.weights) & ~explained
    seen = _Seen(graph, explained, elements, scattering, apart)
    return tuple(_named(seen, group) for group in _groups(seen))


def in_words(groups: Sequence[Unbound]) -> str:
    """The confirmed groups, such as "2 Fe4S4, 1 Zn, 18 waters"; what is attached, by atoms."""
    from collections import Counter

    sure = [group for group in groups if group.confirmed]
    whole = Counter(g.formula for g in sure if g.kind in ("cluster", "ion", "ligand"))
    words = [f"{n} {formula}" for formula, n in whole.items()]
    waters = sum(group.kind == "water" for group in sure)
    attached = sum(len(group) for group in sure if group.kind == "attached")
    if waters:
        words.append(f"{waters} water{'s' * (waters > 1)}")
    if attached:
        words.append(f"{attached} atom{'s' * (attached > 1)} attached that no residue explains")
    return ", ".join(words)


def _groups(seen: _Seen) -> list[list[int]]:
    """Atoms outside of residues that are bonded, or metals and sulphides that lie together."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    free = np.flatnonzero(~seen.explained)
    pairs = _bonds(seen, free)
    n = len(seen.graph)
    one, other = np.array(pairs, dtype=int).reshape(-1, 2).T
    _, label = connected_components(coo_array((np.ones(len(one)), (one, other)), (n, n)), False)
    groups: dict[int, list[int]] = {}
    for k in free.tolist():
        groups.setdefault(int(label[k]), []).append(k)
    return sorted(groups.values(), key=lambda group: (-len(group), group[0]))


def _bonds(seen: _Seen, free: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Pairs of free atoms that belong together."""
    from scipy.spatial import cKDTree

    graph, out = seen.graph, []
    heavy = graph.weights >= _SULPHUR_FROM
    if not len(free):
        return []
    tree = cKDTree(graph.places_A[free])
    pairs = [(int(free[a]), int(free[b])) for a, b in sorted(tree.query_pairs(_METALS_A))]
    organic: dict[int, int] = dict.fromkeys(free.tolist(), 0)
    for i, j in pairs:
        low, high = _HEAVY_BOND_A if heavy[i] or heavy[j] else _BOND_A
        if not (seen.apart[i] or seen.apart[j]) and low <= graph.apart_A(i, j) <= high:
            out.append((i, j))
            organic[i], organic[j] = organic[i] + 1, organic[j] + 1
    for i, j in pairs:
        both = seen.apart[i] and seen.apart[j]
        # A metal belongs to a ligand of several atoms whose nitrogen or oxygen holds it, as in
        # haem; not to waters, nor to a cysteine that was not read as one.
        other = j if seen.apart[i] else i
        held = seen.apart[i] != seen.apart[j] and organic[other] > 0 and not heavy[other]
        if both or (held and graph.apart_A(i, j) <= _BINDS_A):
            out.append((i, j))
    return out


def _named(seen: _Seen, group: list[int]) -> Unbound:
    graph = seen.graph
    symbols = {k: ELEMENTS[int(seen.light[k].argmax())] for k in group}
    sure = {k: float(seen.light[k].max()) for k in group}
    candidates: dict[int, Mapping[str, float]] = {}
    special = [k for k in group if seen.apart[k]]
    if len(group) == 1 and not special:
        kind, found = _single(seen, group[0])
        if found:
            special = group
            candidates[group[0]] = found
    else:
        kind = "ligand"
        if special:
            candidates |= _metals(seen, special)
            if len(special) == len(group):
                kind = "ion" if len(group) == 1 else "cluster"
        elif _chain_bonds(seen, group):
            kind = "attached"
    for k, odds in candidates.items():
        symbols[k], sure[k] = max(odds.items(), key=lambda row: row[1])
    inside = {*group}
    others, apart = _outside(seen, inside)
    confirmed = bool(graph.sure[group].mean() >= 0.5)
    return Unbound(
        kind if confirmed else "unknown",
        tuple(group),
        tuple(symbols[k] for k in group),
        tuple(sure[k] for k in group),
        candidates,
        (*_inner_bonds(seen, group), *_chain_bonds(seen, group)),
        float(apart.min()) if len(others) else float("inf"),
        confirmed,
    )


def _outside(seen: _Seen, inside: set[int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Other atoms, and their distances from the nearest of a group."""
    group = np.array(sorted(inside))
    others = np.array([k for k in range(len(seen.graph)) if k not in inside], dtype=int)
    places = seen.graph.places_A
    apart = np.linalg.norm(places[others][:, None] - places[group], axis=-1)
    return others, apart.min(1) if len(others) else np.zeros(0)


def _inner_bonds(seen: _Seen, group: list[int]) -> list[tuple[int, int]]:
    """Bonds within a group; metals that lie together are not bonded."""
    bonds = _bonds(seen, np.array(group, dtype=int))
    both = seen.apart
    return [
        (i, j)
        for i, j in bonds
        if not (both[i] and both[j]) or seen.graph.apart_A(i, j) <= _SULPHIDE_A
    ]


def _chain_bonds(seen: _Seen, group: list[int]) -> list[tuple[int, int]]:
    """Bonds to atoms of residues, and what they lend to a metal."""
    out = []
    for k in group:
        if seen.apart[k]:
            near, _ = seen.near(k, _BINDS_A)
            light = seen.light[near]
            polar = light[:, 0] < 0.5  # not carbon
            out += [(k, int(j)) for j in near[polar & seen.explained[near]]]
        else:
            out += [(k, j) for j in seen.graph.neighbours[k] if seen.explained[j]]
    return out


def _single(seen: _Seen, k: int) -> tuple[Kind, dict[str, float]]:
    """A light atom by itself: a water, or an ion as light as one; nothing where it touches what it
    is not bonded to, or has no partner for a hydrogen bond."""
    near, apart = seen.near(k, _HYDROGEN_BOND_A[1])
    if _chain_bonds(seen, [k]):
        return "attached", {}
    if not len(near) or apart[0] < _LEAST_A:
        return "unknown", {}
    polar = (seen.light[near, 0] < 0.5) & ~seen.apart[near]
    if not polar.any():
        return "unknown", {}
    metal = bool((seen.apart[near] & (apart <= _BINDS_A)).any())
    if apart[0] >= _TOUCHES_A or metal:
        tight = int((apart[polar] < 2.6).sum())
        if tight < 3 or metal:
            return "water", {"O": 1.0}
    odds = {"O": _element_evidence(seen, k, "O", _WATER, _LOOSE_A)}
    for name in ("Na", "Mg"):
        odds[name] = _element_evidence(seen, k, name, _METALS[name], _TIGHT_A)
    found = _normalised(odds)
    if max(found, key=lambda name: found[name]) != "O":
        return "ion", found
    return ("unknown", {}) if apart[0] < _TOUCHES_A else ("water", {"O": 1.0})


def _metals(seen: _Seen, group: list[int]) -> dict[int, dict[str, float]]:
    """Candidates of metals and sulphides, which alternate in a cluster."""
    metal, anion = {}, {}
    for k in group:
        crowded = sum(1 for j in group if j != k and seen.graph.apart_A(k, j) <= _SULPHIDE_A)
        metal[k] = {
            name: _element_evidence(seen, k, name, usual, _TIGHT_A)
            + (_IRON if name == "Fe" and crowded > 1 else 0.0)
            for name, usual in _METALS.items()
        }
        anion[k] = {
            name: _element_evidence(seen, k, name, usual, _LOOSE_A)
            for name, usual in _ANIONS.items()
            if name == "S" or crowded == 0
        }
    total = np.array([[_mean(metal[k].values()), _mean(anion[k].values())] for k in group])
    belief = _alternating(seen.graph.places_A[group], total)
    out = {}
    for k, (is_metal, is_anion) in zip(group, belief, strict=True):
        found = {name: is_metal * p for name, p in _normalised(metal[k]).items()}
        out[k] = found | {name: is_anion * p for name, p in _normalised(anion[k]).items()}
    return out


def _alternating(places_A: NDArray[np.float64], own: NDArray[np.float64]) -> NDArray[np.float64]:
    """(k, 2) probability of metal and of anion, own evidence (k, 2) and neighbours together: metal
    and sulphide lie 2.3 Å apart, two metals 2.7, two sulphides further."""
    count = len(places_A)
    cost = np.zeros((2, 2, count, count))
    apart = np.linalg.norm(places_A[:, None] - places_A, axis=-1)
    bonded = (apart <= _SULPHIDE_A) & ~np.eye(count, dtype=bool)
    facing = (apart > _SULPHIDE_A) & (apart <= _METALS_A)
    cost[0, 0] = cost[1, 1] = -_PAIR * bonded
    cost[0, 1] = cost[1, 0] = -_PAIR * facing
    cost[1, 1] -= _PAIR * facing
    states = own.argmax(1)
    if count <= _ENUMERATED:
        every = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        total = own[np.arange(count), every].sum(1)
        for i in range(count):
            for j in range(i):
                total = total + cost[every[:, i], every[:, j], i, j]
        odds = np.exp(total - total.max())
        anion = (odds[:, None] * every).sum(0) / odds.sum()
        return np.stack((1 - anion, anion), 1)
    belief = np.zeros((count, 2))
    for _ in range(10):
        for i in range(count):
            own_i = own[i] + np.array(
                [sum(cost[s, states[j], i, j] for j in range(count)) for s in (0, 1)]
            )
            belief[i] = np.exp(own_i - own_i.max())
            belief[i] /= belief[i].sum()
            states[i] = int(belief[i].argmax())
    return belief


def _element_evidence(
    seen: _Seen, k: int, name: str, usual_A: tuple[float, float, float], sd_A: float
) -> float:
    """Log-likelihood of an atom's weight and B, and evidence of its distances to O, N and S."""
    weight, b = expected(name)
    s, graph = seen.scattering, seen.graph
    weight, b = weight * float(s.weight[0]), b + float(s.b_A2[0])
    weight_sd = np.hypot(_WEIGHT_SD * weight, s.weight_sd[0])
    b_sd = np.hypot(_B_SD_A2, s.b_sd_A2[0])
    total = float(
        -0.5 * ((graph.weights[k] - weight) / weight_sd) ** 2 - np.log(weight_sd)
        - 0.5 * ((graph.b_A2[k] - b) / b_sd) ** 2
    )  # fmt: skip
    near, apart = seen.near(k, _SHELL_A)
    for j, distance in zip(near.tolist(), apart.tolist(), strict=True):
        if seen.apart[j]:
            continue  # how these alternate is told apart
        light = seen.light[j]
        if light[0] > 0.5:
            continue
        mean = usual_A[int(np.argmax(light[[2, 1, 3]]))]
        sd = float(np.hypot(sd_A, np.sqrt(2) * graph.noise_A))
        total += float(evidence(distance, mean, sd, _SPAN_A))
    return total


@lru_cache(maxsize=32)
def expected(name: str) -> tuple[float, float]:
    """Weight in carbons and B in Å², over carbon's own, with which an atom of carbon's form factor
    stands for an element between 8 and 1.25 Å, frequencies as many as patterns hold of each."""
    import gemmi
    import torch

    from diffragan.microscope.exit_waves.form_factors import CARBON, form_factor_A

    q = torch.linspace(1 / 8, 1 / 1.25, 200, dtype=torch.float64)
    ratio = form_factor_A(gemmi.Element(name).atomic_number, q**2) / form_factor_A(CARBON, q**2)
    part = q.sqrt()[:, None]
    terms = torch.stack((torch.ones_like(q), -(q**2) / 4), 1)
    found = torch.linalg.lstsq(part * terms, part * ratio.log()[:, None]).solution
    return float(found[0].exp()), float(found[1])


def _mean(values: object) -> float:
    """Log of the mean likelihood."""
    x = np.array(list(values))  # type: ignore[call-overload]
    return float(x.max() + np.log(np.exp(x - x.max()).mean()))


def _normalised(odds: Mapping[str, float]) -> dict[str, float]:
    values = np.array(list(odds.values()))
    values = np.exp(values - values.max())
    return dict(zip(odds, (values / values.sum()).tolist(), strict=True))
