"""The page of a reconstruction holds what it was given, says when it failed, and loads nothing."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from diffragan.report.map_figures import fsc, orientations
from diffragan.report.map_page import draw, write_map_report
from diffragan.report.map_report import MapReport, describe_map, numbers
from diffragan.report.surfaces import fourier_cropped, surfaces
from diffragan.rotations import quasi_uniform
from page import Page

N, VOXEL_A = 32, 0.9
MASS_DA = 2500.0


def ball(
    n: int, radius_A: float, voxel_A: float, at_A: tuple[float, float, float]
) -> NDArray[np.float64]:
    """A soft-edged ball, [z, y, x], at x, y, z in Å from the centre."""
    axis = (np.arange(n) - n // 2) * voxel_A
    x, y, z = at_A
    squares = (axis[:, None, None] - z) ** 2 + (axis[None, :, None] - y) ** 2 + (axis - x) ** 2
    found: NDArray[np.float64] = 1 / (1 + np.exp((np.sqrt(squares) - radius_A) / 0.8))
    return found


@pytest.fixture(scope="module")
def report() -> MapReport:
    """Two balls of different sizes, with numbers that can be recognised in the page."""
    volume = ball(N, 6, VOXEL_A, (3, 0, 0)) + ball(N, 3, VOXEL_A, (-6, 2, 0))
    q = torch.arange(24) / 28.8
    history = [
        {"iteration": k, "half": half, "r_factor": 0.4 / k, "resolution_A": None if k < 3 else 2.0}
        for k in range(1, 6)
        for half in (1, 2)
    ]
    metrics = {
        "fsc_0p143_A": 1.437, "truth_fsc_0p5_A": 1.562, "converged": True, "rounds": 73,
        "n_views": 456, "seconds": 91.25, "voxel_A": VOXEL_A, "molecule": "1ABC <b>",
        "hand": "as in the orientations", "warnings": ["R rose in half 2."], "mass_da": MASS_DA,
    }  # fmt: skip
    return MapReport(
        torch.from_numpy(volume), VOXEL_A, torch.from_numpy(volume > 0.1), q, torch.exp(-2 * q),
        torch.exp(-3 * q), history, quasi_uniform(456), np.linspace(0.2, 1, 456), metrics,
        "[reconstruct]\nbeta = 0.8\n",
    )  # fmt: skip


def test_the_page_holds_its_numbers_and_loads_nothing(report: MapReport, tmp_path: Path) -> None:
    """What the run said stands in the page, escaped, and the surfaces can be read back."""
    command = "diffragan reconstruct pairs.zarr --out map"
    page = write_map_report(tmp_path, report, command)
    text = page.read_text("utf-8")
    for said in (
        "agree to 1.44 Å (FSC 0.143)", "1.56 Å", "73", "456", "91.2 s", "1ABC &lt;b&gt;", "2.5 kDa",
        "as in the orientations", "R rose in half 2.", "beta = 0.8", command, "32 x 32 x 32 voxels",
    ):  # fmt: skip
        assert said in text, said
    assert page == tmp_path / "report.html"
    assert page.stat().st_size < 4e6

    parsed = Page()
    parsed.feed(text)
    assert len(parsed.loaded) == 6
    assert all(source.startswith("data:image/png;base64,") for source in parsed.loaded)
    assert all(parsed.alts)
    assert not re.search(r"https?://", text)
    assert "url(" not in text
    assert "@import" not in text
    plain = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    plain = plain.partition('<script type="application/json"')[0]
    assert not re.search(r"\b(nan|inf|None)\b", plain)

    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names == {"fsc", "sections", "projections", "history", "orientations", "weights"}
    assert [path for path in tmp_path.rglob("*") if path.name.startswith(".")] == []

    packed = json.loads(parsed.data)
    assert [one["default"] for one in packed] == [False, True, False]
    for one in packed:
        places = np.frombuffer(base64.b64decode(one["vertex"]), "<i2").reshape(-1, 3)
        normals = np.frombuffer(base64.b64decode(one["normal"]), "i1").reshape(-1, 3)
        corners = np.frombuffer(base64.b64decode(one["index"]), "<u2").reshape(-1, 3)
        assert len(corners) == one["triangles"]
        assert corners.max() == len(places) - 1
        np.testing.assert_allclose(np.linalg.norm(normals / 127.0, axis=1), 1, atol=0.02)


def test_failure_is_said_first(report: MapReport) -> None:
    """A reader who stops at the first line is not misled."""
    said = describe_map(replace(report, metrics={**report.metrics, "converged": np.False_}))
    assert "did not converge after 73 rounds" in said[0]
    assert "not make it right" in said[1]
    assert "converge" not in " ".join(describe_map(report))
    apart = describe_map(replace(report, metrics={**report.metrics, "fsc_0p143_A": 10.0}))
    assert "do not agree even at 10 Å" in apart[0]
    shared = describe_map(replace(report, metrics={**report.metrics, "truth_fsc_0p5_A": 4.0}))
    assert "share an error" in shared[-1]


def test_missing_numbers_are_left_out_or_computed(report: MapReport, tmp_path: Path) -> None:
    """Without metrics the resolution comes from the curve, and no row is empty or NaN."""
    bare = replace(
        report, metrics={"seconds": float("nan")}, mask=None, fsc_truth=None, history=[],
        weights=np.ones(456),
    )  # fmt: skip
    # exp(-2 q) reaches 0.143 only beyond the last shell.
    assert "to the end of the data at 1.25 Å" in describe_map(bare)[0]
    assert "can't tell" in describe_map(bare)[0]
    rows = numbers(bare)
    assert rows["converged"] == "not said"
    assert rows["views"] == "456"
    assert "time" not in rows
    assert all(rows.values())
    faster = replace(bare, fsc_half=torch.exp(-4 * report.q))
    assert faster.half_A == pytest.approx(4 / -np.log(0.143), rel=0.02)

    flat = replace(bare, map=np.zeros((N, N, N)), rotations=np.zeros((0, 3, 3)), weights=np.ones(0))
    text = write_map_report(tmp_path, flat, "").read_text("utf-8")
    assert "no surface to show" in text
    assert "<canvas" not in text


@pytest.mark.parametrize("n", [48, 49])
def test_a_surface_lies_where_the_density_is(n: int) -> None:
    """A ball off the centre gives its centre, radius and outward normals; also when coarsened."""
    at, radius = (5.0, -3.0, 8.0), 9.0
    volume = ball(n, radius, 1.0, at)
    mass = 4 / 3 * np.pi * radius**3 / 1.21 / 0.35  # "densest 35 %" encloses the ball
    for most in (60_000, 700):
        drawn = surfaces(volume, 1.0, mass, most)
        surface = next(one for one in drawn if one.default)
        assert surface.label == "densest 35 %"
        assert len(surface.triangles) <= most
        assert (surface.grid_A == 1.0) == (most == 60_000)
        arms = surface.vertices - at
        lengths = np.linalg.norm(arms, axis=1)
        np.testing.assert_allclose(surface.vertices.mean(0), at, atol=0.3)
        np.testing.assert_allclose(lengths, radius, atol=0.12 if most > 700 else 0.6)
        # Outward or inward, but all alike and along the radius.
        along = (surface.normals * arms).sum(1) / lengths
        assert np.abs(along.mean()) > 0.98
        # Closed: every edge belongs to two triangles.
        edges = np.sort(surface.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


def test_levels_without_a_mass_are_sigmas() -> None:
    """Without a mass no volume is known to enclose."""
    volume = ball(24, 4, 1.0, (0, 0, 0))
    drawn = surfaces(volume, 1.0)
    assert drawn[0].label == "2 sigma"
    assert sum(one.default for one in drawn) == 1
    for one in drawn:
        assert one.level_sigma == pytest.approx(float(one.label[0]), abs=0.3)
    assert surfaces(np.zeros((8, 8, 8)), 1.0) == []


@pytest.mark.parametrize(("n", "side"), [(32, 20), (33, 20), (32, 21)])
def test_a_coarser_grid_keeps_density_and_centre(n: int, side: int) -> None:
    """Fourier cropping keeps the mean and moves nothing."""
    volume = ball(n, 7, 1.0, (2, -1, 0))
    coarse = fourier_cropped(volume, side)
    assert coarse.mean() == pytest.approx(volume.mean(), rel=1e-5)
    axis = (np.arange(side) - side // 2) * n / side
    weight = np.clip(coarse, 0.2, None) - 0.2
    assert (weight.sum((0, 1)) * axis).sum() / weight.sum() == pytest.approx(2, abs=0.1)
    assert (weight.sum((0, 2)) * axis).sum() / weight.sum() == pytest.approx(-1, abs=0.1)


def test_figures_mark_thresholds_edges_and_directions(report: MapReport) -> None:
    """What the curves are read against is on the figure, and directions lie where views look."""
    given = {**report.metrics, "fsc_0p143_A": 1.44, "measured_to_A": 1.3}
    figure = fsc(replace(report, metrics=given)).figure
    said = {text.get_text() for text in figure.axes[0].texts}
    assert {"0.143", "0.5", "image ends, 5.02 Å", "pattern ends, 1.30 Å"} <= said
    assert "free correlation" not in _labels(figure)
    # Every view along +x: all in one place of the sphere.
    turn = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=float)
    sphere = orientations(replace(report, rotations=np.repeat(turn[None], 500, 0)))
    assert sphere is not None
    drawn: Any = sphere.figure.axes[0].collections[0]
    relative = np.asarray(drawn.get_array())
    filled = relative > 0
    assert filled.any(0).sum() == 1
    assert 0 < filled.any(1).mean() < 0.5


def test_the_expected_correlation_is_drawn_from_the_first_ring(report: MapReport) -> None:
    """A run's curves begin with ring 1, which belongs to the figure; shell 0 of others does not."""
    q, half = report.q[1:], report.fsc_half[1:]
    truth = None if report.fsc_truth is None else report.fsc_truth[1:]
    run = replace(report, q=q, fsc_half=half, fsc_truth=truth, others={"expected": half.sqrt()})
    figure = {one.name: one for one in draw(run)}["fsc"].figure
    line = _labels(figure)["expected with the truth"]
    np.testing.assert_allclose(np.asarray(line.get_xdata()), q.numpy())
    np.testing.assert_allclose(np.asarray(line.get_ydata()), half.sqrt().numpy())


def test_the_free_correlation_is_drawn_with_its_gaps(report: MapReport) -> None:
    """What was left out of the phasing has a line of its own, and none where it says nothing."""
    free = report.fsc_half.clone()
    free[5:9] = torch.nan
    drawn = {one.name: one for one in draw(replace(report, others={"free": free}))}["fsc"]
    line = _labels(drawn.figure)["free correlation"]
    shown = np.asarray(line.get_ydata())
    np.testing.assert_array_equal(shown, free[1:])
    others = {one.get_color() for one in drawn.figure.axes[0].lines if one is not line}
    assert line.get_color() not in others
    assert "left out" in drawn.caption
    nothing = replace(report, others={"free": torch.full_like(free, torch.nan)})
    drawn = {one.name: one for one in draw(nothing)}["fsc"]
    assert "free correlation" not in _labels(drawn.figure)
    assert "left out" not in drawn.caption


def _labels(figure: Any) -> dict[str, Any]:
    """The lines of the first axes by their names in the legend."""
    return {line.get_label(): line for line in figure.axes[0].lines}
