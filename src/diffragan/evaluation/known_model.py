"""A known structure, to judge maps and atoms by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.evaluation.fit_model import Fit
from diffragan.files.atomic import write_atomically


@dataclass(frozen=True)
class KnownModel:
    """A structure's atoms about their centre of mass.

    numbers: (n,) atomic numbers. places_A: (n, 3). residues: (n,) such as "A 27 SER".
    path: its file. centre_A: (3,) the centre of mass in the file's own frame. names: (n,) such as
    "CA".
    """

    numbers: NDArray[np.int64]
    places_A: NDArray[np.float64]
    residues: tuple[str, ...]
    path: Path | None = None
    centre_A: tuple[float, ...] = (0.0, 0.0, 0.0)
    names: tuple[str, ...] = ()

    @property
    def heavy(self) -> NDArray[np.bool_]:
        """(n,) bool, all but hydrogens."""
        result: NDArray[np.bool_] = self.numbers > 1
        return result


def read_model(path: Path) -> KnownModel:
    """The first model of a PDB or mmCIF file; waters are left out, unless it was prepared with
    them.

    Raises:
        DiffraganError: the file is missing, damaged or holds no atoms.
    """
    from diffragan.molecules.fetch import read_coordinates
    from diffragan.molecules.structure import keeps_hetero

    structure, _ = read_coordinates(path)
    waters = keeps_hetero(structure)
    numbers, places, masses, residues, names = [], [], [], [], []
    for chain in structure[0]:
        for residue in chain:
            if residue.is_water() and not waters:
                continue
            for atom in residue:
                if atom.altloc not in ("\0", "A"):
                    continue
                numbers.append(atom.element.atomic_number)
                places.append(atom.pos.tolist())
                masses.append(atom.element.weight)
                names.append(atom.name)
                residues.append(f"{chain.name or '_'} {residue.seqid} {residue.name}")
    if not any(number > 1 for number in numbers):
        raise DiffraganError(f"{path} holds no atoms; give a structure of the molecule.")
    positions = np.array(places)
    centre = np.average(positions, axis=0, weights=masses)
    return KnownModel(
        np.array(numbers),
        positions - centre,
        tuple(residues),
        path,
        tuple(centre),
        tuple(names),
    )


def write_fitted_model(path: Path, model: KnownModel, fit: Fit) -> None:
    """The model's file as mmCIF, its atoms moved to where a fit lays them (mirrored, if it does).

    Raises:
        DiffraganError: the disk refuses.
    """
    import gemmi

    from diffragan.molecules.fetch import read_coordinates

    assert model.path is not None
    structure, _ = read_coordinates(model.path)
    del structure[1:]
    structure.cell = gemmi.UnitCell()
    structure.spacegroup_hm = ""
    for chain in structure[0]:
        for residue in chain:
            for atom in residue:
                place = np.array(atom.pos.tolist()) - model.centre_A
                atom.pos = gemmi.Position(*fit(place[None])[0])
    write_atomically(path, structure.make_mmcif_document().as_string().encode())
