"""A molecule read from free atoms: chain, residues, elements, hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from built_atoms import Truth, built, ferredoxin, ten_residues
from diffragan.atoms.bonds.geometry import geometry
from diffragan.atoms.model.atoms import Atoms, atoms_at
from diffragan.atoms.molecule.molecule import Molecule, read_molecule
from diffragan.molecules.clean import HEAVY_ATOMS, ONE_LETTER


def read(atoms: Atoms) -> Molecule:
    return read_molecule(atoms, np.ones(len(atoms), dtype=bool))


@pytest.fixture(scope="module")
def truth() -> Truth:
    return ferredoxin()


@pytest.fixture(scope="module")
def molecule(truth: Truth) -> Molecule:
    return read(built(truth))


def test_the_chain_is_traced_from_n_to_c(molecule: Molecule, truth: Truth) -> None:
    """Every residue's main chain in one piece, in the order and direction of the sequence."""
    assert [len(chain) for chain in molecule.chains] == [55]
    for k, residue in enumerate(molecule.residues):
        for name in ("N", "CA", "C", "O"):
            atom = residue.atoms[name]
            assert (truth.names[atom], truth.residues[atom]) == (name, k)


def test_types_are_told_by_atoms_alone(molecule: Molecule, truth: Truth) -> None:
    """Without a sequence nearly all residues are what their atoms make them."""
    right = [r.name == t for r, t in zip(molecule.residues, truth.types, strict=True)]
    assert np.mean(right) > 0.9


def test_every_atom_has_an_element_with_a_probability(molecule: Molecule, truth: Truth) -> None:
    """Bonds, weights and B tell C, N, O and S; probabilities sum to 1 and mean what they say."""
    p = molecule.elements
    assert np.allclose(p.sum(1), 1)
    right = np.array([s == n[0] for s, n in zip(molecule.symbols, truth.names, strict=True)])
    assert right.mean() > 0.96
    assert abs(p.max(1).mean() - right.mean()) < 0.03


def test_geometry_alone_tells_most_elements(truth: Truth) -> None:
    """With all weights and B alike, but for sulphur's, bonds still tell nine atoms of ten."""
    atoms = built(truth, 0.01)
    heavy = atoms.weights > 1.6
    alike = Atoms(atoms.positions_A, torch.where(heavy, 2.1, 1.0), torch.zeros(len(atoms)))
    symbols = read(alike).symbols
    assert np.mean([s == n[0] for s, n in zip(symbols, truth.names, strict=True)]) > 0.93


def test_noise_is_told_by_the_peptides(truth: Truth) -> None:
    """How far distances in peptides lie from their means gives the atoms' error."""
    for error_A in (0.05, 0.15):
        noise_A = read(built(truth, error_A)).graph.noise_A
        assert noise_A == pytest.approx(error_A / np.sqrt(3), rel=0.25)


def test_the_wrong_hand_is_seen_and_turned(truth: Truth) -> None:
    """Amino acids of proteins are left-handed; of a mirror image none is."""
    atoms = built(truth)
    mirrored = read(replace(atoms, positions_A=-atoms.positions_A))
    assert mirrored.mirrored
    assert mirrored.d_centres > 40
    assert mirrored.l_centres == 0
    assert "wrong hand" in mirrored.words
    assert [len(chain) for chain in mirrored.chains] == [55]
    names = "".join(ONE_LETTER[r.name] for r in mirrored.residues)
    assert np.mean([a == b for a, b in zip(names, truth.sequence, strict=True)]) > 0.9


def test_a_broken_chain_is_two_fragments(truth: Truth) -> None:
    """Where residues are missing the chain ends and begins again; nothing bridges the gap."""
    residues = np.array(truth.residues)
    part = truth.part((residues < 20) | (residues >= 24))
    molecule = read(built(part))
    assert sorted(len(chain) for chain in molecule.chains) == [20, 31]


def test_a_carbonyl_whose_peaks_ran_together_does_not_break_the_chain(truth: Truth) -> None:
    """At 200 e/Å2 some C and O lie 0.25 and 0.35 Å off while all else is right."""
    atoms = built(truth)
    places = atoms.positions_A.clone()
    for residue in (10, 25, 40):
        of = {n: k for k, n in enumerate(truth.names) if truth.residues[k] == residue}
        along = places[of["O"]] - places[of["C"]]
        across = torch.linalg.cross(along, places[of["CA"]] - places[of["C"]])
        along, across = along / along.norm(), across / across.norm()
        places[of["C"]] += 0.2 * along + 0.15 * across
        places[of["O"]] -= 0.2 * across
    assert [len(chain) for chain in read(replace(atoms, positions_A=places)).chains] == [55]


def test_disulphides_are_bonds_between_sulphurs() -> None:
    """Two sulphurs at 2.05 Å are bonded, at 3.5 Å not."""
    places = torch.tensor([[0.0, 0, 0], [2.05, 0, 0], [5.6, 0, 0]])
    assert read(atoms_at(places, weight=2.1)).disulphides == ((0, 1),)


def test_noise_holds_no_molecule() -> None:
    """Atoms at random have no main chain."""
    rng = np.random.default_rng(1)
    places = torch.from_numpy(rng.uniform(-10, 10, (300, 3))).float()
    molecule = read(atoms_at(places))
    assert sum(map(len, molecule.chains)) <= 3


def test_a_few_atoms_are_read_too() -> None:
    """Ten residues, and none at all."""
    assert [len(chain) for chain in read(built(ten_residues())).chains] == [10]
    assert read(atoms_at(torch.zeros(0, 3))).chains == ()


def test_the_table_holds_every_side_chain() -> None:
    """Each atom of each residue is placed by a bond to one that comes before it."""
    for name, steps in geometry().steps.items():
        known = {"N", "CA", "C"}
        for step in steps:
            bond = step.distances[0]
            assert bond.to in known
            assert 1.2 < bond.mean_A < 1.9
            known.add(step.atom)
        assert known | {"O"} == set(HEAVY_ATOMS[name])
