"""The command `prepare`: files, reports, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from diffragan.commands.pairs.prepare import prepare
from diffragan.errors import DiffraganError
from diffragan.molecules.structure import load_structure
from peptide import ATOMS, pdb_file, water

app = typer.Typer()
app.command()(prepare)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_writes_structures_and_reports(tmp_path: Path) -> None:
    one = pdb_file(tmp_path / "one.pdb", ATOMS)
    two = pdb_file(tmp_path / "two.pdb", [*ATOMS[:-4], water(99)])
    out = tmp_path / "out"
    result = run(one, two, "--out", out)
    assert result.exit_code == 0, result.output
    names = {"one.cif", "one.json", "two.cif", "two.json", "prepare.json"}
    assert {file.name for file in out.iterdir()} == names
    reports = json.loads((out / "prepare.json").read_text("utf-8"))["structures"]
    for stem, residues in (("one", 10), ("two", 9)):
        structure = load_structure(out / f"{stem}.cif")
        report = reports[stem]
        assert report == json.loads((out / f"{stem}.json").read_text("utf-8"))
        assert report["residues"] == structure.n_residues == residues
        assert report["mass_kda"] == structure.mass_kda
        assert report["radius_A"] == structure.radius_A
        assert report["sha256_out"] == structure.sha256
        assert report["settings"]["ph"] == 7
    assert {"kind": "waters removed", "where": "A", "detail": "1 water"} in reports["two"][
        "changes"
    ]
    assert "waters removed" in result.output
    assert "unchanged" in run(one, "--out", out).output


def test_one_bad_source_stops_and_keeps_the_finished(tmp_path: Path) -> None:
    good = pdb_file(tmp_path / "good.pdb", ATOMS)
    bad = pdb_file(tmp_path / "bad.pdb", [water(1)])
    result = run(good, bad, "--out", tmp_path / "out")
    assert isinstance(result.exception, DiffraganError)
    assert "no protein" in str(result.exception)
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"good.cif", "good.json", "prepare.json"}


def test_names_that_clash(tmp_path: Path) -> None:
    first = pdb_file(tmp_path / "one.pdb", ATOMS)
    (tmp_path / "other").mkdir()
    second = pdb_file(tmp_path / "other" / "ONE.ent", ATOMS)
    report = pdb_file(tmp_path / "prepare.pdb", ATOMS)
    for sources, message in (((first, second), "would both be written"), ((report,), "rename")):
        result = run(*sources, "--out", tmp_path / "out")
        assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_relatives_of_test_structures_are_refused_before_any_work(tmp_path: Path) -> None:
    source = pdb_file(tmp_path / "train.pdb", ATOMS)
    folder = tmp_path / "test"
    folder.mkdir()
    with_chain = ("--chain", "A", "--out", tmp_path / "out")
    assert "holds no PDB" in str(run(source, "--test", folder, *with_chain).exception)
    pdb_file(folder / "held_out.pdb", [*ATOMS, water(5)])
    result = run(source, "--test", folder, *with_chain)
    assert isinstance(result.exception, DiffraganError)
    assert "train and held_out (100 %)" in str(result.exception)
    assert not (tmp_path / "out").exists()
    allowed = run(source, "--test", folder, "--max-identity", "1", *with_chain)
    assert allowed.exit_code == 0


@pytest.mark.parametrize("arguments", [("--ph", "15"), ("--ph", "-1")])
def test_impossible_settings(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    source = pdb_file(tmp_path / "one.pdb", ATOMS)
    result = run(source, "--out", tmp_path / "out", *arguments)
    assert isinstance(result.exception, DiffraganError)
    assert "prepare.ph" in str(result.exception)
