"""A molecule's symmetry: used in maps and searches, and seen in a map."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from diffragan.fourier.correlation import fsc
from diffragan.fourier.slices import extract
from diffragan.fourier.volumes import uncentred, volume_spectrum
from diffragan.reconstruction import many_views as mv
from diffragan.reconstruction.maps.free_set import free_balls
from diffragan.reconstruction.maps.image_map import image_map
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.from_images import SearchPlan, find_from_images
from diffragan.reconstruction.orientations.map_symmetry import symmetry_of
from diffragan.reconstruction.orientations.matching.match_images import Stage
from diffragan.rotations import apart_deg
from diffragan.settings import ManyViewsSettings
from diffragan.symmetry import group_of
from synthetic_views import make_views, mass_kda, molecule, true_volume

pytestmark = pytest.mark.usefixtures("one_thread")


def oligomer(group: str, away_A: float, atoms: int = 30) -> NDArray[np.float64]:
    """Copies of one chiral piece, `away_A` from the axes, turned by the rotations of a group."""
    piece = molecule(3, atoms, (5.5, 5.0, 4.5)) + np.array([away_A, 0.6 * away_A, 0.4 * away_A])
    copies: NDArray[np.float64] = np.concatenate([piece @ turn.T for turn in group_of(group)])
    return copies


DIMER = oligomer("C2", 4.5)
KDA = mass_kda(DIMER)
SMALL = ManyViewsSettings(
    padding=1, resolution_steps_A=(), iterations=30, mask_blur_A=1.5, mask_margin_A=2
)
C2 = torch.from_numpy(group_of("C2")).float()


@pytest.fixture(scope="module")
def few() -> Views:
    """So few views that they do not tell a molecule without its symmetry."""
    return make_views(DIMER, 24, image_dose=4000)


def test_each_view_counts_for_all_its_equivalents(few: Views) -> None:
    """The images' map has the symmetry, and is nearer to the truth than without it."""
    told = few.with_symmetry(C2)
    volume = image_map(told).volume
    spectrum, points = volume_spectrum(volume), few.flat.points[: len(few.transfer)]
    one, other = (extract(spectrum, r, points) for r in told.equivalents(few.rotations))
    assert float((one - other).abs().max() / one.abs().max()) < 1e-3
    truth = true_volume(DIMER, few.n)
    with_it, without = (float(fsc(v, truth)[1:8].mean()) for v in (volume, image_map(few).volume))
    assert with_it > without + 0.02


def test_a_run_with_symmetry_needs_fewer_views(few: Views) -> None:
    scores = []
    for some in (few, few.with_symmetry(C2)):
        run = mv.start(some, SMALL, KDA, 0)
        while not run.done:
            run.step()
        shells = fsc(mv.combined(run, some).map, true_volume(DIMER, some.n))
        scores.append(float(shells[8:15].mean()))
    assert scores[1] > 0.6
    assert scores[0] < 0.3


def test_a_turned_half_keeps_its_axis(few: Views) -> None:
    """Of a turn and a move between halves only what is along the axis is taken."""
    told = few.with_symmetry(C2)
    free = told.free_directions()
    assert free is not None
    torch.testing.assert_close(free @ torch.tensor([1.0, 2, 3]), torch.tensor([0.0, 0, 3]))
    both = few.with_symmetry(torch.from_numpy(group_of("D2")).float()).free_directions()
    assert both is not None
    assert float(both.abs().max()) < 1e-6


def test_what_is_left_out_is_left_out_with_its_equivalents() -> None:
    d2 = torch.from_numpy(group_of("D2")).float()
    balls = free_balls(48, 1.0, 12.0, 0.08, 4, 6.0, d2)
    inner = torch.fft.fftshift(balls, dim=(0, 1))[1:, 1:]  # without the Nyquist planes
    assert inner.any()
    assert not inner.all()
    assert torch.equal(inner, inner.flip(0))
    assert torch.equal(inner, inner.flip(1))


@pytest.mark.parametrize("name", ["C2", "D2"])
def test_a_symmetric_molecule_is_placed(name: str) -> None:
    """With its symmetry told, from the images alone: views are right up to its rotations, and one
    of each is looked for."""
    atoms = oligomer(name, 4.5, 60 // len(group_of(name)))
    group = torch.from_numpy(group_of(name)).float()
    views = make_views(atoms, 90, image_dose=4000)
    blank = replace(views, rotations=torch.eye(3).repeat(90, 1, 1)).with_symmetry(group)
    stages = (Stage(5.0, 60, 2000, 2.0, images=40, from_A=8.0), Stage(4.5, 2, 4600, 2.0))
    plan = SearchPlan(stages=stages)
    found = find_from_images(blank, mass_kda(atoms), plan=plan)
    assert found.sure
    angle = apart_deg(found.views.rotations, views.rotations, group)
    assert float(angle.median()) < 10


@pytest.mark.parametrize("name", ["C1", "C2", "C3", "C4", "D2", "D3", "T"])
def test_a_map_shows_its_symmetry(name: str) -> None:
    atoms = oligomer(name, 4.0, max(8, min(24, 60 // len(group_of(name)))))
    turned = atoms @ np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0].T
    seen = symmetry_of(true_volume(turned, 40))
    assert seen.name == name
    assert (seen.correlation is None) == (name == "C1")


def test_two_alike_halves_of_one_chain_are_no_symmetry() -> None:
    """A ferredoxin's chain folds into two halves that differ in their residues."""
    file = resources.files("diffragan").joinpath("data", "views_truth.npz")
    with file.open("rb") as stream:
        volume = np.load(stream)["volume"].astype(np.float32)
    assert symmetry_of(uncentred(torch.from_numpy(volume))).name == "C1"
