"""Waves put together into a map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.atoms.model.atoms import atoms_at
from diffragan.atoms.model.density import AtomGrid
from diffragan.fourier.slices import Slices, extract, slices
from diffragan.fourier.volumes import frequency_radius, volume_spectrum
from diffragan.optics import wavelength_A
from diffragan.reconstruction.maps.merge_waves import merge_waves, wave_from_object
from diffragan.reconstruction.maps.views import side_of
from diffragan.rotations import quasi_uniform
from synthetic_views import molecule

pytestmark = pytest.mark.usefixtures("one_thread")
BOX_A, SIDE, ENERGY_EV, VIEWS = 32.0, 36, 200e3, 120
PLACES_A = torch.from_numpy(molecule(1)).float()


def _slices(padding: float) -> Slices:
    axis = (torch.arange(SIDE) - SIDE // 2).double()
    radius = torch.hypot(axis[:, None], axis[None, :])
    mask = (radius > 0.5) & (radius <= 16)
    return slices(mask, BOX_A, wavelength_A(ENERGY_EV), curved=True, padding=padding)


def _spectrum(n: int, box_A: float) -> Tensor:
    volume = AtomGrid(n, box_A, BOX_A, ENERGY_EV).volume(atoms_at(PLACES_A, 1.0, 20.0))
    result: Tensor = torch.fft.rfftn(volume, norm="forward")
    return result


def test_a_merged_map_has_the_molecules_amplitudes_in_every_shell() -> None:
    """Exact waves of atoms, taken from a volume of twice the side, make the atoms' map: each shell
    with its amplitude to 3 %, the innermost too, where a plain mean is off by a quarter."""
    geometry, fine = _slices(1.0), _slices(2.0)
    n = side_of(geometry)
    rotations = torch.from_numpy(quasi_uniform(VIEWS)).float()
    doubled = AtomGrid(2 * n, 2 * BOX_A, BOX_A, ENERGY_EV)
    source = volume_spectrum(doubled.volume(atoms_at(PLACES_A, 1.0, 20.0)))
    values, k = extract(source, rotations, fine.points), len(geometry)
    flat = torch.zeros(VIEWS, SIDE * SIDE, dtype=torch.complex64)
    flat[:, geometry.pixel] = values[:, :k]
    flat[:, geometry.mate] = values[:, k:].conj()
    made = wave_from_object(flat, torch.ones(VIEWS), SIDE)

    def waves(items: NDArray[np.int64]) -> NDArray[np.complex64]:
        return made[torch.from_numpy(items)].numpy()

    volume = merge_waves(waves, np.arange(VIEWS), rotations, geometry, n)
    found, truth = torch.fft.rfftn(volume, norm="forward"), _spectrum(n, BOX_A)
    ring = (frequency_radius(n, torch.device("cpu")) + 0.5).long()
    for shell in range(1, 16):
        here = ring == shell
        gain = (found * truth.conj()).real[here].sum() / truth[here].abs().square().sum()
        assert float(gain) == pytest.approx(1, abs=0.03), shell
