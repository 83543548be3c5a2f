"""`diffragan phase`: what is given by hand counts or is refused, and what it says at its end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import diffragan as dg
from diffragan.files.store import open_results
from diffragan.microscope.noise import item_seed
from diffragan.pairs.imaged import ImagedPairs
from diffragan.pairs.write import write_pairs
from diffragan.phasing.method import Context, Method, PairBatch, Phased, phased_wave
from diffragan.phasing.methods import METHODS
from diffragan.phasing.run import METHOD_NOISE
from diffragan.settings import Settings
from quick_runs import run


@pytest.fixture(scope="module")
def store(simulated: Path, published: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffragan.files.store import open_simulation

    out = tmp_path_factory.mktemp("pairs") / "pairs.zarr"
    return write_pairs(ImagedPairs(open_simulation(simulated), published), out, items=slice(6))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--method many-views --weights /nope --starts 99", "does not take --weights (published,"),
        ("--method many-views --starts 99", "does not take --starts (raar, hybrid do)"),
        ("--method many-views --iterations 1", "does not take --iterations (raar, hybrid do)"),
        ("--method many-views --time-budget 1", "does not take --time-budget"),
        ("--method many-views --force", "does not take --force"),
        ("--method many-views --set phase.batch_size=2", "take --set phase.batch_size"),
        ("--starts 9", "'image' does not take --starts"),
        ("--method image --iterations 5", "'image' does not take --iterations"),
        ("--method image --set phase.solver=er", "'image' does not take --set phase.solver"),
        ("--method raar --set phase.samples=2", "take --set phase.samples (network, hybrid do)"),
        ("--method published --starts 2", "'published' does not take --starts"),
        ("--method raar --weights w.safetensors", "'raar' does not take --weights"),
        ("--method raar --set phase.solver=magic", "no solver 'magic'; choose from er, hio, raar"),
        ("--set many_views.beta=0.8", "take --set many_views.beta (many-views does); leave it out"),
        ("--method raar --set many_views.beta=1 --weights w", "take --weights (published, network"),
        ("--method magic", "no method 'magic'; choose from image, published, network, raar, h"),
    ],
)
def test_what_a_method_does_not_take_is_refused(
    words: str, said: str, store: Path, tmp_path: Path
) -> None:
    """An option that is dropped in silence lets a user believe that it acted."""
    code, text = run("phase", store, "--out", tmp_path / "p.zarr", *words.split())
    assert code == 2
    assert said in text
    assert not list(tmp_path.iterdir())


def test_a_settings_file_may_serve_several_methods(store: Path, tmp_path: Path) -> None:
    """One file for a study holds the starts of `raar` too; only what is typed must act."""
    config = tmp_path / "study.toml"
    config.write_text("[phase]\nstarts = 9\n")
    code, _ = run("phase", store, "--out", tmp_path / "p.zarr", "--config", config, "--limit", "1")
    assert code == 0


def test_the_verdict_is_told_without_a_truth(store: Path, tmp_path: Path) -> None:
    """The pairs carry no truth, and the run still knows which of its results it believes."""
    words = ["--method", "projections", "--starts", "2", "--iterations", "30", "--limit", "2"]
    code, text = run("phase", store, "--out", tmp_path / "p.zarr", *words)
    assert code == 0
    results = open_results(tmp_path / "p.zarr")
    assert results.method == "raar", "an alias is recorded as the method that it names"
    assert results.solved is not None
    assert f"{int(results.solved.sum())} of 2 judged solved, without a truth" in text
    code, text = run("phase", store, "--out", tmp_path / "i.zarr", "--limit", "2")
    assert "judged" not in text


def test_a_network_names_its_weights(store: Path, tmp_path: Path) -> None:
    code, text = run(
        "phase", store, "--out", tmp_path / "n.zarr", "--method", "network", "--limit=1"
    )
    assert code == 0
    record = open_results(tmp_path / "n.zarr").header["weights"]
    said = f"(sha256 {record['sha256'][:12]}), 5000 steps on 195 structures."
    assert f"network.safetensors, which the package brings {said}" in text


def test_results_whose_r_stands_out_are_named(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pair of a batch fits worse than nothing at all: its number and the likely causes."""

    def fitted(batch: PairBatch, context: Context) -> Phased:
        spectrum = batch.amplitude.to(torch.complex64)
        far = item_seed(batch.settings.seed, 3, METHOD_NOISE)
        r = torch.tensor([1.2 if seed == far else 0.02 for seed in batch.seeds])
        return phased_wave(torch.fft.ifft2(spectrum, norm="forward"), batch, r_factor=r)

    monkeypatch.setitem(METHODS, "fitted", Method(fitted))
    code, text = run("phase", store, "--out", tmp_path / "p.zarr", "--method", "fitted")
    assert code == 0
    results = open_results(tmp_path / "p.zarr")
    assert results.r_factor is not None
    assert results.items[results.r_factor > 1].tolist() == [3]
    assert "in 1 of 6 results (item 3)" in text
    for cause in ("centre", "mask", "sign of defocus", "dose", "flipped image"):
        assert cause in text


def test_the_public_call_takes_paths_and_pairs(store: Path, tmp_path: Path) -> None:
    """The same results from a path, from pairs, and from the command."""
    settings = dg.load_settings(values={"seed": 3})
    by_path = dg.phase(store, tmp_path / "a.zarr", settings=settings, device="cpu")
    by_pairs = dg.phase(
        dg.open_pairs(store, settings=settings), tmp_path / "b.zarr", method="image", device="cpu"
    )
    run("phase", store, "--out", tmp_path / "c.zarr", "--seed", "3", "--device", "cpu")
    by_command = open_results(tmp_path / "c.zarr")
    every = slice(0, 6)
    for results in (by_pairs, by_command):
        np.testing.assert_array_equal(by_path.projection(every), results.projection(every))
        assert results.header == by_path.header
    assert not by_path.invents
