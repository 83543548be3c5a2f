"""Multiple scattering by atoms, against abTEM and against its own gradients."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from conftest import cluster
from diffragan.atoms.building.multiple_scattering import with_multiple_scattering
from diffragan.atoms.model.atoms import Atoms, atoms_at, no_hydrogens
from diffragan.atoms.model.density import AtomGrid
from diffragan.atoms.model.multislice import Multislice, plan_multislice
from diffragan.fourier.slices import Extractor
from diffragan.fourier.volumes import volume_spectrum
from diffragan.microscope.exit_waves.by_abtem import exit_wave
from diffragan.microscope.exit_waves.field import Field
from diffragan.reconstruction.likelihood.patterns import pattern_target
from diffragan.rotations import quasi_uniform
from synthetic_views import make_views, molecule

SIDE_A, ENERGY_EV = 24.0, 200e3


def by_element(numbers: np.ndarray, positions_A: np.ndarray) -> dict[int, Atoms]:
    """Atoms at rest, by element."""
    places = torch.from_numpy(positions_A).float()
    return {int(z): atoms_at(places[numbers == z], b_A2=0.0) for z in np.unique(numbers)}


def spectrum(wave: torch.Tensor, px: int) -> torch.Tensor:
    """The inner (px, px) of a wave's transform, origin of space at pixel [0, 0]."""
    keep = [*range(px // 2), *range(-(px // 2), 0)]
    inner: torch.Tensor = torch.fft.fft2(wave.to(torch.complex128), norm="forward")[keep][:, keep]
    return inner


def test_amplitudes_are_those_of_abtem_past_the_measured_band() -> None:
    """Within 1 % to 0.9 Å, every ring of 0.2 1/Å, and the phases too."""
    ball = cluster("ball", 3, atoms=120, radius_A=9.0)
    rotation = quasi_uniform(7)[4]
    stored = 58
    field = Field(SIDE_A, SIDE_A, 600, 8, stored)  # fine, for abTEM interpolates on its grid
    known = exit_wave(ball.numbers, ball.positions_A @ rotation.T, field, ENERGY_EV)
    expected = spectrum(torch.fft.ifftshift(torch.from_numpy(known)), stored)
    grid = plan_multislice(SIDE_A, SIDE_A, ENERGY_EV, finest_A=0.55)
    assert grid.slices == field.slices
    assert grid.centre_to_exit_A == field.centre_to_exit_A
    turn = torch.from_numpy(rotation).float()[None]
    wave = grid.exit_waves(by_element(ball.numbers, ball.positions_A), turn)[0]
    here = spectrum(wave, stored)
    axis = torch.fft.fftfreq(stored, 1 / stored).double()
    q = torch.hypot(axis[:, None], axis[None]) / SIDE_A
    edges = (1e-6, 0.2, 0.4, 0.6, 0.8, 1 / 0.9)
    for low, high in pairwise(edges):
        ring = (q > low) & (q <= high)
        power = expected[ring].abs().square().sum()
        amplitude = (here.abs() - expected.abs())[ring].square().sum() / power
        assert amplitude.sqrt() < 0.01, (low, high)
        assert ((here - expected)[ring].abs().square().sum() / power).sqrt() < 0.02, (low, high)


def test_scattering_is_multiple() -> None:
    """A wave that two atoms behind each other scatter is not the sum of theirs: the difference is
    of second order, as the product of their phase shifts."""
    grid = Multislice(SIDE_A, SIDE_A, 96, 8, ENERGY_EV)
    turn = torch.eye(3)[None]
    places = torch.tensor([[0.0, 0.0, -6.0], [0.0, 0.0, 6.0]])

    def scattered(which: list[int], weight: float) -> torch.Tensor:
        some = Atoms(places[which], torch.full((len(which),), weight), torch.zeros(len(which)))
        return grid.exit_waves({6: some}, turn) - 1

    beyond = [
        float((scattered([0, 1], w) - scattered([0], w) - scattered([1], w)).abs().max())
        for w in (1.0, 2.0)
    ]
    assert beyond[0] > 1e-3
    assert 3 < beyond[1] / beyond[0] < 4.5


def test_gradients_are_those_of_differences() -> None:
    """Moving, weighting or blurring an atom a little changes intensities as the gradient says."""
    grid = plan_multislice(14.0, 12.0, ENERGY_EV, finest_A=1.2)
    generator = torch.Generator().manual_seed(0)
    places = 6 * torch.rand((9, 3), generator=generator) - 3
    # Slices are discrete: no atom is to change its own while it is moved.
    places[:, 2] = places[:, 2].round() + 0.4
    fields = [places, torch.ones(9), torch.full((9,), 4.0)]
    turn = torch.eye(3)[None]
    weight = torch.rand((grid.px, grid.px), generator=generator)

    def misfit(*some: torch.Tensor) -> torch.Tensor:
        wave = grid.exit_waves({6: Atoms(*some)}, turn)
        pattern = torch.fft.fft2(wave, norm="ortho").abs().square()
        return torch.sum((pattern * weight)[0, 1:, 1:])

    variables = [x.clone().requires_grad_() for x in fields]
    gradients = torch.autograd.grad(misfit(*variables), variables)
    for k, step in enumerate((2e-2, 2e-2, 0.2)):
        direction = torch.randn(fields[k].shape, generator=generator)
        if k == 0:
            direction[:, 2] = 0  # along the beam only the slice counts
        both = [
            misfit(*(x + s * step * direction if j == k else x for j, x in enumerate(fields)))
            for s in (1, -1)
        ]
        slope = float(both[0] - both[1]) / (2 * step)
        assert abs(float((gradients[k] * direction).sum()) - slope) < 0.02 * abs(slope) + 1e-4


@pytest.mark.usefixtures("one_thread")
def test_multiple_scattering_completes_a_pattern() -> None:
    """Patterns of a multislice are those of single scattering only roughly; with what multiple
    scattering adds they are met to rounding. A weak object scatters once."""
    views = make_views(molecule(1), 8, seed=1)
    atoms = atoms_at(torch.from_numpy(molecule(1)).float(), 2.0, 10.0)
    grid = AtomGrid(views.n, views.volume_box_A, views.optics.box_A, views.optics.energy_ev)
    sliced = Extractor(volume_spectrum(grid.volume(atoms)))
    blank = pattern_target(views)
    full = with_multiple_scattering(blank, atoms, no_hydrogens(), grid, 1.0)
    values = torch.cat([full.slices(sliced, block) for block in views.blocks()])
    measured = values.abs().reshape(len(views), 2, -1) * full.geometry.valid
    seen = replace(views, measured=measured, electrons=None)
    spectrum = grid.spectrum(atoms)
    met = replace(full, views=seen).sums(spectrum).r_factor
    single = replace(full, views=seen, beyond=None).sums(spectrum).r_factor
    assert met < 1e-3
    assert single > 0.01
    weak = atoms_at(atoms.positions_A, 0.05, 10.0)
    target = with_multiple_scattering(blank, weak, no_hydrogens(), grid, 0.5)
    assert target.beyond is not None
    sliced = Extractor(volume_spectrum(grid.volume(weak)))
    once = pattern_target(views).slices(sliced, slice(0, len(views)))
    assert float(target.beyond.norm() / once.norm()) < 0.02
