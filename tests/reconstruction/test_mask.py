"""The mask: where the molecule lies, by its images' map."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffragan.fourier.volumes import radius_px
from diffragan.reconstruction import many_views as mv
from diffragan.reconstruction.maps.image_map import image_map
from diffragan.reconstruction.maps.mask import envelope, largest_piece
from diffragan.reconstruction.maps.views import Views
from diffragan.settings import ManyViewsSettings
from synthetic_views import BOX_A, atoms_inside, make_views, mass_kda, molecule, true_volume
from weak_objects import sentence

ATOMS = molecule(1)
KDA = mass_kda(ATOMS)
VIEWS = 80
SMALL = ManyViewsSettings(padding=1, resolution_steps_A=(), mask_blur_A=1.5, mask_margin_A=2)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def views() -> Views:
    """Exact patterns to 2 Å and noisy images to 4 Å."""
    return make_views(ATOMS, VIEWS)


@pytest.fixture(scope="module")
def truth(views: Views) -> Tensor:
    return true_volume(ATOMS, views.n)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.5])
def test_the_envelope_holds_the_atoms_though_the_weight_is_wrong(
    views: Views, factor: float
) -> None:
    """At 0.7 to 1.5 times the molecular weight it holds 95 % of the atoms, and not the box."""
    mask = envelope(image_map(views).volume, BOX_A, factor * KDA)
    assert atoms_inside(mask, ATOMS) >= 0.95
    assert float(mask.float().mean()) < 0.4


def test_without_a_weight_the_map_tells_the_envelope(views: Views) -> None:
    assert atoms_inside(envelope(image_map(views).volume, BOX_A, None), ATOMS) >= 0.9


def test_the_envelope_without_margin_has_the_molecules_volume(truth: Tensor) -> None:
    """1.21 Å³ a dalton, less what lies in smaller pieces."""
    mask = envelope(truth, BOX_A, KDA, margin_A=0.0)
    volume_A3 = float(mask.sum()) * (BOX_A / truth.shape[-1]) ** 3
    assert 0.9 < volume_A3 / (1.21e3 * KDA) <= 1.001


def test_the_largest_piece_is_kept_also_across_the_first_voxel() -> None:
    """Pieces are found with the centre in the middle, not cut by the array's edge."""
    n = 20
    large = radius_px(n) <= 4
    island = torch.zeros(n, n, n, dtype=torch.bool)
    island[10:13, 10, 10] = True
    assert bool((largest_piece(large | island) == large).all())


def test_a_mask_is_found_though_the_lowest_frequencies_mislead(views: Views) -> None:
    """Images whose two lowest rings are reversed and far too strong, as second-order contrast
    makes them for a large molecule: the mask of their density lies beside the atoms, and the
    run does not take it."""
    low = (views.flat.radius[: len(views.transfer)] < 2.5).to(torch.complex64)
    wrong = replace(views, contrast=views.contrast * (1 - 31 * low))
    density = envelope(image_map(wrong).volume, BOX_A, KDA)
    assert atoms_inside(density, ATOMS) < 0.5
    half = mv.start(wrong, SMALL, KDA, 0).halves[0]
    assert half.second_order > 0
    assert atoms_inside(half.mask, ATOMS) > 0.8
    assert mv.start(views, SMALL, KDA, 0).halves[0].second_order == 0


def test_a_molecule_too_large_for_the_box_is_refused(views: Views) -> None:
    sentence(lambda: envelope(image_map(views).volume, BOX_A, 60.0), "60 kDa", "box", "--mass-kda")
