"""Atoms on a Fourier grid against the sum over atoms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from diffragan.atoms.model.atoms import Atoms, Riding
from diffragan.atoms.model.density import AtomGrid
from diffragan.atoms.model.scattering import object_at
from diffragan.atoms.model.spreading import (
    gather,
    gather_by_torch,
    lines,
    spread,
    spread_by_torch,
)
from diffragan.fourier.volumes import frequency_radius

GRID = AtomGrid(n=48, box_A=30.0, field_A=26.0, energy_ev=200e3)


def some_atoms(seed: int, n: int = 40) -> Atoms:
    rng = np.random.default_rng(seed)
    return Atoms(
        torch.from_numpy(rng.uniform(-9, 9, (n, 3))).float(),
        torch.from_numpy(rng.uniform(0.5, 2, n)).float(),
        torch.from_numpy(rng.uniform(0, 20, n)).float(),
    )


def grid_points(grid: AtomGrid) -> tuple[Tensor, Tensor]:
    """Frequencies (k, 3) as x, y, z in 1/Å inside the grid's sphere, and which voxels they are."""
    n = grid.n
    axis, last = torch.fft.fftfreq(n, 1 / n), torch.arange(n // 2 + 1).float()
    z, y, x = torch.meshgrid(axis, axis, last, indexing="ij")
    inside = frequency_radius(n) < n // 2 - 1
    return torch.stack((x, y, z), -1)[inside] / grid.box_A, inside


def test_the_gridded_transform_is_the_sum_over_atoms() -> None:
    """Gridding is an exact sum but for what the Gaussian cuts off, at every frequency."""
    atoms = some_atoms(0)
    points, inside = grid_points(GRID)
    exact = object_at(points, atoms, GRID.energy_ev, GRID.field_A)
    gridded = GRID.spectrum(atoms)[inside]
    q = points.norm(dim=-1)
    for low, high in ((0.0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.75)):
        ring = (q >= low) & (q < high)
        error = (gridded[ring] - exact[ring]).abs().square().sum()
        assert float(error / exact[ring].abs().square().sum()) < 0.003**2


def test_hydrogens_scatter_as_they_do_apart() -> None:
    """Hydrogens go through the carbons' transform, and none of their own form factor is lost."""
    atoms = some_atoms(3, 5)
    riding = Riding(torch.arange(5), torch.full((5, 3), 0.6), torch.full((5,), 0.8))
    bare = Atoms(atoms.positions_A, 0 * atoms.weights, atoms.b_A2)
    points, inside = grid_points(GRID)
    exact = object_at(points, bare, GRID.energy_ev, GRID.field_A, riding)
    gridded = GRID.spectrum(bare, riding)[inside]
    error = (gridded - exact).abs().square().sum() / exact.abs().square().sum()
    assert float(error) < 0.005**2


def test_spreading_and_gathering_are_transposes() -> None:
    """What goes from atoms to the grid and what comes back are one matrix and its transpose, on
    atoms that lie across the periodic edge too; the whole of an atom arrives."""
    atoms, side, voxel = some_atoms(4), 40, 0.5
    line = lines(atoms.positions_A, 0.3 + atoms.b_A2 / 79, side, voxel, 7)
    grid = spread(line, atoms.weights)
    assert float(grid.sum() / atoms.weights.sum()) == pytest.approx(1, abs=5e-3)
    other = torch.randn(grid.shape, generator=torch.Generator().manual_seed(0))
    _, plain, _ = gather(line, other)
    assert float((grid * other).sum()) == pytest.approx(float(atoms.weights @ plain), rel=1e-3)


def test_compiled_loops_and_torch_agree() -> None:
    """The same sums on any device."""
    atoms = some_atoms(5)
    line = lines(atoms.positions_A, 0.3 + atoms.b_A2 / 79, 40, 0.5, 6)
    grid = spread(line, atoms.weights)
    torch.testing.assert_close(grid, spread_by_torch(line, atoms.weights), rtol=1e-4, atol=1e-5)
    sums = torch.column_stack(gather(line, grid))
    torch.testing.assert_close(sums, gather_by_torch(line, grid), rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_the_sum() -> None:
    """A refinement moves along the gradient of what it claims to minimise."""
    atoms, goal = some_atoms(1, 12), some_atoms(2, 12)
    points, inside = grid_points(GRID)

    def gradients(gridded: bool) -> list[Tensor]:
        free = [x.clone().requires_grad_() for x in (atoms.positions_A, atoms.weights, atoms.b_A2)]
        moved = Atoms(free[0], free[1], free[2])
        if gridded:
            apart = GRID.spectrum(moved)[inside] - GRID.spectrum(goal)[inside]
        else:
            here = [object_at(points, a, GRID.energy_ev, GRID.field_A) for a in (moved, goal)]
            apart = here[0] - here[1]
        torch.autograd.backward(1e6 * apart.abs().square().sum())
        return [x.grad for x in free if x.grad is not None]

    for one, other in zip(gradients(True), gradients(False), strict=True):
        assert float((one - other).norm() / other.norm()) < 0.01
