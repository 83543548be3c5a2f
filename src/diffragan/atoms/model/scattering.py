"""Atoms as scatterers: elements as carbons, and the object that atoms make, by direct sum."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from diffragan.atoms.model.atoms import Atoms, Riding
from diffragan.microscope.exit_waves.form_factors import CARBON, form_factor_A, phase_shift_per_A

HYDROGEN = 1
_IN_CARBONS_TO = 0.85  # 1/Å
_POINTS = 4_000_000  # products of points and atoms that a direct sum holds at a time


@lru_cache(maxsize=8)
def in_carbons(atomic_number: int) -> tuple[float, float]:
    """An element's form factor as that of carbon: a weight, and a B factor in Å² to add.

    Hydrogen's is carbon's to 0.5 % at every frequency to 0.8 1/Å (0.2 % rms), so both go through
    one transform.
    """
    q2 = torch.linspace(0, _IN_CARBONS_TO, 200, dtype=torch.float64) ** 2
    carbon = form_factor_A(CARBON, q2)
    terms = torch.stack((torch.ones_like(q2), -q2 / 4), 1)
    ratio = torch.log(form_factor_A(atomic_number, q2) / carbon)
    found = torch.linalg.lstsq(carbon[:, None] * terms, (carbon * ratio)[:, None]).solution
    return math.exp(float(found[0])), float(found[1])


def object_at(
    points: Tensor, atoms: Atoms, energy_ev: float, field_A: float, riding: Riding | None = None
) -> Tensor:
    """The object's Fourier values (k,) complex128 at points q (k, 3) in 1/Å, by direct sum.

    Exact and slow: for tests, and for frequencies beyond every grid.
    """
    q2 = (points.double() ** 2).sum(-1)
    total = form_factor_A(CARBON, q2) * structure_sum(points, atoms)
    if riding is not None and len(riding):
        total = total + form_factor_A(HYDROGEN, q2) * structure_sum(points, riding.on(atoms))
    return total * phase_shift_per_A(energy_ev, field_A)


def structure_sum(points: Tensor, atoms: Atoms) -> Tensor:
    """sum of w exp(-B q²/4) exp(-2 pi i q r) over atoms, (k,) complex128, at q (k, 3) in 1/Å."""
    points, places = points.double(), atoms.positions_A.double()
    weights, b = atoms.weights.double(), atoms.b_A2.double()
    out = torch.zeros(len(points), dtype=torch.complex128, device=points.device)
    size = max(1, _POINTS // max(1, len(atoms)))
    for start in range(0, len(points), size):
        some = points[start : start + size]
        q2 = (some**2).sum(-1)
        damped = weights * torch.exp(-0.25 * q2[:, None] * b)
        angle = -2 * math.pi * some @ places.T
        out[start : start + size] = torch.complex(
            (damped * torch.cos(angle)).sum(1), (damped * torch.sin(angle)).sum(1)
        )
    return out
