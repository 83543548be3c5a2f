"""Scatterers up the likelihood: what they scatter, what pulls them, and how few electrons do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffragan.atoms.model.atoms import Atoms
from diffragan.atoms.model.scattering import object_at
from diffragan.fourier.slices import extract
from diffragan.fourier.volumes import frequency_radius
from diffragan.reconstruction import many_views as mv
from diffragan.reconstruction.checkpoint import restored, save_state
from diffragan.reconstruction.likelihood.ascent import Ascent, Slope, Stage
from diffragan.reconstruction.likelihood.images import image_target
from diffragan.reconstruction.likelihood.patterns import pattern_target
from diffragan.reconstruction.likelihood.scatterers import ScattererGrid
from diffragan.reconstruction.maps.agreement import SHARED_BY_SCATTERERS
from diffragan.reconstruction.maps.image_map import ring_power
from diffragan.reconstruction.maps.views import Views
from diffragan.settings import ManyViewsSettings, load_settings
from synthetic_views import (
    ball,
    correlation,
    make_views,
    mass_kda,
    molecule,
    some_balls,
    true_volume,
)

ATOMS = molecule(1)
KDA = mass_kda(ATOMS)
CLIMB = ManyViewsSettings(
    padding=1, resolution_steps_A=(), mask_blur_A=1.5, mask_margin_A=2, climb_by="likelihood"
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def sparse() -> Views:
    """80 patterns to 2 Å with 1,000 e/Å², 900 scattered electrons each: one in 25 of what the
    projections are tested with."""
    return make_views(ATOMS, 80, dose=1e3)


@pytest.fixture(scope="module")
def truth(sparse: Views) -> Tensor:
    return true_volume(ATOMS, sparse.n)


def solved(views: Views, settings: ManyViewsSettings) -> tuple[mv.HalfMaps, Tensor]:
    run = mv.start(views, settings, KDA, 0)
    while not run.done:
        run.step()
    return run, mv.combined(run, views).map


def test_a_scatterer_is_a_carbon_at_its_voxel(sparse: Views) -> None:
    """Its transform is that of an atom there, by the direct sum; nothing beyond the edge."""
    grid = ScattererGrid.of(sparse, 7.0)
    n, weights = sparse.n, torch.zeros((sparse.n,) * 3)
    weights[2, n - 3, 5] = 1.5
    place = torch.tensor([[5.0, -3.0, 2.0]]) * sparse.voxel_A
    atom = Atoms(place, torch.tensor([1.5]), torch.tensor([7.0]))
    axis = torch.fft.fftfreq(n, 1 / n)
    z, y, x = torch.meshgrid(axis, axis, torch.arange(n // 2 + 1.0), indexing="ij")
    q = torch.stack((x, y, z), -1).reshape(-1, 3) / sparse.volume_box_A
    optics = sparse.optics
    wanted = object_at(q, atom, optics.energy_ev, optics.box_A).reshape(n, n, -1)
    radius = frequency_radius(n)
    found, inside = grid.spectrum(weights), radius <= float(sparse.flat.radius.max())
    apart = (found - wanted)[inside].abs().max()
    assert float(apart) < 1e-5 * float(wanted.abs().max())
    assert float(found[radius > float(sparse.flat.radius.max()) + 1].abs().max()) == 0


def test_weights_to_start_from_are_never_negative_and_lie_inside(sparse: Views) -> None:
    """And a sharp map gives back where its scatterers are."""
    grid, inside = ScattererGrid.of(sparse, 3.0), ball(sparse.n, 0.3)
    weights = torch.zeros((sparse.n,) * 3)
    weights[1, 2, 3] = weights[4, -3, 2] = 1
    start = grid.weights_of(grid.volume(weights), inside, 0)
    assert float(start.min()) >= 0
    assert float((start * ~inside).abs().max()) == 0
    top = start.flatten().topk(2).indices
    assert set(top.tolist()) == set(weights.flatten().topk(2).indices.tolist())
    assert torch.equal(grid.weights_of(grid.volume(weights), inside, 0), start)


def test_what_is_left_out_pulls_nothing(sparse: Views, truth: Tensor) -> None:
    """Counts whose window lies in the balls may be anything: the slope is the same. Others not."""
    free = some_balls(sparse)
    spectrum = torch.fft.rfftn(0.9 * truth, norm="forward")
    target = pattern_target(sparse, free)
    core = free.to(torch.complex64)
    inside = extract(core, sparse.rotations, sparse.curved.points).real > 0.999
    assert 0.01 < float(inside.float().mean()) < 0.2

    def slope(where: Tensor) -> Tensor:
        changed = sparse.measured.reshape(len(sparse), -1) * torch.where(where, 3.0, 1.0)
        seen = replace(sparse, measured=changed.reshape(sparse.measured.shape))
        return replace(target, views=seen).evaluate(spectrum)[1]

    unchanged = slope(torch.zeros_like(inside))
    scale = float(unchanged.abs().max())
    assert float((slope(inside) - unchanged).abs().max()) < 5e-3 * scale
    assert float((slope(~inside) - unchanged).abs().max()) > 0.1 * scale


def test_images_prefer_the_molecule_where_it_lies(sparse: Views, truth: Tensor) -> None:
    """The truth fits better than nothing, than itself moved, and than its mirror image; and
    images ask nothing of what they do not show."""
    target = image_target(sparse, ring_power(sparse))

    def misfit(volume: Tensor) -> float:
        return float(target.misfit(torch.fft.rfftn(volume, norm="forward")))

    best = misfit(truth)
    for other in (0 * truth, truth.roll(1, 0), truth.flip(0).roll(1, 0)):
        assert best < 0.5 * misfit(other)
    beyond = (
        frequency_radius(sparse.n) > float(sparse.flat.radius[sparse.contrast.shape[1] - 1]) + 3
    )
    assert float(target.weight[beyond].max()) == 0
    assert float(target.weight.max()) > 0


def test_a_climb_stays_with_the_truth(sparse: Views, truth: Tensor) -> None:
    """From the true density the likelihood leads nowhere else, for all the noise of its counts."""
    inside = ball(sparse.n, 0.35)
    slope = Slope(sparse, image_target(sparse, ring_power(sparse)), inside)
    grid = ScattererGrid.of(sparse, Stage(1.0).b_A2)
    ascent = Ascent.at(grid.weights_of(truth, inside, 0))
    for _ in range(10):
        ascent = slope.climb(ascent, Stage(1.0), 0)
    assert float(ascent.weights.min()) >= 0
    assert correlation(grid.volume(ascent.weights), truth) > 0.97


def test_scatterers_climb_where_projections_do_not(sparse: Views, truth: Tensor) -> None:
    """The map that is handed out; and what is claimed of it without a truth."""
    run, whole = solved(sparse, CLIMB)
    _, projected = solved(sparse, CLIMB.model_copy(update={"climb_by": "projections"}))
    assert correlation(whole, truth) > 0.95
    assert correlation(projected, truth) < 0.9
    assert run.history[-1]["phase"] == "likelihood"
    assert run.measure is not None
    assert run.measure.resolution_A < 2.2
    assert run.measure.shared == SHARED_BY_SCATTERERS


def test_with_no_electrons_nothing_is_claimed() -> None:
    """Images to 4 Å and hardly a count beyond: the halves do not agree on what noise made."""
    empty = make_views(ATOMS, 80, dose=1.0)
    run, _ = solved(empty, CLIMB.model_copy(update={"likelihood_passes": 15}))
    assert run.measure is not None
    assert run.measure.resolution_A > 3.5


def test_halves_climb_apart(sparse: Views) -> None:
    """What the odd views show never reaches the even half."""
    other = make_views(molecule(2), 80, dose=1e3)
    mixed = replace(sparse, measured=sparse.measured.clone(), contrast=sparse.contrast.clone())
    mixed.measured[1::2], mixed.contrast[1::2] = other.measured[1::2], other.contrast[1::2]
    settings = CLIMB.model_copy(update={"likelihood_passes": 2})
    (a, _), (b, _) = solved(sparse, settings), solved(mixed, settings)
    assert torch.equal(a.halves[0].map, b.halves[0].map)
    assert not torch.equal(a.halves[1].map, b.halves[1].map)


def test_a_climb_goes_on_where_it_stopped(sparse: Views, tmp_path: Path) -> None:
    """Bit for bit."""
    settings = load_settings().model_copy(update={"many_views": CLIMB})
    run = mv.start(sparse, CLIMB, KDA, settings.seed)
    for _ in range(3):
        run.step()
    save_state(tmp_path / "state.pt", run, 1.0)
    later, _ = restored(tmp_path / "state.pt", sparse, settings, KDA)
    for _ in range(3):
        run.step()
        later.step()
    assert torch.equal(run.halves[1].map, later.halves[1].map)


def test_orientations_are_refined_before_the_climb(sparse: Views) -> None:
    """Projections turn the views, then scatterers begin anew from the images."""
    brief = {"orientations": "refine", "iterations": 2, "likelihood_passes": 1}
    run = mv.start(sparse, CLIMB.model_copy(update=brief), KDA, 0)
    phases = []
    while not run.done:
        phases.append(run.phase)
        run.step()
    assert phases == ["iterate", "iterate", "likelihood"]
    assert not run.exhausted
