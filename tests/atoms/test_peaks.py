"""Peaks of a map."""

from __future__ import annotations

import torch

from diffragan.atoms.building.peaks import peaks
from diffragan.atoms.comparison.confirm import match
from diffragan.atoms.model.atoms import Atoms, atoms_at
from diffragan.atoms.model.density import AtomGrid

GRID = AtomGrid(n=48, box_A=24.0, field_A=24.0, energy_ev=200e3)
PLACES = torch.tensor([[0.0, 0, 0], [1.5, 0.1, -0.2], [-3.3, 4.1, 5.2], [7.7, -8.2, 2.9]])


def test_peaks_are_where_atoms_are() -> None:
    """Atoms a bond apart are separate maxima of a map to 1 Å, highest first, between voxels too."""
    weights = torch.tensor([1.0, 1.2, 2.0, 0.8])
    volume = GRID.volume(Atoms(PLACES, weights, torch.full((4,), 3.0)))
    found = peaks(volume, GRID.box_A, 4)
    result = match(found.double().numpy(), PLACES.double().numpy(), 0.15)
    assert result.recall == result.precision == 1
    assert torch.allclose(found[0], PLACES[2], atol=0.1)


def test_known_places_and_the_mask_are_kept_clear() -> None:
    """A peak beside a known atom is that atom's; outside the mask there are none."""
    volume = GRID.volume(atoms_at(PLACES))
    assert len(peaks(volume, GRID.box_A, 2, away_from=PLACES[:3])) >= 1
    first = peaks(volume, GRID.box_A, 1, away_from=PLACES[:3])
    assert torch.allclose(first[0], PLACES[3], atol=0.1)
    nowhere = torch.zeros(48, 48, 48, dtype=torch.bool)
    assert len(peaks(volume, GRID.box_A, 4, inside=nowhere)) == 0
