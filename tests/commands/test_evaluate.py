"""Evaluation by path: the call, the command and its words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table

from diffragan.api import evaluate
from diffragan.commands.results.evaluate import metrics_table
from diffragan.files.store import ResultStore
from phased_world import N, World
from quick_runs import run


def test_one_call_opens_the_recorded_input_and_says_what_it_found(
    noisy: ResultStore, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path is enough: the store knows its pairs, and what is returned reads like metrics.json."""
    monkeypatch.setattr("diffragan.report.pair_page.FIGURES", ())
    evaluation = evaluate(noisy.path, tmp_path / "out")
    assert dict(evaluation) == evaluation.metrics
    assert evaluation["truth"] is True
    assert evaluation.page == tmp_path / "out" / "report.html"
    stored = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert stored == json.loads(json.dumps(dict(evaluation)))
    assert repr(evaluation).startswith("<Evaluation: 5 results of 'image', FRC of the wave 0.5 at")
    assert "0% solved, R 0.030" in repr(evaluation)
    assert "5 results of 'image', no truth, R" in repr(evaluate(noisy, input=world.blind))
    command = f"diffragan evaluate {noisy.path} --out {tmp_path / 'out'}"
    assert command in evaluation.page.read_text("utf-8")
    assert metrics_table(evaluation).row_count == 3
    left = [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".")]
    assert left == []


def test_a_verdict_is_printed_where_no_truth_tells(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the method itself judges is the only answer then, and is marked as a judgement."""
    monkeypatch.setattr("diffragan.report.pair_page.FIGURES", ())
    results = world.results("judged", world.true_wave, {"solved": np.arange(N) < N - 1})
    blind = evaluate(results, tmp_path, input=world.blind)
    assert "no truth, 80% judged solved" in repr(blind)
    assert column_of(metrics_table(blind), "judged solved") == ["100%", "50%", "80%"]
    assert '<th scope="col">judged solved</th>' in (tmp_path / "report.html").read_text("utf-8")
    known = evaluate(results, input=world.pairs)
    assert column_of(metrics_table(known), "solved") == ["100%", "100%", "100%"]
    assert known["judged_recall"] == pytest.approx(0.8)


def test_an_r_above_its_peers_is_a_warning_with_causes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fit worse than none is no small print: metrics, page and command say so."""
    monkeypatch.setattr("diffragan.report.pair_page.FIGURES", ())
    r_factor = np.array([0.02, 0.03, 1.2, 0.02, 0.03])
    doubtful = world.results("doubtful", world.true_wave, {"r_factor": r_factor})
    code, text = run("evaluate", doubtful.path, "--out", tmp_path)
    assert code == 0
    (warning,) = json.loads((tmp_path / "metrics.json").read_text())["warnings"]
    assert "1 of 5 results (item 2)" in warning
    assert "flipped image" in warning
    assert f"diffragan: {warning}" in text
    assert f'<p class="warning">{warning}</p>' in (tmp_path / "report.html").read_text("utf-8")
    assert evaluate(world.results("fine", world.true_wave))["warnings"] == []


def column_of(table: Table, heading: str) -> list[str]:
    """The cells under a heading, from the top."""
    column = next(one for one in table.columns if one.header == heading)
    return [str(cell) for cell in column.cells]
