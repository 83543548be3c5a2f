"""Torsion angles of a main chain as it was read."""

from __future__ import annotations

import gemmi
import numpy as np

from built_atoms import built, ten_residues
from diffragan.atoms.molecule.molecule import read_molecule
from diffragan.atoms.scene import shown_residues
from diffragan.atoms.torsions import phi_psi_deg
from peptide import ATOMS, SEQUENCE


def test_torsions_are_those_of_the_structure() -> None:
    """As gemmi tells them from names, they come from atoms without any; ends have one each."""
    atoms = built(ten_residues())
    molecule = read_molecule(atoms, np.ones(len(atoms), dtype=bool))
    chain = gemmi.read_pdb_string("\n".join(ATOMS))[0][0]
    true = [
        [
            np.degrees(angle)
            for angle in gemmi.calculate_phi_psi(
                chain[k - 1] if k else None, chain[k], chain[k + 1] if k + 1 < len(chain) else None
            )
        ]
        for k in range(len(chain))
    ]
    angles = phi_psi_deg(molecule)
    assert np.array_equal(np.isnan(angles), np.isnan(true))
    apart = (angles - true + 180) % 360 - 180
    assert np.nanmax(np.abs(apart)) < 12


def test_residues_are_shown_in_their_order() -> None:
    """The list to go to has every residue once, with its atoms and its probability."""
    atoms = built(ten_residues())
    shown = shown_residues(read_molecule(atoms, np.ones(len(atoms), dtype=bool)))
    assert gemmi.one_letter_code([one.name for one in shown]) == SEQUENCE
    assert [(one.chain, one.number) for one in shown] == [("1", k) for k in range(1, 11)]
    indices = [k for one in shown for k in one.atoms]
    assert len(indices) == len(set(indices)) == len(atoms)
    assert all(one.confidence is not None and 0 < one.confidence <= 1 for one in shown)
