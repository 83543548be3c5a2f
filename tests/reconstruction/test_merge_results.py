"""Phased waves of a result store in one map."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gemmi
import mrcfile
import numpy as np
import pytest
import zarr

from conftest import cluster
from diffragan.files.store import open_results
from diffragan.pairs.open import open_pairs
from diffragan.settings import load_settings
from quick_runs import PAIR_SET, QUICK, run


def merged(store: Path, out: Path, *words: str) -> dict[str, Any]:
    """The numbers of a merge."""
    code, text = run("reconstruct", store, "--method", "merge", "--out", out, *words)
    assert code == 0, text
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


def old_store(store: Path, out: Path) -> Path:
    """The same store as an earlier version wrote it: it does not say where patterns were
    measured."""
    shutil.copytree(store, out)
    group = zarr.open_group(out, mode="r+")
    del group["pattern_mask"]
    group.attrs["arrays"] = {}
    return out


def write_model(path: Path, numbers: Any, positions_A: Any) -> None:
    """Atoms as a PDB file, ten a residue."""
    structure, chain = gemmi.Structure(), gemmi.Chain("A")
    for k, (number, place) in enumerate(zip(numbers, positions_A, strict=True)):
        if k % 10 == 0:
            residue = gemmi.Residue()
            residue.name, residue.seqid = "UNK", gemmi.SeqId(k // 10 + 1, " ")
            chain.add_residue(residue)
        atom = gemmi.Atom()
        atom.element, atom.pos = gemmi.Element(int(number)), gemmi.Position(*place)
        atom.name = f"X{k % 10}"
        chain[-1].add_atom(atom)
    model = gemmi.Model(1)
    model.add_chain(chain)
    structure.add_model(model)
    path.write_text(structure.make_pdb_string())


def test_merge_puts_phased_waves_into_a_map(ball_map: Path, tmp_path: Path) -> None:
    """Waves that are right make a map that correlates with the one they came from, and with the
    molecule, wherever its file has it."""
    model, out = tmp_path / "ball.pdb", tmp_path / "merged"
    ball = cluster("ball", 5, atoms=70, radius_A=7.0)
    write_model(model, ball.numbers, ball.positions_A[:, [1, 2, 0]] + [30.0, -5.0, 2.0])
    words = ("--method", "merge", "--model", model, "--out", out)
    code, text = run("reconstruct", ball_map / "phased.zarr", *words)
    assert code == 0, text
    assert "residues outside the density: none" in text
    laid = gemmi.read_structure(str(out / "fitted_model.cif"))[0]
    places = np.array([a.atom.pos.tolist() for a in laid.all()])
    assert np.sqrt(((places - ball.positions_A) ** 2).sum(1).mean()) < 0.4
    assert "correlation" in (out / "model.csv").read_text()
    with mrcfile.open(tmp_path / "merged" / "map.mrc") as file:
        merged = file.data.copy()
    assert np.isfinite(merged).all()
    metrics = json.loads((tmp_path / "merged" / "metrics.json").read_text())
    assert metrics["fsc_0p143_A"] < 1.6
    assert metrics["n_views"] == 60


def test_a_merge_ends_where_the_patterns_do(ball_map: Path, tmp_path: Path) -> None:
    """What a method gives outside the measured band is rounding, and two halves that round alike
    agree on nothing: neither FSC nor resolution goes on there, whatever the store records."""
    edge_A = json.loads((ball_map / "metrics.json").read_text())["measured_to_A"]
    store = open_results(ball_map / "phased.zarr")
    corner = np.abs(np.fft.fft2(store.wave([0])[0]))[store.read("pattern_mask").shape[0] // 2]  # type: ignore[index]
    assert corner.max() > 0
    recorded = merged(ball_map / "phased.zarr", tmp_path / "new")
    old = merged(old_store(ball_map / "phased.zarr", tmp_path / "old.zarr"), tmp_path / "old")
    for found in (recorded, old):
        assert found["measured_to_A"] == pytest.approx(edge_A)
        assert found["fsc_0p143_A"] >= 0.999 * edge_A


def test_a_merge_of_images_phases_ends_where_the_patterns_do(
    ball_views: Path, tmp_path: Path
) -> None:
    """And the half maps are compared where there are phases: beyond, a mask alone correlates."""
    code, text = run(
        "phase",
        ball_views,
        "--out",
        tmp_path / "i.zarr",
        "--method",
        "image",
        "--limit",
        "40",
        *PAIR_SET,
    )
    assert code == 0, text
    results = open_results(tmp_path / "i.zarr")
    pairs = open_pairs(ball_views, settings=load_settings(overrides=QUICK))
    np.testing.assert_array_equal(results.read("pattern_mask"), pairs.pattern_mask)
    radius = np.argwhere(pairs.pattern_mask) - pairs.m // 2
    edge_A = pairs.box_A / np.floor(np.hypot(*radius.T) + 0.5).max()
    recorded = merged(tmp_path / "i.zarr", tmp_path / "new")
    old = merged(old_store(tmp_path / "i.zarr", tmp_path / "old.zarr"), tmp_path / "old")
    assert recorded["measured_to_A"] == old["measured_to_A"] == pytest.approx(edge_A)
    # The images say nothing finer than their aperture passes, 6.5 mrad: 3.86 Å.
    for found in (recorded, old):
        assert found["fsc_0p143_A"] > 3.7
