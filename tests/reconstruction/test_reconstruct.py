"""`diffragan reconstruct` from end to end on a small ball of atoms."""

from __future__ import annotations

import json
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile

from diffragan.files.store import open_results
from diffragan.rotations import rotations_from_relion
from quick_runs import SET, run


def test_views_alone_give_a_map_that_the_truth_confirms(ball_map: Path) -> None:
    """Pairs and a molecular weight are enough, and two half sets know how far the map is right."""
    metrics = json.loads((ball_map / "metrics.json").read_text())
    assert metrics["converged"]
    assert metrics["resolution_A"] < 1.4
    assert metrics["truth_fsc_0p5_A"] < 1.4
    assert metrics["views"]["frc_0p5_A"] < 1.6
    assert metrics["views"]["solved_fraction"] == 1
    assert metrics["rounds"] > 20
    assert metrics["n_views"] == 60
    assert metrics["device"] == "cpu"
    assert metrics["r_factor"] < 0.15


def test_what_it_leaves_opens_elsewhere(ball_map: Path) -> None:
    """Maps have a voxel size and an origin, stacks their angles, and nothing of the run stays."""
    with mrcfile.open(ball_map / "map.mrc") as file:
        n = file.data.shape[0]
        assert file.voxel_size.x == pytest.approx(30 / n, rel=0.3)
        assert float(file.data.max()) > 5 * float(file.data.std())
    for name in ("half1.mrc", "half2.mrc", "mask.mrc", "fsc.star", "history.csv", "report.html"):
        assert (ball_map / name).stat().st_size > 0
    tables = starfile.read(ball_map / "projections.star", always_dict=True)
    angles = tables["particles"][["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    results = open_results(ball_map / "phased.zarr")
    assert results.rotation is not None
    assert np.abs(rotations_from_relion(angles) - results.rotation).max() < 1e-5
    assert not (ball_map / ".run").exists()


def test_phase_is_the_same_run(ball_map: Path, ball_views: Path, tmp_path: Path) -> None:
    """`phase --method many-views` gives the waves that `reconstruct` gives, and `evaluate` judges
    them as it judges any method."""
    out = tmp_path / "phased.zarr"
    code, text = run("phase", ball_views, "--out", out, "--method", "many-views", *SET)
    assert code == 0, text
    first, second = open_results(ball_map / "phased.zarr"), open_results(out)
    np.testing.assert_array_equal(first.wave(slice(0, 8)), second.wave(slice(0, 8)))
    assert (tmp_path / "phased_map" / "map.mrc").exists()
    code, text = run("evaluate", out, "--out", tmp_path / "report")
    assert code == 0
    judged = json.loads((tmp_path / "report" / "metrics.json").read_text())
    kept = json.loads((ball_map / "metrics.json").read_text())["views"]
    assert judged["frc_0p5_A"] == pytest.approx(kept["frc_0p5_A"])
    code, text = run("evaluate", out, "--out", tmp_path / "again", "--stability", "2")
    assert code == 2
    assert "half sets" in text


def test_a_run_that_did_not_converge_says_so(ball_views: Path, tmp_path: Path) -> None:
    """Three iterations phase nothing: exit code 3, in words, with everything written to look at."""
    out = tmp_path / "out"
    short = ["--iterations", "3", "--set", "image.snr=0.02"]
    short += ["--set", "many_views.resolution_steps_A=[]"]
    code, text = run("reconstruct", ball_views, "--out", out, *SET, *short)
    assert code == 3
    assert "NOT CONVERGED" in text
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["converged"] is False
    assert metrics["views"]["judged_solved_fraction"] == 0
    assert "not converge" in (out / "report.html").read_text().lower()


def test_phased_waves_make_a_start(ball_views: Path, ball_map: Path, tmp_path: Path) -> None:
    """A run that starts from phases that are right has them from its first look on."""
    words = ["--start", str(ball_map / "phased.zarr"), "--iterations", "5"]
    out = tmp_path / "out"
    code, text = run("reconstruct", ball_views, "--out", out, *SET, *words)
    assert code in (0, 3), text
    rows = (out / "history.csv").read_text().splitlines()
    column = rows[0].split(",").index("agreement")
    assert float(rows[1].split(",")[column]) > 0.6
