"""Orientations from lines that patterns share, when to trust them, and the choice of a finder."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_refine import views_of

from diffragan.errors import DiffraganError
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.finders import FINDERS, doubts, find_finder
from diffragan.reconstruction.orientations.from_lines import LinePlan, find_from_lines
from diffragan.reconstruction.orientations.search_result import OrientationSearchResult
from diffragan.rotations import mirrored, misorientation_deg
from strict_device import strict_device

PLAN = LinePlan(core=14, grid=8000)

pytestmark = pytest.mark.usefixtures("one_thread")


def blank(views: Views) -> Views:
    """The same views, told nothing of how they lie."""
    return replace(
        views,
        rotations=torch.eye(3).repeat(len(views), 1, 1),
        shifts_A=torch.zeros_like(views.shifts_A),
    )


@pytest.fixture(scope="module")
def views() -> Views:
    """Moved images; the truth is kept in `rotations`."""
    return views_of(count=24, m=48, shift_A=2.0, noise=0.01)[0]


def test_orientations_from_nothing(views: Views) -> None:
    """Amplitudes agree along common lines only where two views lie as they did, in either hand."""
    stages: list[str] = []

    def progress(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
        stages.append(stage)

    found = find_from_lines(blank(views), plan=PLAN, progress=progress)
    angle = min(
        (
            misorientation_deg(found.views.rotations, true)
            for true in (views.rotations, mirrored(views.rotations))
        ),
        key=lambda a: float(a.median()),
    )
    assert angle.median() < 1.5
    assert (angle < 6).float().mean() > 0.9
    assert found.sure
    assert found.agree_deg is not None
    assert found.agree_deg < 5
    assert stages[0] == "core by common lines"
    assert stages[-1] == "aligning views to images"


def test_a_search_is_the_same_on_a_device(views: Views) -> None:
    """Lines are compared on the CPU, and the answer goes back to where the views lie."""
    from diffragan.devices import to_device

    wanted = find_from_lines(blank(views), plan=PLAN)
    with strict_device() as device:
        found = find_from_lines(to_device(blank(views), device), plan=PLAN)
        assert found.views.device == device
        rotations = found.views.rotations.cpu()
    torch.testing.assert_close(rotations, wanted.views.rotations)


def test_views_of_different_molecules_are_never_sure(views: Views) -> None:
    """Slices of different volumes share no lines, so two halves of a core place a view apart."""
    measured = torch.cat(
        [views_of(seed, count=24, m=48)[0].measured[seed : seed + 1] for seed in range(24)]
    )
    found = find_from_lines(blank(replace(views, measured=measured)), plan=PLAN)
    assert not found.sure
    assert found.agree_deg is not None
    assert found.agree_deg > 20


def test_too_few_views_to_find_orientations() -> None:
    """Three slices in either hand fit any lines; a fourth is needed to tell."""
    few, _ = views_of(count=3)
    with pytest.raises(DiffraganError, match="4 or more"):
        find_from_lines(few)


@pytest.mark.parametrize(
    ("dose", "named"), [(None, True), (200.0, True), (1e4, True), (150.0, False), (20.0, False)]
)
def test_lines_are_named_as_a_remedy_where_the_dose_allows(
    views: Views, dose: float | None, named: bool
) -> None:
    """Below 200 e/Å² common lines were never right, so nobody is sent there."""
    electrons = None if dose is None else dose * views.optics.box_A**2
    result = OrientationSearchResult(replace(views, electrons=electrons), False, (0.3, 0.2), 80.0)
    (sentence,) = doubts(result, "images")
    assert "No two of 2 random starts" in sentence
    assert ("--set many_views.find_by=lines" in sentence) == named


def test_a_doubtful_search_by_lines_sends_to_the_images(views: Views) -> None:
    """What few electrons stop, the images may still do; a sure search says nothing."""
    result = OrientationSearchResult(views, False, agree_deg=88.0)
    assert "find_by=images" in doubts(result, "lines")[0]
    assert "88°" in doubts(result, "lines")[0]
    assert doubts(replace(result, sure=True), "lines") == []


def test_finders_are_found_by_name() -> None:
    """A name that is not there is answered with those that are."""
    assert find_finder("lines") is FINDERS["lines"]
    with pytest.raises(DiffraganError, match=r"'line' .*many_views\.find_by from images, lines"):
        find_finder("line")


_PROGRAM = """
import hashlib
import torch
from diffragan.reconstruction.orientations.lines.common_lines import votes
generator = torch.Generator().manual_seed(0)
turns = torch.linalg.qr(torch.randn((300, 3, 3), generator=generator))[0].contiguous()
table = torch.rand((24, 240, 240), generator=generator)
print(hashlib.sha256(votes(table, turns, turns[:24]).numpy().tobytes()).hexdigest())
"""


def test_votes_are_the_same_in_the_process_that_compiles(tmp_path: Path) -> None:
    """A search that is repeated in another process must choose the same orientations."""
    environment = os.environ | {
        "NUMBA_CACHE_DIR": str(tmp_path),
        "NUMBA_NUM_THREADS": "2",
        "PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder),
    }
    command = [sys.executable, "-c", _PROGRAM]
    printed = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert printed[0].stdout == printed[1].stdout
    assert [p.stderr for p in printed] == ["", ""]
    assert list(tmp_path.rglob("*vote_loop*.nbc"))
