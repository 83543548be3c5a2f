"""The page of an evaluation is complete, opens offline and says how far results are right."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from diffragan.api import evaluate
from diffragan.evaluation.evaluation import Evaluation
from diffragan.evaluation.metrics import metrics_of
from diffragan.evaluation.scores import score
from diffragan.files.store import ResultStore
from diffragan.report.html import ReportFigure
from diffragan.report.pair_page import write_report
from diffragan.report.pair_words import describe_evaluation
from page import Page
from phased_world import N, World

FRC_KEYS = {"frc", "frc_0p5_A", "band_mean_frc"}
BLOCK_KEYS = FRC_KEYS | {
    "n", "method", "frc_of", "band_edges_A", "solved_fraction", "r_factor_median", "ssim_mean",
    "phase_error_deg", "seconds_per_image", "projection_frc",
}  # fmt: skip


@pytest.mark.parametrize("truth", ["with", "without"])
def test_report_is_complete_valid_and_opens_offline(
    noisy: ResultStore, world: World, truth: str, tmp_path: Path
) -> None:
    """With and without a truth: every key and figure, no NaN, nothing loaded from elsewhere."""
    pairs = world.pairs if truth == "with" else world.blind
    scores = score(noisy, pairs)
    metrics = metrics_of(noisy, scores)
    bands = {"image": 0.99, "diffraction": 0.8, "extrapolated": None}
    metrics["stability"] = {"shift by 1 pixel": {"band_mean_frc": bands, "ssim": 0.9}}
    page = write_report(
        tmp_path, Evaluation(noisy, pairs, scores, metrics), command="diffragan evaluate x"
    )

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} in metrics.json")

    stored = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    for block in (stored, *stored["structures"].values()):
        assert block.keys() >= BLOCK_KEYS
        assert block["projection_frc"].keys() >= FRC_KEYS
        assert block["band_mean_frc"].keys() == {"image", "diffraction", "extrapolated"}
    assert list(stored["structures"]) == ["1ABC", "2xyz <b>"]
    assert stored["truth"] is (truth == "with")
    assert stored["settings"]["image"]["snr"] == 0.8
    assert stored["provenance"]["input_sha256"] == world.pairs.sha256
    if truth == "without":
        assert stored["frc"] is None
        assert stored["frc_0p5_A"] is None
        assert stored["ssim_mean"] is None
        assert stored["r_factor_median"] == pytest.approx(0.03)
    else:
        assert {"resolution_A", "mean", "p10", "p90"} <= stored["frc"].keys()

    found = Page()
    text = page.read_text("utf-8")
    found.feed(text)
    assert found.loaded
    assert all(source.startswith("data:image/png;base64,") for source in found.loaded)
    assert all(found.alts)
    assert not found.scripts
    assert "url(" not in text
    assert "@import" not in text
    assert "2xyz &lt;b&gt;" in text
    assert "shift by 1 pixel" in text
    assert len(found.loaded) == (7 if truth == "with" else 3)
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    expected = {"frc", "gallery", "frc_2d", "ssim", "difference", "structures", "r_factor"}
    assert names == (expected if truth == "with" else {"trust", "gallery", "r_factor"})

    rows = list(csv.DictReader((tmp_path / "items.csv").read_text().splitlines()))
    assert [int(row["item"]) for row in rows] == list(range(N))
    assert rows[4]["stem"] == "2xyz <b>"
    curves = list(csv.DictReader((tmp_path / "frc.csv").read_text().splitlines()))
    if truth == "with":
        assert {row["frc_of"] for row in curves} == {"wave", "projection", "image"}
        whole = [
            float(r["mean"]) for r in curves if (r["frc_of"], r["structure"]) == ("wave", "all")
        ]
        np.testing.assert_allclose(whole, stored["frc"]["mean"], atol=1e-5)
        assert float(rows[0]["frc_image"]) > 0.9
        assert rows[0]["solved"] == "0"
    else:
        assert curves == []


def test_opening_sentences_say_how_far_and_no_further(noisy: ResultStore, world: World) -> None:
    """The first lines tell where phases end, what nobody measured, and what weights had seen."""
    said = " ".join(describe_evaluation(evaluate(noisy, input=world.pairs)))
    assert "falls below 0.5 at 4." in said or "falls below 0.5 at 3." in said
    assert "The pattern ends at 1.2" in said
    assert "trained on 1ABC" in said
    blind = " ".join(describe_evaluation(evaluate(noisy, input=world.blind)))
    assert "no truth" in blind
    assert "R-factor" in blind
    network = evaluate(world.results("net", world.true_wave, method="published"), input=world.pairs)
    assert "the network invents" in " ".join(describe_evaluation(network))


def test_a_new_figure_is_one_line(
    noisy: ResultStore, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A figure brings its name, caption and text; one with nothing to draw is left out."""

    def blank(evaluation: Evaluation) -> ReportFigure:
        return ReportFigure("blank", Figure(), f"Nothing of {evaluation['n']}", "An empty sheet")

    def absent(evaluation: Evaluation) -> None:
        return None

    monkeypatch.setattr("diffragan.report.pair_page.FIGURES", (blank, absent))
    evaluate(noisy, tmp_path, input=world.blind)
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["blank.png"]
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Nothing of 5" in page
    assert 'alt="An empty sheet"' in page
