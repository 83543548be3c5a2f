"""How free atoms scatter electrons, and the phase shift that they make."""

from __future__ import annotations

from functools import lru_cache

import torch
from scipy import constants
from torch import Tensor

from diffragan.optics import wavelength_A

CARBON = 6


def form_factor_A(atomic_number: int, q2: Tensor) -> Tensor:
    """Electron form factor in Å at squared spatial frequencies q² (1/Å²), first Born approximation.

    Five Gaussians (Peng et al., Acta Cryst. A 52, 257, 1996; International Tables C 4.3.2.2), of
    argument sin(theta) / lambda = q / 2.
    """
    import gemmi

    table = gemmi.Element(atomic_number).c4322
    total = torch.zeros_like(q2)
    for a, b in zip(table.a, table.b, strict=True):
        total = total + a * torch.exp(-b * q2 / 4)
    return total


def lobato_form_factor_A(atomic_number: int, q2: Tensor) -> Tensor:
    """Electron form factor in Å at q² (1/Å²), first Born approximation: five rational terms
    (Lobato & Van Dyck 2014, eq. 16)."""
    total = torch.zeros_like(q2)
    for a, b in _lobato_terms(atomic_number):
        total = total + a * (2 + b * q2) / (1 + b * q2) ** 2
    return total


@lru_cache
def _lobato_terms(atomic_number: int) -> tuple[tuple[float, float], ...]:
    from abtem.parametrizations import LobatoParametrization
    from ase.data import chemical_symbols

    a, b = LobatoParametrization().parameters[chemical_symbols[atomic_number]]
    return tuple(zip(a, b, strict=True))


def phase_shift_per_A(energy_ev: float, field_A: float) -> float:
    """What a form factor of 1 Å puts into the object o at one frequency, in units of the plane
    wave: gamma lambda / L², L the field's side (wave = beam + i o, o in radians)."""
    rest_ev = constants.electron_mass * constants.c**2 / constants.e
    gamma = 1 + energy_ev / float(rest_ev)
    return gamma * wavelength_A(energy_ev) / field_A**2
