"""Riding hydrogens, from nothing but the places of other atoms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffragan.atoms.comparison.confirm import match
from diffragan.atoms.model.atoms import Atoms
from diffragan.atoms.model.hydrogens import riding_hydrogens
from diffragan.molecules.prepare import prepare_structure
from diffragan.molecules.structure import Structure, load_structure
from diffragan.settings import PrepareSettings
from peptide import ATOMS, pdb_file


@pytest.fixture(scope="module")
def peptide(tmp_path_factory: pytest.TempPathFactory) -> Structure:
    """Ten residues with their hydrogens."""
    folder = tmp_path_factory.mktemp("peptide")
    source = pdb_file(folder / "ten.pdb", ATOMS)
    return load_structure(prepare_structure(str(source), folder, PrepareSettings()).output)


def heavy_atoms(structure: Structure, noise_A: float) -> Atoms:
    heavy = structure.numbers > 1
    rng = np.random.default_rng(0)
    places = structure.positions_A[heavy]
    places = places + rng.normal(scale=noise_A / np.sqrt(3), size=places.shape)
    weights = np.where(structure.numbers[heavy] == 16, 2.1, 1.0)
    return Atoms(
        torch.from_numpy(places).float(),
        torch.from_numpy(weights).float(),
        torch.zeros(len(places)),
    )


@pytest.mark.parametrize(("noise_A", "recall", "precision"), [(0.0, 0.85, 0.95), (0.05, 0.8, 0.88)])
def test_bonds_tell_most_hydrogens(
    peptide: Structure, noise_A: float, recall: float, precision: float
) -> None:
    """How many bonds an atom has, how long they are and how they lie tells what it carries; what
    turns freely is left out rather than guessed."""
    atoms = heavy_atoms(peptide, noise_A)
    placed = riding_hydrogens(atoms).on(atoms).positions_A.double().numpy()
    known = peptide.positions_A[peptide.numbers == 1]
    found = match(placed, known, 0.5)
    assert found.recall > recall
    assert found.precision > precision


def test_hydrogens_ride() -> None:
    """A hydrogen keeps its place relative to the atom that carries it."""
    places = torch.tensor([[0.0, 0, 0], [1.40, 0, 0], [-0.70, 1.21, 0]])
    atoms = Atoms(places, torch.ones(3), torch.ones(3))
    riding = riding_hydrogens(atoms)
    moved = Atoms(places + torch.tensor([0.0, 0.3, 0.1]), torch.ones(3), torch.ones(3))
    apart = riding.on(moved).positions_A - riding.on(atoms).positions_A
    assert torch.allclose(apart, torch.tensor([0.0, 0.3, 0.1]).expand_as(apart), atol=1e-6)
    # Two bonds of 1.40 Å at 120 degrees are a ring's: one hydrogen, in their plane, outward.
    ring = riding.on(atoms).positions_A[riding.parent == 0]
    assert len(ring) == 1
    assert torch.allclose(ring[0], torch.tensor([-0.505, -0.875, 0.0]), atol=0.02)
