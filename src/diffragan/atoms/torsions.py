"""Torsion angles of the main chain."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.atoms.molecule.molecule import Molecule


def phi_psi_deg(molecule: Molecule) -> NDArray[np.float64]:
    """(residues, 2) phi and psi, -180 to 180, in the order of `molecule.residues`; nan where an
    atom of the angle is missing or a fragment ends (Ramachandran et al., JMB 7, 95, 1963)."""
    rows = []
    for chain in molecule.chains:
        parts = [residue.backbone for residue in chain]
        for k, here in enumerate(parts):
            before = parts[k - 1].c if k else -1
            after = parts[k + 1].n if k + 1 < len(parts) else -1
            phi = _dihedral_deg(molecule, (before, here.n, here.ca, here.c))
            psi = _dihedral_deg(molecule, (here.n, here.ca, here.c, after))
            rows.append((phi, psi))
    return np.array(rows, dtype=float).reshape(-1, 2)


def _dihedral_deg(molecule: Molecule, atoms: tuple[int, int, int, int]) -> float:
    import gemmi

    if min(atoms) < 0:
        return math.nan
    places: Any = molecule.graph.places_A[list(atoms)].tolist()
    return math.degrees(gemmi.calculate_dihedral(*(gemmi.Position(*place) for place in places)))
