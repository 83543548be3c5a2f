"""Fragments docked to a sequence, and the model that they make."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest

from built_atoms import Truth, built, ferredoxin
from diffragan.atoms.bonds.side_chains import TYPES
from diffragan.atoms.molecule.docking import dock, read_fasta
from diffragan.atoms.molecule.judge import against_structure, places_in
from diffragan.atoms.molecule.model import Model, build_model
from diffragan.atoms.molecule.model_cif import write_model_cif
from diffragan.atoms.molecule.molecule import Molecule, read_molecule
from diffragan.atoms.molecule.outputs import molecule_metrics
from diffragan.atoms.run import AtomsRun
from diffragan.errors import DiffraganError
from diffragan.evaluation.fit_model import Fit
from diffragan.evaluation.known_model import KnownModel
from diffragan.molecules.clean import ONE_LETTER
from quick_runs import run

pytestmark = pytest.mark.usefixtures("one_thread")

THREE = {letter: name for name, letter in ONE_LETTER.items()}
OTHER = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"


def docked(truth: Truth, sequence: str, error_A: float = 0.03) -> Molecule:
    atoms = built(truth, error_A)
    return read_molecule(atoms, np.ones(len(atoms), dtype=bool), sequence)


@pytest.fixture(scope="module")
def truth() -> Truth:
    return ferredoxin()


@pytest.fixture(scope="module")
def molecule(truth: Truth) -> Molecule:
    return docked(truth, truth.sequence)


@pytest.fixture(scope="module")
def model(molecule: Molecule) -> Model:
    made = build_model(molecule)
    assert made is not None
    return made


def test_every_residue_has_its_type_and_number(
    molecule: Molecule, model: Model, truth: Truth
) -> None:
    """At 0.03 Å all residues are right, and all elements with them."""
    numbers = {6: "C", 7: "N", 8: "O", 16: "S"}
    elements = {symbol: z for z, symbol in numbers.items()}
    known = KnownModel(
        np.array([elements[name[0]] for name in truth.names]),
        truth.places_A,
        tuple(f"A {k + 1} {truth.types[k]}" for k in truth.residues),
        names=truth.names,
    )
    metrics = against_structure(molecule, model, known, Fit(np.eye(3), np.zeros(3), False, 1.0))
    assert metrics["residues_right"] == 1
    assert metrics["main_chain_rms_A"] < 0.05
    assert metrics["elements_right"] > 0.99
    told = molecule_metrics(molecule, model)
    assert told["sequence_coverage"] == 1
    assert told["gaps"] == []
    assert told["docking_z"] > 15


def test_ideal_geometry_leaves_atoms_where_they_are(model: Model) -> None:
    """The force field moves atoms by less than their own error, and bonds become those of
    proteins."""
    assert model.rms_moved_A < 0.03
    bonds = [r.find_atom("CA", "*").pos.dist(r.find_atom("C", "*").pos) for r in model.chain]
    assert np.std(bonds) < 0.02
    assert sum(a.is_hydrogen() for r in model.chain for a in r) > 300


def test_the_same_atoms_give_the_same_model(molecule: Molecule, model: Model) -> None:
    """Bit for bit."""
    again = build_model(molecule)
    assert again is not None
    for one, other in zip(again.chain, model.chain, strict=True):
        assert [a.pos.tolist() for a in one] == [a.pos.tolist() for a in other]


def test_the_file_is_read_back(
    molecule: Molecule, model: Model, truth: Truth, tmp_path: Path
) -> None:
    """gemmi finds the chain with its numbers, the whole sequence, and confidence as B."""
    write_model_cif(tmp_path / "model.cif", molecule, model, "ferredoxin")
    structure = gemmi.read_structure(str(tmp_path / "model.cif"))
    chain = structure[0]["A"]
    assert gemmi.one_letter_code([r.name for r in chain]) == truth.sequence
    assert [r.seqid.num for r in chain] == list(range(1, 56))
    assert len(structure.entities[0].full_sequence) == 55
    assert all(0 < r[0].b_iso <= 100 for r in chain)
    assert np.mean([r[0].b_iso for r in chain]) > 95
    block = gemmi.cif.read(str(tmp_path / "model.cif")).sole_block()
    assert len(block.find_values("_ma_qa_metric_local.metric_value")) == 55
    refined = [float(x) for x in block.find_values("_atom_site.diffragan_b_A2")]
    assert -4 < min(refined) < max(refined) < 4


def test_a_gap_is_reported_not_filled(truth: Truth) -> None:
    """Residues 21 to 24 are not in the map: they are in no model, and those after them keep their
    numbers."""
    residues = np.array(truth.residues)
    molecule = docked(truth.part((residues < 20) | (residues >= 24)), truth.sequence)
    made = build_model(molecule)
    assert made is not None
    assert [r.seqid.num for r in made.chain] == [*range(1, 21), *range(25, 56)]
    told = molecule_metrics(molecule, made)
    assert told["gaps"] == ["21-24"]
    assert told["sequence_coverage"] == pytest.approx(51 / 55)


def test_atoms_that_the_map_does_not_show_are_marked(truth: Truth) -> None:
    """A lysine without its end is completed, but what was added has no occupancy."""
    lost = [
        (n, truth.types[k]) in {("CE", "LYS"), ("NZ", "LYS")}
        for n, k in zip(truth.names, truth.residues, strict=True)
    ]
    made = build_model(docked(truth.part(~np.array(lost)), truth.sequence))
    assert made is not None
    lysine = truth.types.index("LYS") + 1
    assert made.added == {lysine: ["CE", "NZ"]}
    residue = next(r for r in made.chain if r.seqid.num == lysine)
    assert residue.find_atom("NZ", "*").occ == 0
    assert residue.find_atom("CD", "*").occ == 1


@pytest.mark.parametrize("other", ["shuffled", "ubiquitin"])
def test_another_sequence_is_refused(truth: Truth, other: str) -> None:
    """The same residues in another order, and another protein, dock no better than chance."""
    rng = np.random.default_rng(3)
    shuffled = "".join(rng.permutation(list(truth.sequence)))
    molecule = docked(truth, shuffled if other == "shuffled" else OTHER)
    assert molecule.docking is not None
    assert not molecule.docking.fits
    assert "does not fit" in molecule.docking.refusal
    assert build_model(molecule) is None
    assert all(residue.number is None for residue in molecule.residues)


def test_a_refused_sequence_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command ends with exit code 2 and says why."""
    from diffragan import api

    metrics = {
        "verdict": "All well.",
        "atoms": {"r_work": 0.1, "r_free": 0.1},
        "seconds": 1.0,
        "warnings": [],
        "model": {"refusal": "The sequence does not fit the atoms."},
    }
    monkeypatch.setattr(api, "build_atoms", lambda *_, **__: AtomsRun(tmp_path, metrics, True))
    code, text = run("atoms", tmp_path, "--out", tmp_path / "out")
    assert code == 2
    assert "does not fit" in text


