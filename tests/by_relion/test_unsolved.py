"""Images judged not solved: left out, weighed down, or left in to blur the map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import starfile
import torch

import diffragan as dg
from chiral_results import M, chiral_store, waves_of
from diffragan.files.mrc import read_map
from diffragan.fourier.correlation import fsc
from diffragan.fourier.volumes import centred
from diffragan.rotations import quasi_uniform
from diffragan.settings import load_settings
from relion import need_relion, relion
from synthetic_views import BOX_A, EDGE_A, molecule, true_volume

VIEWS = 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores of the same views: all right, and with every tenth that of another direction,
    judged not solved and hardly trusted."""
    made = tmp_path_factory.mktemp("weights")
    rotations = quasi_uniform(VIEWS, 1)
    good = waves_of(molecule(3), rotations, noise=0.5, seed=2)
    other = waves_of(molecule(3), quasi_uniform(VIEWS, 9)[::-1], noise=0.5, seed=3)
    solved = np.arange(VIEWS) % 10 != 4
    trust = np.where(solved, 0.9, 0.2)[:, None] * np.ones(M // 2 + 1)
    chiral_store(made / "right.zarr", rotations, waves=good)
    spoilt = np.where(solved[:, None, None], good, other)
    chiral_store(
        made / "spoilt.zarr", rotations, waves=spoilt, solved=solved, trust=trust.astype(np.float32)
    )
    return made


def fine_fsc(folder: Path, store: str, unsolved: str, *words: str) -> float:
    """Mean FSC with the truth from 3 to 2.2 Å of a store's map by `relion_reconstruct`."""
    out = folder / f"{store}-{unsolved}"
    settings = load_settings(values={"relion.unsolved": unsolved})
    dg.relion_particles(folder / f"{store}.zarr", out, settings=settings, warn=lambda text: None)
    relion(out / "relion", "relion_reconstruct", "--i", "particles.star", "--o", "m.mrc", *words)
    found = torch.from_numpy(read_map(out / "relion" / "m.mrc")[0])
    curve = fsc(found, centred(true_volume(molecule(3), M, EDGE_A)))
    return float(curve[round(BOX_A / 3) : round(BOX_A / 2.2)].mean())


def test_a_tenth_of_unsolved_images_does_not_blur_the_map(folder: Path) -> None:
    """Left out they cost what a tenth of the views costs, and by their figure of merit no more;
    counted in full they cost three times that."""
    need_relion()
    right = fine_fsc(folder, "right", "leave-out")
    left_out = fine_fsc(folder, "spoilt", "leave-out")
    weighed = fine_fsc(folder, "spoilt", "weigh", "--fom_weighting")
    kept = fine_fsc(folder, "spoilt", "keep")
    assert right - left_out < 0.02
    assert weighed == pytest.approx(left_out, abs=0.005)
    assert right - kept > 2 * (right - left_out)


def test_verdicts_stand_in_the_table(folder: Path) -> None:
    """Trust as RELION's figure of merit, 0 where not solved; by default such rows are not there."""
    settings = load_settings(values={"relion.unsolved": "weigh"})
    told: list[str] = []
    source = folder / "spoilt.zarr"
    star = dg.relion_particles(source, folder / "all", settings=settings, warn=told.append)
    table = starfile.read(star, always_dict=True)["particles"]
    solved = np.arange(VIEWS) % 10 != 4
    np.testing.assert_array_equal(table["diffraganSolved"], solved)
    np.testing.assert_allclose(table["rlnParticleFigureOfMerit"], 0.9 * solved, atol=1e-5)
    assert not told
    star = dg.relion_particles(source, folder / "some", warn=told.append)
    table = starfile.read(star, always_dict=True)["particles"]
    assert table["diffraganItem"].tolist() == np.flatnonzero(solved).tolist()
    assert "15 of 150 images were judged not solved" in told[0]
