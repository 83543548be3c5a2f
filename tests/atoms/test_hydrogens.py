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
    """How many bonds an atom has, how long they are and how they lie tells what it carries."""
    atoms = heavy_atoms(peptide, noise_A)
    riding = riding_hydrogens(atoms)
    placed = riding.on(atoms).positions_A[riding.share > 0.5].double().numpy()
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


def on_the_end(places: list[tuple[float, float, float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Shares, and offsets in Å, of the hydrogens of the last of these atoms."""
    atoms = Atoms(torch.tensor(places), torch.ones(len(places)), torch.ones(len(places)))
    riding = riding_hydrogens(atoms)
    last = riding.parent == len(places) - 1
    return riding.share[last], riding.offset_A[last]


ETHYL = [(0.0, 0.0, 0.0), (-0.51, 1.44, 0.0)]  # two carbons; what is bonded to the first is tried


def test_a_hydroxyl_is_spread_over_its_cone() -> None:
    """One hydrogen in all at 1.42 Å, in three places about the bond, their mean on it; three at a
    methyl's 1.52 Å; half of each in the middle."""
    share, offset = on_the_end([*ETHYL, (1.42, 0.0, 0.0)])
    real = share > 0.1
    assert float(share[real].sum()) == pytest.approx(1, abs=0.05)
    assert torch.allclose(offset[real].norm(dim=1), torch.tensor(0.96), atol=1e-3)
    mean = (share[real, None] * offset[real]).sum(0)
    assert torch.allclose(mean, torch.tensor([0.32, 0.0, 0.0]), atol=0.02)
    assert float(on_the_end([*ETHYL, (1.54, 0.0, 0.0)])[0].sum()) == pytest.approx(3, abs=0.1)
    assert float(on_the_end([*ETHYL, (1.475, 0.0, 0.0)])[0].sum()) == pytest.approx(2, abs=0.01)


def test_an_amide_carries_two_and_a_carboxylate_none() -> None:
    """On a flat carbon with another end: none at 1.24 Å, two in the plane at 1.33 Å, each at
    120 degrees to the bond."""
    flat = [(0.0, 0.0, 0.0), (-0.76, 1.32, 0.0), (-0.62, -1.07, 0.0)]
    assert float(on_the_end([*flat, (1.24, 0.0, 0.0)])[0].sum()) < 0.15
    share, offset = on_the_end([*flat, (1.33, 0.0, 0.0)])
    assert float(share.sum()) == pytest.approx(2, abs=0.15)
    assert torch.allclose(offset[:, 2], torch.zeros(2), atol=1e-3)
    assert torch.allclose(offset[:, 0], torch.full((2,), 0.505), atol=1e-2)
