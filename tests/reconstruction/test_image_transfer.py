"""Images at defoci of their own, some astigmatic: maps and orientations use each view's lens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffragan.fourier.correlation import fsc
from diffragan.fourier.volumes import volume_spectrum
from diffragan.optics import Defocus
from diffragan.reconstruction.maps.image_map import image_map
from diffragan.reconstruction.maps.image_transfer import ImageTransfer
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.matching.match_images import (
    Model,
    Stage,
    compare,
    image_search,
)
from diffragan.reconstruction.orientations.matching.merge_images import merge
from diffragan.reconstruction.orientations.refine import image_agreement, refine_orientations
from diffragan.rotations import angle_deg, misorientation_deg, quasi_uniform
from synthetic_views import correlation, make_views, mass_kda, molecule, true_volume

ATOMS = molecule(1)
KDA = mass_kda(ATOMS)
COUNT = 60
SHIFTS_A = np.random.default_rng(0).uniform(-2.0, 2.0, (COUNT, 2))

pytestmark = pytest.mark.usefixtures("one_thread")


def lenses() -> Defocus:
    """A third each at -800 and -1500 Å, and a third with 800 Å of astigmatism at any angle."""
    mean = np.repeat([-800.0, -1500.0, -1200.0], COUNT // 3)
    half = np.repeat([0.0, 0.0, 400.0], COUNT // 3)
    angle = np.random.default_rng(1).uniform(0, 180, COUNT)
    return Defocus(mean + half, mean - half, angle)


@pytest.fixture(scope="module")
def views() -> Views:
    """Images whose transfer follows RELION's formula, not the package's."""
    return make_views(ATOMS, COUNT, image_shifts_A=SHIFTS_A, image_dose=4000, defocus=lenses())


def with_terms(views: Views, terms: torch.Tensor) -> Views:
    """The same images believed to be at other defoci."""
    own = views.transfer.own
    assert own is not None
    return replace(views, transfer=replace(views.transfer, own=replace(own, terms_A=terms)))


@pytest.fixture(scope="module")
def swapped(views: Views) -> Views:
    """Each image with the lens of another third."""
    own = views.transfer.own
    assert own is not None
    return with_terms(views, own.terms_A.roll(COUNT // 3, 0))


@pytest.fixture(scope="module")
def round_lens(views: Views) -> Views:
    """The mean defocus of each image, without its astigmatism."""
    own = views.transfer.own
    assert own is not None
    return with_terms(views, own.terms_A * torch.tensor([1, 0, 0]))


def test_curves_follow_views_and_frequencies(views: Views) -> None:
    """Of a slice, of places in any order, of every second view and of the leading frequencies."""
    whole = views.transfer.of(slice(0, COUNT))
    assert whole.shape == (COUNT, len(views.transfer))
    places = torch.tensor([41, 3, 3, 59])
    assert torch.equal(views.transfer.of(places), whole[places])
    assert torch.equal(views.every_second(1).transfer.of(slice(0, 9)), whole[1:19:2])
    few = views.transfer.leading(7)
    assert len(few) == 7
    assert torch.equal(few.of(slice(0, COUNT)), whole[:, :7])
    torch.testing.assert_close(views.transfer.mean_square(), whole.square().mean(0))
    shared = ImageTransfer(whole[0])
    assert torch.equal(shared.of(places), whole[:1])
    assert torch.equal(shared.some(slice(0, 3)).mean_square(), whole[0] ** 2)


def test_the_images_map_is_right_only_with_each_images_lens(
    views: Views, swapped: Views, round_lens: Views
) -> None:
    """Like the map of images at one defocus; wrong defoci, or astigmatism left out, spoil it."""
    truth = true_volume(ATOMS, views.n, edge_A=4.0)
    one_defocus = make_views(ATOMS, COUNT, image_shifts_A=SHIFTS_A, image_dose=4000)
    expected, right, wrong, without = (
        float(fsc(image_map(some).volume, truth)[1:9].mean())  # to 4 Å
        for some in (one_defocus, views, swapped, round_lens)
    )
    assert right > expected - 0.02
    assert without < right - 0.01
    assert wrong < right - 0.2


def test_shifts_and_orientations_need_each_images_lens(views: Views, swapped: Views) -> None:
    """Against the true map, from orientations 3° off and shifts unknown."""
    spectrum = volume_spectrum(true_volume(ATOMS, views.n))
    errors = []
    for some in (views, swapped):
        start = replace(some, shifts_A=torch.zeros_like(some.shifts_A))
        refined = refine_orientations(spectrum, start, resolution_A=3.0, max_step_deg=2.0)
        away = (refined.shifts_A - views.shifts_A).norm(dim=1)
        errors.append(float(away.square().mean().sqrt()))
        assert float(angle_deg(refined.rotations, views.rotations).median()) < 1
    assert errors[0] < 0.2
    assert errors[1] > 2 * errors[0]
    agreement = [float(image_agreement(spectrum, v, 4.0).mean()) for v in (views, swapped)]
    assert agreement[0] > 0.9
    assert agreement[1] < agreement[0] - 0.2


def test_a_search_by_images_uses_each_images_lens(views: Views, swapped: Views) -> None:
    """A known map tells nearly every orientation, and explains the images."""
    stage = Stage(4.5, 1, 8000, 1.0)
    grid = torch.from_numpy(quasi_uniform(stage.grid, 0)).float()
    few = torch.arange(0, COUNT, 2)
    explained = []
    for some in (views, swapped):
        search = image_search(some, KDA, resolution_A=4.2, shift_reach_A=3.0)
        truth = true_volume(ATOMS, search.views.n, edge_A=4.0)
        matches = compare(search, few, Model(truth, 0.05 * search.expected), stage, grid)
        explained.append(matches.explained)
        if some is views:
            angle = misorientation_deg(matches.rotations, views.rotations[few])
            assert float((angle < 14).float().mean()) > 0.9
            merged = merge(search, matches.places, matches.unexplained)
            model = merged.model(search, matches.unexplained)
            assert correlation(model.volume, truth) > 0.7
    assert explained[0] > 0.8
    assert explained[1] < explained[0] - 0.2


def test_like_lenses_apart_are_one_lens() -> None:
    """Views that each have the same defocus of their own give what a shared one gives."""
    one, count = -1000.0, 20
    alike = make_views(ATOMS, count, defocus=Defocus.of(np.full(count, one)))
    shared = make_views(ATOMS, count)
    torch.testing.assert_close(alike.transfer.of(slice(0, 1)), shared.transfer.of(slice(0, 1)))
    torch.testing.assert_close(image_map(alike).volume, image_map(shared).volume)
    everyone = torch.arange(count)
    stage, grid = Stage(5.0, 1, 2000, 2.0), torch.from_numpy(quasi_uniform(2000, 0)).float()
    matches = []
    for some in (alike, shared):
        search = image_search(some, KDA, resolution_A=4.5, shift_reach_A=2.0)
        truth = true_volume(ATOMS, search.views.n, edge_A=4.0)
        matches.append(compare(search, everyone, Model(truth, search.expected), stage, grid))
    torch.testing.assert_close(matches[0].rotations, matches[1].rotations)
    torch.testing.assert_close(matches[0].unexplained, matches[1].unexplained, rtol=1e-3, atol=1e-9)
