"""How well a map shows each atom."""

from __future__ import annotations

import torch

from diffragan.atoms.comparison.local_fit import local_fit
from diffragan.atoms.model.atoms import atoms_at
from diffragan.atoms.model.density import AtomGrid


def test_fit_is_one_where_map_and_atoms_agree_and_low_where_an_atom_is_missing() -> None:
    """Scale and offset of a map do not matter; what it lacks does."""
    grid = AtomGrid(60, 30.0, 30.0, 200e3)
    places = torch.tensor([[0.0, 0, 0], [1.5, 0, 0], [-6.0, 5, 4], [9.0, -8, -14.5]])
    model = grid.volume(atoms_at(places))
    same = local_fit(places, 3 * model + 1, model, grid.box_A)
    torch.testing.assert_close(same, torch.ones_like(same), atol=1e-5, rtol=0)
    lacking = local_fit(places, grid.volume(atoms_at(places[[0, 1, 3]])), model, grid.box_A)
    assert (lacking[[0, 1, 3]] > 0.99).all()
    assert lacking[2] < 0.5


def test_flat_maps_tell_nothing() -> None:
    """A correlation with a constant is no number."""
    places = torch.zeros(1, 3)
    model = AtomGrid(32, 16.0, 16.0, 200e3).volume(atoms_at(places))
    assert local_fit(places, torch.zeros_like(model), model, 16.0).isnan().all()
    assert len(local_fit(torch.zeros(0, 3), model, model, 16.0)) == 0
