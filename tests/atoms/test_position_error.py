"""Errors of atoms against the errors that were made."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch

from diffragan.atoms.comparison.position_error import position_errors
from diffragan.atoms.model.atoms import Atoms
from diffragan.atoms.model.cif import write_atoms_cif


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


def test_all_views_may_know_more_than_the_mean_of_halves() -> None:
    """Where halves do worse than their share of the data, errors are those of all views still."""
    rng = np.random.default_rng(1)
    true = rng.uniform(-15, 15, (1000, 3))
    made, half = 0.03, 0.03 * np.sqrt(6)
    first, second = (true + rng.normal(scale=half, size=true.shape) for _ in range(2))
    # The best estimate of both and of a third, whose weight is 2 / 3 of all.
    third = true + rng.normal(scale=made / np.sqrt(2 / 3), size=true.shape)
    best = (first + second) / 6 + third * 2 / 3
    ones = torch.ones(1000)
    one, other, whole = (
        Atoms(torch.from_numpy(x).float(), ones, ones) for x in (first, second, best)
    )
    errors = position_errors(whole, (one, other), ones > 0).numpy()
    assert ((best - true) / errors[:, None]).std() == pytest.approx(1, abs=0.1)


def test_without_confirmed_atoms_no_error_is_given() -> None:
    """Nothing is said of atoms that only one set shows."""
    some = Atoms(torch.zeros(3, 3), torch.ones(3), torch.ones(3))
    errors = position_errors(some, (some, some), torch.zeros(3, dtype=torch.bool))
    assert bool(errors.isnan().all())


def test_the_file_holds_each_atoms_error(tmp_path: Path) -> None:
    """Every coordinate has its uncertainty beside it, and one that is not known is no number."""
    atoms = Atoms(torch.eye(3), torch.ones(3), torch.ones(3))
    sure = np.array([False, True, True])
    errors = np.array([np.nan, 0.02, 0.03])
    write_atoms_cif(tmp_path / "a.cif", atoms, sure, "name", errors_A=errors)
    block = gemmi.cif.read(str(tmp_path / "a.cif")).sole_block()
    columns = ["auth_asym_id", "Cartn_x", *(f"Cartn_{axis}_esd" for axis in "xyz")]
    rows = [list(row) for row in block.find("_atom_site.", columns)]
    assert [row[0] for row in rows] == ["A", "A", "B"]
    assert [gemmi.cif.as_number(row[2]) for row in rows][:2] == [0.02, 0.03]
    assert rows[2][1:] == ["1", "?", "?", "?"]
    assert len(gemmi.read_structure(str(tmp_path / "a.cif"))[0]["A"]) == 2
