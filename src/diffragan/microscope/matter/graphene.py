"""One layer of graphene, under a beam: lattice spots, each as wide as the beam tells."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.microscope.exit_waves.form_factors import CARBON, form_factor_A, phase_shift_per_A

# Side of the cell of two atoms (Castro Neto et al., Rev. Mod. Phys. 81, 109, 2009).
LATTICE_A = 2.461
CELL_A2 = math.sqrt(3) / 2 * LATTICE_A**2


def reciprocal_lattice(finest_per_A: float, angle_rad: float) -> NDArray[np.float64]:
    """(g, 2) y, x of the lattice's frequencies up to a finest one (1/Å), zero left out.

    Args:
        angle_rad: of the first one, from x towards y.
    """
    length = 2 / (math.sqrt(3) * LATTICE_A)
    turns = angle_rad + np.array([0, math.pi / 3])
    first, second = length * np.stack((np.sin(turns), np.cos(turns)), -1)
    count = math.ceil(2 * finest_per_A / length)
    h, k = np.meshgrid(*[np.arange(-count, count + 1)] * 2, indexing="ij")
    points = h.reshape(-1, 1) * first + k.reshape(-1, 1) * second
    size = np.hypot(points[:, 0], points[:, 1])
    result: NDArray[np.float64] = points[(size > 0) & (size <= finest_per_A)]
    return result


def graphene_wave(
    side_px: int,
    box_A: float,
    energy_ev: float,
    window: Callable[[Tensor, Tensor], Tensor],
    rng: np.random.Generator,
) -> Tensor:
    """(n, n) complex128 what a flat sheet adds to the beam, Fourier values in FFT order, in its own
    plane: a weak phase object (docs/conventions.md), turned and moved at random.

    Args:
        window: the Fourier transform in Å² of the beam's amplitude about its middle, which is the
            field's, at frequencies (y, x) in 1/Å.
    """
    axis = torch.fft.fftfreq(side_px, box_A / side_px, dtype=torch.float64)
    corner = side_px / box_A / math.sqrt(2)
    angle = float(rng.uniform(0, math.tau))
    spots = reciprocal_lattice(corner, angle)
    size2 = torch.from_numpy((spots**2).sum(-1))
    height = phase_shift_per_A(energy_ev, 1.0) * form_factor_A(CARBON, size2) / CELL_A2
    # Two atoms of a cell, a bond apart: together 2, or 1 where their phases differ by 120°.
    moved = rng.uniform(0, LATTICE_A, 2)
    phase = torch.from_numpy(np.exp(-2j * np.pi * spots @ moved)) * _of_two_atoms(spots, angle)
    total = torch.zeros(side_px, side_px, dtype=torch.complex128)
    for (y, x), strength in zip(spots.tolist(), (height * phase).tolist(), strict=True):
        total += strength * window(axis[:, None] - y, axis[None, :] - x)
    middle = box_A / side_px * (side_px // 2)
    to_middle = -math.tau * middle * (axis[:, None] + axis[None, :])
    result: Tensor = 1j * total / box_A**2 * torch.polar(torch.ones_like(to_middle), to_middle)
    return result


def _of_two_atoms(spots: NDArray[np.float64], angle_rad: float) -> Tensor:
    """(g,) complex: the sum over both atoms of a cell, which lie a bond apart along the first
    frequency."""
    bond = LATTICE_A / math.sqrt(3) * np.array([math.sin(angle_rad), math.cos(angle_rad)])
    return torch.from_numpy(1 + np.exp(-2j * np.pi * spots @ bond))
