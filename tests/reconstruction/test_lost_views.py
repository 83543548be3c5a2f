"""Views on the wrong side of a molecule of two like halves: their patterns bring them back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.devices import to_device
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.lost_views import place_lost
from diffragan.reconstruction.orientations.matching.elsewhere import orientation_grid
from diffragan.rotations import misorientation_deg, turned
from diffragan.symmetry import group_of
from strict_device import strict_device
from synthetic_views import make_views, mass_kda, molecule

COUNT = 120
RESOLUTION_A = 4.0
# Half a turn about z, in the molecule's frame.
TURN = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))

pytestmark = pytest.mark.usefixtures("one_thread")


def like_halves() -> NDArray[np.float64]:
    """Atoms of a half, and the same turned about z, each then moved by 0.5 Å."""
    half = molecule(3, atoms=40, axes_A=(4.0, 6.5, 8.0)) + np.array([4.5, 0.0, 0.0])
    both = np.concatenate((half, half * (-1.0, -1.0, 1.0)))
    return both + np.random.default_rng(3).normal(0, 0.5, both.shape)


KDA = mass_kda(like_halves())


@pytest.fixture(scope="module", params=[None, 20_000.0], ids=["exact", "counted"])
def views(request: pytest.FixtureRequest) -> Views:
    """Rightly placed, to 2° rms."""
    made = make_views(like_halves(), COUNT, image_dose=4000, dose=request.param)
    off = 0.02 * torch.randn((COUNT, 3), generator=torch.Generator().manual_seed(1))
    return replace(made, rotations=turned(made.rotations, off))


def errors_deg(found: Views, views: Views) -> Tensor:
    """(v,) how far each lies from where it was, common turn apart."""
    return misorientation_deg(found.rotations, views.rotations)


@pytest.mark.parametrize("tenths", [3, 5])
def test_views_on_the_wrong_side_come_back(views: Views, tenths: int) -> None:
    """Also where they are as many as the others, so that their map shows neither side."""
    wrong = torch.arange(COUNT) % 10 < tenths
    sides = torch.where(wrong[:, None, None], views.rotations @ TURN, views.rotations)
    lost = replace(views, rotations=sides.contiguous())
    assert int((errors_deg(lost, views) > 90).sum()) == int(wrong.sum())
    found = place_lost(lost, KDA, resolution_A=RESOLUTION_A)
    assert int((errors_deg(found, views) > 15).sum()) <= 2


def test_views_anywhere_come_back_and_the_others_stay(views: Views) -> None:
    rotations = views.rotations.clone()
    rotations[::5] = rotations[::5].roll(1, 0)
    found = place_lost(replace(views, rotations=rotations), KDA, resolution_A=RESOLUTION_A)
    assert int((errors_deg(found, views) > 15).sum()) <= 2


def test_where_nothing_is_lost_little_moves(views: Views) -> None:
    found = place_lost(views, KDA, resolution_A=RESOLUTION_A)
    assert float((errors_deg(found, views) < 6).float().mean()) > 0.95
    assert torch.equal(found.weights, views.weights)


def test_of_two_like_halves_either_side_may_stay() -> None:
    """Where nothing tells the sides apart, no view has to move, and none is lost."""
    half = molecule(3, atoms=40, axes_A=(4.0, 6.5, 8.0)) + np.array([4.5, 0.0, 0.0])
    made = make_views(np.concatenate((half, half * (-1.0, -1.0, 1.0))), COUNT, image_dose=4000)
    wrong = torch.arange(COUNT) % 2 == 0
    sides = torch.where(wrong[:, None, None], made.rotations @ TURN, made.rotations)
    found = place_lost(replace(made, rotations=sides), KDA, resolution_A=RESOLUTION_A)
    own = torch.stack((torch.eye(3), TURN))
    assert (
        float((misorientation_deg(found.rotations, made.rotations, own) < 6).float().mean()) > 0.95
    )


def test_a_device_moves_the_same_views(views: Views) -> None:
    rotations = views.rotations.clone()
    rotations[::5] = rotations[::5].roll(1, 0)
    lost = replace(views, rotations=rotations)
    wanted = place_lost(lost, KDA, resolution_A=RESOLUTION_A)
    with strict_device() as device:
        found = place_lost(to_device(lost, device), KDA, resolution_A=RESOLUTION_A)
        there = found.rotations.cpu()
    assert float(misorientation_deg(there, wanted.rotations).median()) < 0.1


def test_a_grid_holds_one_of_each_of_a_symmetry(views: Views) -> None:
    own = torch.from_numpy(group_of("C3")).float()
    third = orientation_grid(3000, 0, views.with_symmetry(own))
    assert len(third) == pytest.approx(1000, abs=60)
    assert len(orientation_grid(3000, 0, views)) == 3000
