"""Multiple scattering by atoms: a multislice in torch, so that gradients flow to every atom.

The wave goes through thin slices one after the other; each shifts its phase by the projected
potential of the atoms that it holds, and free space carries it to the next (Cowley & Moodie, Acta
Cryst. 10, 609, 1957). The potentials are those of the simulation (Lobato & Van Dyck, Acta Cryst. A
70, 636, 2014).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from diffragan.atoms.model.atoms import Atoms
from diffragan.fourier.grids import even_fast_length, frequency_grid
from diffragan.microscope.exit_waves.form_factors import lobato_form_factor_A, phase_shift_per_A
from diffragan.optics import transfer_function

_BAND = 2 / 3  # of the grid's half width: products of two waves within it do not fold back
_WIDTH_PX = 0.8  # standard deviation of the gridding Gaussian
_REACH = 4.0  # standard deviations of an atom of usual B that are spread
_USUAL_B_A2 = 12.0


@dataclass(frozen=True)
class Multislice:
    """A field of side `field_A` on `px` pixels, `slices` slices deep over `depth_A`."""

    field_A: float
    depth_A: float
    px: int
    slices: int
    energy_ev: float

    @property
    def slice_A(self) -> float:
        """Thickness of a slice, Å."""
        return self.depth_A / self.slices

    @property
    def centre_to_exit_A(self) -> float:
        """From the molecule's centre plane to the exit face, Å: an atom is projected onto the
        entrance of its slice."""
        return (self.depth_A + self.slice_A) / 2

    def exit_waves(self, atoms: Mapping[int, Atoms], rotations: Tensor) -> Tensor:
        """Exit waves (b, px, px) complex64 of a plane wave, the rotation centre at pixel [0, 0].

        Args:
            atoms: by atomic number, at least one, weights in atoms of that element. Those beyond
                the field's depth are left out.
            rotations: (b, 3, 3).
        """
        shift = self.phase_shifts(atoms, rotations)
        wave = torch.ones(len(rotations), self.px, self.px, dtype=torch.complex64)
        wave = wave.to(rotations.device)
        carried = _propagator(self, rotations.device)
        for k in range(self.slices):
            wave = wave * torch.polar(torch.ones_like(shift[:, k]), shift[:, k])
            wave = torch.fft.ifft2(torch.fft.fft2(wave) * carried)
        return wave

    def phase_shifts(self, atoms: Mapping[int, Atoms], rotations: Tensor) -> Tensor:
        """(b, slices, px, px) phase in rad that each slice adds, first slice first."""
        total = torch.zeros(1, dtype=torch.complex64, device=rotations.device)
        for number, some in atoms.items():
            spread = torch.fft.rfft2(self._spread(some, rotations), norm="forward")
            total = total + spread * _form(self, number, rotations.device)
        result: Tensor = torch.fft.irfft2(total, s=(self.px, self.px), norm="forward")
        return result

    def _spread(self, atoms: Atoms, rotations: Tensor) -> Tensor:
        """Sums of Gaussians (b, slices, px, px), each of its atom's weight times px² in all."""
        b, px = len(rotations), self.px
        pixel = self.field_A / px
        places = atoms.positions_A @ rotations.mT
        layer = torch.floor((places[..., 2].detach() / self.depth_A + 0.5) * self.slices).long()
        weight = atoms.weights * ((layer >= 0) & (layer < self.slices))
        variance = (_WIDTH_PX * pixel) ** 2 + atoms.b_A2 / (8 * math.pi**2)
        usual = math.sqrt((_WIDTH_PX * pixel) ** 2 + _USUAL_B_A2 / (8 * math.pi**2))
        reach = math.ceil(_REACH * usual / pixel)
        nearest = torch.round(places[..., :2].detach() / pixel)
        offset = torch.arange(-reach, reach + 1, device=places.device)
        away = (nearest[..., None] + offset) * pixel - places[..., :2, None]
        line = torch.exp(-(away**2) / (2 * variance[:, None, None]))
        line = line * (self.field_A / torch.sqrt(2 * math.pi * variance))[:, None, None]
        at = (nearest.long()[..., None] + offset) % px
        view = torch.arange(b, device=places.device)[:, None]
        plane = (view * self.slices + layer.clamp(0, self.slices - 1)) * px * px
        index = plane[..., None, None] + at[..., 1, :, None] * px + at[..., 0, None, :]
        value = weight[..., None, None] * line[..., 1, :, None] * line[..., 0, None, :]
        grid = torch.zeros(b * self.slices * px * px, device=places.device)
        grid = grid.index_add(0, index.flatten(), value.flatten())
        return grid.reshape(b, self.slices, px, px)


def plan_multislice(
    field_A: float, depth_A: float, energy_ev: float, *, finest_A: float, slice_A: float = 3.0
) -> Multislice:
    """The grid that carries a field's frequencies to a resolution, its slices no thicker than
    `slice_A`."""
    px = even_fast_length(2 * (field_A / finest_A + 1) / _BAND)
    return Multislice(field_A, depth_A, px, math.ceil(depth_A / slice_A - 1e-9), energy_ev)


@lru_cache(maxsize=8)
def _form(grid: Multislice, atomic_number: int, device: torch.device) -> Tensor:
    """(px, px // 2 + 1): an element's form factor as phase, over the gridding Gaussian's
    transform."""
    q2 = frequency_grid(grid.px, grid.field_A)[:, : grid.px // 2 + 1].double()
    shape = lobato_form_factor_A(atomic_number, q2)
    shape = shape * phase_shift_per_A(grid.energy_ev, grid.field_A)
    width = _WIDTH_PX * grid.field_A / grid.px
    shape = shape * torch.exp(2 * (math.pi * width) ** 2 * q2)
    return (shape * _band(grid, q2)).float().to(device)


@lru_cache(maxsize=8)
def _propagator(grid: Multislice, device: torch.device) -> Tensor:
    """(px, px) complex64: free space over one slice, cut where products would fold back."""
    q2 = frequency_grid(grid.px, grid.field_A)
    kernel = transfer_function(q2, grid.energy_ev, defocus_A=-grid.slice_A)
    return (kernel * _band(grid, q2)).to(torch.complex64).to(device)


def _band(grid: Multislice, q2: Tensor) -> Tensor:
    return q2 <= (_BAND * grid.px / 2 / grid.field_A) ** 2
