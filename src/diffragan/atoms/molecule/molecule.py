"""A molecule read from free atoms: its hand, main chain, residues, elements, what is unbound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from diffragan.atoms.bonds.chain import Backbone, bridged, hand, trace
from diffragan.atoms.bonds.elements import element_probabilities
from diffragan.atoms.bonds.graph import AtomGraph
from diffragan.atoms.bonds.scattering import ELEMENTS, element_evidence, learnt
from diffragan.atoms.bonds.side_chains import (
    TYPES,
    SideChain,
    evidence_table,
    posterior,
    side_chains,
)
from diffragan.atoms.model.atoms import Atoms
from diffragan.atoms.molecule.docking import LETTERS, UNKNOWN, Docking, dock
from diffragan.atoms.molecule.unbound import Unbound, in_words, unbound

_DISULPHIDE_A = 2.3


@dataclass(frozen=True)
class Residue:
    """A residue as it was read.

    name: its type, and `probability` of it. readings: by type, what each would make of its atoms.
    number: its place in the sequence from 1, or None where no sequence was given or it fits none.
    by_map: the type that its atoms alone make most likely.
    """

    backbone: Backbone
    name: str
    probability: float
    readings: Mapping[str, SideChain] = field(repr=False, default_factory=dict)
    number: int | None = None
    by_map: str = ""

    @property
    def atoms(self) -> dict[str, int]:
        """Indices of its atoms by name, main chain first."""
        b = self.backbone
        main = {"N": b.n, "CA": b.ca, "C": b.c, "O": b.o, "OXT": b.o2}
        side = self.readings[self.name].atoms if self.name in self.readings else {}
        return {name: k for name, k in main.items() if k >= 0} | dict(side)


@dataclass(frozen=True)
class Molecule:
    """What free atoms are.

    graph: the atoms, of the other hand where `mirrored`, and after them those of the main chain
    that are inferred: the map does not show them. elements: (n, 4) probability of C, N, O
    and S. chains: fragments of main chain, residues from N to C. l_centres, d_centres: CA by hand.
    disulphides: pairs of sulphurs. unbound: groups of atoms that no residue holds, by name.
    docking: to a sequence, where one was given; residues are numbered only where it fits.
    """

    graph: AtomGraph
    elements: NDArray[np.float64]
    chains: tuple[tuple[Residue, ...], ...]
    l_centres: int
    d_centres: int
    mirrored: bool
    disulphides: tuple[tuple[int, int], ...]
    unbound: tuple[Unbound, ...]
    docking: Docking | None = None

    @property
    def residues(self) -> list[Residue]:
        """All of them, the longest fragment's first."""
        return [residue for chain in self.chains for residue in chain]

    @property
    def built(self) -> int:
        """n, the number of atoms that were built, without those that are inferred."""
        return len(self.graph) - len(self.graph.inferred)

    def unseen(self, residue: Residue) -> list[str]:
        """Names of a residue's atoms that are inferred."""
        return [name for name, k in residue.atoms.items() if k >= self.built]

    @property
    def symbols(self) -> list[str]:
        """(n,) the most probable element of each built atom."""
        out = [ELEMENTS[k] for k in self.elements[: self.built].argmax(1)]
        for group in self.unbound:
            for k, symbol in zip(group.atoms, group.elements, strict=True):
                out[k] = symbol
        return out

    @property
    def certainty(self) -> list[float]:
        """(n,) the probability of each built atom's most probable element."""
        out: list[float] = self.elements[: self.built].max(1).tolist() if self.built else []
        for group in self.unbound:
            for k, p in zip(group.atoms, group.probabilities, strict=True):
                out[k] = p
        return out

    @property
    def words(self) -> str:
        """What was read, in a sentence."""
        count = sum(map(len, self.chains))
        parts = "piece" if len(self.chains) == 1 else "pieces"
        said = f"The main chain is read as {count} residues in {len(self.chains)} {parts}"
        if self.mirrored:
            said += (
                f"; {self.d_centres} of {self.l_centres + self.d_centres} CA are those of D-amino "
                "acids, so map and atoms.cif have the wrong hand and the molecule is their mirror "
                "image"
            )
        if self.docking is not None and self.docking.fits:
            number = sum(residue.number is not None for residue in self.residues)
            said += f"; {number} of the sequence's {len(self.docking.sequence)} are in the model"
        if self.graph.inferred:
            number = len(self.graph.inferred)
            said += f"; {number} atom{'s' * (number > 1)} of it not seen and inferred"
        beside = in_words(self.unbound)
        return said + (f". Beside it: {beside}." if beside else ".")


