"""Other conformations of a protein, by hinges: domains turned about the line between their ends.

    python -m benchmarks.conformers 1AKE.pdb.gz open.pdb --domains 122:159:45,30:59:40
    python -m benchmarks.conformers 1AKE.pdb.gz steps/ --domains 122:159:0 --sweep 15 --steps 31

A domain a:b:degrees is a run of residues. It turns about the axis through the CA before its first
residue and the CA after its last, so that the chain stays whole at both ends; a positive angle is
the way that takes it from the rest. With --sweep the first domain turns through so many angles
from -15 to 15 degrees, a file each, named by the angle.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

CLASH_A = 2.4  # heavy atoms of a turned domain and of the rest that come nearer


class Domain(NamedTuple):
    """Residues `first` to `last` by number, turned by so many degrees."""

    first: int
    last: int
    degrees: float


def parsed(text: str) -> list[Domain]:
    """Domains written as a:b:degrees, comma between."""
    parts = [word.split(":") for word in text.split(",")]
    return [Domain(int(a), int(b), float(c)) for a, b, c in parts]


def number_of(residue: gemmi.Residue) -> int:
    """A residue's number."""
    return int(residue.seqid.num or 0)


def positions(chain: gemmi.Chain) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(a,) residue number and (a, 3) place of every atom."""
    rows = [(number_of(r), atom.pos.tolist()) for r in chain for atom in r]
    return np.array([row[0] for row in rows]), np.array([row[1] for row in rows])


def opening_turn(
    number: NDArray[np.int64], place: NDArray[np.float64], domain: Domain, ends: NDArray[np.float64]
) -> Rotation:
    """The turn about `ends[1] - ends[0]` whose positive angles take the domain from the rest."""
    axis = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
    inside = (number >= domain.first) & (number <= domain.last)
    middle, rest = place[inside].mean(0) - ends[0], place[~inside].mean(0) - ends[0]
    apart = [
        np.linalg.norm(Rotation.from_rotvec(sign * 0.1 * axis).apply(middle) - rest)
        for sign in (1, -1)
    ]
    sign = 1 if apart[0] > apart[1] else -1
    return Rotation.from_rotvec(sign * np.deg2rad(domain.degrees) * axis)


def turn(chain: gemmi.Chain, domain: Domain) -> int:
    """Turn a domain in place; how many of its heavy atoms come too near to others' comes back.

    Raises:
        SystemExit: the residues about the domain are not there.
    """
    number, place = positions(chain)
    ends = np.array(
        [
            atom.pos.tolist()
            for r in chain
            for atom in r
            if number_of(r) in (domain.first - 1, domain.last + 1) and atom.name == "CA"
        ]
    )
    if len(ends) != 2:
        raise SystemExit(f"Residues {domain.first - 1} and {domain.last + 1} must both be there.")
    by = opening_turn(number, place, domain, ends)
    for residue in chain:
        if domain.first <= number_of(residue) <= domain.last:
            for atom in residue:
                new = by.apply(np.array(atom.pos.tolist()) - ends[0]) + ends[0]
                atom.pos = gemmi.Position(*new)
    number, place = positions(chain)
    inside = (number >= domain.first) & (number <= domain.last)
    far = ~((number >= domain.first - 1) & (number <= domain.last + 1))
    near, _ = cKDTree(place[far]).query(place[inside])
    return int((near < CLASH_A).sum())


def conformer(source: Path, out: Path, domains: Sequence[Domain]) -> int:
    """Write a structure with its domains turned; the number of clashes comes back."""
    structure = gemmi.read_structure(str(source))
    structure.remove_hydrogens()
    clashes = sum(turn(structure[0][0], domain) for domain in domains if domain.degrees)
    structure.write_pdb(str(out))
    return clashes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("structure", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--domains", type=parsed, required=True)
    parser.add_argument("--sweep", type=float, help="degrees to either side")
    parser.add_argument("--steps", type=int, default=31)
    args = parser.parse_args()
    if args.sweep is None:
        clashes = conformer(args.structure, args.out, args.domains)
        print(f"{args.out}: {clashes} atoms within {CLASH_A} Å of the rest")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    for k, angle in enumerate(np.linspace(-args.sweep, args.sweep, args.steps)):
        domains = [args.domains[0]._replace(degrees=float(angle)), *args.domains[1:]]
        path = args.out / f"{args.structure.name.split('.')[0]}_{k:03d}_{angle:+.1f}.pdb"
        print(f"{path}: {conformer(args.structure, path, domains)} atoms too near")


if __name__ == "__main__":
    main()
