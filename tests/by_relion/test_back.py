"""From RELION back: its refined table as orientations, and a refinement that was interrupted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import starfile
import torch

import diffragan as dg
from diffragan.errors import DiffraganError
from diffragan.files.mrc import read_map
from diffragan.files.star import read_orientations
from diffragan.files.store import open_results
from diffragan.fourier.volumes import best_shift, moved, resized, uncentred
from diffragan.pairs.open import open_pairs
from diffragan.reconstruction.choose_views import choose_views
from diffragan.reconstruction.run import Reconstruction
from diffragan.rotations import angle_deg
from diffragan.settings import load_settings
from quick_runs import SET, run
from relion import need_relion
from synthetic_views import correlation

QUICKER = ("--iterations", "20", "--set", "many_views.resolution_steps_A=[2.0]")
SETTINGS = load_settings(
    values={
        "relion.orientations": "refine",
        "relion.size_px": 24,
        "relion.offset_range_px": 1,
        "relion.low_pass_A": 5,
        "seed": 1,
    }
)


@pytest.fixture(scope="module")
def refined(ball_map: Path, tmp_path_factory: pytest.TempPathFactory) -> Reconstruction:
    """Orientations of the ball's views refined by RELION, which was stopped on the way."""
    need_relion()
    out = tmp_path_factory.mktemp("refined") / "out"
    stages: list[str] = []

    def stop(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
        stages.append(stage)
        if "auto-refine" in stage and done >= 2:
            raise KeyboardInterrupt

    source = ball_map / "phased.zarr"
    with pytest.raises(KeyboardInterrupt):
        dg.reconstruct(source, out, engine="relion", settings=SETTINGS, progress=stop)
    assert not (out / "metrics.json").exists()
    return dg.reconstruct(source, out, engine="relion", settings=SETTINGS)


def volume(path: Path) -> torch.Tensor:
    """A map on 24 voxels a side, FFT order."""
    return resized(uncentred(torch.from_numpy(read_map(path)[0])), 24)


def test_an_interrupted_refinement_goes_on(refined: Reconstruction) -> None:
    """The second call continues the first one's iterations, and repeats no finished job."""
    logs = refined.folder / "relion" / "logs"
    calls = [
        line
        for line in (logs / "auto-refine.log").read_text("utf-8", "replace").splitlines()
        if line.startswith("$ ")
    ]
    assert len(calls) == 2
    assert "--continue refine/run_it" in calls[1]
    assert (logs / "known angles.log").read_bytes().count(b"$ relion_reconstruct") == 3
    assert not list((refined.folder / "relion" / "refine").glob("run_it*"))


def test_refined_orientations_stay_near_the_given_ones(
    refined: Reconstruction, ball_map: Path
) -> None:
    """And the map they make is that of the views."""
    assert refined.metrics["orientation_error_deg"] < 5
    assert refined.metrics["fsc_0p143_A"] < 3.5
    own = volume(ball_map / "map.mrc")
    found = volume(refined.map)
    found = moved(found, best_shift(found, torch.fft.rfftn(own)))
    assert correlation(found, own) > 0.8
    assert "share" in str(refined.metrics["warnings"]) or "together" in str(
        refined.metrics["warnings"]
    )


def test_relions_table_orients_pairs(
    refined: Reconstruction, ball_pairs: Path, ball_map: Path, tmp_path: Path
) -> None:
    """`reconstruct --orientations run_data.star` makes the same map of pairs that tell nothing."""
    star = refined.folder / "relion" / "refine" / "run_data.star"
    out = tmp_path / "again"
    code, text = run(
        "reconstruct", ball_pairs, "--out", out, "--orientations", star, *SET, *QUICKER
    )
    assert code in (0, 3), text
    own, again = volume(ball_map / "map.mrc"), volume(out / "map.mrc")
    again = moved(again, best_shift(again, torch.fft.rfftn(own)))
    assert correlation(again, own) > 0.8
    found = volume(refined.map)
    again = moved(again, best_shift(again, torch.fft.rfftn(found)))
    assert correlation(again, found) > 0.8


def test_rows_in_any_order_find_their_pairs(
    ball_pairs: Path, ball_map: Path, tmp_path: Path
) -> None:
    """Tables that RELION sorted or cut tell by diffraganItem which pair a row is of."""
    results = open_results(ball_map / "phased.zarr")
    tables = starfile.read(ball_map / "projections.star", always_dict=True)
    tables["particles"] = tables["particles"].iloc[[40, 3, *range(10, 30)]]
    starfile.write(tables, tmp_path / "some.star")
    pairs = open_pairs(ball_pairs)
    chosen = choose_views(pairs, orientations=tmp_path / "some.star")
    assert chosen.items.tolist() == [3, *range(10, 30), 40]
    assert results.rotation is not None
    assert chosen.rotations is not None
    apart = angle_deg(
        torch.from_numpy(chosen.rotations), torch.from_numpy(results.rotation[chosen.items])
    )
    assert float(apart.max()) < 0.01
    assert len(read_orientations(tmp_path / "some.star")[0]) == 22
    tables["particles"]["diffraganItem"] = np.arange(22) + 50
    starfile.write(tables, tmp_path / "other.star")
    with pytest.raises(DiffraganError, match="diffraganItem runs from 50 to 71"):
        choose_views(pairs, orientations=tmp_path / "other.star")
