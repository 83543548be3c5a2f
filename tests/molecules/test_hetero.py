"""Ligands, metals and waters that are kept: what is written, and what hydrogens they get."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest

from diffragan.errors import DiffraganError
from diffragan.molecules.hetero import complete_hetero
from diffragan.molecules.preparation_report import PreparationReport
from diffragan.molecules.prepare import prepare_structure
from diffragan.molecules.structure import load_structure
from diffragan.settings import PrepareSettings
from peptide import ATOMS, SEQUENCE, atom_name, pdb_file, record, residue_number, water
from quick_runs import run

BOTH = PrepareSettings(keep=("ligands", "waters"))


def beyond_carbonyl(number: int, apart_A: float) -> str:
    """A water on the line C=O of a residue."""
    place = {
        atom_name(line): np.array([float(line[k : k + 8]) for k in (30, 38, 46)])
        for line in ATOMS
        if residue_number(line) == number
    }
    axis = place["O"] - place["C"]
    x, y, z = place["O"] + apart_A * axis / np.linalg.norm(axis)
    return f"{water(200 + number)[:30]}{x:8.3f}{y:8.3f}{z:8.3f}{water(1)[54:]}"


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten residues with two waters, one of them bound, a zinc ion, and a ligand of two carbons."""
    folder = tmp_path_factory.mktemp("crowd")
    ligand = [
        record(ATOMS[0], kind="HETATM", atom=f"C{k}", residue="EDO", number=150,
               shift_A=-9 + 1.5 * k, element="C")
        for k in (1, 2)
    ]  # fmt: skip
    zinc = record(ATOMS[0], kind="HETATM", atom="ZN", residue="ZN", number=101, shift_A=-12,
                  element="ZN")  # fmt: skip
    beside = [zinc, *ligand, beyond_carbonyl(10, 2.8), beyond_carbonyl(1, 4.0)]
    return pdb_file(folder / "crowd.pdb", [*ATOMS, "TER", *beside])


@pytest.fixture(scope="module")
def kept(crowd: Path) -> PreparationReport:
    return prepare_structure(str(crowd), crowd.parent / "kept", BOTH)


def test_what_is_kept_is_written_read_and_reported(kept: PreparationReport, crowd: Path) -> None:
    """The chain is as it is without, and beside it stand ion, ligand and waters."""
    structure = load_structure(kept.output)
    assert structure.sequence == kept.sequence == SEQUENCE
    assert sorted(structure.numbers)[-1] == 30
    changes = {(c.kind, c.detail) for c in kept.changes}
    assert ("waters kept", "2 waters") in changes
    assert ("hetero atoms kept", "1 x ZN") in changes
    assert ("hydrogens missing", "1 x EDO: its file gives none") in changes
    plain = prepare_structure(str(crowd), crowd.parent / "plain", PrepareSettings())
    chain, alone = (gemmi.read_structure(str(r.output))[0][0] for r in (kept, plain))
    protein = [residue for residue in chain if residue.het_flag == "A"]
    for one, other in zip(protein, alone, strict=True):
        assert [a.name for a in one] == [a.name for a in other]
        assert [a.pos.tolist() for a in one] == [a.pos.tolist() for a in other]
    assert [r.name for r in chain][len(protein) :] == ["ZN", "EDO", "HOH", "HOH"]
    assert len(structure.numbers) == plain.atoms + 1 + 2 + 6


def test_waters_turn_to_their_hydrogen_bonds(kept: PreparationReport) -> None:
    """A water has its known shape, and one that hangs on a carbonyl points a hydrogen at it."""
    chain = gemmi.read_structure(str(kept.output))[0][0]
    bound, _ = waters = [residue for residue in chain if residue.is_water()]
    for residue in waters:
        oxygen, one, other = (atom.pos for atom in residue)
        assert oxygen.dist(one) == pytest.approx(0.957, abs=0.003)
        angle = gemmi.calculate_angle(one, oxygen, other)
        assert np.degrees(angle) == pytest.approx(104.5, abs=0.5)
    acceptor = chain[9].find_atom("O", "*").pos
    assert min(acceptor.dist(h.pos) for h in bound if h.is_hydrogen()) < 2.1


def test_only_what_is_asked_for_is_kept(crowd: Path) -> None:
    """Ligands without waters; the same settings leave the file as it is, others do not."""
    out = crowd.parent / "ligands"
    some = PrepareSettings(keep=("ligands",))
    report = prepare_structure(str(crowd), out, some)
    names = {residue.name for residue in gemmi.read_structure(str(report.output))[0][0]}
    assert {"ZN", "EDO"} <= names
    assert "HOH" not in names
    assert prepare_structure(str(crowd), out, some).unchanged
    assert not prepare_structure(str(crowd), out, PrepareSettings()).unchanged


def test_a_metal_takes_the_hydrogen_of_what_binds_it() -> None:
    """A cysteine on zinc is a thiolate; one further away keeps its hydrogen."""
    chain = gemmi.Chain("A")
    for number, shift in ((1, 0.0), (2, 9.0)):
        residue = gemmi.Residue()
        residue.name, residue.seqid, residue.het_flag = "CYS", gemmi.SeqId(number, " "), "A"
        for name, element, x in (("CB", "C", -1.81), ("SG", "S", 0.0), ("HG", "H", 1.3)):
            atom = gemmi.Atom()
            atom.name, atom.element = name, gemmi.Element(element)
            atom.pos = gemmi.Position(x + shift, 0, 0)
            residue.add_atom(atom)
        chain.add_residue(residue)
    zinc = gemmi.Residue()
    zinc.name, zinc.seqid, zinc.het_flag = "ZN", gemmi.SeqId(3, " "), "H"
    metal = gemmi.Atom()
    metal.name, metal.element, metal.pos = "ZN", gemmi.Element("Zn"), gemmi.Position(0, 2.3, 0)
    zinc.add_atom(metal)
    out, _, changes = complete_hetero(chain, [zinc])
    assert [[a.name for a in residue] for residue in out] == [["CB", "SG"], ["CB", "SG", "HG"]]
    assert [(c.where, c.detail) for c in changes] == [("A 1", "CYS HG: SG binds Zn")]


def test_words_that_mean_nothing_and_raw_files_are_refused(crowd: Path, tmp_path: Path) -> None:
    """`--keep` names what there is to keep; a raw entry does not pass for a prepared one."""
    code, text = run("prepare", crowd, "--keep", "water", "--out", tmp_path)
    assert code == 2
    assert "waters" in text
    with pytest.raises(DiffraganError, match="not prepared"):
        load_structure(crowd)
