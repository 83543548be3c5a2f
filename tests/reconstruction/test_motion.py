"""Views of a molecule that bends are put in order, with maps along the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch

from diffragan.reconstruction.sorting.motion import (
    frames_of,
    order_views,
    rank_correlation,
    ranks,
)
from mixed_views import bent, mixed_views
from quick_runs import SET, run
from synthetic_views import correlation, mass_kda, molecule, true_volume

ANGLES = (-30, -20, -10, 0, 10, 20, 30)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_views_of_a_hinge_come_in_the_order_of_its_angle() -> None:
    """Nothing but the views and how they lie; images and patterns tell the same order."""
    molecules = [bent(molecule(1), angle) for angle in ANGLES]
    views, truth = mixed_views(molecules, [20] * len(ANGLES))
    motion = order_views(views, mass_kda(molecule(1)))
    assert abs(rank_correlation(motion.place, truth.double())) > 0.8
    assert motion.sure
    first, last = frames_of(views.limited(5.0), motion.place, 2, mass_kda(molecule(1)))
    ends = [true_volume(molecules[k], first.shape[-1], edge_A=5.0) for k in (0, -1)]
    if rank_correlation(motion.place, truth.double()) < 0:
        first, last = last, first
    assert correlation(first, ends[0]) > correlation(first, ends[1])
    assert correlation(last, ends[1]) > correlation(last, ends[0])


def test_ranks_by_hand() -> None:
    assert ranks(torch.tensor([3.0, 1.0, 2.0])).tolist() == pytest.approx([5 / 6, 1 / 6, 1 / 2])
    rising = torch.arange(9.0)
    assert rank_correlation(rising, rising**3) == pytest.approx(1)
    assert rank_correlation(rising, -rising) == pytest.approx(-1)


def test_too_few_views_tell_no_motion(ball_views: Path, tmp_path: Path) -> None:
    code, text = run(
        "reconstruct", ball_views, "--out", tmp_path / "a", "--classes", "motion", *SET
    )
    assert code == 2
    assert "at least 100" in text
    assert not (tmp_path / "a").exists()


def test_the_folder_holds_a_table_frames_and_a_movie(
    ball_views: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ball that does not move: the folder is there, and whether there is a motion is said."""
    monkeypatch.setattr("diffragan.reconstruction.classes.motion.LEAST_VIEWS", 50)
    out = tmp_path / "out"
    words = ("--classes", "motion", "--set", "classes.frames=3", *SET)
    code, text = run("reconstruct", ball_views, "--out", out, *words)
    metrics = json.loads((out / "metrics.json").read_text())
    assert code == (0 if metrics["converged"] else 3), text
    assert [p.name for p in sorted((out / "frames").iterdir())] == [
        f"frame0{k}.mrc" for k in (1, 2, 3)
    ]
    assert (out / "motion.gif").read_bytes()[:6] in (b"GIF89a", b"GIF87a")
    table = starfile.read(out / "particles.star", always_dict=True)["particles"]
    place = np.sort(table["diffraganPlace"].to_numpy())
    np.testing.assert_allclose(place[::2], (np.arange(30) + 0.5) / 30, atol=1e-4)
    assert not (out / ".run").exists()
