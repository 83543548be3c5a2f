"""What a molecule leaves: a row for each atom, numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from diffragan.atoms.bonds.scattering import ELEMENTS
from diffragan.atoms.molecule.model import Model
from diffragan.atoms.molecule.model_cif import confidence
from diffragan.atoms.molecule.molecule import Molecule
from diffragan.atoms.molecule.unbound import in_words
from diffragan.files.csv import Row
from diffragan.molecules.clean import ONE_LETTER

_DOUBTFUL = 0.5
_LEAST_NAMED = 0.01  # probability of a candidate


def atom_rows(molecule: Molecule) -> list[Row]:
    """Rows of atoms.csv: place in the map's frame, weight, B, the probability of each element, the
    most probable one, and the part it plays: fragment, residue in it, type and name; or the number
    of the group beside the chain, from 1, and its kind."""
    graph, sign = molecule.graph, -1 if molecule.mirrored else 1
    parts: dict[int, dict[str, int | str]] = {}
    for f, chain in enumerate(molecule.chains, 1):
        for r, residue in enumerate(chain, 1):
            for name, k in residue.atoms.items():
                parts[k] = {"fragment": f, "residue": r, "type": residue.name, "name": name}
                if residue.number is not None:
                    parts[k]["number"] = residue.number
    for number, group in enumerate(molecule.unbound, 1):
        parts |= {k: {"beside": number, "kind": group.kind} for k in group.atoms}
    out: list[Row] = []
    symbols, sure = molecule.symbols, molecule.certainty
    for k in range(molecule.built):
        row: dict[str, float | int | str | None] = {"atom": k + 1}
        row |= dict(zip(("x_A", "y_A", "z_A"), map(float, sign * graph.places_A[k]), strict=True))
        row |= {"weight": float(graph.weights[k]), "b_A2": float(graph.b_A2[k])}
        row |= {"confirmed": int(graph.sure[k])}
        row |= {f"p_{e}": float(p) for e, p in zip(ELEMENTS, molecule.elements[k], strict=True)}
        row |= {"element": symbols[k], "p_element": sure[k]}
        out.append(row | parts.get(k, {}))
    return out


def unbound_rows(molecule: Molecule) -> list[dict[str, Any]]:
    """Every confirmed group beside the chain: kind, numbers of its atoms as in atoms.csv, elements
    with probabilities, candidates of metals, its middle in the map's frame, the distance to the
    nearest other atom, and the atoms of residues that it is bonded to: by number where they are
    docked, else by fragment and place in it."""
    graph, sign = molecule.graph, -1 if molecule.mirrored else 1
    labels = {
        k: f"{residue.name} {residue.number or f'{f}/{r}'} {name}"
        for f, chain in enumerate(molecule.chains, 1)
        for r, residue in enumerate(chain, 1)
        for name, k in residue.atoms.items()
    }
    out: list[dict[str, Any]] = []
    for number, group in enumerate(molecule.unbound, 1):
        if not group.confirmed:
            continue
        bound = sorted({labels[j] for pair in group.bonds for j in pair if j in labels})
        row: dict[str, Any] = {"number": number, "kind": group.kind, "formula": group.formula}
        row |= {"atoms": [k + 1 for k in group.atoms], "elements": list(group.elements)}
        row |= {"probabilities": [round(p, 4) for p in group.probabilities]}
        row["candidates"] = {
            str(k + 1): {e: round(p, 4) for e, p in odds.items() if p >= _LEAST_NAMED}
            for k, odds in group.candidates.items()
        }
        row["place_A"] = [float(x) for x in sign * graph.places_A[list(group.atoms)].mean(0)]
        row |= {"nearest_A": group.nearest_A, "bound_to": bound}
        out.append(row)
    return out


def residue_rows(molecule: Molecule, model: Model | None) -> list[Row]:
    """Rows of residues.csv: fragment and place in it, number and type in the sequence with its
    probability, confidence, heavy atoms built, missing ones, mean weight and B."""
    graph = molecule.graph
    out: list[Row] = []
    for f, chain in enumerate(molecule.chains, 1):
        for r, residue in enumerate(chain, 1):
            atoms = [k for k in residue.atoms.values() if k < molecule.built]
            added = molecule.unseen(residue)
            if model and residue.number:
                added = model.added.get(residue.number, added)
            row: dict[str, float | int | str | None] = {"fragment": f, "residue": r}
            row |= {"number": residue.number, "type": residue.name}
            row |= {"probability": residue.probability, "type_by_map": residue.by_map}
            row |= {"confidence": confidence(residue, molecule), "atoms": len(atoms)}
            row |= {"not_seen": " ".join(added), "b_A2": float(graph.b_A2[atoms].mean())}
            out.append(row)
    return out


def molecule_metrics(molecule: Molecule, model: Model | None) -> dict[str, Any]:
    """The key `model` of metrics.json."""
    residues = molecule.residues
    return {
        "fragments": [len(chain) for chain in molecule.chains],
        "residues": len(residues),
        "types_by_map": "".join(ONE_LETTER[residue.by_map] for residue in residues),
        "mean_type_probability": (
            sum(residue.probability for residue in residues) / len(residues) if residues else None
        ),
        "noise_A": molecule.graph.noise_A,
        "l_centres": molecule.l_centres,
        "d_centres": molecule.d_centres,
        "mirrored": molecule.mirrored,
        "disulphides": len(molecule.disulphides),
        "inferred": [
            f"{residue.name} {residue.number or f'{f}/{r}'} {name}"
            for f, chain in enumerate(molecule.chains, 1)
            for r, residue in enumerate(chain, 1)
            for name in molecule.unseen(residue)
        ],
        "unbound": unbound_rows(molecule),
        "unbound_not_confirmed": sum(len(g) for g in molecule.unbound if not g.confirmed),
        "beside_the_chain": in_words(molecule.unbound),
        "elements": dict(sorted(Counter(molecule.symbols).items())),
        **_sequence_metrics(molecule, model),
    }


def _sequence_metrics(molecule: Molecule, model: Model | None) -> dict[str, Any]:
    """What a sequence adds: how it docks, what of it is in the model, and what is not."""
    docking = molecule.docking
    if docking is None:
        return {}
    length = len(docking.sequence)
    docked = {r.number: r for r in molecule.residues if r.number is not None}
    built = set(model.residues) if model else set()
    doubtful = [n for n, r in sorted(docked.items()) if r.probability < _DOUBTFUL]
    return {
        "sequence_length": length,
        "sequence_fits": docking.fits,
        "refusal": None if docking.fits else docking.refusal,
        "docking_score": docking.score,
        "docking_z": docking.z,
        "shuffled_score": docking.shuffled,
        "shuffled_best_score": docking.shuffled_best,
        "sequence_coverage": len(built) / length,
        "gaps": _stretches([n for n in range(1, length + 1) if n not in built]),
        "not_docked": sum(r.number is None for r in molecule.residues),
        "unlike_sequence": doubtful,
        "atoms_not_seen": sum(map(len, model.added.values())) if model else 0,
        "idealised_rms_A": model.rms_moved_A if model else None,
        "idealised_most_A": model.most_moved_A if model else None,
    }


def _stretches(numbers: list[int]) -> list[str]:
    """Numbers as stretches: 1-3, 7."""
    out: list[str] = []
    for k, n in enumerate(numbers):
        if k and numbers[k - 1] == n - 1:
            out[-1] = f"{out[-1].split('-')[0]}-{n}"
        else:
            out.append(str(n))
    return out
