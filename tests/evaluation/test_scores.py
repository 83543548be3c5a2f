"""Evaluation of a small result store: known answers, complete files, plain refusals."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table

from diffragan.api import evaluate
from diffragan.commands.evaluate import metrics_table
from diffragan.errors import DiffraganError
from diffragan.evaluation.evaluation import Evaluation
from diffragan.evaluation.item_metrics import PER_ITEM, ItemMetric
from diffragan.evaluation.metrics import metrics_of
from diffragan.evaluation.scores import score
from diffragan.files.store import ResultStore, open_results, open_simulation
from diffragan.files.store_header import StructureInfo, info_to_json
from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.fourier.correlation import frc
from diffragan.fourier.grids import frequency_grid
from diffragan.microscope.imaging import projection_of_centre_wave
from diffragan.optics import Optics, propagate
from diffragan.pairs.of_results import pairs_of_results
from diffragan.pairs.open import open_pairs
from diffragan.pairs.pairs import Pairs
from diffragan.pairs.write import write_pairs
from diffragan.report.html import ReportFigure
from diffragan.report.pair_page import write_report
from diffragan.report.pair_words import describe_evaluation
from diffragan.settings import Settings
from quick_runs import run

N, N_PX, BOX_A = 5, 128, 36.0
OPTICS = Optics(200e3, BOX_A, 18.0)
SETTINGS = Settings()
STRUCTURES = (StructureInfo("1ABC"), StructureInfo("2xyz <b>"))
FRC_KEYS = {"frc", "frc_0p5_A", "band_mean_frc"}
BLOCK_KEYS = FRC_KEYS | {
    "n", "method", "frc_of", "band_edges_A", "solved_fraction", "r_factor_median", "ssim_mean",
    "phase_error_deg", "seconds_per_image", "projection_frc",
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """A simulation, its pairs with and without truth, and a folder for results."""

    root: Path
    pairs: Pairs
    blind: Pairs

    def results(
        self,
        name: str,
        wave: torch.Tensor | None,
        given: Mapping[str, NDArray[Any]] = MappingProxyType({}),
        **header: Any,
    ) -> ResultStore:
        """A result store whose projection is that of `wave`, or of the turned truth.

        given: arrays that it holds besides, or in place of the usual ones.
        """
        arrays: dict[str, Any] = {"item": np.arange(N), "structure": np.array([0, 0, 0, 1, 1])}
        arrays |= {"seconds": np.full(N, 0.25)}
        true = torch.as_tensor(self.pairs.truth_wave(slice(0, N)))
        shown = true if wave is None else wave
        projection = projection_of_centre_wave(shown, OPTICS, SETTINGS.projection, 132)
        arrays["projection"] = projection.numpy()
        if wave is not None:
            arrays["wave"] = wave.numpy().astype(np.complex64)
            arrays["r_factor"] = np.linspace(0.01, 0.05, N)
            arrays["trust"] = np.ones((N, wave.shape[-1] // 2 + 1), dtype=np.float32)
        arrays |= given
        attributes = {
            "method": "image",
            "optics": vars(OPTICS),
            "structures": info_to_json(STRUCTURES),
            "settings": SETTINGS.model_dump(mode="json"),
            "input": {"path": str(self.pairs.path), "sha256": self.pairs.sha256},
            "weights": None,
        }
        specs = {k: ArraySpec(a.shape[1:], str(a.dtype), "1") for k, a in arrays.items()}
        path = self.root / f"{name}.zarr"
        writer = StoreWriter(path, "result", N, specs, attributes | header)
        writer.write(range(N), **arrays)
        writer.finish()
        return open_results(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("evaluate")
    generator = torch.Generator().manual_seed(0)
    q2 = frequency_grid(N_PX, BOX_A)
    atoms = torch.zeros(N, N_PX, N_PX)
    places = N_PX // 2 + (torch.randn(N, 120, 2, generator=generator) * 10).long()
    for k in range(N):
        atoms[k, places[k, :, 0], places[k, :, 1]] = 1
    blur = torch.exp(-2 * math.pi**2 * 0.3**2 * q2)
    phase = torch.fft.ifft2(torch.fft.fft2(atoms) * blur).real * 4
    exit_wave = propagate(torch.polar(torch.ones_like(phase), phase), BOX_A, 200e3, 18.0)

    header = {
        "optics": vars(OPTICS),
        "structures": info_to_json(STRUCTURES),
        "settings": SETTINGS.model_dump(mode="json"),
    }
    specs = {
        "exit_wave": ArraySpec((N_PX, N_PX), "complex64", "1"),
        "structure": ArraySpec((), "int32", "index"),
    }
    writer = StoreWriter(root / "sim.zarr", "simulation", N, specs, header)
    writer.write(
        range(N),
        exit_wave=exit_wave.to(torch.complex64).numpy(),
        structure=np.array([0, 0, 0, 1, 1]),
    )
    writer.finish()
    simulation = open_simulation(root / "sim.zarr")
    write_pairs(simulation, root / "pairs.zarr", SETTINGS, truth=True)
    write_pairs(simulation, root / "blind.zarr", SETTINGS, truth=False)
    return World(root, open_pairs(root / "pairs.zarr"), open_pairs(root / "blind.zarr"))


@pytest.fixture(scope="module")
def true_wave(world: World) -> torch.Tensor:
    return torch.as_tensor(world.pairs.truth_wave(slice(0, N)))


@pytest.fixture(scope="module")
def noisy(world: World, true_wave: torch.Tensor) -> ResultStore:
    """Right phases to about 4 Å and wrong ones beyond; the method saw these structures."""
    f = torch.fft.fft2(true_wave)
    wrong = torch.randn(f.shape, generator=torch.Generator().manual_seed(1))
    far = frequency_grid(f.shape[-1], BOX_A).sqrt() > 0.25
    turned = f * torch.polar(torch.ones_like(wrong), 3 * wrong * far)
    weights = {"path": "w", "sha256": "ab" * 32, "trained_on": ["1abc"]}
    return world.results("noisy", torch.fft.ifft2(turned), weights=weights)


def test_the_truth_scores_perfectly_whatever_its_overall_phase(
    world: World, true_wave: torch.Tensor
) -> None:
    """A wave's overall phase is not observable, so turning it costs nothing."""
    turn = torch.polar(torch.tensor(1.0), torch.tensor(0.7))
    metrics = evaluate(world.results("true", true_wave * turn), input=world.pairs)
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
    metrics = evaluate(noisy, input=world.pairs)
    assert metrics["frc_0p5_A"] == pytest.approx(4.0, abs=0.3)
    assert metrics["solved_fraction"] == 0
    assert metrics["seen_in_training"] == ["1ABC"]
    assert metrics["phase_error_deg"]["mean"][-5] == pytest.approx(85, abs=12)


