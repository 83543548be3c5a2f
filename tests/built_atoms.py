"""Atoms as a run would build them: those of a known structure with errors of a known size."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib import resources

import gemmi
import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.atoms.model.atoms import Atoms
from peptide import ATOMS

# As noise-free building weighs them, in carbons, and their B factors; see docs/atoms.md.
WEIGHTS = {"C": 0.95, "N": 1.0, "O": 0.97, "S": 2.1}
B_A2 = {"C": 0.0, "N": -0.8, "O": -1.9, "S": 0.4}


@dataclass(frozen=True)
class Truth:
    """Heavy atoms of a chain. residues: (n,) index of each atom's residue, from 0."""

    places_A: NDArray[np.float64]
    names: tuple[str, ...]
    residues: tuple[int, ...]
    types: tuple[str, ...]

    @property
    def sequence(self) -> str:
        """One letter a residue."""
        return gemmi.one_letter_code(list(self.types))

    def part(self, kept: NDArray[np.bool_]) -> Truth:
        """Some of the atoms."""
        k = np.flatnonzero(kept)
        names, residues = (tuple(x[j] for j in k) for x in (self.names, self.residues))
        return Truth(self.places_A[kept], names, residues, self.types)  # type: ignore[arg-type]


def ferredoxin() -> Truth:
    """1DUR as it comes with the package, 55 residues."""
    file = resources.files("diffragan").joinpath("data", "views_model.cif.gz")
    text = gzip.decompress(file.read_bytes()).decode()
    return truth_of(gemmi.make_structure_from_block(gemmi.cif.read_string(text)[0]))


def ten_residues() -> Truth:
    """The first ten of ubiquitin."""
    return truth_of(gemmi.read_pdb_string("\n".join(ATOMS)))


def truth_of(structure: gemmi.Structure) -> Truth:
    """The heavy atoms of a structure's first chain."""
    chain = structure[0][0]
    rows = [(a, k) for k, r in enumerate(chain) for a in r if not a.is_hydrogen()]
    return Truth(
        np.array([a.pos.tolist() for a, _ in rows]),
        tuple(a.name for a, _ in rows),
        tuple(k for _, k in rows),
        tuple(r.name for r in chain),
    )


def built(truth: Truth, error_A: float = 0.02, seed: int = 0) -> Atoms:
    """Free atoms misplaced by `error_A` rms, weights and B as noisy as in a good run."""
    rng = np.random.default_rng(seed)
    shape = truth.places_A.shape
    places = truth.places_A + rng.normal(scale=error_A / np.sqrt(3), size=shape)
    weights = np.array([WEIGHTS[name[0]] for name in truth.names])
    b = np.array([B_A2[name[0]] for name in truth.names])
    return Atoms(
        torch.from_numpy(places).float(),
        torch.from_numpy(weights + rng.normal(scale=0.04, size=len(weights))).float(),
        torch.from_numpy(b + rng.normal(scale=0.5, size=len(b))).float(),
    )
