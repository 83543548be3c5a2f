"""Evaluation of small result stores: known answers."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from diffragan.api import evaluate
from diffragan.evaluation.item_metrics import PER_ITEM, ItemMetric
from diffragan.evaluation.scores import score
from diffragan.files.store import ResultStore
from diffragan.fourier.correlation import frc
from diffragan.pairs.of_results import pairs_of_results
from phased_world import N, World

FRC_KEYS = {"frc", "frc_0p5_A", "band_mean_frc"}


def test_the_truth_scores_perfectly_whatever_its_overall_phase(world: World) -> None:
    """A wave's overall phase is not observable, so turning it costs nothing."""
    turn = torch.polar(torch.tensor(1.0), torch.tensor(0.7))
    metrics = evaluate(world.results("true", world.true_wave * turn), input=world.pairs)
    assert metrics["frc_of"] == "wave"
    np.testing.assert_allclose(metrics["frc"]["mean"], 1, atol=1e-4)
    assert metrics["solved_fraction"] == 1
    assert metrics["frc_0p5_A"] == pytest.approx(metrics["frc"]["resolution_A"][-1], rel=1e-5)
    assert metrics["measured_to_A"] == pytest.approx(1.254, abs=0.01)
    assert max(metrics["phase_error_deg"]["mean"]) < 0.1
    assert metrics["band_mean_frc"]["extrapolated"] is None
    assert metrics["projection_frc"]["band_mean_frc"]["extrapolated"] is not None
    assert metrics["energy_outside_mean"] == pytest.approx(
        metrics["energy_outside_target_mean"], abs=0.05
    )
    assert metrics["structures"]["1ABC"]["n"] == 3
    assert metrics["structures"]["1ABC"]["r_factor_median"] == pytest.approx(0.02)
    assert metrics["seconds_per_image"] == pytest.approx(0.25)


def test_wrong_phases_beyond_4_angstrom_show(noisy: ResultStore, world: World) -> None:
    """Random phases correlate with nothing, so the FRC falls where they begin."""
    metrics = evaluate(noisy, input=world.pairs)
    assert metrics["frc_0p5_A"] == pytest.approx(4.0, abs=0.3)
    assert metrics["solved_fraction"] == 0
    assert metrics["seen_in_training"] == ["1ABC"]
    assert metrics["phase_error_deg"]["mean"][-5] == pytest.approx(85, abs=12)


def test_batches_do_not_matter_and_curves_are_those_of_metrics(
    noisy: ResultStore, world: World
) -> None:
    """Items are compared one by one: how many at a time changes no number."""
    seen: list[tuple[int, int | None]] = []

    def progress(stage: str, done: int, total: int | None = None, word: str = "") -> None:
        seen.append((done, total))

    one = score(noisy, world.pairs, batch_size=2, progress=progress)
    other = score(noisy, world.pairs, batch_size=N)
    assert seen == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert one.wave is not None
    assert other.wave is not None
    torch.testing.assert_close(one.wave.values, other.wave.values)
    for name in ("wave", "projection", "image"):
        a, b = one.map_2d(name), other.map_2d(name)
        assert a is not None
        assert b is not None
        torch.testing.assert_close(a, b)
    mask = torch.as_tensor(world.pairs.pattern_mask)
    wave = torch.as_tensor(noisy.wave(slice(0, N)))
    direct = frc(wave, world.true_wave, mask)
    rings = one.measured_rings
    assert rings is not None
    torch.testing.assert_close(one.wave.values, direct[:, rings], atol=1e-4, rtol=0)


def test_projection_only_results_fill_the_top_level_from_the_projection(world: World) -> None:
    """A method without a wave is judged by what it gives, and says so."""
    metrics = evaluate(world.results("projections", None), input=world.pairs)
    assert metrics["frc_of"] == "projection"
    assert {key: metrics[key] for key in FRC_KEYS} == metrics["projection_frc"]
    assert metrics["phase_error_deg"] is None
    assert metrics["r_factor_median"] is None
    assert metrics["frc"]["resolution_A"][-1] == pytest.approx(0.8)


def test_a_simulation_store_is_a_truth_too(noisy: ResultStore, world: World) -> None:
    """It is imaged on the way, and its waves are those beside the pairs."""
    pairs = pairs_of_results(noisy, [world.root / "sim.zarr"])
    direct, imaged = evaluate(noisy, input=world.pairs), evaluate(noisy, input=pairs)
    np.testing.assert_allclose(direct["frc"]["mean"], imaged["frc"]["mean"], atol=1e-5)
    np.testing.assert_allclose(
        direct["image_frc"]["frc"]["mean"], imaged["image_frc"]["frc"]["mean"], atol=1e-5
    )


def test_a_new_metric_is_one_line(
    noisy: ResultStore, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry of the registry reaches metrics.json, items.csv and the page by itself."""
    largest = ItemMetric(lambda pair: pair.projection.amax((-2, -1)), "brightest <pixel>", ".3f")
    monkeypatch.setitem(PER_ITEM, "brightest", largest)
    monkeypatch.setattr("diffragan.report.pair_page.FIGURES", ())
    metrics = evaluate(noisy, tmp_path, input=world.pairs)
    values = noisy.projection(slice(0, N)).max((1, 2))
    assert metrics["brightest_mean"] == pytest.approx(float(values.mean()), rel=1e-5)
    assert metrics["structures"]["1ABC"]["brightest_mean"] == pytest.approx(
        float(values[:3].mean()), rel=1e-5
    )
    rows = list(csv.DictReader((tmp_path / "items.csv").read_text().splitlines()))
    np.testing.assert_allclose([float(row["brightest"]) for row in rows], values, rtol=1e-4)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "brightest &lt;pixel&gt;" in page
    assert f"<td>{metrics['brightest_mean']:.3f}</td>" in page
