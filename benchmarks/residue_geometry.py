"""Bond lengths, angles and flat groups of proteins: the table that `atoms/bonds/` reads.

    python -m benchmarks.residue_geometry STRUCTURE... --out FILE.json

Each atom of a residue is placed by up to three distances to atoms before it: a bond, an angle, and
in rigid groups a torsion. A distance counts as rigid where its standard deviation stays under
0.1 Å. Classes of atoms, which need no residue, are an element, its number of bonds without those
to hydrogen, and `=` for flat ones.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import gemmi
import numpy as np

from diffragan.molecules.clean import BACKBONE, HEAVY_ATOMS, is_bonded

Places = dict[str, np.ndarray]
RIGID_A, SAME_A, ALIKE, FAR_A = 0.10, 0.35, 0.90, 3.3
BOND_A, SULPHUR_BOND_A = 1.75, 2.15
FEWEST = 20
FLAT = {
    "ASN": "CG OD1 ND2",
    "ASP": "CG OD1 OD2",
    "GLN": "CD OE1 NE2",
    "GLU": "CD OE1 OE2",
    "ARG": "NE CZ NH1 NH2",
    "HIS": "CG ND1 CD2 CE1 NE2",
    "PHE": "CG CD1 CD2 CE1 CE2 CZ",
    "TYR": "CG CD1 CD2 CE1 CE2 CZ",
    "TRP": "CG CD1 CD2 NE1 CE2 CE3 CZ2 CZ3 CH2",
}
# Centre and three neighbours; the sign of their volume is that of L-amino acids.
CENTRES = {
    **{name: [["CA", "N", "C", "CB"]] for name in HEAVY_ATOMS if name != "GLY"},
    "VAL": [["CA", "N", "C", "CB"], ["CB", "CA", "CG1", "CG2"]],
    "LEU": [["CA", "N", "C", "CB"], ["CG", "CB", "CD1", "CD2"]],
    "ILE": [["CA", "N", "C", "CB"], ["CB", "CA", "CG1", "CG2"]],
    "THR": [["CA", "N", "C", "CB"], ["CB", "CA", "OG1", "CG2"]],
}


def measured(paths: list[Path]) -> dict[str, Any]:
    """The table of the first chains of structures."""
    within: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    peptide: dict[bool, dict[tuple[str, str], list[float]]] = {
        flag: defaultdict(list) for flag in (True, False)
    }
    volumes: dict[tuple[str, ...], list[float]] = defaultdict(list)
    classes: dict[str, list[float]] = defaultdict(list)
    bonds: dict[tuple[str, str], list[float]] = defaultdict(list)
    counts: dict[str, int] = defaultdict(int)
    for path in paths:
        chain = gemmi.read_structure(str(path))[0][0]
        residues = [r for r in chain if r.name in HEAVY_ATOMS]
        for residue in residues:
            counts[residue.name] += 1
            places = places_of(residue)
            for one, other in combinations(places, 2):
                within[residue.name][one, other].append(apart(places[one], places[other]))
            for centre in CENTRES.get(residue.name, ()):
                if set(centre) <= set(places):
                    volumes[residue.name, *centre].append(volume(places, centre))
        for first, second in peptides(residues):
            add_peptide(peptide, first, second)
        add_classes(residues, classes, bonds)
    return {
        "residues": {
            name: {"fraction": counts[name] / sum(counts.values()), "atoms": steps(within[name])}
            for name in HEAVY_ATOMS
        },
        "peptide": {
            kind: [[*pair, *spread(values)] for pair, values in peptide[flag].items()]
            for kind, flag in (("trans", False), ("cis", True))
        },
        "centres": [[*key, *spread(values)] for key, values in volumes.items()],
        "atoms": {
            name: [len(values) / sum(map(len, classes.values())), *spread(values)]
            for name, values in sorted(classes.items())
        },
        "bonds": [
            [*pair, len(values), *spread(values)]
            for pair, values in sorted(bonds.items())
            if len(values) >= FEWEST
        ],
    }


def places_of(residue: gemmi.Residue) -> Places:
    """Heavy atoms of the first conformer, in the order of the residue's own list."""
    found = {a.name: np.array(a.pos.tolist()) for a in residue if a.altloc in ("\0", "A")}
    return {name: found[name] for name in (*HEAVY_ATOMS[residue.name], "OXT") if name in found}


def peptides(residues: list[gemmi.Residue]) -> Iterator[tuple[gemmi.Residue, gemmi.Residue]]:
    """Neighbours joined by a peptide bond."""
    return ((a, b) for a, b in pairwise(residues) if is_bonded(a, b))


def add_peptide(
    out: dict[bool, dict[tuple[str, str], list[float]]], one: gemmi.Residue, other: gemmi.Residue
) -> None:
    """Distances within CA, C, O, N+, CA+ and of the nitrogen, by cis or not."""
    first, second = places_of(one), places_of(other)
    if not {"CA", "C", "O"} <= set(first) or not {"N", "CA"} <= set(second):
        return
    unit = {name: first[name] for name in ("CA", "C", "O")}
    unit |= {"N+": second["N"], "CA+": second["CA"]}
    cis = apart(unit["CA"], unit["CA+"]) < 3.4
    for pair in combinations(unit, 2):
        out[cis][pair].append(apart(unit[pair[0]], unit[pair[1]]))


