"""Orientations from images alone: against a known map, and from random starts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.commands.demo import views_path
from diffragan.devices import to_device
from diffragan.optics import Defocus
from diffragan.pairs.open import open_pairs
from diffragan.reconstruction.maps.load_views import load_views
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.finders import defocus_to_find, doubts
from diffragan.reconstruction.orientations.from_images import SearchPlan, find_from_images
from diffragan.reconstruction.orientations.matching.match_images import (
    ImageSearch,
    Model,
    Stage,
    compare,
    image_search,
)
from diffragan.reconstruction.orientations.matching.merge_images import Descent
from diffragan.reconstruction.orientations.search_result import OrientationSearchResult
from diffragan.rotations import apart_deg, misorientation_deg, quasi_uniform
from strict_device import strict_device
from synthetic_views import make_views, mass_kda, molecule, true_volume

ATOMS = molecule(1)
KDA = mass_kda(ATOMS)
COUNT = 60
SHIFTS_A = np.random.default_rng(0).uniform(-2.5, 2.5, (COUNT, 2))
STAGE = Stage(4.5, 1, 15000, 1.0)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def views() -> Views:
    """Shifted images to 4 Å of unknown orientation; the truth is kept in `rotations`."""
    return make_views(ATOMS, COUNT, image_shifts_A=SHIFTS_A, image_dose=4000)


@pytest.fixture(scope="module")
def grid() -> Tensor:
    return torch.from_numpy(quasi_uniform(STAGE.grid, 0)).float()


def known(search: ImageSearch, positions: NDArray[np.float64]) -> Model:
    """The true map of a molecule, and the variance of images against it."""
    n = search.views.n
    return Model(true_volume(positions, n, edge_A=4.0), 0.05 * search.expected)


def test_a_known_map_tells_orientation_and_shift(views: Views, grid: Tensor) -> None:
    """To the grids' fineness, in nearly every view."""
    search = image_search(views, KDA, resolution_A=4.2, shift_reach_A=4.0)
    found = compare(search, torch.arange(COUNT), known(search, ATOMS), STAGE, grid)
    angle = misorientation_deg(found.rotations, views.rotations)
    assert float((angle < 12).float().mean()) > 0.95
    away = (found.shifts_A - torch.from_numpy(SHIFTS_A).float()).norm(dim=1)
    assert float(away[angle < 12].median()) < 0.8
    assert found.explained > 0.85
    items, weight, rotations, shifts = found.places
    assert rotations.shape == (len(items), 3, 3)
    assert shifts.shape == (len(items), 2)
    by_view = torch.zeros(COUNT).index_add_(0, items, weight)
    torch.testing.assert_close(by_view, torch.ones(COUNT))


def test_another_molecules_map_explains_less(views: Views, grid: Tensor) -> None:
    search = image_search(views, KDA, resolution_A=4.2, shift_reach_A=4.0)
    few = torch.arange(0, COUNT, 4)
    right = compare(search, few, known(search, ATOMS), STAGE, grid)
    wrong = compare(search, few, known(search, molecule(2)), STAGE, grid)
    assert wrong.explained < right.explained - 0.1
    assert wrong.gain < 0.8 * right.gain


def test_orientations_come_from_random_starts(tmp_path: Path) -> None:
    """Of the bundled protein's images alone: two starts agree, and the views are those of the
    truth in one of the two hands."""
    pairs = open_pairs(views_path())
    assert pairs.rotation is not None
    nothing = np.eye(3)[None].repeat(pairs.n, 0)
    blank = load_views(pairs, np.arange(pairs.n), nothing, tmp_path)
    true = torch.from_numpy(pairs.rotation).float()
    stages: list[str] = []

    def progress(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
        stages.append(stage)

    found = find_from_images(blank, pairs.structures[0].mass_kda, progress=progress)
    assert found.sure
    assert found.agree_deg is not None
    assert found.agree_deg < 20
    assert stages == ["random starts"] * len(found.starts) + ["placing all views"]
    angle = apart_deg(found.views.rotations, true)
    assert float(angle.median()) < 2
    assert float((angle < 10).float().mean()) > 0.9


def test_one_start_alone_is_never_sure(views: Views) -> None:
    quick = SearchPlan(starts=1, stages=(Stage(6.0, 1, 500, 2.0),))
    one = find_from_images(views, KDA, plan=quick)
    assert not one.sure
    assert one.agree_deg is None
    again = find_from_images(views, KDA, plan=quick)
    assert torch.equal(one.views.rotations, again.views.rotations)
    assert math.isfinite(one.starts[0])


def test_each_image_is_judged_by_its_own_noise(views: Views, grid: Tensor) -> None:
    """Very noisy images beside good ones leave the good ones' places as they are."""
    wild = replace(views, contrast=views.contrast.clone(), image_noise=views.image_noise.clone())
    bad = torch.arange(COUNT) % 2 == 1
    wild.image_noise[bad] *= 1000
    spread = wild.image_noise[bad][:, None].sqrt() * torch.randn(
        wild.contrast[bad].shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)
    )
    wild.contrast[bad] += spread
    few = torch.arange(0, COUNT, 2)
    clean, mixed = (image_search(v, KDA, resolution_A=4.2) for v in (views, wild))
    wanted = compare(clean, few, known(clean, ATOMS), STAGE, grid)
    found = compare(mixed, few, known(mixed, ATOMS), STAGE, grid)
    torch.testing.assert_close(found.rotations, wanted.rotations)
    assert len(found.places[0]) == len(wanted.places[0])
    noise = compare(mixed, torch.arange(1, COUNT, 2), known(mixed, ATOMS), STAGE, grid)
    assert len(noise.places[0]) > 2 * len(found.places[0])


