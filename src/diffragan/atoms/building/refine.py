"""Atoms moved, weighted and blurred until they explain their data best."""

from __future__ import annotations

import math

import torch

from diffragan.atoms.building.targets import Target
from diffragan.atoms.model.atoms import Atoms, Riding
from diffragan.atoms.model.density import AtomGrid
from diffragan.optimisation.adam import Adam

HEAVIEST = 6.0  # carbons; sulphur is 2, iron 2.4, iodine 4
# Below 0 only as far as the common form factor, carbon's, is wider than another element's.
SMALLEST_B_A2, LARGEST_B_A2 = -2.0, 40.0
# Steps of Adam at the start, in each field's own unit: Å, carbons, Å².
RATES = (0.02, 0.02, 0.3)
_LAST_RATE = 0.1  # of the first one


def refine(
    atoms: Atoms,
    grid: AtomGrid,
    target: Target,
    steps: int,
    *,
    riding: Riding | None = None,
    rates: tuple[float, float, float] = RATES,
    adapt_every: int = 5,
) -> Atoms:
    """Positions, weights and B factors by Adam (Kingma & Ba 2015) with a falling rate.

    Args:
        riding: hydrogens that move with their atoms.
        rates: first steps of positions (Å), weights (carbons) and B factors (Å²).
        adapt_every: steps after which the target weighs its rings anew by what is unexplained.
    """
    fields = [
        x.detach().clone().requires_grad_() for x in (atoms.positions_A, atoms.weights, atoms.b_A2)
    ]
    optimizer = Adam(fields)
    for step in range(steps):
        fall = _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * step / steps))
        spectrum = grid.spectrum(Atoms(fields[0], fields[1], fields[2]), riding)
        if step % adapt_every == 0:
            target = target.adapted(spectrum.detach())
        torch.autograd.backward(target.misfit(spectrum))
        optimizer.step([rate * fall for rate in rates])
        with torch.no_grad():
            fields[1].clamp_(0, HEAVIEST)
            fields[2].clamp_(SMALLEST_B_A2, LARGEST_B_A2)
    return Atoms(fields[0].detach(), fields[1].detach(), fields[2].detach())
