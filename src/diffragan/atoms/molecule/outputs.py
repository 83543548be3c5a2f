"""What a molecule leaves: a row for each atom, numbers."""

from __future__ import annotations

from typing import Any

from diffragan.atoms.molecule.molecule import Molecule
from diffragan.atoms.molecule.scattering import ELEMENTS
from diffragan.files.csv import Row
from diffragan.molecules.clean import ONE_LETTER


def atom_rows(molecule: Molecule) -> list[Row]:
    """Rows of atoms.csv: place in the map's frame, weight, B, the probability of each element, and
    the part it plays: fragment, residue in it, type and name."""
    graph, sign = molecule.graph, -1 if molecule.mirrored else 1
    parts: dict[int, dict[str, int | str]] = {}
    for f, chain in enumerate(molecule.chains, 1):
        for r, residue in enumerate(chain, 1):
            for name, k in residue.atoms.items():
                parts[k] = {"fragment": f, "residue": r, "type": residue.name, "name": name}
    out: list[Row] = []
    for k in range(len(graph)):
        row: dict[str, float | int | str | None] = {"atom": k + 1}
        row |= dict(zip(("x_A", "y_A", "z_A"), map(float, sign * graph.places_A[k]), strict=True))
        row |= {"weight": float(graph.weights[k]), "b_A2": float(graph.b_A2[k])}
        row |= {"confirmed": int(graph.sure[k])}
        row |= {f"p_{e}": float(p) for e, p in zip(ELEMENTS, molecule.elements[k], strict=True)}
        out.append(row | parts.get(k, {}))
    return out


def molecule_metrics(molecule: Molecule) -> dict[str, Any]:
    """The key `model` of metrics.json."""
    residues = molecule.residues
    return {
        "fragments": [len(chain) for chain in molecule.chains],
        "residues": len(residues),
        "types_by_map": "".join(ONE_LETTER[residue.name] for residue in residues),
        "mean_type_probability": (
            sum(residue.probability for residue in residues) / len(residues) if residues else None
        ),
        "noise_A": molecule.graph.noise_A,
        "l_centres": molecule.l_centres,
        "d_centres": molecule.d_centres,
        "mirrored": molecule.mirrored,
        "disulphides": len(molecule.disulphides),
        "unbound_groups": [len(group) for group in molecule.unbound],
        "elements": {e: molecule.symbols.count(e) for e in ELEMENTS},
    }
