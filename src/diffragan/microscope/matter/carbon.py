"""Amorphous carbon: how strongly a film of it scatters, by angle."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffragan.microscope.exit_waves.form_factors import CARBON, form_factor_A, phase_shift_per_A
from diffragan.optics import Optics

_ATOMS_PER_A3 = 0.1  # of evaporated carbon, 2.0 g/cm³
# Neighbours of an atom: how many, how far (Å), and how sharply (Å); as in amorphous films, between
# graphite and diamond (Robertson, Mater. Sci. Eng. R 37, 129, 2002).
_SHELLS = ((3.3, 1.46, 0.06), (7.0, 2.49, 0.15))


def carbon_structure_factor(q: Tensor) -> Tensor:
    """Intensity of amorphous carbon over that of free atoms, at q (1/Å): two shells of neighbours,
    and beyond them the mean density (Debye 1915; Zernike & Prins 1927)."""
    total = torch.ones_like(q)
    for count, distance, spread in _SHELLS:
        waves = torch.sinc(2 * q * distance)
        total = total + count * waves * torch.exp(-2 * (math.pi * spread * q) ** 2)
    inside = 1 + sum(count for count, _, _ in _SHELLS)
    hole = (3 * inside / (4 * math.pi * _ATOMS_PER_A3)) ** (1 / 3)
    x = (2 * math.pi * hole * q).clamp_min(1e-3)
    ball = inside * 3 * (torch.sin(x) - x * torch.cos(x)) / x**3
    result: Tensor = (total - ball).clamp_min(0.02)
    return result


def carbon_intensity(q: Tensor, optics: Optics, thickness_nm: float, area_A2: float) -> Tensor:
    """Mean intensity of a film, as a fraction of the beam on the field in a pixel of 1 / field.

    Args:
        area_A2: how much of the film the beam meets.
    """
    atoms = _ATOMS_PER_A3 * 10 * thickness_nm * area_A2
    scale = phase_shift_per_A(optics.energy_ev, optics.box_A) ** 2 * atoms
    result: Tensor = scale * form_factor_A(CARBON, q**2) ** 2 * carbon_structure_factor(q)
    return result
