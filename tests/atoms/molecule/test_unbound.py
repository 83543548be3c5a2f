"""What lies beside the chain, by name, from atoms as a run builds them."""

from __future__ import annotations

from dataclasses import replace

import gemmi
import numpy as np
import pytest
import torch
from benchmarks.hetero import FE_S_A, FE_SG_A, clusters, cubane, waters
from numpy.typing import NDArray

from built_atoms import Truth, built, ferredoxin
from diffragan.atoms.model.atoms import Atoms, atoms_at, together
from diffragan.atoms.model.hydrogens import bonded, inorganic
from diffragan.atoms.molecule.judge import against_structure
from diffragan.atoms.molecule.molecule import Molecule, read_molecule
from diffragan.atoms.molecule.outputs import molecule_metrics, unbound_rows
from diffragan.atoms.molecule.unbound import Unbound, expected
from diffragan.evaluation.fit_model import Fit
from diffragan.evaluation.known_model import KnownModel


def metals(places_A: NDArray[np.float64], symbol: str) -> Atoms:
    """Atoms that scatter like an element, at places (n, 3)."""
    weight, b = expected(symbol)
    return atoms_at(torch.from_numpy(np.atleast_2d(places_A)), 0.95 * weight, b)


def read(atoms: Atoms) -> Molecule:
    return read_molecule(atoms, np.ones(len(atoms), dtype=bool))


def chain_of(truth: Truth) -> gemmi.Chain:
    """Residues with the names and places of a truth."""
    chain = gemmi.Chain("A")
    for k, name in enumerate(truth.types):
        residue = gemmi.Residue()
        residue.name, residue.seqid = name, gemmi.SeqId(k + 1, " ")
        for place, atom_name, of in zip(truth.places_A, truth.names, truth.residues, strict=True):
            if of == k:
                atom = gemmi.Atom()
                atom.name, atom.pos = atom_name, gemmi.Position(*place)
                residue.add_atom(atom)
        chain.add_residue(residue)
    return chain


@pytest.fixture(scope="module")
def truth() -> Truth:
    return ferredoxin()


@pytest.fixture(scope="module")
def whole(truth: Truth) -> tuple[Molecule, NDArray[np.float64]]:
    """Ferredoxin with both its clusters and five waters, misplaced by 0.05 Å; and the waters."""
    names = np.array(truth.names)
    pairs = [
        (int(np.flatnonzero((names == "C") & (np.array(truth.residues) == k))[0]), int(o))
        for k in set(truth.residues)
        for o in np.flatnonzero((names == "O") & (np.array(truth.residues) == k))
    ]
    polar = np.array([name[0] in "ON" for name in truth.names])
    atoms, rng = built(truth, 0.05), np.random.default_rng(1)
    places = truth.places_A
    for irons, sulphides, _ in clusters(chain_of(truth)):
        places = np.concatenate((places, irons, sulphides))
        polar = np.concatenate((polar, np.zeros(8, dtype=bool)))
        for some, symbol in ((irons, "Fe"), (sulphides, "S")):
            atoms = together(atoms, metals(some + rng.normal(scale=0.03, size=(4, 3)), symbol))
    found = waters(places, polar, pairs, 5)
    wet = atoms_at(torch.from_numpy(found), 1.25, 3.0)
    return read(together(atoms, wet)), found


def of_kind(molecule: Molecule, kind: str) -> list[Unbound]:
    return [group for group in molecule.unbound if group.kind == kind]


def test_cubanes_have_their_lengths() -> None:
    """Each sulphide on three irons, each iron below the place of its cysteine."""
    irons, sulphides, ends = cubane()
    apart = np.sort(np.linalg.norm(irons[:, None] - sulphides, axis=-1), axis=1)
    assert apart[:, :3] == pytest.approx(FE_S_A)
    assert np.linalg.norm(irons - ends, axis=1) == pytest.approx(FE_SG_A)


def test_clusters_are_named_and_hang_on_their_cysteines(
    whole: tuple[Molecule, NDArray[np.float64]],
) -> None:
    """Two of four irons and four sulphides each, every iron bonded to three sulphides and an SG."""
    molecule, _ = whole
    found = of_kind(molecule, "cluster")
    assert [group.formula for group in found] == ["Fe4S4", "Fe4S4"]
    assert [len(group.bonds) for group in found] == [16, 16]
    rows = [row for row in unbound_rows(molecule) if row["kind"] == "cluster"]
    for row in rows:
        assert len(row["bound_to"]) == 4
        assert all(label.split()[-1] == "SG" for label in row["bound_to"])
        assert all(max(odds.values()) > 0.5 for odds in row["candidates"].values())


def test_metals_leave_the_chain_as_it_is(whole: tuple[Molecule, NDArray[np.float64]]) -> None:
    """One piece, and all eight cysteines that hold a cluster are read as cysteines."""
    molecule, _ = whole
    assert [len(chain) for chain in molecule.chains] == [55]
    assert [r.name for r in molecule.residues].count("CYS") >= 8
    assert "2 Fe4S4, 5 waters" in molecule.words


def test_waters_are_named_where_they_are(whole: tuple[Molecule, NDArray[np.float64]]) -> None:
    """A single atom within a hydrogen bond's length."""
    molecule, places = whole
    found = of_kind(molecule, "water")
    assert len(found) == len(places)
    assert all(2.5 < group.nearest_A < 3.2 for group in found)
    for group in found:
        at = molecule.graph.places_A[group.atoms[0]]
        assert np.linalg.norm(places - at, axis=1).min() < 0.01
    rows = molecule_metrics(molecule, None)
    assert [row["kind"] for row in rows["unbound"]].count("water") == 5