def read_molecule(
    atoms: Atoms, confirmed: NDArray[np.bool_], sequence: str | None = None
) -> Molecule:
    """The molecule that atoms (hydrogens left out) make.

    Args:
        confirmed: (n,) which of them both half sets confirm.
        sequence: one letter a residue, to which the chain is docked.
    """
    graph = AtomGraph(
        atoms.positions_A.double().numpy(),
        atoms.weights.double().numpy(),
        atoms.b_A2.double().numpy(),
        confirmed,
    )
    graph, fragments = trace(graph)
    left, right = hand(graph, fragments)
    mirrored = right > left
    if mirrored:
        # The ends of fragments are read by the hand of their CA.
        graph, fragments = trace(graph.mirrored())
    graph, fragments = bridged(graph, fragments)
    scattering = learnt(graph, fragments)
    evidence = element_evidence(graph, scattering)
    evidence[~graph.seen] = 0.0
    backbones = [backbone for fragment in fragments for backbone in fragment]
    readings = side_chains(graph, backbones, evidence)
    odds = posterior(evidence_table(readings))
    read = iter(
        Residue(
            backbone,
            TYPES[int(row.argmax())],
            float(row.max()),
            reading,
            by_map=TYPES[int(row.argmax())],
        )
        for backbone, row, reading in zip(backbones, odds, readings, strict=True)
    )
    chains = tuple(tuple(next(read) for _ in fragment) for fragment in fragments)
    docking = None
    if sequence and chains:
        docking = _docked(graph, chains, sequence)
        if docking.fits:
            chains = tuple(_numbered(chain, docking, f) for f, chain in enumerate(chains))
    elements = _by_type(element_probabilities(graph, evidence, fragments), chains)
    held = [residue.atoms for chain in chains for residue in chain]
    return Molecule(
        graph,
        elements,
        chains,
        left,
        right,
        mirrored,
        disulphides(graph),
        unbound(graph, held, elements, scattering),
        docking,
    )


def _docked(graph: AtomGraph, chains: tuple[tuple[Residue, ...], ...], sequence: str) -> Docking:
    tables = [evidence_table([residue.readings for residue in chain]) for chain in chains]
    places = [graph.places_A[[residue.backbone.ca for residue in chain]] for chain in chains]
    return dock(tables, places, sequence)


def _numbered(chain: tuple[Residue, ...], docking: Docking, fragment: int) -> tuple[Residue, ...]:
    """Residues with their numbers, and the types that the sequence has there."""
    out = []
    for r, residue in enumerate(chain):
        number = docking.numbers[fragment][r]
        if number is None:
            out.append(residue)
            continue
        letter = docking.sequence[number - 1]
        name = residue.name if letter == UNKNOWN else TYPES[LETTERS.index(letter)]
        p = docking.certainty[fragment][r]
        out.append(replace(residue, name=name, number=number, probability=p))
    return tuple(out)


def _by_type(
    elements: NDArray[np.float64], chains: tuple[tuple[Residue, ...], ...]
) -> NDArray[np.float64]:
    """The probabilities of elements, where a residue is docked, as sure as its type is."""
    out = elements.copy()
    for residue in (residue for chain in chains for residue in chain):
        if residue.number is None:
            continue
        for name, k in residue.atoms.items():
            out[k] *= 1 - residue.probability
            out[k, ELEMENTS.index(name[0])] += residue.probability
    return out


def disulphides(graph: AtomGraph) -> tuple[tuple[int, int], ...]:
    """Pairs of bonded sulphurs."""
    return tuple(
        (i, j)
        for i in np.flatnonzero(graph.sulphur).tolist()
        for j in graph.neighbours[i]
        if j > i and graph.sulphur[j] and graph.apart_A(i, j) < _DISULPHIDE_A
    )