def test_batches_do_not_matter_and_curves_are_those_of_metrics(
    noisy: ResultStore, world: World, true_wave: torch.Tensor
) -> None:
    seen: list[tuple[int, int | None]] = []

    def progress(stage: str, done: int, total: int | None = None, word: str = "") -> None:
        seen.append((done, total))

    one = score(noisy, world.pairs, batch_size=2, progress=progress)
    other = score(noisy, world.pairs, batch_size=N)
    assert seen == [(2, 5), (4, 5), (5, 5)]
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
    direct = frc(wave, true_wave, mask)
    rings = one.measured_rings
    assert rings is not None
    torch.testing.assert_close(one.wave.values, direct[:, rings], atol=1e-4, rtol=0)


def test_projection_only_results_fill_the_top_level_from_the_projection(world: World) -> None:
    metrics = evaluate(world.results("projections", None), input=world.pairs)
    assert metrics["frc_of"] == "projection"
    assert {key: metrics[key] for key in FRC_KEYS} == metrics["projection_frc"]
    assert metrics["phase_error_deg"] is None
    assert metrics["r_factor_median"] is None
    assert metrics["frc"]["resolution_A"][-1] == pytest.approx(0.8)


@pytest.mark.parametrize("truth", ["with", "without"])
def test_report_is_complete_valid_and_opens_offline(
    noisy: ResultStore, world: World, truth: str, tmp_path: Path
) -> None:
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

    found = _Page()
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


