"""A prepared molecule: its atoms about the centre of mass, read for simulation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.molecules.clean import HEAVY_ATOMS, ONE_LETTER
from diffragan.molecules.fetch import path_stem, read_coordinates

# The keyword by which a prepared file says that ligands, metals or waters belong to it.
HETERO_KEPT = "prepared with hetero atoms"


@dataclass(frozen=True, eq=False)
class Structure:
    """The atoms of one prepared molecule about its centre of mass.

    Attributes:
        stem: the name under which stores and reports keep it.
        numbers: (atoms,) atomic numbers, ligands and waters among them if they were kept.
        positions_A: (atoms, 3) x, y, z in Å; the centre of mass is the origin.
        sequence: one letter per residue of the protein.
        sha256: hex digest of the file's bytes.
    """

    stem: str
    numbers: NDArray[np.int64]
    positions_A: NDArray[np.float64]
    sequence: str
    sha256: str

    @cached_property
    def mass_kda(self) -> float:
        """Sum of the atomic masses, kDa."""
        return float(_masses_da(self.numbers).sum() / 1000)

    @cached_property
    def radius_A(self) -> float:
        """Largest distance of an atom from the centre of mass, Å."""
        return float(np.linalg.norm(self.positions_A, axis=1).max())

    @property
    def diameter_A(self) -> float:
        """Twice the radius, Å."""
        return 2 * self.radius_A

    @property
    def n_residues(self) -> int:
        """Number of residues."""
        return len(self.sequence)


def prepared_files(paths: Iterable[Path]) -> list[Path]:
    """The files of prepared structures: those given, and the .cif files of folders, by name.

    Raises:
        DiffraganError: a folder without any.
    """
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.cif")) if path.is_dir() else [path]
        if not inside:
            raise DiffraganError(
                f"The folder {path} holds no .cif file; run `diffragan prepare ... --out {path}` "
                "first."
            )
        files += inside
    return files


def load_structure(path: Path) -> Structure:
    """A prepared structure from PDB or mmCIF, plain or gzipped, centred on its mass.

    Raises:
        DiffraganError: the file is missing, empty, cut short or can't be parsed; it holds no
            protein; or it is not prepared (several models or chains, waters or hetero atoms,
            alternative locations, no hydrogens).
    """
    structure, sha256 = read_coordinates(path)
    _require_prepared(structure, path)
    chain = structure[0][0]
    atoms = [atom for residue in chain for atom in residue]
    numbers = np.array([atom.element.atomic_number for atom in atoms], dtype=np.int64)
    positions_A = np.array([atom.pos.tolist() for atom in atoms], dtype=np.float64)
    masses = _masses_da(numbers)
    positions_A -= masses @ positions_A / masses.sum()
    return Structure(
        stem=path_stem(path),
        numbers=numbers,
        positions_A=positions_A,
        sequence="".join(ONE_LETTER[residue.name] for residue in chain if not _beside(residue)),
        sha256=sha256,
    )


def keeps_hetero(structure: gemmi.Structure) -> bool:
    """Whether a file was prepared with its ligands, metals or waters."""
    key = "_struct_keywords.text"
    return key in structure.info and structure.info[key] == HETERO_KEPT


def _beside(residue: gemmi.Residue) -> bool:
    """A ligand, metal or water beside the chain."""
    return residue.het_flag == "H"


def _require_prepared(structure: gemmi.Structure, path: Path) -> None:
    model = structure[0]
    residues = [residue for chain in model for residue in chain]
    if keeps_hetero(structure):
        residues = [residue for residue in residues if not _beside(residue)]
    if not any(residue.name in HEAVY_ATOMS for residue in residues):
        raise DiffraganError(f"There is no protein in {path}; give a file with a protein chain.")
    atoms = [atom for residue in residues for atom in residue]
    elements = {atom.element.atomic_number for atom in atoms}
    problem = None
    if len(structure) > 1:
        problem = f"it has {len(structure)} models"
    elif any(residue.is_water() for residue in residues):
        problem = "it has waters"
    elif other := {residue.name for residue in residues if residue.name not in HEAVY_ATOMS}:
        problem = f"it has other residues than the twenty ({', '.join(sorted(other)[:5])})"
    elif len(model) > 1:
        problem = f"it has {len(model)} chains"
    elif any(atom.has_altloc() for chain in model for r in chain for atom in r):
        problem = "it has alternative locations"
    elif 1 not in elements:
        problem = "it has no hydrogens"
    elif not elements <= {1, 6, 7, 8, 16}:
        problem = "it has atoms of other elements than H, C, N, O and S"
    if problem is not None:
        raise DiffraganError(
            f"The structure {path} is not prepared: {problem}; "
            f"run `diffragan prepare {path} --out DIR` first."
        )


def _masses_da(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    weights = {int(z): gemmi.Element(int(z)).weight for z in np.unique(numbers)}
    return np.array([weights[int(z)] for z in numbers], dtype=np.float64)


def write_rotated_structures(path: Path, rotations: NDArray[np.float64], folder: Path) -> None:
    """One mmCIF per rotation (n, 3, 3), `<stem>_<number>.cif`, turned about the centre of mass.

    The coordinates are those the simulation sees: centre of mass at the origin, beam along +z.

    Raises:
        DiffraganError: the file can't be read, or the disk refuses.
    """
    structure, _ = read_coordinates(path)
    atoms = [atom for chain in structure[0] for residue in chain for atom in residue]
    places = np.array([atom.pos.tolist() for atom in atoms])
    masses = np.array([atom.element.weight for atom in atoms])
    centred = places - np.average(places, axis=0, weights=masses)
    folder.mkdir(parents=True, exist_ok=True)
    for number, rotation in enumerate(rotations):
        for atom, place in zip(atoms, centred @ rotation.T, strict=True):
            atom.pos = gemmi.Position(*place)
        text = structure.make_mmcif_document().as_string()
        write_atomically(folder / f"{path_stem(path)}_{number:05d}.cif", text.encode())
