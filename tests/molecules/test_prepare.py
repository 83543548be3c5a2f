"""Preparation keeps what was measured, adds what must be there, and reports the difference."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import gemmi
import numpy as np
import pytest

from diffragan.errors import DiffraganError
from diffragan.molecules.clean import HEAVY_ATOMS, clean_chain
from diffragan.molecules.preparation_report import PreparationReport, report_json
from diffragan.molecules.prepare import prepare_structure, read_sequence
from diffragan.molecules.structure import load_structure
from diffragan.settings import PrepareSettings
from peptide import (
    ATOMS,
    MASS_DA,
    SEQUENCE,
    atom_name,
    ion,
    pdb_file,
    record,
    residue_number,
    water,
)

SETTINGS = PrepareSettings()
BACKBONE = {"N", "CA", "C", "O"}


def changes_of(report: PreparationReport, kind: str) -> list[tuple[str, str]]:
    return [(change.where, change.detail) for change in report.changes if change.kind == kind]


def atoms_of(path: Path) -> dict[tuple[int, str], tuple[float, float, float]]:
    chain = gemmi.read_structure(str(path))[0][0]
    return {
        (int(residue.seqid.num or 0), atom.name): (atom.pos.x, atom.pos.y, atom.pos.z)
        for residue in chain
        for atom in residue
    }


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> PreparationReport:
    """The ten residues as they are."""
    folder = tmp_path_factory.mktemp("plain")
    return prepare_structure(str(pdb_file(folder / "ten.pdb", ATOMS)), folder / "out", SETTINGS)


def test_known_composition(plain: PreparationReport) -> None:
    prepared = load_structure(plain.output)
    assert prepared.stem == "ten"
    assert prepared.sequence == plain.sequence == SEQUENCE
    assert prepared.n_residues == plain.residues == 10
    # 78 heavy atoms and the second oxygen of the C-terminus; 86 hydrogens within residues, 2 for
    # the ends, 1 net proton.
    assert np.count_nonzero(prepared.numbers > 1) == 79
    assert np.count_nonzero(prepared.numbers == 1) == plain.hydrogens == 89
    assert 1000 * prepared.mass_kda == pytest.approx(MASS_DA, abs=0.05)
    assert changes_of(plain, "terminal atoms added") == [("A 10", "OXT")]
    assert {change.kind for change in plain.changes} == {"terminal atoms added", "hydrogens added"}


def test_centre_of_mass_radius_and_hash(plain: PreparationReport) -> None:
    prepared = load_structure(plain.output)
    masses = np.array([gemmi.Element(int(z)).weight for z in prepared.numbers])
    np.testing.assert_allclose(masses @ prepared.positions_A, 0, atol=1e-9)
    expected = np.sqrt((prepared.positions_A**2).sum(axis=1)).max()
    assert prepared.radius_A == pytest.approx(expected)
    assert prepared.diameter_A == 2 * prepared.radius_A
    assert prepared.sha256 == plain.sha256_out
    assert prepared.positions_A.shape == (len(prepared.numbers), 3)


def test_measured_atoms_keep_their_places(plain: PreparationReport) -> None:
    written = atoms_of(plain.output)
    for line in ATOMS:
        place = tuple(float(line[i : i + 8]) for i in (30, 38, 46))
        assert written[residue_number(line), atom_name(line)] == pytest.approx(place, abs=1e-9)


def test_hydrogens_sit_where_chemistry_puts_them(plain: PreparationReport) -> None:
    bonds_A = {"C": (1.05, 1.12), "N": (0.98, 1.05), "O": (0.94, 1.0)}
    for residue in gemmi.read_structure(str(plain.output))[0][0]:
        heavy = [atom for atom in residue if not atom.is_hydrogen()]
        for hydrogen in (atom for atom in residue if atom.is_hydrogen()):
            parent = min(heavy, key=lambda atom: atom.pos.dist(hydrogen.pos))
            shortest, longest = bonds_A[parent.element.name]
            assert shortest < parent.pos.dist(hydrogen.pos) < longest


def test_same_input_same_bytes_whatever_the_random_state(tmp_path: Path) -> None:
    source = pdb_file(tmp_path / "stub.pdb", without_side_chains({2, 4}))
    texts = []
    for run in range(2):
        random.seed(run)
        state = random.getstate()
        report = prepare_structure(str(source), tmp_path / f"out{run}", SETTINGS)
        assert random.getstate() == state
        texts.append(report.output.read_bytes())
    assert texts[0] == texts[1]


def without_side_chains(numbers: set[int]) -> list[str]:
    return [a for a in ATOMS if residue_number(a) not in numbers or atom_name(a) in BACKBONE]


def test_missing_side_chains_come_back_left_handed(tmp_path: Path) -> None:
    stubs = set(range(1, 10))
    source = pdb_file(tmp_path / "stubs.pdb", without_side_chains(stubs))
    report = prepare_structure(str(source), tmp_path, SETTINGS)
    assert (report.atoms, report.residues) == (168, 10)
    added = dict(changes_of(report, "heavy atoms added"))
    assert set(added) == {f"A {number}" for number in stubs}
    assert added["A 5"] == "VAL CB CG1 CG2"
    atoms = atoms_of(report.output)

    def handedness(number: int, centre: str, *around: str) -> float:
        middle, *points = (np.array(atoms[number, name]) for name in (centre, *around))
        return float(np.linalg.det([point - middle for point in points]))

    for number in stubs:
        assert handedness(number, "CA", "N", "C", "CB") > 1.9
    # The second chiral centres, with the hand they have in ubiquitin.
    assert handedness(3, "CB", "CA", "CG1", "CG2") > 1.9
    assert all(handedness(number, "CB", "CA", "OG1", "CG2") > 1.9 for number in (7, 9))


def test_waters_hetero_atoms_and_other_chains_go(tmp_path: Path) -> None:
    waters = [water(number) for number in range(201, 204)]
    second = [record(line, chain="B", shift_A=30) for line in ATOMS]
    lines = [*ATOMS, "TER", *second, "TER", ion("ZN", 101), ion("ZN", 102), *waters]
    source = str(pdb_file(tmp_path / "crowd.pdb", [*lines, water(301, "B")]))
    report = prepare_structure(source, tmp_path / "a", SETTINGS)
    assert (report.chain, report.atoms) == ("A", 168)
    assert changes_of(report, "waters removed") == [("A", "3 waters")]
    assert changes_of(report, "hetero atoms removed") == [("A", "2 x ZN")]
    assert changes_of(report, "chain dropped") == [("B", "protein residues: 10, waters: 1")]
    other = prepare_structure(source, tmp_path / "b", PrepareSettings(chain="B"))
    assert (other.chain, other.atoms, other.sequence) == ("B", 168, SEQUENCE)
    with pytest.raises(DiffraganError, match=r"no protein chain Z in .*; its .* are A, B\."):
        prepare_structure(source, tmp_path / "z", PrepareSettings(chain="Z"))
    assert not (tmp_path / "z").exists()


def test_first_protein_chain_stands_in_for_a_missing_a(tmp_path: Path) -> None:
    source = pdb_file(tmp_path / "q.pdb", [record(line, chain="Q") for line in ATOMS])
    report = prepare_structure(str(source), tmp_path / "out", SETTINGS)
    assert report.chain == "Q"
    assert [where for where, _ in changes_of(report, "chain chosen")] == ["Q"]


def test_first_model_only(tmp_path: Path) -> None:
    models = [
        line
        for number in (1, 2, 3)
        for line in (
            f"MODEL     {number:4d}",
            *(record(atom, shift_A=10.0 * (number - 1)) for atom in ATOMS),
            "ENDMDL",
        )
    ]
    report = prepare_structure(str(pdb_file(tmp_path / "nmr.pdb", models)), tmp_path, SETTINGS)
    assert changes_of(report, "models dropped") == [("", "the first of 3 models kept")]
    assert atoms_of(report.output)[1, "N"] == pytest.approx((27.340, 24.430, 2.614))


@pytest.mark.parametrize(("occupancies", "kept"), [((0.3, 0.7), "B"), ((0.5, 0.5), "A")])
def test_best_occupied_alternative_ties_to_the_first_letter(
    tmp_path: Path, occupancies: tuple[float, float], kept: str
) -> None:
    lines = []
    for line in ATOMS:
        if residue_number(line) == 5 and atom_name(line) not in BACKBONE:
            for letter, occupancy, shift_A in zip("AB", occupancies, (0.0, 0.25), strict=True):
                lines.append(record(line, altloc=letter, occupancy=occupancy, shift_A=shift_A))
        else:
            lines.append(line)
    report = prepare_structure(str(pdb_file(tmp_path / "alt.pdb", lines)), tmp_path, SETTINGS)
    assert report.atoms == 168
    first, second = occupancies
    detail = f"VAL {kept} kept of A {first:.2f}, B {second:.2f}"
    assert changes_of(report, "alternative resolved") == [("A 5", detail)]
    x = 29.963 + (0.25 if kept == "B" else 0.0)
    assert atoms_of(report.output)[5, "CB"][0] == pytest.approx(x, abs=1e-9)


def test_alternatives_may_differ_in_residue(tmp_path: Path) -> None:
    def mixed(line: str) -> list[str]:
        if residue_number(line) != 5:
            return [line]
        alanine = record(line, altloc="B", residue="ALA", occupancy=0.6)
        names = {*BACKBONE, "CB"}
        valine = record(line, altloc="A", occupancy=0.4)
        return [valine, alanine] if atom_name(line) in names else [valine]

    lines = sorted((r for a in ATOMS for r in mixed(a)), key=lambda r: (residue_number(r), r[16]))
    report = prepare_structure(str(pdb_file(tmp_path / "mix.pdb", lines)), tmp_path, SETTINGS)
    assert report.sequence == "MQIFAKTLTG"
    assert changes_of(report, "alternative resolved") == [
        ("A 5", "ALA B kept of A 0.40, B 0.60 (VAL/ALA)")
    ]


def test_selenomethionine_becomes_methionine_in_place(tmp_path: Path) -> None:
    def selenium(line: str) -> str:
        if residue_number(line) != 1:
            return line
        line = record(line, kind="HETATM", residue="MSE")
        return record(line, atom="SE", element="SE") if atom_name(line) == "SD" else line

    source = pdb_file(tmp_path / "mse.pdb", [selenium(line) for line in ATOMS])
    report = prepare_structure(str(source), tmp_path, SETTINGS)
    assert changes_of(report, "residue replaced") == [("A 1", "MSE to MET")]
    assert (report.sequence, report.atoms) == (SEQUENCE, 168)
    assert report.mass_kda * 1000 == pytest.approx(MASS_DA, abs=0.05)
    assert atoms_of(report.output)[1, "SD"] == pytest.approx((23.930, 23.959, 5.904))


def test_modified_residue_loses_its_modification(tmp_path: Path) -> None:
    lines = [record(a, residue="TPO") if residue_number(a) == 7 else a for a in ATOMS]
    extra = record(lines[57], atom="P", shift_A=1.6, element="P")
    source = pdb_file(tmp_path / "tpo.pdb", [*lines[:59], extra, *lines[59:]])
    report = prepare_structure(str(source), tmp_path, SETTINGS)
    assert changes_of(report, "residue replaced") == [("A 7", "TPO to THR; left out P")]
    assert report.atoms == 168


def test_unknown_residue_follows_the_entry_or_becomes_alanine(tmp_path: Path) -> None:
    lines = [record(a, residue="ZZ9") if residue_number(a) == 7 else a for a in ATOMS]
    modres = "MODRES 9ZZZ ZZ9 A    7  SER  SOMETHING NEW"
    for head, sequence in (([modres], "MQIFVKSLTG"), ([], "MQIFVKALTG")):
        source = pdb_file(tmp_path / "new.pdb", [*head, *lines])
        assert read_sequence(str(source), SETTINGS) == sequence


def test_gaps_stay_open_and_get_no_ends(tmp_path: Path) -> None:
    lines = [line for line in ATOMS if residue_number(line) not in (4, 5)]
    report = prepare_structure(str(pdb_file(tmp_path / "gap.pdb", lines)), tmp_path, SETTINGS)
    assert report.sequence == "MQIKTLTG"
    assert changes_of(report, "gap not filled") == [("A 3 to 6", "2 residues by number")]
    assert changes_of(report, "terminal atoms added") == [("A 10", "OXT")]
    assert report.mass_kda * 1000 == pytest.approx(MASS_DA - 147.177 - 99.133, abs=0.05)


def test_input_hydrogens_are_rebuilt_and_preparation_repeats(
    plain: PreparationReport, tmp_path: Path
) -> None:
    again = prepare_structure(str(plain.output), tmp_path, SETTINGS)
    assert changes_of(again, "hydrogens rebuilt") == [("A", "89 in the input")]
    assert (again.atoms, again.mass_kda) == (plain.atoms, plain.mass_kda)
    before, after = atoms_of(plain.output), atoms_of(again.output)
    assert before.keys() == after.keys()
    assert all(before[k] == after[k] for k in before if not k[1].startswith("H"))


def test_ph_decides_protons(tmp_path: Path) -> None:
    source = str(pdb_file(tmp_path / "ten.pdb", ATOMS))
    # Lysine's pKa is 10.4: at pH 11 its proton is gone.
    basic = prepare_structure(source, tmp_path / "basic", PrepareSettings(ph=11))
    assert basic.hydrogens < 89


def test_unchanged_input_is_not_prepared_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pdb_file(tmp_path / "ten.pdb", ATOMS)
    first = prepare_structure(str(source), tmp_path / "out", SETTINGS)
    monkeypatch.setattr("diffragan.molecules.complete.complete_chain", None)
    second = prepare_structure(str(source), tmp_path / "out", SETTINGS)
    assert second.unchanged
    assert not first.unchanged
    assert report_json([first]) == report_json([second])
    monkeypatch.undo()
    # Another pH, other input, a damaged output: each is done anew.
    other = prepare_structure(str(source), tmp_path / "out", PrepareSettings(ph=6))
    assert not other.unchanged
    other.output.write_text("data_x\n", "utf-8")
    assert not prepare_structure(str(source), tmp_path / "out", SETTINGS).unchanged
    pdb_file(source, ATOMS[:-4])
    assert prepare_structure(str(source), tmp_path / "out", SETTINGS).residues == 9


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_failed_write_leaves_the_good_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    source = pdb_file(tmp_path / "ten.pdb", ATOMS)
    out = tmp_path / "out"
    good = prepare_structure(str(source), out, SETTINGS)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert set(before) == {"ten.cif", "ten.json"}

    def half(path: Path, text: str) -> None:
        path.write_text(text[: len(text) // 2], "utf-8")
        raise failure

    monkeypatch.setattr("diffragan.molecules.prepare._write", half)
    expected = DiffraganError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        prepare_structure(str(source), out, PrepareSettings(ph=6))
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert load_structure(good.output).sha256 == good.sha256_out


def test_output_folder_that_is_a_file(tmp_path: Path) -> None:
    source = pdb_file(tmp_path / "ten.pdb", ATOMS)
    blocked = tmp_path / "out"
    blocked.write_text("kept", "utf-8")
    with pytest.raises(DiffraganError, match="can't be written"):
        prepare_structure(str(source), blocked, SETTINGS)
    assert blocked.read_text("utf-8") == "kept"


def test_no_protein_and_no_backbone(tmp_path: Path) -> None:
    ions = pdb_file(tmp_path / "ions.pdb", [ion("ZN", 1), water(2)])
    for use in (
        lambda: prepare_structure(str(ions), tmp_path, SETTINGS),
        lambda: load_structure(ions),
    ):
        with pytest.raises(DiffraganError, match="There is no protein in"):
            use()
    trace = pdb_file(tmp_path / "trace.pdb", [a for a in ATOMS if atom_name(a) == "CA"])
    with pytest.raises(DiffraganError, match="all-atom model"):
        prepare_structure(str(trace), tmp_path, SETTINGS)


def test_unprepared_files_are_refused(plain: PreparationReport, tmp_path: Path) -> None:
    whole = gemmi.read_structure(str(plain.output)).make_pdb_string().splitlines()
    atoms = [line for line in whole if line.startswith("ATOM")]
    cases = {
        "no hydrogens": list(ATOMS),
        "waters": [*atoms, water(99)],
        "other residues": [*atoms, ion("ZN", 99)],
        "2 chains": [*atoms, *(record(line, chain="B", shift_A=30) for line in atoms)],
        "alternative locations": [record(atoms[0], altloc="A", occupancy=0.5), *atoms[1:]],
    }
    for problem, lines in cases.items():
        source = pdb_file(tmp_path / "raw.pdb", lines)
        with pytest.raises(DiffraganError, match=f"{problem}.*run `diffragan prepare"):
            load_structure(source)
    assert load_structure(pdb_file(tmp_path / "good.pdb", atoms)).sequence == SEQUENCE


def test_read_sequence_is_that_of_the_prepared_chain(
    plain: PreparationReport, tmp_path: Path
) -> None:
    source = pdb_file(tmp_path / "ten.pdb", [*ATOMS, water(99)])
    assert read_sequence(str(source), SETTINGS) == SEQUENCE
    assert read_sequence(str(plain.output), SETTINGS) == SEQUENCE


def test_tables_of_residues_agree_with_the_chemical_dictionary() -> None:
    # Heavy atoms and OXT against gemmi's count of hydrogens and weight of the free amino acid.
    for name, atoms in HEAVY_ATOMS.items():
        info = gemmi.find_tabulated_residue(name)
        heavy = sum(gemmi.Element(atom[0]).weight for atom in (*atoms, "OXT"))
        assert heavy + info.hydrogen_count * 1.008 == pytest.approx(info.weight, abs=0.1)


def test_cleaning_leaves_the_input_as_it_was(tmp_path: Path) -> None:
    structure = gemmi.read_structure(str(pdb_file(tmp_path / "ten.pdb", [*ATOMS, water(99)])))
    structure.setup_entities()
    before = structure.make_pdb_string()
    clean_chain(structure, None, "ten")
    assert structure.make_pdb_string() == before
