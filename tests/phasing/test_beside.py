"""Single pairs through damage and ice: the molecule's own amplitudes, and nothing of a truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import cluster
from diffragan.api import load_settings, make_pairs, open_pairs, phase
from diffragan.errors import DiffraganError
from diffragan.files.store import ResultStore
from diffragan.fourier.correlation import band_means, frc, ring_q
from diffragan.microscope.simulate import simulate
from diffragan.phasing.methods.raar import pattern_modulus
from diffragan.phasing.run import make_pair_batch, of_molecule
from diffragan.settings import Settings
from quick_runs import QUICK

WORDS = [
    *QUICK,
    "simulate.box_A=44",
    "simulate.orientations=2",
    "image.dose_e_per_A2=1e6",
    "phase.iterations=150",
]
DAMAGED = [
    *WORDS,
    "image.dose_e_per_A2=18",
    "pattern.dose_e_per_A2=3.6",
    "specimen.damage=grant_grigorieff",
]
MANY = "specimen.molecules=1000000000"
ICE = [*DAMAGED, "specimen.ice_nm=3", "specimen.molecules=1000000"]

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two exit waves of a ball of 70 atoms."""
    folder = tmp_path_factory.mktemp("waves")
    ball = cluster("ball", 5, atoms=70, radius_A=7.0)
    return simulate([ball], folder / "ball.zarr", load_settings(overrides=WORDS), workers=1)


def phased(waves: Path, out: Path, words: list[str], method: str) -> ResultStore:
    settings = load_settings(overrides=words)
    pairs = open_pairs(waves, settings=settings)
    return phase(pairs, out, method=method, settings=settings, device="cpu", workers=1)


@pytest.mark.parametrize("method", ["image", "raar"])
def test_a_faded_pattern_is_phased_as_one_that_did_not(
    waves: Path, tmp_path: Path, method: str
) -> None:
    """With counts enough that nothing else tells them apart."""
    both = []
    for k, words in enumerate((WORDS, [*DAMAGED, MANY])):
        results = phased(waves, tmp_path / f"{k}.zarr", words, method)
        both.append(torch.from_numpy(results.read("wave")))
    curve = frc(both[0], both[1]).mean(0)
    q = ring_q(2 * (len(curve) - 1), open_pairs(waves).box_A)
    bands = band_means(curve, q)
    assert bands["image"] is not None
    assert float(bands["image"]) > 0.97
    if method == "raar":
        assert bands["diffraction"] is not None
        assert float(bands["diffraction"]) > 0.8


def test_vacuum_stays_as_it_is(waves: Path) -> None:
    """Nothing is taken off where nothing is told to lie beside; the batch is the same object."""
    settings = load_settings(overrides=[*WORDS, "pattern.dose_e_per_A2=1000"])
    pairs, items = open_pairs(waves, settings=settings), np.arange(2)
    batch = make_pair_batch(pairs, items, settings, torch.device("cpu"))
    assert of_molecule(batch, pairs, items) is batch


def test_no_method_reads_the_truth_through_ice(waves: Path, tmp_path: Path) -> None:
    settings = load_settings(overrides=ICE)
    found = []
    for truth in (True, False):
        store = tmp_path / f"{truth}.zarr"
        make_pairs(waves, store, truth=truth, settings=settings)
        results = phased(store, tmp_path / f"phased_{truth}.zarr", WORDS[-1:], "raar")
        found.append([results.read(name).tobytes() for name in ("wave", "trust", "solved")])
    assert found[0] == found[1]


def test_ice_alone_is_not_called_a_molecule(waves: Path, tmp_path: Path) -> None:
    """One exposure through ice: nothing is solved."""
    words = [*ICE[:-1], "specimen.molecules=1"]
    results = phased(waves, tmp_path / "one.zarr", words, "raar")
    assert results.solved is not None
    assert not results.solved.any()


def refusal(waves: Path, words: list[str], settings: Settings | None = None) -> str:
    settings = settings or load_settings(overrides=words)
    pairs, items = open_pairs(waves, settings=settings), np.arange(2)
    pairs.structures = tuple(
        type(one)(**{**vars(one), "mass_kda": 0.0}) for one in pairs.structures
    )
    batch = make_pair_batch(pairs, items, settings, torch.device("cpu"))
    with pytest.raises(DiffraganError) as error:
        pattern_modulus(of_molecule(batch, pairs, items), "real")
    return str(error.value)


def test_what_cannot_be_told_is_refused(waves: Path, tmp_path: Path) -> None:
    assert "phase.mass_kda" in refusal(waves, ICE)
    np.save(tmp_path / "small.npy", np.ones((3, 8, 8)))
    small = f"phase.background_from={tmp_path / 'small.npy'}"
    assert "are 8 pixels a side" in refusal(waves, [*ICE, small])
    words = [*ICE, "phase.mass_kda=1", "phase.noise=poisson"]
    assert "take bounds" in refusal(waves, words)
