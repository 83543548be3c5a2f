"""`diffragan reconstruct` from end to end on a small ball of atoms."""

from __future__ import annotations

import json
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile

from diffragan.files.store import open_results
from diffragan.pairs.open import open_pairs
from diffragan.rotations import rotations_from_relion
from diffragan.settings import load_settings
from quick_runs import QUICK, SET, run


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


def test_the_stack_is_protein_bright_at_the_sampling_of_the_band(
    ball_map: Path, ball_views: Path
) -> None:
    """RELION sees the imaginary part of the wave: potential, with a plus sign and no contrast
    transfer, on as many pixels as the pattern needs, on an empty background."""
    pairs = open_pairs(ball_views, settings=load_settings(overrides=QUICK))
    true = pairs.truth_wave(slice(0, pairs.n))
    assert true is not None
    with mrcfile.open(ball_map / "projections.mrcs") as file:
        images = file.data.copy()
        assert images.shape == (60, pairs.m, pairs.m)
        assert float(file.voxel_size.x) == pytest.approx(30 / pairs.m)
    for image, wave in zip(images, true, strict=True):
        assert np.corrcoef(image.ravel(), (wave - 1).imag.ravel())[0, 1] > 0.9
    axis = np.arange(pairs.m) - pairs.m // 2
    outside = np.hypot(axis[:, None], axis[None, :]) > pairs.m / 2
    np.testing.assert_allclose(images[:, outside].mean(-1), 0, atol=1e-4)
    np.testing.assert_allclose(images[:, outside].std(-1), 1, atol=1e-4)
    tables = starfile.read(ball_map / "projections.star", always_dict=True)
    optics, particles = tables["optics"].iloc[0], tables["particles"]
    assert (optics["rlnImageSize"], optics["rlnVoltage"]) == (pairs.m, 200)
    assert optics["rlnImagePixelSize"] == pytest.approx(30 / pairs.m)
    assert particles["rlnImageName"].iloc[0] == "000001@projections.mrcs"
    assert particles["rlnRandomSubset"].tolist() == [1, 2] * 30
    assert particles["rlnParticleFigureOfMerit"].between(0.5, 1).all()
    assert not any("Defocus" in name for name in particles)


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