def test_blank_images_are_never_sure(views: Views) -> None:
    """Starts that agree on nothing, since nothing is there, are no answer."""
    blank = replace(views, contrast=torch.zeros_like(views.contrast))
    quick = SearchPlan(starts=2, stages=(Stage(6.0, 1, 500, 2.0),))
    found = find_from_images(blank, KDA, plan=quick)
    assert not found.sure


def test_an_interrupted_search_goes_on(views: Views, tmp_path: Path) -> None:
    """Starts that are done are not made again, and the end is the same."""
    quick = SearchPlan(starts=3, stages=(Stage(6.0, 2, 250, 2.0),))
    views = views.every(3, 0)
    keep = tmp_path / "starts.pt"

    class StoppedError(Exception):
        pass

    def stop(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        find_from_images(views, KDA, plan=quick, keep=keep, progress=stop)
    assert len(torch.load(keep, weights_only=True)) == 2
    on = find_from_images(views, KDA, plan=quick, keep=keep)
    once = find_from_images(views, KDA, plan=quick)
    assert torch.equal(on.views.rotations, once.views.rotations)
    assert on.starts == once.starts


@pytest.mark.parametrize("own_lenses", [False, True])
def test_a_search_is_the_same_on_a_device(own_lenses: bool, views: Views) -> None:
    quick = SearchPlan(starts=2, stages=(Stage(6.0, 2, 500, 2.0),))
    if own_lenses:
        lenses = Defocus.of(np.linspace(-1000, -1200, COUNT), 100.0, 30.0)
        views = make_views(ATOMS, COUNT, image_shifts_A=SHIFTS_A, image_dose=4000, defocus=lenses)
    views = views.every(3, 0)
    wanted = find_from_images(views, KDA, plan=quick)
    with strict_device() as device:
        found = find_from_images(to_device(views, device), KDA, plan=quick)
        rotations = found.views.rotations.cpu()
    # What a map explains is the same to seven digits; which of two places that explain a view alike
    # it is given hangs on rounding, where a search is as short as this one.
    assert found.starts == pytest.approx(wanted.starts, abs=1e-5)
    turned = rotations @ rotations.mT
    torch.testing.assert_close(turned, torch.eye(3).expand_as(turned), atol=1e-5, rtol=0)


def test_images_too_near_to_focus_are_told_the_defocus_that_would_do() -> None:
    """By weight: at -1000 Å 2 sin(chi) is strong from 8 Å on, which tells small molecules' views
    apart and large ones' not; at -3000 Å from 14 Å on."""
    near = make_views(ATOMS, 20)
    far = make_views(ATOMS, 20, defocus=Defocus.of(np.full(20, -3000.0)))
    assert defocus_to_find(near, 6.0) is None
    assert defocus_to_find(near, 47.0) == -2000
    assert defocus_to_find(far, 47.0) is None
    lost = OrientationSearchResult(near, sure=False, starts=(0.3, 0.3), agree_deg=100.0)
    (word,) = doubts(lost, "images", 47.0)
    assert "-2000 Å or beyond" in word
    assert "47 kDa" in word
    assert "defocus" not in doubts(lost, "images", 6.0)[0]


def test_few_images_a_turn_are_drawn_anew(views: Views) -> None:
    """A third of a start's at most, and others each time; by the seed alone."""
    search = image_search(views, KDA, resolution_A=6.0)
    stage = Stage(6.0, 2, 500, 2.0, images=1000, from_A=9.0)
    assert stage.at(0).resolution_A == 9.0
    assert stage.at(2).resolution_A == 6.0
    grid = torch.from_numpy(quasi_uniform(500)).float()
    everyone = torch.arange(COUNT)
    drawn: list[Tensor] = []
    for _ in range(2):
        on = Descent.begin(search, everyone, 5)
        for turn in range(2):
            on = on.step(search, everyone, stage.at(turn), grid)
        drawn.append(on.model.volume)
    assert torch.equal(*drawn)
    other = Descent.begin(search, everyone, 6).step(search, everyone, stage, grid)
    assert not torch.equal(other.model.volume, drawn[0])
