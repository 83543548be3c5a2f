"""A known structure, to judge maps and atoms by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError


@dataclass(frozen=True)
class KnownModel:
    """A structure's atoms about their centre of mass.

    numbers: (n,) atomic numbers. places_A: (n, 3). residues: (n,) such as "A 27 SER".
    """

    numbers: NDArray[np.int64]
    places_A: NDArray[np.float64]
    residues: tuple[str, ...]

    @property
    def heavy(self) -> NDArray[np.bool_]:
        """(n,) bool, all but hydrogens."""
        result: NDArray[np.bool_] = self.numbers > 1
        return result


def read_model(path: Path) -> KnownModel:
    """The first model of a PDB or mmCIF file, waters left out.

    Raises:
        DiffraganError: the file is missing, damaged or holds no atoms.
    """
    from diffragan.molecules.fetch import read_coordinates

    structure, _ = read_coordinates(path)
    numbers, places, masses, residues = [], [], [], []
    for chain in structure[0]:
        for residue in chain:
            if residue.is_water():
                continue
            for atom in residue:
                if atom.altloc not in ("\0", "A"):
                    continue
                numbers.append(atom.element.atomic_number)
                places.append(atom.pos.tolist())
                masses.append(atom.element.weight)
                residues.append(f"{chain.name} {residue.seqid} {residue.name}")
    if not numbers:
        raise DiffraganError(f"{path} holds no atoms; give a structure of the molecule.")
    positions = np.array(places)
    return KnownModel(
        np.array(numbers),
        positions - np.average(positions, axis=0, weights=masses),
        tuple(residues),
    )
