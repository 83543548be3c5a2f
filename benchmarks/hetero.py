"""Iron-sulphur clusters and waters put onto a protein, to be built as atoms and named.

    python -m benchmarks.hetero 1DUR.pdb with.pdb --waters 20

Ideal Fe4S4 cubanes (Fe-Fe 2.73 Å, Fe-S 2.28 Å) are laid by least squares on every four cysteines
whose SG lie 5 to 7.5 Å from each other, so that each SG is 2.27 Å from its iron. Waters stand
2.85 Å from carbonyl oxygens, on the line C=O and 25 degrees about it, no nearer than 2.75 Å to
oxygen and nitrogen and 3.2 Å to any other atom.
"""

from __future__ import annotations

import argparse
from itertools import combinations, product
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.spatial.transform import Rotation

FE_FE_A, FE_S_A, FE_SG_A = 2.73, 2.28, 2.27
_SG_APART_A = (5.0, 7.5)
_WATER_A, _POLAR_A, _OTHER_A = 2.85, 2.75, 3.2
_TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)


def cubane() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(4, 3) each, about the middle: irons, sulphides, and where the cysteines' SG belong."""
    iron = FE_FE_A / np.sqrt(8 / 3)  # distance from the middle

    def excess(radius: float) -> float:
        return float(np.linalg.norm(-radius * _TETRAHEDRON[1] - iron * _TETRAHEDRON[0])) - FE_S_A

    # Of both radii that give the bond, the outer one: sulphides stand out further than irons.
    sulphur = brentq(excess, iron, 4.0)
    return iron * _TETRAHEDRON, -sulphur * _TETRAHEDRON, (iron + FE_SG_A) * _TETRAHEDRON


def clusters(chain: gemmi.Chain) -> list[tuple[NDArray[np.float64], NDArray[np.float64], float]]:
    """Irons, sulphides (4, 3) each of every cluster, and its rms of SG from where they belong."""
    places = np.array([a.pos.tolist() for r in chain for a in r if a.name == "SG"]).reshape(-1, 3)
    out: list[tuple[NDArray[np.float64], NDArray[np.float64], float]] = []
    taken: set[int] = set()
    found = []
    for four in combinations(range(len(places)), 4):
        sides = [np.linalg.norm(places[i] - places[j]) for i, j in combinations(four, 2)]
        if _SG_APART_A[0] <= min(sides) and max(sides) <= _SG_APART_A[1]:
            found.append((float(np.std(sides)), four))
    irons, sulphides, ends = cubane()
    for _, four in sorted(found):
        if taken & set(four):
            continue
        goal = places[list(four)]
        middle = goal.mean(0)
        fits = []
        for order in (ends, ends[[1, 0, 2, 3]]):  # either hand of four ends is the same cluster
            turn, rssd = Rotation.align_vectors(goal - middle, order)
            fits.append((rssd / 2, turn))
        rms, turn = min(fits, key=lambda row: row[0])
        out.append((turn.apply(irons) + middle, turn.apply(sulphides) + middle, float(rms)))
        taken |= set(four)
    return out


def waters(
    places: NDArray[np.float64], polar: NDArray[np.bool_], bonds: list[tuple[int, int]], count: int
) -> NDArray[np.float64]:
    """(k, 3) up to `count` places of waters.

    Args:
        places: (n, 3) of all other atoms. polar: (n,) bool, oxygens and nitrogens. bonds: indices
            of carbonyl carbons and oxygens.
    """
    found = np.zeros((0, 3))
    tilts = [(0.0, 0.0), *product((25.0,), np.arange(0, 360, 45.0))]
    for tilt, turn in tilts:
        for c, o in bonds:
            axis = places[o] - places[c]
            axis /= np.linalg.norm(axis)
            across = np.cross(axis, [0.3, 0.5, 0.8])
            across /= np.linalg.norm(across)
            spin = Rotation.from_rotvec(np.radians(turn) * axis)
            lean = Rotation.from_rotvec(np.radians(tilt) * spin.apply(across))
            place = places[o] + _WATER_A * lean.apply(axis)
            apart = np.linalg.norm(places - place, axis=1)
            if (apart < np.where(polar, _POLAR_A, _OTHER_A)).any():
                continue
            if len(found) and np.linalg.norm(found - place, axis=1).min() < _POLAR_A:
                continue
            found = np.concatenate((found, place[None]))
            if len(found) == count:
                return found
    return found


def add_residue(chain: gemmi.Chain, name: str, number: int, atoms: list[tuple[str, str, NDArray]]):  # type: ignore[no-untyped-def,type-arg]
    """A hetero residue of named atoms: name, element, place."""
    residue = gemmi.Residue()
    residue.name, residue.seqid, residue.het_flag = name, gemmi.SeqId(number, " "), "H"
    for atom_name, element, place in atoms:
        atom = gemmi.Atom()
        atom.name, atom.element = atom_name, gemmi.Element(element)
        atom.pos = gemmi.Position(*(round(float(x), 3) for x in place))
        residue.add_atom(atom)
    chain.add_residue(residue)


def main() -> None:
    """Writes the structure and prints what was put onto it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("structure", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--waters", type=int, default=20)
    args = parser.parse_args()
    structure = gemmi.read_structure(str(args.structure))
    chain = structure[0][0]
    made = clusters(chain)
    for k, (irons, sulphides, rms) in enumerate(made, 1):
        atoms = [(f"FE{i}", "Fe", p) for i, p in enumerate(irons, 1)]
        atoms += [(f"S{i}", "S", p) for i, p in enumerate(sulphides, 1)]
        add_residue(chain, "SF4", 200 + k, atoms)
        print(f"Fe4S4 {k}: SG {rms:.2f} Å rms from where they belong")
    heavy = [a for r in chain for a in r if not a.is_hydrogen()]
    places = np.array([a.pos.tolist() for a in heavy])
    polar = np.array([a.element.name in ("O", "N") for a in heavy])
    bonds, start = [], 0
    for residue in chain:
        names = {a.name: start + k for k, a in enumerate(x for x in residue if not x.is_hydrogen())}
        start += len(names)
        if {"C", "O"} <= set(names) and residue.het_flag == "A":
            bonds.append((names["C"], names["O"]))
    for k, place in enumerate(found := waters(places, polar, bonds, args.waters), 1):
        add_residue(chain, "HOH", 300 + k, [("O", "O", place)])
    structure.setup_entities()
    structure.write_pdb(str(args.out))
    print(f"{len(made)} clusters, {len(found)} waters")


if __name__ == "__main__":
    main()