def steps(found: dict[tuple[str, str], list[float]]) -> list[list[Any]]:
    """[atom, [[earlier atom, mean, sd], ...]] in order: the bond first, then other rigid ones."""
    names = list(dict.fromkeys(name for pair in found for name in pair))
    out: list[list[Any]] = []
    for name in names:
        if name in (*BACKBONE, "O", "OXT"):
            continue
        rigid: list[tuple[float, str, float]] = []
        for other in names[: names.index(name)]:
            values = found.get((other, name), found.get((name, other), []))
            mean, sd = spread(values)
            # Of two rotamers the spread shows one alone.
            alike = np.mean(np.abs(np.array(values or [9.0]) - mean) <= SAME_A)
            if sd < RIGID_A and alike > ALIKE and mean < FAR_A and other != "O":
                rigid.append((mean, other, sd))
        out.append([name, [[other, mean, sd] for mean, other, sd in sorted(rigid)[:3]]])
    return out


def add_classes(
    residues: list[gemmi.Residue],
    classes: dict[str, list[float]],
    bonds: dict[tuple[str, str], list[float]],
) -> None:
    """Shape of every atom's bonds by its class, and lengths of bonds by those of both ends."""
    if any(len(places_of(r)) < len(HEAVY_ATOMS[r.name]) for r in residues):
        residues = [r for r in residues if len(places_of(r)) >= len(HEAVY_ATOMS[r.name])]
    names, places = [], []
    for residue in residues:
        for name, place in places_of(residue).items():
            names.append((residue.name, name))
            places.append(place)
    near = neighbours(names, np.array(places))
    kinds = [class_of(*name, len(near[k])) for k, name in enumerate(names)]
    whole = expected_bonds(residues, names, near)
    for k, kind in enumerate(kinds):
        if not whole[k]:
            continue
        classes[kind].append(shape(np.array(places), k, near[k]))
        for j in near[k]:
            if whole[j] and (kind, k) <= (kinds[j], j):
                bonds[kind, kinds[j]].append(apart(places[k], places[j]))


def neighbours(names: list[tuple[str, str]], places: np.ndarray) -> list[list[int]]:
    """Bonded atoms by distance."""
    from scipy.spatial import cKDTree

    out: list[list[int]] = [[] for _ in names]
    for i, j in cKDTree(places).query_pairs(SULPHUR_BOND_A):
        sulphur = "S" in (names[i][1][0], names[j][1][0])
        if apart(places[i], places[j]) < (SULPHUR_BOND_A if sulphur else BOND_A):
            out[i].append(j)
            out[j].append(i)
    return out


def expected_bonds(
    residues: list[gemmi.Residue], names: list[tuple[str, str]], near: list[list[int]]
) -> list[bool]:
    """Whether an atom has as many neighbours as most of its name: not so at gaps and clashes."""
    degrees: dict[tuple[str, str], list[int]] = defaultdict(list)
    for name, some in zip(names, near, strict=True):
        degrees[name].append(len(some))
    usual = {name: int(np.median(values)) for name, values in degrees.items()}
    free = {("CYS", "SG"), *((r.name, n) for r in residues for n in ("N", "OXT"))}
    return [
        len(some) == usual[name] or (name in free and 1 <= len(some) <= 3)
        for name, some in zip(names, near, strict=True)
    ]


def class_of(residue: str, atom: str, degree: int) -> str:
    """Element, bonds, and `=` for a flat atom."""
    flat = atom in FLAT.get(residue, "").split() or atom in ("C", "O", "OXT")
    return f"{atom[0]}{degree}{'=' if flat or (atom == 'N' and degree > 1) else ''}"


def shape(places: np.ndarray, k: int, near: list[int]) -> float:
    """Angle in degrees of two bonds, or height in Å over the plane of three neighbours."""
    arms = places[near] - places[k]
    if len(near) == 2:
        cosine = arms[0] @ arms[1] / np.linalg.norm(arms[0]) / np.linalg.norm(arms[1])
        return float(np.degrees(np.arccos(cosine)))
    if len(near) == 3:
        normal = np.cross(arms[1] - arms[0], arms[2] - arms[0])
        return float(abs(arms[0] @ normal) / np.linalg.norm(normal))
    return 0.0


def volume(places: Places, centre: list[str]) -> float:
    """Signed volume of three arms, Å³ (positive for N, C, CB about CA of an L-amino acid)."""
    arms = [places[name] - places[centre[0]] for name in centre[1:]]
    return float(arms[0] @ np.cross(arms[1], arms[2]))


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Distance, Å."""
    return float(np.linalg.norm(one - other))


def spread(values: list[float]) -> list[float]:
    """Mean and standard deviation within 4 of them about the median; wrong atoms stay out."""
    found = np.array(values)
    if not len(found):
        return [0.0, 9.0]
    middle = np.median(found)
    width = max(1.4826 * np.median(np.abs(found - middle)), 0.005)
    kept = found[np.abs(found - middle) <= 4 * width]
    return [round(float(kept.mean()), 4), round(float(kept.std()), 4)]


def main() -> None:
    """Reads the structures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("structures", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    table = measured(args.structures)
    table = {"of": sorted(path.name.split(".")[0] for path in args.structures)} | table
    args.out.write_text(json.dumps(table, indent=None, separators=(",", ":")) + "\n", "utf-8")


if __name__ == "__main__":
    main()