def test_one_call_opens_the_recorded_input_and_says_what_it_found(
    noisy: ResultStore, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path is enough: the store knows its pairs, and what is returned reads like metrics.json."""
    monkeypatch.setattr("diffragan.report.pair_page.draw", lambda *_: [])  # drawn in the test above
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


def test_a_missing_changed_or_foreign_input_is_refused(
    world: World, true_wave: torch.Tensor, tmp_path: Path
) -> None:
    gone = world.results("gone", true_wave, input={"path": str(tmp_path / "x.zarr"), "sha256": ""})
    with pytest.raises(DiffraganError, match="--input"):
        pairs_of_results(gone)
    assert pairs_of_results(gone, [world.pairs.path]).n == N
    entry = {"path": str(world.pairs.path), "sha256": "0" * 64}
    with pytest.raises(DiffraganError, match=r"changed.*--input"):
        pairs_of_results(world.results("changed", true_wave, input=entry))
    foreign = world.results("foreign", true_wave, optics={**vars(OPTICS), "box_A": 50.0})
    with pytest.raises(DiffraganError, match="box of 50"):
        score(foreign, world.pairs)


def test_a_simulation_store_is_a_truth_too(noisy: ResultStore, world: World) -> None:
    """It is imaged on the way, and its waves are those beside the pairs."""
    pairs = pairs_of_results(noisy, [world.root / "sim.zarr"])
    direct, imaged = evaluate(noisy, input=world.pairs), evaluate(noisy, input=pairs)
    np.testing.assert_allclose(direct["frc"]["mean"], imaged["frc"]["mean"], atol=1e-5)
    np.testing.assert_allclose(
        direct["image_frc"]["frc"]["mean"], imaged["image_frc"]["frc"]["mean"], atol=1e-5
    )


def test_opening_sentences_say_how_far_and_no_further(
    noisy: ResultStore, world: World, true_wave: torch.Tensor
) -> None:
    said = " ".join(describe_evaluation(evaluate(noisy, input=world.pairs)))
    assert "falls below 0.5 at 4." in said or "falls below 0.5 at 3." in said
    assert "The pattern ends at 1.2" in said
    assert "trained on 1ABC" in said
    blind = " ".join(describe_evaluation(evaluate(noisy, input=world.blind)))
    assert "no truth" in blind
    assert "R-factor" in blind
    network = evaluate(world.results("net", true_wave, method="published"), input=world.pairs)
    assert "the network invents" in " ".join(describe_evaluation(network))


def test_a_verdict_is_printed_where_no_truth_tells(
    world: World, true_wave: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the method itself judges is the only answer then, and is marked as a judgement."""
    monkeypatch.setattr("diffragan.report.pair_page.FIGURES", ())
    results = world.results("judged", true_wave, {"solved": np.arange(N) < N - 1})
    blind = evaluate(results, tmp_path, input=world.blind)
    assert "no truth, 80% judged solved" in repr(blind)
    assert _column(metrics_table(blind), "judged solved") == ["100%", "50%", "80%"]
    assert '<th scope="col">judged solved</th>' in (tmp_path / "report.html").read_text("utf-8")
    known = evaluate(results, input=world.pairs)
    assert _column(metrics_table(known), "solved") == ["100%", "100%", "100%"]
    assert known["judged_recall"] == pytest.approx(0.8)


def test_an_r_above_its_peers_is_a_warning_with_causes(
    world: World, true_wave: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fit worse than none is no small print: metrics, page and command say so."""
    monkeypatch.setattr("diffragan.report.pair_page.FIGURES", ())
    r_factor = np.array([0.02, 0.03, 1.2, 0.02, 0.03])
    doubtful = world.results("doubtful", true_wave, {"r_factor": r_factor})
    code, text = run("evaluate", doubtful.path, "--out", tmp_path)
    assert code == 0
    (warning,) = json.loads((tmp_path / "metrics.json").read_text())["warnings"]
    assert "1 of 5 results (items 2)" in warning
    assert "flipped image" in warning
    assert f"diffragan: {warning}" in text
    assert f'<p class="warning">{warning}</p>' in (tmp_path / "report.html").read_text("utf-8")
    assert evaluate(world.results("fine", true_wave))["warnings"] == []


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


def _column(table: Table, heading: str) -> list[str]:
    """The cells under a heading, from the top."""
    column = next(one for one in table.columns if one.header == heading)
    return [str(cell) for cell in column.cells]


class _Page(HTMLParser):
    """What a page would load, and the texts that stand in for its pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.alts: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data") and value:
                self.loaded.append(value)
        self.scripts += tag in ("script", "link", "iframe")
        if tag == "img":
            self.alts.append(dict(attrs).get("alt") or "")
