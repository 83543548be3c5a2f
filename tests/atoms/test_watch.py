"""Views that atoms turn, and views that are only watched."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_targets import grid_of, seen_by

from diffragan.atoms.building.watch import WATCHED_EVERY, watch
from diffragan.atoms.model.atoms import Atoms, atoms_at, no_hydrogens
from diffragan.reconstruction.maps.views import Views
from diffragan.rotations import angle_deg, turned
from synthetic_views import make_views, molecule

pytestmark = pytest.mark.usefixtures("one_thread")
NONE = no_hydrogens()


@pytest.fixture(scope="module")
def atoms() -> Atoms:
    return atoms_at(torch.from_numpy(molecule(1)).float(), 1.0, 20.0)


@pytest.fixture(scope="module")
def views(atoms: Atoms) -> Views:
    """Counted patterns of the atoms, where they truly lie."""
    blank = make_views(molecule(1), 40, seed=1)
    return seen_by(blank, grid_of(blank).spectrum(atoms), 1e9)


def misplaced(views: Views, degrees: float) -> Views:
    generator = torch.Generator().manual_seed(2)
    axes = torch.nn.functional.normalize(torch.randn(len(views), 3, generator=generator), dim=1)
    return replace(views, rotations=turned(views.rotations, axes * (degrees * torch.pi / 180)))


def test_atoms_turn_views_back(views: Views, atoms: Atoms) -> None:
    """Views a degree off their atoms' orientations come back to a tenth of that, those that are
    only watched too, and the patterns then fit."""
    off = watch(misplaced(views, 1.0), grid_of(views))
    back = off.turned(atoms, NONE)
    errors = angle_deg(back.rotations, views.rotations)
    assert float(errors.median()) < 0.1
    assert float(errors[WATCHED_EVERY - 1 :: WATCHED_EVERY].max()) < 0.2
    assert back.score(atoms, NONE) > off.score(atoms, NONE)
    assert torch.equal(back.watched.views.rotations, back.rotations[WATCHED_EVERY - 1 :: 20])


def test_what_is_watched_pulls_no_atom(views: Views, atoms: Atoms) -> None:
    """The misfit that atoms are refined by does not change with the patterns that are watched."""
    grid = grid_of(views)
    spectrum = grid.spectrum(Atoms(atoms.positions_A + 0.2, atoms.weights, atoms.b_A2))
    unexplained = watch(views, grid).used.unexplained
    totals = []
    for factor in (1.0, 3.0):
        measured = views.measured.clone()
        measured[WATCHED_EVERY - 1 :: WATCHED_EVERY] *= factor
        used = watch(replace(views, measured=measured), grid).used
        totals.append(float(replace(used, unexplained=unexplained).misfit(spectrum)))
    assert totals[0] == totals[1]
