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
from diffragan.reconstruction.orientations.finders import (
    FINDERS,
    doubts,
    find_finder,
    images_or_lines,
    lines_can_tell,
)
from diffragan.reconstruction.orientations.from_images import (
    SearchPlan,
    find_from_images,
    images_tell,
)
from diffragan.reconstruction.orientations.from_lines import (
    LinePlan,
    find_from_lines,
    half_turns_told,
)
from diffragan.reconstruction.orientations.matching.match_images import Stage
from diffragan.reconstruction.orientations.search_result import OrientationSearchResult
from diffragan.rotations import apart_deg, mirrored, misorientation_deg
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
    ("dose", "tried"), [(None, True), (200.0, True), (1e4, True), (150.0, False), (20.0, False)]
)
def test_lines_are_tried_where_the_dose_allows(
    views: Views, dose: float | None, tried: bool
) -> None:
    """Below 200 e/Å² common lines were never right, and of a symmetry they place no axes."""
    electrons = None if dose is None else dose * views.optics.box_A**2
    counted = replace(views, electrons=electrons)
    assert lines_can_tell(counted) == tried
    assert not lines_can_tell(replace(counted, symmetry=torch.eye(3)[None]))
    (sentence,) = doubts(OrientationSearchResult(counted, False, (0.3, 0.2), 80.0), "images")
    assert "No two of 2 random starts" in sentence
    assert ("nor were common lines" in sentence) == tried


QUICK = SearchPlan(starts=1, stages=(Stage(6.0, 1, 500, 3.0),))  # one start is never sure


def right(found: OrientationSearchResult, true: Views) -> bool:
    """Whether the views lie as they did, in either hand."""
    return float(apart_deg(found.views.rotations, true.rotations).median()) < 2


def test_lines_place_what_images_do_not(views: Views) -> None:
    """A search by images that is not sure goes on by lines, and is sure by them."""
    by_images = find_from_images(blank(views), None, plan=QUICK)
    assert not by_images.sure
    assert not right(by_images, views)
    found = images_or_lines(blank(views), None, plan=QUICK)
    assert found.sure
    assert right(found, views)


def test_faint_images_are_not_searched_by(views: Views) -> None:
    """Where an image holds too little to be placed by, lines come first; where these cannot tell
    either, the images' answer stands, and is not sure."""
    assert images_tell(views, None) > 1000
    noise = views.image_noise * images_tell(views, None) / 30
    faint = replace(views, image_noise=noise)
    assert images_tell(faint, None) == pytest.approx(30, rel=1e-3)
    seen: list[str] = []

    def progress(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
        seen.append(stage)

    found = images_or_lines(blank(faint), None, plan=QUICK, progress=progress)
    assert found.sure
    assert "random starts" not in seen


def test_half_turns_are_told_by_other_views_images(views: Views) -> None:
    """Patterns do not know them: right ones are confirmed, and images of noise confirm about half,
    so that a search by lines is not sure with them."""
    assert half_turns_told(views) > 0.95
    noise = torch.randn(
        views.contrast.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)
    )
    noisy = replace(views, contrast=noise, image_noise=torch.ones_like(views.image_noise))
    assert half_turns_told(noisy) < 0.8
    assert not find_from_lines(blank(noisy), plan=PLAN).sure


def test_patterns_that_say_nothing_are_never_sure(views: Views) -> None:
    """Halves of a core agree on nothing, since nothing is there; neither do faint images help."""
    noise = views.image_noise * images_tell(views, None) / 30
    measured = torch.ones_like(views.measured)
    flat = blank(replace(views, image_noise=noise, measured=measured))
    assert not find_from_lines(flat, plan=PLAN).sure


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
