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

from diffragan.atoms.model.atoms import Atoms, Riding, together
from diffragan.atoms.model.scattering import HYDROGEN, in_carbons
from diffragan.atoms.model.spreading import gather, lines, spread
from diffragan.fourier.grids import even_fast_length
from diffragan.fourier.pruned import cut_spectrum, fine_volume
from diffragan.fourier.volumes import frequency_radius
from diffragan.microscope.exit_waves.form_factors import CARBON, form_factor_A, phase_shift_per_A

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
        if riding is not None and len(riding):
            light, (share, sharper) = riding.on(atoms), in_carbons(HYDROGEN)
            light = Atoms(light.positions_A, share * light.weights, light.b_A2 + sharper)
            atoms = together(atoms, light)
        return self.of_element(atoms, CARBON)

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
        variance = self.width_A**2 + atoms.b_A2 / (8 * math.pi**2)
        result: Tensor = _Gridded.apply(  # type: ignore[no-untyped-call]
            atoms.positions_A, atoms.weights, variance, self
        )
        return result

    @property
    def reach(self) -> int:
        """Voxels of the finer grid that an atom is spread to, each way."""
        usual = math.sqrt(self.width_A**2 + _USUAL_B_A2 / (8 * math.pi**2))
        return math.ceil(_REACH * usual * self.fine_px / self.box_A)


class _Gridded(torch.autograd.Function):
    """The transform of Gaussians of variance (n,) Å², as one step of autograd: the plain way back
    through a real transform is a complex one of the whole finer grid, five times as slow."""

    @staticmethod
    def forward(
        ctx: Any, place: Tensor, weight: Tensor, variance: Tensor, grid: AtomGrid
    ) -> Tensor:
        line = lines(place, variance, grid.fine_px, grid.box_A / grid.fine_px, grid.reach)
        ctx.line, ctx.side = line, grid.fine_px
        ctx.filled = line.filled() if weight.device.type == "cpu" else None
        ctx.save_for_backward(weight)
        return cut_spectrum(spread(line, weight), grid.n, ctx.filled)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        half = gradients[0].clone()
        half[..., 1:] *= 0.5  # the inverse transform counts these columns twice, for their mates
        to_place, plain, to_variance = gather(ctx.line, fine_volume(half, ctx.side, ctx.filled))
        return weight[:, None] * to_place, plain, weight * to_variance, None


@lru_cache(maxsize=8)
def _factor(grid: AtomGrid, atomic_number: int, device: torch.device) -> Tensor:
    return grid.factor(atomic_number, device)