def test_a_piece_of_the_sequence_is_enough(truth: Truth) -> None:
    """A sequence with a tag before and residues after that were never built."""
    molecule = docked(truth, "MGSSHHHHHH" + truth.sequence + "GKLAAALE")
    numbers = [residue.number for residue in molecule.residues]
    assert numbers == list(range(11, 66))


def test_ends_that_overlap_give_way_to_the_likelier() -> None:
    """Two residues too many at a fragment's end, read from side chains, do not cost the next
    fragment its place."""
    sequence = "AYVIDLCIAMGKCKPEWPVN"
    columns = [TYPES.index(name) for name in map(THREE.__getitem__, sequence)]
    table = np.zeros((20, 20))
    table[np.arange(20), columns] = 6.0
    wrong = np.zeros((2, 20))
    wrong[:, TYPES.index("HIS")] = 6.0
    line = np.stack([3.8 * np.arange(22.0), np.zeros(22), np.zeros(22)], 1)
    docking = dock(
        [np.concatenate((table[:10], wrong)), table[10:]], [line[:12], line[10:20]], sequence
    )
    assert docking.numbers == ((*range(1, 11), None, None), tuple(range(11, 21)))


def test_places_in_a_sequence_are_found_by_alignment() -> None:
    """Residues that a structure leaves out shift the numbers of those that follow."""
    assert places_in("MGAYVIND", ["ALA", "TYR", "VAL", "ASP"]) == [3, 4, 5, 8]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no sequences"),
        (">a\nAYV\n>b\nAYV\n", "2 sequences"),
        (">a\nAY1V\n", "letters 1"),
        (">a\n\n", "no residues"),
    ],
)
def test_bad_sequences_are_refused(tmp_path: Path, text: str, words: str) -> None:
    """Before hours of building, in one sentence."""
    path = tmp_path / "x.fasta"
    path.write_text(text, "utf-8")
    with pytest.raises(DiffraganError, match=words):
        read_fasta(path)


def test_a_fasta_file_is_read(tmp_path: Path) -> None:
    """Case, line ends and a final star do not matter; doubtful letters become X."""
    path = tmp_path / "x.fasta"
    path.write_text(">some protein\nayvB\r\nUK*\n", "utf-8")
    assert read_fasta(path) == "AYVXCK"
