"""How many residues a sequence finds among atoms that are misplaced, missing and invented.

    python -m benchmarks.molecule STRUCTURE... --error 0.1 --missing 0.01 --spurious 0.02

No reconstruction is needed: the true heavy atoms of the first chain are misplaced by a Gaussian of
`--error` Å rms, some left out, and others put beside them; weights and B are as noisy as building
leaves them. A residue is right if the CA of its number is a CA of that residue. One row each, and
their sum.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gemmi
import numpy as np
import torch
from scipy.spatial import cKDTree

from diffragan.atoms.model.atoms import Atoms
from diffragan.atoms.molecule.molecule import read_molecule
from diffragan.molecules.clean import HEAVY_ATOMS, ONE_LETTER

WEIGHTS = {"C": 0.95, "N": 1.0, "O": 0.97, "S": 2.1}  # carbons, of a run without noise
B_A2 = {"C": 0.0, "N": -0.8, "O": -1.9, "S": 0.4}


def right(path: Path, args: argparse.Namespace) -> tuple[int, int, int]:
    """Residues, those right, and those numbered wrongly."""
    rng = np.random.default_rng(args.seed)
    chain = gemmi.read_structure(str(path))[0][0]
    residues = [r for r in chain if r.name in HEAVY_ATOMS and r.find_atom("CA", "*")]
    rows = [
        (k, atom)
        for k, r in enumerate(residues)
        for atom in r
        if not atom.is_hydrogen() and atom.altloc in ("\0", "A")
    ]
    places = np.array([atom.pos.tolist() for _, atom in rows])
    symbols = [atom.element.name for _, atom in rows]
    places += rng.normal(scale=args.error / np.sqrt(3), size=places.shape)
    kept = np.flatnonzero(rng.random(len(rows)) >= args.missing)
    false = places[rng.integers(len(places), size=int(args.spurious * len(places)))]
    false = false + rng.normal(scale=1.5, size=false.shape)
    false = false[cKDTree(places[kept]).query(false)[0] > 0.9] if len(false) else false
    weights = np.array([WEIGHTS.get(symbols[k], 1.0) for k in kept])
    b = np.array([B_A2.get(symbols[k], 0.0) for k in kept])
    noise = rng.normal(size=(2, len(kept)))
    weight_sd = 0.03 + 0.5 * args.error
    atoms = Atoms(
        torch.from_numpy(np.concatenate((places[kept], false))).float(),
        torch.from_numpy(
            np.concatenate((weights + weight_sd * noise[0], rng.uniform(0.45, 1, len(false))))
        ).float(),
        torch.from_numpy(
            np.concatenate((b + 15 * weight_sd * noise[1], rng.normal(2, 2, len(false))))
        ).float(),
    )
    sequence = "".join(ONE_LETTER[r.name] for r in residues)
    molecule = read_molecule(atoms, np.ones(len(atoms), dtype=bool), sequence)
    good = bad = 0
    for residue in molecule.residues:
        if residue.number is None:
            continue
        ca = residue.backbone.ca
        k, atom = rows[kept[ca]] if ca < len(kept) else (-1, None)
        same = atom is not None and atom.name == "CA" and k == residue.number - 1
        good, bad = good + same, bad + (not same)
    return len(residues), good, bad


def main() -> None:
    """Prints a row for each structure, and their sum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("structures", nargs="+", type=Path)
    parser.add_argument("--error", type=float, default=0.1, help="rms of positions, Å")
    parser.add_argument("--missing", type=float, default=0.0, help="part of the atoms")
    parser.add_argument("--spurious", type=float, default=0.0, help="part of the atoms")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    total = np.zeros(3, dtype=int)
    for path in args.structures:
        found = right(path, args)
        total += found
        print(path.name.split(".")[0], *found, flush=True)
    print(f"all {total[0]}: {total[1] / total[0]:.3f} right, {total[2] / total[0]:.3f} wrong")


if __name__ == "__main__":
    main()
