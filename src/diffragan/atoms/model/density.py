"""Atoms on a Fourier grid: a non-uniform transform by Gaussian gridding, differentiable.

Each atom is spread on a finer grid as the Gaussian of its own B factor and a gridding width; after
the FFT the gridding width is divided out and the atoms' common form factor multiplied in (Greengard
& Lee, SIAM Review 46, 443, 2004). The cost is linear in the atoms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from diffragan.atoms.model.atoms import Atoms, Riding
from diffragan.atoms.model.scattering import (
    CARBON,
    HYDROGEN,
    form_factor_A,
    phase_shift_per_A,
)
from diffragan.fourier.grids import even_fast_length
from diffragan.fourier.volumes import frequency_radius

_OVERSAMPLED = 1.5  # finer grid over the volume's
_WIDTH_VOXELS = 0.71  # the gridding Gaussian's standard deviation over that of a volume's voxel
_REACH = 3.2  # standard deviations of an atom of usual B that are spread
_USUAL_B_A2 = 12.0


@dataclass(frozen=True)
class AtomGrid:
    """The Fourier grid of volumes (n, n, n) of side `box_A`, and what atoms are on it.

    field_A: side of the patterns' field, smaller than the box of a padded volume.
    """

    n: int
    box_A: float
    field_A: float
    energy_ev: float

    @property
    def width_A(self) -> float:
        """Standard deviation of the gridding Gaussian, Å."""
        return _WIDTH_VOXELS * self.box_A / self.n

    @property
    def fine_px(self) -> int:
        """Side of the finer grid that atoms are spread on."""
        return even_fast_length(_OVERSAMPLED * self.n)

    def factor(self, atomic_number: int, device: torch.device) -> Tensor:
        """(n, n, n // 2 + 1): an element's form factor in units of the plane wave, over the
        gridding Gaussian's transform."""
        q2 = (frequency_radius(self.n, device).double() / self.box_A) ** 2
        shape = form_factor_A(atomic_number, q2) * phase_shift_per_A(self.energy_ev, self.field_A)
        return (shape * torch.exp(2 * (math.pi * self.width_A) ** 2 * q2)).float()

    def spectrum(self, atoms: Atoms, riding: Riding | None = None) -> Tensor:
        """The plain `rfftn` (n, n, n // 2 + 1) complex64, norm "forward", of atoms and the
        hydrogens that ride on them: the object o, zero of space at the rotation centre. Gradients
        flow to every field of the atoms."""
        total = self.of_element(atoms, CARBON)
        if riding is not None and len(riding):
            total = total + self.of_element(riding.on(atoms), HYDROGEN)
        return total

    def of_element(self, atoms: Atoms, atomic_number: int) -> Tensor:
        """As `spectrum`, of atoms of one element, their weights in its own form factor."""
        return self._transform(atoms) * _factor(self, atomic_number, atoms.weights.device)

    def volume(self, atoms: Atoms, riding: Riding | None = None) -> Tensor:
        """The potential (n, n, n) in FFT order, to the grid's own resolution."""
        n = self.n
        spectrum = self.spectrum(atoms, riding)
        result: Tensor = torch.fft.irfftn(spectrum, s=(n, n, n), norm="forward")
        return result

    def _transform(self, atoms: Atoms) -> Tensor:
        """Transform of the spread atoms, cut to this grid; its unpaired last planes are 0."""
        fine = torch.fft.rfftn(self._spread(atoms))
        keep = (self.n - 1) // 2
        low, high = slice(0, keep + 1), slice(-keep, None)
        rows = torch.cat((fine[low], fine.new_zeros(self._gap(keep), *fine.shape[1:]), fine[high]))
        gap = rows.new_zeros(self.n, self._gap(keep), rows.shape[2])
        planes = torch.cat((rows[:, low], gap, rows[:, high]), 1)[..., : self.n // 2 + 1]
        return planes * (torch.arange(self.n // 2 + 1, device=fine.device) <= keep)

    def _gap(self, keep: int) -> int:
        return self.n - 2 * keep - 1

    def _spread(self, atoms: Atoms) -> Tensor:
        """Sums of Gaussians on the finer grid, each of the atom's weight in all."""
        variance = self.width_A**2 + atoms.b_A2 / (8 * math.pi**2)
        usual = math.sqrt(self.width_A**2 + _USUAL_B_A2 / (8 * math.pi**2))
        voxel = self.box_A / self.fine_px
        reach = math.ceil(_REACH * usual / voxel)
        result: Tensor = _Spread.apply(  # type: ignore[no-untyped-call]
            atoms.positions_A, atoms.weights, variance, self.fine_px, voxel, reach
        )
        return result


class _Spread(torch.autograd.Function):
    """Gaussians of variance (n,) Å² on a periodic grid, and the way back: each atom gathers the
    gradient from its own voxels, so nothing of the size of all of them is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        place: Tensor,
        weight: Tensor,
        variance: Tensor,
        side: int,
        voxel: float,
        reach: int,
    ) -> Tensor:
        nearest = torch.round(place / voxel)
        offset = torch.arange(-reach, reach + 1, device=place.device)
        away = (nearest[:, None, :] + offset[:, None]) * voxel - place[:, None, :]
        line = torch.exp(-(away**2) / (2 * variance[:, None, None]))
        line = line * (voxel / torch.sqrt(2 * math.pi * variance))[:, None, None]
        at = (nearest.long()[:, None, :] + offset[:, None]) % side
        rows = at[:, :, None, 2] * side + at[:, None, :, 1]
        index = rows[..., None] * side + at[:, None, None, :, 0]
        plane = weight[:, None, None] * line[:, :, None, 2] * line[:, None, :, 1]
        value = plane[..., None] * line[:, None, None, :, 0]
        ctx.save_for_backward(weight, variance, away, line, index)
        grid = torch.zeros(side**3, dtype=value.dtype, device=place.device)
        return grid.index_add_(0, index.flatten(), value.flatten()).reshape(side, side, side)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, variance, away, line, index = ctx.saved_tensors
        n, width = line.shape[:2]
        windows = gradients[0].flatten()[index]
        v = variance[:, None, None]
        # Each axis's Gaussian, its slope in the atom's place, and in the variance.
        slope, wider = line * away / v, line * (away**2 / v - 1) / (2 * v)
        parts = torch.stack((line, slope, wider), -1)
        x = windows.reshape(n, width * width, width) @ parts[:, :, 0]
        x = x.reshape(n, width, width, 3)
        y = torch.einsum("nzyk,nyj->nzkj", x, parts[:, :, 1])
        all_three = torch.einsum("nzkj,nzi->nkji", y, parts[:, :, 2])
        to_place = torch.stack(
            (all_three[:, 1, 0, 0], all_three[:, 0, 1, 0], all_three[:, 0, 0, 1]), -1
        )
        to_variance = all_three[:, 2, 0, 0] + all_three[:, 0, 2, 0] + all_three[:, 0, 0, 2]
        plain = all_three[:, 0, 0, 0]
        return weight[:, None] * to_place, plain, weight * to_variance, None, None, None


@lru_cache(maxsize=8)
def _factor(grid: AtomGrid, atomic_number: int, device: torch.device) -> Tensor:
    return grid.factor(atomic_number, device)
