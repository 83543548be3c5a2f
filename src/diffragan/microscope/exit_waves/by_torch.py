"""Exit waves by a multislice in torch, on the frequencies that they need.

The potential of a slice is summed atom by atom in Fourier space, where an atom is the product of
two phase ramps: for one element a matrix product, exact for any place between pixels. Slices
without atoms are crossed in one step. Nothing here has a gradient; `atoms/model/multislice.py` has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.fourier.grids import frequency_grid, resized_spectrum
from diffragan.microscope.exit_waves.field import Field
from diffragan.microscope.exit_waves.form_factors import lobato_form_factor_A, phase_shift_per_A
from diffragan.optics import transfer_function

_BAND = 2 / 3  # of the grid's half width: products of two waves within it do not fold back


@torch.no_grad()
def exit_wave(
    numbers: NDArray[np.int64],
    positions_A: NDArray[np.float64],
    field: Field,
    energy_ev: float,
    device: torch.device | None = None,
) -> NDArray[np.complex64]:
    """Exit wave (stored_px, stored_px), [y, x], of atoms about the origin, beam along +z.

    A plane wave through the potentials of Lobato and Van Dyck (Acta Cryst. A 70, 636, 2014), each
    atom projected onto the entrance of its slice (Cowley and Moodie, Acta Cryst. 10, 609, 1957),
    cropped in Fourier space. Atoms outside the square field are left out, as by abTEM.
    """
    where = torch.device("cpu") if device is None else device
    grid = _Grid(field, energy_ev, where)
    px = field.grid_px
    spectrum: Tensor | None = None
    layer = 0
    for at, phase in _phase_shifts(numbers, positions_A, grid):
        turned = torch.complex(phase.cos(), phase.sin())
        if spectrum is not None:
            turned *= torch.fft.ifft2(spectrum.mul_(_propagator(grid, at - layer)))
        spectrum, layer = torch.fft.fft2(turned), at
    if spectrum is None:
        return np.ones((field.stored_px, field.stored_px), np.complex64)
    spectrum *= _propagator(grid, field.slices - layer)
    stored = torch.fft.ifft2(resized_spectrum(spectrum, field.stored_px))
    result: NDArray[np.complex64] = (stored * (field.stored_px / px) ** 2).cpu().numpy()
    return result


@dataclass(frozen=True)
class _Grid:
    """Where waves are computed: the field, the electrons' energy and the device."""

    field: Field
    energy_ev: float
    device: torch.device

    @property
    def half(self) -> int:
        """Largest frequency that is kept, in steps of 1 / box_A."""
        return math.floor(_BAND * self.field.grid_px / 2)


def _phase_shifts(
    numbers: NDArray[np.int64], positions_A: NDArray[np.float64], grid: _Grid
) -> Iterator[tuple[int, Tensor]]:
    """Slices that hold atoms, first first, each with the phase in rad that it adds (px, px)."""
    field = grid.field
    half_A = np.array([field.box_A, field.box_A, field.depth_A]) / 2
    inside = (np.abs(positions_A) <= half_A).all(-1)
    numbers, places = numbers[inside], positions_A[inside] + half_A
    layers = np.minimum((places[:, 2] / field.slice_A).astype(np.int64), field.slices - 1)
    order = np.lexsort((numbers, layers))
    numbers, layers = numbers[order], layers[order]
    rows, columns = _ramps(places[order, :2], grid)
    # Where slice or element changes, another product begins.
    starts = np.flatnonzero(np.diff(layers, prepend=-1) | np.diff(numbers, prepend=-1))
    ends = np.append(starts, len(layers))[1:]
    px, half = field.grid_px, grid.half
    band = torch.zeros(2 * half + 1, half + 1, dtype=torch.complex64, device=grid.device)
    full = torch.zeros(px, px // 2 + 1, dtype=torch.complex64, device=grid.device)
    for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
        band.addcmul_(rows[:, start:end] @ columns[start:end], _form(grid, int(numbers[start])))
        if k + 1 == len(starts) or layers[end] != layers[start]:
            full[: half + 1, : half + 1] = band[: half + 1]
            full[-half:, : half + 1] = band[half + 1 :]
            yield int(layers[start]), torch.fft.irfft2(full, s=(px, px), norm="forward")
            band.zero_()


def _ramps(places_A: NDArray[np.float64], grid: _Grid) -> tuple[Tensor, Tensor]:
    """exp(-2 pi i q r) of atoms at (a, 2) Å from the field's corner, [x, y]: (2 half + 1, a) of y,
    zero frequency first, and (a, half + 1) of x."""
    turns = torch.from_numpy(places_A / grid.field.box_A).to(grid.device)
    q = torch.arange(grid.half + 1, dtype=torch.float64, device=grid.device)
    both = torch.cat((q, q[1:].flip(0).neg()))

    def ramp(angle: Tensor) -> Tensor:
        # Whole turns are taken off in double precision.
        angle = (-2 * math.pi * (angle - angle.round())).float()
        return torch.complex(angle.cos(), angle.sin())

    return ramp(both[:, None] * turns[:, 1]), ramp(turns[:, :1] * q)


@lru_cache(maxsize=32)
def _form(grid: _Grid, atomic_number: int) -> Tensor:
    """(2 half + 1, half + 1): the phase in rad that an atom adds to each frequency."""
    half = grid.half
    q2 = _in_band(frequency_grid(grid.field.grid_px, grid.field.box_A), half)
    shape = lobato_form_factor_A(atomic_number, q2)
    shape = shape * phase_shift_per_A(grid.energy_ev, grid.field.box_A)
    kept = q2 <= (half / grid.field.box_A) ** 2
    return (shape * kept).to(torch.complex64).to(grid.device)


def _in_band(array: Tensor, half: int) -> Tensor:
    """Of an FFT grid, the rows and columns that `_ramps` goes through."""
    return torch.cat((array[: half + 1], array[-half:]))[:, : half + 1]


@lru_cache(maxsize=64)
def _propagator(grid: _Grid, slices: int) -> Tensor:
    """(px, px) complex64: free space over so many slices, within the band."""
    field = grid.field
    q2 = frequency_grid(field.grid_px, field.box_A)
    kernel = transfer_function(q2, grid.energy_ev, defocus_A=-slices * field.slice_A)
    kept = q2 <= (grid.half / field.box_A) ** 2
    return (kernel * kept).to(torch.complex64).to(grid.device)
