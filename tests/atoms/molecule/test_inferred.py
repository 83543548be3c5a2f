"""A main-chain atom that is not there: the chain goes on across it, and says so."""

from __future__ import annotations

import numpy as np
import pytest

from built_atoms import Truth, built, ferredoxin
from diffragan.atoms.molecule.model import build_model
from diffragan.atoms.molecule.molecule import Molecule, read_molecule
from diffragan.atoms.molecule.outputs import atom_rows, molecule_metrics, residue_rows

RESIDUE = 24


@pytest.fixture(scope="module")
def truth() -> Truth:
    return ferredoxin()


def without(truth: Truth, name: str, *residues: int) -> Truth:
    gone = [n == name and r in residues for n, r in zip(truth.names, truth.residues, strict=True)]
    return truth.part(~np.array(gone))


def read(truth: Truth, error_A: float = 0.02) -> Molecule:
    atoms = built(truth, error_A)
    return read_molecule(atoms, np.ones(len(atoms), dtype=bool), truth.sequence)


@pytest.mark.parametrize("error_A", [0.02, 0.1])
@pytest.mark.parametrize("name", ["N", "CA", "C"])
def test_one_missing_atom_does_not_break_the_chain(truth: Truth, name: str, error_A: float) -> None:
    """The chain is one piece of the right number, the atom lies where it was, and it is told to be
    inferred wherever the molecule is."""
    molecule = read(without(truth, name, RESIDUE), error_A)
    assert [len(chain) for chain in molecule.chains] == [55]
    assert [residue.number for residue in molecule.residues] == list(range(1, 56))
    residue = molecule.residues[RESIDUE]
    assert molecule.unseen(residue) == [name]
    assert molecule.graph.inferred == ({"N": "N+"}.get(name, name),)
    true = next(
        place for place, n, r in zip(truth.places_A, truth.names, truth.residues, strict=True)
        if (n, r) == (name, RESIDUE)
    )  # fmt: skip
    place = molecule.graph.places_A[residue.atoms[name]]
    assert np.linalg.norm(place - true) < 0.08 + 2.5 * error_A
    assert not molecule.graph.sure[residue.atoms[name]]
    assert len(molecule.symbols) == len(truth.names) - 1
    assert len(atom_rows(molecule)) == len(truth.names) - 1
    assert "1 atom of it not seen and inferred" in molecule.words


def test_in_the_model_it_has_no_occupancy(truth: Truth) -> None:
    molecule = read(without(truth, "CA", RESIDUE))
    model = build_model(molecule)
    assert model is not None
    assert list(model.residues) == list(range(1, 56))
    atom = model.chain[RESIDUE].find_atom("CA", "*")
    assert atom.occ == 0
    assert "CA" in model.added[RESIDUE + 1]
    row = residue_rows(molecule, model)[RESIDUE]
    assert "CA" in str(row["not_seen"]).split()
    metrics = molecule_metrics(molecule, model)
    assert [word.split()[1:] for word in metrics["inferred"]] == [[str(RESIDUE + 1), "CA"]]
    assert metrics["gaps"] == []


def test_several_gaps_are_bridged_at_once(truth: Truth) -> None:
    part = without(without(without(truth, "N", 8), "C", 20), "CA", 40)
    molecule = read(part)
    assert [len(chain) for chain in molecule.chains] == [55]
    assert sorted(molecule.unseen(r)[0] for r in molecule.residues if molecule.unseen(r)) == [
        "C", "CA", "N",
    ]  # fmt: skip


def test_where_nothing_is_missing_nothing_is_inferred(truth: Truth) -> None:
    """Nor where whole residues are: two ends far apart are not joined."""
    assert read(truth).graph.inferred == ()
    residues = np.array(truth.residues)
    part = truth.part((residues < 20) | (residues >= 24))
    molecule = read(part)
    assert molecule.graph.inferred == ()
    assert sorted(len(chain) for chain in molecule.chains) == [20, 31]


def test_two_missing_neighbours_stay_a_gap(truth: Truth) -> None:
    """Two atoms of one peptide leave too little to place them by."""
    molecule = read(without(without(truth, "C", RESIDUE), "N", RESIDUE + 1))
    assert len(molecule.chains) == 2
    assert molecule.graph.inferred == ()
