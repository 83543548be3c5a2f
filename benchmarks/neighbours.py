"""Two neighbouring molecules of a crystal in one file, by the entry's own symmetry.

    python -m benchmarks.neighbours 1AUP.pdb prep/1AUP.cif dimer.cif

The one that touches the prepared molecule in most places is put beside it, behind its residues in
one chain, as `diffragan simulate` takes it.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

_TOUCH_A, _FURTHEST_A = 4.0, 70.0
_EVERY = 3  # atom, when contacts are counted


def neighbour(places_A: NDArray[np.float64], entry: gemmi.Structure) -> NDArray[np.float64]:
    """(n, 3) the places of the symmetry mate that has most atoms within 4 Å of these."""
    to_cell, from_cell = (np.array(t.mat.tolist()) for t in (entry.cell.frac, entry.cell.orth))
    group = gemmi.find_spacegroup_by_name(entry.spacegroup_hm)
    assert group is not None
    tree, centre = cKDTree(places_A[::_EVERY]), places_A.mean(0)
    best, most = places_A, -1
    for op in group.operations():
        turn, shift = np.array(op.rot) / op.DEN, np.array(op.tran) / op.DEN
        turned = places_A @ to_cell.T @ turn.T + shift
        for cell in itertools.product(range(-2, 3), repeat=3):
            mate = (turned + np.array(cell)) @ from_cell.T
            apart = np.linalg.norm(mate.mean(0) - centre)
            if not 1.0 < apart < _FURTHEST_A:
                continue
            near = cKDTree(mate[::_EVERY]).query_ball_tree(tree, _TOUCH_A)
            if (touches := sum(map(len, near))) > most:
                best, most = mate, touches
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("entry", type=Path, help="with its cell and space group")
    parser.add_argument("prepared", type=Path, help="one molecule, in the entry's own frame")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    structure = gemmi.read_structure(str(given.prepared))
    atoms = [found.atom for found in structure[0].all()]
    places = np.array([atom.pos.tolist() for atom in atoms])
    mate = iter(neighbour(places, gemmi.read_structure(str(given.entry))))
    for chain in structure[0]:
        last = max(residue.seqid.num or 0 for residue in chain)
        for residue in [residue.clone() for residue in chain]:
            residue.seqid.num = (residue.seqid.num or 0) + last
            for atom in residue:
                atom.pos = gemmi.Position(*next(mate))
            chain.add_residue(residue)
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(given.out))


if __name__ == "__main__":
    main()