@pytest.mark.parametrize("symbol", ["Zn", "Ca"])
def test_an_ion_is_told_by_weight_and_distances(truth: Truth, symbol: str) -> None:
    """A metal with four oxygens about it at its own distance is more likely that metal than most,
    and is no sulphur."""
    apart_A = {"Zn": 2.02, "Ca": 2.38}[symbol]
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    middle = np.array([40.0, 0, 0])
    oxygens = atoms_at(torch.from_numpy(middle + apart_A * corners), 1.0, -1.0)
    atoms = together(together(built(truth), metals(middle, symbol)), oxygens)
    [ion] = of_kind(read(atoms), "ion")
    odds = ion.candidates[ion.atoms[0]]
    assert sum(odds.values()) == pytest.approx(1)
    assert odds.get("S", 0) + odds.get("Cl", 0) < 0.05
    ranked = sorted(odds, key=lambda name: -odds[name])
    assert symbol in ranked[:3]


def test_what_hangs_on_the_chain_unexplained_is_told(truth: Truth) -> None:
    """A ring of carbon bonded to a lysine's nitrogen is no part of any residue, and no water."""
    nitrogen = next(k for k, name in enumerate(truth.names) if name == "NZ")
    outward = truth.places_A[nitrogen] - truth.places_A.mean(0)
    outward /= np.linalg.norm(outward)
    chain = truth.places_A[nitrogen] + outward * np.array([[1.47], [2.9], [4.3]])
    molecule = read(together(built(truth), atoms_at(torch.from_numpy(chain))))
    [group] = of_kind(molecule, "attached")
    assert len(group) == 3
    assert "attached" in molecule.words


def test_atoms_that_half_sets_do_not_confirm_have_no_name(truth: Truth) -> None:
    """An ion that is in doubt stays unknown, and is not listed."""
    atoms = together(built(truth), metals(np.array([40.0, 0, 0]), "Zn"))
    sure = np.ones(len(atoms), dtype=bool)
    sure[-1] = False
    molecule = read_molecule(atoms, sure)
    assert molecule.unbound[-1].kind == "unknown"
    metrics = molecule_metrics(molecule, None)
    assert metrics["unbound"] == []
    assert metrics["unbound_not_confirmed"] == 1


def test_a_cysteines_sulphur_is_bonded_to_carbon_whatever_is_near() -> None:
    """Iron 2.0 Å from SG is no bond; SG keeps its carbon, even one that noise moved to 2.0 Å."""
    for carbon_A in (1.81, 2.0):
        places = np.array(
            [[0.0, 0, 0], [-carbon_A, 0, 0], [2.0, 0, 0], [3.4, 1.8, 0], [3.4, -1.8, 0]]
        )
        weights = np.array([2.1, 1.0, 2.4, 2.0, 2.0])
        assert inorganic(places, weights).tolist() == [False, False, True, True, True]
        assert bonded(places, weights)[0] == [1]


def test_mirrored_atoms_are_named_alike(whole: tuple[Molecule, NDArray[np.float64]]) -> None:
    """Of the wrong hand, clusters and waters lie where the map has them."""
    molecule, _ = whole
    g = molecule.graph
    fields = (torch.from_numpy(x).float() for x in (-g.places_A, g.weights, g.b_A2))
    other = read(Atoms(*fields))
    assert other.mirrored
    rows = [row["place_A"] for row in unbound_rows(replace(other)) if row["kind"] == "cluster"]
    ours = [row["place_A"] for row in unbound_rows(molecule) if row["kind"] == "cluster"]
    assert np.allclose(sorted(rows), sorted((-np.array(ours)).tolist()), atol=1e-3)


def test_the_truth_counts_what_lies_beside_its_chain(
    whole: tuple[Molecule, NDArray[np.float64]], truth: Truth
) -> None:
    """Irons, sulphides and waters that are found and named; what the truth lacks is wrong."""
    molecule, places = whole
    irons, sulphides = (
        np.concatenate([row[k] for row in clusters(chain_of(truth))]) for k in (0, 1)
    )
    symbols = [name[0] for name in truth.names] + 8 * ["Fe"] + 8 * ["S"] + 5 * ["O"]
    residues = [f"A {k + 1} {truth.types[k]}" for k in truth.residues]
    known = KnownModel(
        np.array([gemmi.Element(symbol).atomic_number for symbol in symbols]),
        np.concatenate((truth.places_A, irons, sulphides, places)),
        (*residues, *(16 * ["A 100 SF4"]), *(5 * ["A 200 HOH"])),
        names=(*truth.names, *symbols[len(truth.names) :]),
    )
    still = Fit(np.eye(3), np.zeros(3), False, 1.0)
    found = against_structure(molecule, None, known, still)
    same = {"found", "confirmed", "named", "true"}
    for name, count in {"Fe": 8, "S": 8, "water": 5}.items():
        assert {found["hetero"][name][key] for key in same} == {count}
        assert found["hetero"][name]["wrong"] == 0
    assert found["elements_confusion"]["Fe"]["Fe"] == 8
    assert found["elements_right"] > 0.97
    rows = found["elements_calibration"]
    assert sum(row["atoms"] for row in rows) == len(symbols)
    assert all(row["from"] <= row["mean_probability"] <= row["to"] for row in rows)
    drained = replace(known, residues=(*residues, *(16 * ["A 100 SF4"]), *(5 * ["A 200 EDO"])))
    assert against_structure(molecule, None, drained, still)["hetero"]["water"]["wrong"] == 5
