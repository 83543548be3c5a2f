"""The page of a reconstruction holds what it was given, says when it failed, and loads nothing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from browser import opened
from diffragan.report.map_figures import fsc_figure, orientations_figure
from diffragan.report.map_page import draw, map_scene, write_map_report
from diffragan.report.map_report import MapReport, describe_map, numbers
from diffragan.rotations import quasi_uniform
from page import Page, ball, own_text

N, VOXEL_A = 32, 0.9
MASS_DA = 2500.0


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
    # Nothing may be loaded, whatever is in the library's code.
    assert "default-src 'none'; img-src data:" in text
    plain = re.sub(r"base64,[A-Za-z0-9+/=]+", "", own_text(text))
    assert not re.search(r"https?://|url\(|@import", plain)
    assert not re.search(r"\b(nan|inf|None)\b", plain)

    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names == {"fsc", "sections", "projections", "history", "orientations", "weights"}
    assert [path for path in tmp_path.rglob("*") if path.name.startswith(".")] == []

    given = json.loads(parsed.data)
    assert [one["label"] for one in given["surfaces"]] == [
        "map, measured",
        "outline at 4 Å",
        "mask",
    ]
    assert given["fallback"] in names


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
    assert 'class="stage"' not in text
    assert "3Dmol" not in text


def test_contours_enclose_parts_of_the_mass_or_are_sigmas(report: MapReport) -> None:
    """With a mass a level is known by what it encloses; without one no volume is known."""
    measured, outline, mask = map_scene(report).surfaces
    volume = report.volume
    level = volume.mean() + measured.start * volume.std()
    enclosed_A3 = (volume > level).sum() * VOXEL_A**3
    assert enclosed_A3 == pytest.approx(0.35 * 1.21 * MASS_DA, rel=0.02)
    assert list(measured.presets) == ["densest 35 %", "densest 15 %"]
    assert [one.shown for one in (measured, outline, mask)] == [True, False, False]
    bare = map_scene(replace(report, metrics={}, mask=None))
    assert [(one.start, list(one.presets)) for one in bare.surfaces] == [
        (3.0, ["2 σ", "3 σ", "5 σ"])
    ]


def test_the_map_turns_in_a_browser(report: MapReport, tmp_path: Path) -> None:
    """The page stands by itself: its surface is drawn, buttons and slider move it, and nothing is
    said on the console."""
    page = write_map_report(tmp_path / "page", report, "")
    steps = """
      state.at_first = viewer.dataset.surfaces;
      state.level = viewer.dataset.levels.split(" ")[0];
      state.triangles = viewer.dataset.triangles;
      for (const number of [1, 2]) part(`[data-surface="${number}"] [data-shown]`).click();
      const slider = part('[data-surface="0"] [data-slider]');
      slider.value = 900;
      slider.dispatchEvent(new Event("input"));
      await settled();
      state.all = viewer.dataset.surfaces;
      state.moved = viewer.dataset.levels.split(" ")[0];
      state.number = part('[data-surface="0"] [data-level]').value;
      part("[data-reset]").click();
    """
    seen = opened(page, tmp_path, steps)
    assert seen.console == []
    state, scene = seen.state, map_scene(report)
    assert (state["state"], state["seen-at_first"], state["seen-all"]) == ("ready", "1", "3")
    first = scene.surfaces[0]
    assert float(state["seen-level"]) == pytest.approx(first.start, abs=0.006)
    assert float(state["seen-moved"]) == pytest.approx(first.density.top * 0.81, abs=0.006)
    assert state["seen-number"] == state["seen-moved"]
    assert state["surfaces"] == "1"
    assert state["triangles"] == state["seen-triangles"]
    assert 0.1 < seen.drawn < 0.9


def test_without_webgl_a_figure_stands_in(report: MapReport, tmp_path: Path) -> None:
    """Nobody is left with an empty box and dead buttons."""
    page = write_map_report(tmp_path / "page", report, "")
    steps = """
      const instead = part(".fallback");
      state.words = instead.textContent.trim();
      state.picture = instead.querySelector("img").naturalWidth;
      state.controls = part(".controls").hidden;
    """
    seen = opened(page, tmp_path, steps, "--disable-3d-apis")
    assert seen.state["state"] == "failed"
    assert "no WebGL" in seen.state["seen-words"]
    assert int(seen.state["seen-picture"]) > 500
    assert seen.state["seen-controls"] == "true"


def test_figures_mark_thresholds_edges_and_directions(report: MapReport) -> None:
    """What the curves are read against is on the figure, and directions lie where views look."""
    given = {**report.metrics, "fsc_0p143_A": 1.44, "measured_to_A": 1.3}
    figure = fsc_figure(replace(report, metrics=given)).figure
    said = {text.get_text() for text in figure.axes[0].texts}
    assert {"0.143", "0.5", "image ends, 5.02 Å", "pattern ends, 1.30 Å"} <= said
    assert "free correlation" not in _labels(figure)
    # Every view along +x: all in one place of the sphere.
    turn = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=float)
    sphere = orientations_figure(replace(report, rotations=np.repeat(turn[None], 500, 0)))
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
