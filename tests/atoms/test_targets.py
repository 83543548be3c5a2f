"""What atoms are refined against."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffragan.atoms.building.targets import map_target
from diffragan.atoms.model.atoms import Atoms, atoms_at
from diffragan.atoms.model.density import AtomGrid
from diffragan.reconstruction.likelihood.patterns import PatternTarget, pattern_target
from diffragan.reconstruction.maps.views import Views
from synthetic_views import make_views, molecule

pytestmark = pytest.mark.usefixtures("one_thread")


def grid_of(views: Views) -> AtomGrid:
    return AtomGrid(views.n, views.volume_box_A, views.optics.box_A, views.optics.energy_ev)


def seen_by(views: Views, spectrum: Tensor, electrons: float | None) -> Views:
    """The views with the patterns of a model in place of their own."""
    target = pattern_target(replace(views, electrons=None))
    ones = PatternTarget(target.views, target.geometry, torch.ones_like(target.unexplained))
    from diffragan.fourier.slices import extract
    from diffragan.fourier.volumes import volume_spectrum

    n = views.n
    sliced = volume_spectrum(torch.fft.irfftn(spectrum, s=(n, n, n), norm="forward"))
    values = extract(sliced, views.rotations, ones.geometry.points)
    intensity = values.abs().square().reshape(len(views), 2, -1) * ones.geometry.valid
    if electrons is not None:
        generator = torch.Generator().manual_seed(3)
        counts = torch.poisson(intensity * electrons, generator)
        return replace(views, measured=counts / electrons, electrons=electrons)
    return replace(views, measured=intensity.sqrt(), electrons=None)


@pytest.fixture(scope="module")
def views() -> Views:
    return make_views(molecule(1), 24, seed=1)


@pytest.fixture(scope="module")
def atoms() -> Atoms:
    return atoms_at(torch.from_numpy(molecule(1)).float(), 1.0, 20.0)


def test_the_pattern_misfit_has_its_true_gradient(views: Views, atoms: Atoms) -> None:
    """The hand-made backward pass through the slices is the slope of the misfit itself."""
    grid = grid_of(views)
    target = pattern_target(seen_by(views, grid.spectrum(atoms), 1e5))
    start = Atoms(atoms.positions_A + 0.2, atoms.weights, atoms.b_A2)
    direction = torch.randn(start.positions_A.shape, generator=torch.Generator().manual_seed(0))

    def misfit(step: float) -> Tensor:
        moved = Atoms(start.positions_A + step * direction, start.weights, start.b_A2)
        return target.misfit(grid.spectrum(moved))

    free = start.positions_A.clone().requires_grad_()
    torch.autograd.backward(target.misfit(grid.spectrum(Atoms(free, start.weights, start.b_A2))))
    assert free.grad is not None
    slope = float((free.grad * direction).sum())
    numeric = float(misfit(2e-3) - misfit(-2e-3)) / 4e-3
    assert math.isclose(slope, numeric, rel_tol=0.02)


@pytest.mark.parametrize("electrons", [None, 3e6])
def test_sums_know_how_right_a_model_is(
    views: Views, atoms: Atoms, electrons: float | None
) -> None:
    """The true model correlates 1 with counted patterns once their noise is taken off, and leaves
    nothing unexplained; a wrong one does not, and leaves all."""
    grid = grid_of(views)
    spectrum = grid.spectrum(atoms)
    target = pattern_target(seen_by(views, spectrum, electrons))
    right = target.sums(spectrum)
    wrong = target.sums(grid.spectrum(atoms_at(torch.from_numpy(molecule(2)).float(), 1.0, 20.0)))
    inner = slice(3, 12)
    curve = right.correlation(electrons)[inner]
    assert float(curve[torch.isfinite(curve)].mean()) > 0.98
    other = wrong.correlation(electrons)[inner].nan_to_num()
    assert float(other.mean()) < 0.5
    assert float((right.unexplained / wrong.unexplained)[inner].median()) < 0.3
    if electrons is None:
        assert right.r_factor < 1e-3


def test_a_map_as_target_is_scaled_and_whitened(atoms: Atoms) -> None:
    """A map's fading with resolution costs nothing, and no model at all costs as much as there are
    atoms."""
    grid = AtomGrid(48, 30.0, 30.0, 200e3)
    spectrum = grid.spectrum(atoms)
    n = grid.n
    faded = torch.fft.irfftn(0.3 * spectrum, s=(n, n, n), norm="forward")
    target = map_target(faded, grid.box_A, (8.0, 1.5), torch.ones(40), len(atoms))
    assert float(target.misfit(spectrum)) < 1e-3 * len(atoms)
    assert math.isclose(float(target.misfit(0 * spectrum)), len(atoms), rel_tol=1e-3)
