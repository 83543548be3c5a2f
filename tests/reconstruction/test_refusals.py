"""What `diffragan reconstruct` refuses, each in one sentence with its remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from quick_runs import SET, run

Refusal = Callable[[Path, Path, Path], list[str | Path]]


REFUSALS: dict[str, tuple[Refusal, str]] = {
    "fewer than ten views": (
        lambda v, p, t: ["reconstruct", v, "--out", t / "o", "--views", "9"],
        "at least 10",
    ),
    "no orientations": (
        lambda v, p, t: ["reconstruct", p, "--out", t / "o"],
        "--find-orientations",
    ),
    "no such molecule": (
        lambda v, p, t: ["reconstruct", v, "--out", t / "o", "--structure", "none"],
        "holds ball",
    ),
    "no such method": (
        lambda v, p, t: ["reconstruct", v, "--out", t / "o", "--method", "magic"],
        "choose from many-views, merge",
    ),
    "given and to be found": (
        lambda v, p, t: [
            "reconstruct", p, "--out", t / "o", "--find-orientations", "--refine-orientations",
        ],
        "leave out",
    ),
    "too few views to find orientations": (
        lambda v, p, t: [
            "reconstruct", v, "--out", t / "o", "--find-orientations", "--views", "15",
        ],
        "give 20 or more",
    ),
    "settings of pairs one by one": (
        lambda v, p, t: ["reconstruct", v, "--out", t / "o", "--set", "phase.beta=0.5"],
        "does not take --set phase.beta; leave it out",
    ),
    "found by a setting, and given": (
        lambda v, p, t: [
            "reconstruct", p, "--out", t / "o", "--set", "many_views.orientations=find",
            "--orientations", t / "no.star",
        ],
        "leave out --orientations",
    ),
    "orientations to a merge": (
        lambda v, p, t: [
            "reconstruct", p, "--out", t / "o", "--method", "merge", "--find-orientations",
        ],
        "does not take --find-orientations",
    ),
    "no such device": (
        lambda v, p, t: ["reconstruct", v, "--out", t / "o", "--device", "meta"],
        "use auto, cpu or cuda",
    ),
    "no such angles": (
        lambda v, p, t: ["reconstruct", p, "--out", t / "o", "--orientations", t / "no.star"],
        "no.star",
    ),
    "pairs to merge": (
        lambda v, p, t: ["reconstruct", p, "--out", t / "o", "--method", "merge"],
        "result store",
    ),
    "a molecule heavier than its box holds": (
        lambda v, p, t: ["reconstruct", v, "--out", t / "o", "--mass-kda", "400"],
        "--mass-kda",
    ),
    "not a store's name": (
        lambda v, p, t: ["phase", v, "--out", t / "o", "--method", "many-views"],
        ".zarr",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS, ids=list(REFUSALS))
def test_bad_input_is_refused_in_one_sentence(
    case: str, ball_views: Path, ball_pairs: Path, tmp_path: Path
) -> None:
    make, remedy = REFUSALS[case]
    code, text = run(*make(ball_views, ball_pairs, tmp_path))
    assert code == 2
    assert remedy in text
    assert "\n" not in text.strip()
    assert not (tmp_path / "o" / "metrics.json").exists()


def test_an_unknown_finder_is_refused_before_anything_is_written(
    ball_views: Path, tmp_path: Path
) -> None:
    """The name is checked where it is used, and the answer lists what there is."""
    words: list[str | Path] = [
        "reconstruct",
        ball_views,
        "--out",
        tmp_path / "o",
        "--find-orientations",
    ]
    code, text = run(*words, "--set", "many_views.find_by=stars")
    assert code == 2
    assert "'stars'" in text
    assert "images, lines, relion" in " ".join(text.split())
    assert not (tmp_path / "o").exists()


def test_nothing_finished_is_lost(ball_map: Path, ball_views: Path, tmp_path: Path) -> None:
    """A finished folder is not written over, nor an unfinished one of other settings."""
    code, text = run("reconstruct", ball_views, "--out", ball_map, *SET)
    assert code == 2
    assert "--overwrite" in text
    kept = (ball_map / "metrics.json").read_bytes()
    merge = ("reconstruct", ball_map / "phased.zarr", "--method", "merge", "--out")
    code, text = run(*merge, ball_map)
    assert code == 2
    assert "--overwrite" in text
    assert (ball_map / "metrics.json").read_bytes() == kept
    half_way = tmp_path / "half"
    shutil.copytree(ball_map, half_way)
    (half_way / "metrics.json").unlink()
    (half_way / ".run").mkdir()
    (half_way / ".run" / "run.json").write_text('{"input": "other"}')
    code, text = run("reconstruct", ball_views, "--out", half_way, *SET)
    assert code == 2
    assert "unfinished" in text
    code, text = run(*merge, half_way)
    assert code == 2
    assert "unfinished" in text
    code, text = run(*merge, half_way, "--overwrite")
    assert code == 0, text
    assert json.loads((half_way / "metrics.json").read_text())["rounds"] == 1
    assert not (half_way / ".run").exists()
