"""Errors of atoms against the errors that were made."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffragan.atoms.comparison.position_error import position_errors
from diffragan.atoms.model.atoms import Atoms


@pytest.mark.parametrize("spread", [0.0, 0.4])
@pytest.mark.parametrize("count", [20, 400])
def test_pulls_have_unit_width(count: int, spread: float) -> None:
    """Errors that grow with B and fall with weight, and differ beyond that, are told from the half
    sets alone: (found - true) / error has a standard deviation near 1."""
    rng = np.random.default_rng(count)
    true = rng.uniform(-15, 15, (count, 3))
    b, weight = rng.uniform(2, 20, count), rng.uniform(0.6, 1.4, count)
    made = 0.02 * np.exp(0.05 * b + spread * rng.normal(size=count)) / weight

    def atoms(places: np.ndarray) -> Atoms:
        return Atoms(*(torch.from_numpy(x).float() for x in (places, weight, b)))

    first, second = (
        true + np.sqrt(2) * made[:, None] * rng.normal(size=(count, 3)) for _ in range(2)
    )
    mean = 0.5 * (first + second)
    sure = torch.arange(count) % 10 > 0
    errors = position_errors(atoms(mean), (atoms(first), atoms(second)), sure).numpy()
    assert np.array_equal(np.isfinite(errors), sure.numpy())
    pulls = ((mean - true) / errors[:, None])[sure]
    assert pulls.std() == pytest.approx(1, abs=0.08 if count > 100 else 0.3)
    if count > 100:
        told = np.corrcoef(np.log(errors[sure]), np.log(made[sure]))[0, 1]
        assert told > (0.95 if spread == 0 else 0.7)


def test_without_confirmed_atoms_no_error_is_given() -> None:
    """Nothing is said of atoms that only one set shows."""
    some = Atoms(torch.zeros(3, 3), torch.ones(3), torch.ones(3))
    errors = position_errors(some, (some, some), torch.zeros(3, dtype=torch.bool))
    assert bool(errors.isnan().all())
