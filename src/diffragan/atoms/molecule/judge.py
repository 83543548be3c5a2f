"""A molecule held against a known structure: elements, residues."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import gemmi
import numpy as np
from numpy.typing import NDArray

from diffragan.atoms.bonds.scattering import ELEMENTS
from diffragan.atoms.comparison.confirm import nearest_pairs
from diffragan.atoms.molecule.model import Model
from diffragan.atoms.molecule.molecule import Molecule
from diffragan.evaluation.fit_model import Fit
from diffragan.evaluation.known_model import KnownModel
from diffragan.molecules.clean import ONE_LETTER

_ATOM_WITHIN_A = 0.5
_CALIBRATED = (0.0, 0.6, 0.8, 0.95, 0.99, 1.01)
_CA_WITHIN_A = 1.0
_MAIN_CHAIN = ("N", "CA", "C", "O")


def against_structure(
    molecule: Molecule, model: Model | None, known: KnownModel, fit: Fit
) -> dict[str, Any]:
    """The metrics of elements and residues against a structure laid on the atoms.

    `elements_confusion`: rows of the truth's elements and of atoms that are none of its, columns as
    read. `elements_calibration`: how often atoms are what they are called, by how probable that was
    said to be. `hetero`: what the truth has beside the chain, `hetero_right`.
    `types_right`: part of the truth's residues that have a CA within 1 Å, of the right type as the
    atoms alone tell it. With a docked sequence `residues_right`: part of the truth's residues of
    the right type and number, CA within 1 Å; and the rms of their N, CA, C and O.
    """
    everything = molecule.graph.places_A * (-1 if molecule.mirrored else 1)
    places = everything[: molecule.built]
    confusion = element_confusion(places, molecule.symbols, known, fit)
    right = sum(row.get(e, 0) for e, row in confusion.items())
    count = sum(sum(row.values()) for e, row in confusion.items() if e != "none")
    hetero = hetero_right(places, molecule, known, fit)
    return {
        "elements_confusion": confusion,
        "elements_calibration": element_calibration(places, molecule, known, fit),
        **({"hetero": hetero} if hetero else {}),
        "elements_right": right / count if count else None,
        "types_right": types_right(everything, molecule, known, fit),
        **({} if model is None else _model_metrics(molecule, model, known, fit)),
    }


def _model_metrics(
    molecule: Molecule, model: Model, known: KnownModel, fit: Fit
) -> dict[str, float | None]:
    assert molecule.docking is not None
    sign = -1 if molecule.mirrored else 1
    truth: dict[str, dict[str, NDArray[np.float64]]] = {}
    fitted = fit(known.places_A)
    for residue, name, place in zip(known.residues, known.names, fitted, strict=True):
        truth.setdefault(residue, {})[name] = place
    chain = {name: atoms for name, atoms in truth.items() if {"N", "CA", "C"} <= set(atoms)}
    numbers = places_in(molecule.docking.sequence, [name.split()[-1] for name in chain])
    built = {residue.seqid.num: residue for residue in model.chain}
    right, squares = 0, []
    for (residue, atoms), number in zip(chain.items(), numbers, strict=True):
        found = built.get(number)
        if found is None or found.name != residue.split()[-1]:
            continue
        apart = {
            atom.name: min(
                float(np.linalg.norm(sign * np.array(atom.pos.tolist()) - place))
                for place in _alike(atoms, atom.name)
            )
            for atom in found
            if atom.name in atoms and atom.name in _MAIN_CHAIN
        }
        if apart["CA"] <= _CA_WITHIN_A:
            right += 1
            squares += [d**2 for d in apart.values()]
    return {
        "residues_right": right / len(chain) if chain else None,
        "main_chain_rms_A": float(np.sqrt(np.mean(squares))) if squares else None,
    }


def _alike(atoms: dict[str, NDArray[np.float64]], name: str) -> list[NDArray[np.float64]]:
    """Places that a name may stand for: O for either oxygen of the last carboxylate."""
    names = (name, "OXT") if name == "O" else (name,)
    return [atoms[other] for other in names if other in atoms]


def places_in(sequence: str, types: list[str]) -> list[int | None]:
    """Place from 1 in a sequence of each residue of a chain, by alignment."""
    from Bio.Align import PairwiseAligner

    letters = "".join(ONE_LETTER.get(name, "X") for name in types)
    aligner: Any = PairwiseAligner(  # type: ignore[no-untyped-call]
        mode="global", match_score=2, mismatch_score=-1, open_gap_score=-4, extend_gap_score=-0.2
    )
    out: list[int | None] = [None] * len(types)
    if letters:
        for (a, b), (c, _) in zip(*aligner.align(letters, sequence)[0].aligned, strict=True):
            for k in range(a, b):
                out[int(k)] = int(c + k - a) + 1
    return out


def element_confusion(
    places_A: NDArray[np.float64], symbols: list[str], model: KnownModel, fit: Fit
) -> dict[str, dict[str, int]]:
    """Counts by true element ("none" for atoms that lie on none) and element as read: C, N, O, S,
    and what else either has."""
    heavy = model.places_A[model.heavy]
    true = [gemmi.Element(int(z)).name for z in model.numbers[model.heavy]]
    columns = [*ELEMENTS, *sorted({*symbols} - {*ELEMENTS})]
    rows = [*ELEMENTS, *sorted({*true} - {*ELEMENTS}), "none"]
    out = {row: dict.fromkeys(columns, 0) for row in rows}
    pairs = zip(*nearest_pairs(places_A, fit(heavy), _ATOM_WITHIN_A), strict=True)
    found = {int(k): true[int(j)] for k, j in pairs}
    for k, symbol in enumerate(symbols):
        out[found.get(k, "none")][symbol] += 1
    return out


def element_calibration(
    places_A: NDArray[np.float64], molecule: Molecule, model: KnownModel, fit: Fit
) -> list[dict[str, float]]:
    """Of atoms on one of the truth, by the probability of the element that they are called: how
    many, the mean of that probability, and the part that is right."""
    heavy = model.places_A[model.heavy]
    true = [gemmi.Element(int(z)).name for z in model.numbers[model.heavy]]
    one, other = nearest_pairs(places_A, fit(heavy), _ATOM_WITHIN_A)
    symbols, sure = molecule.symbols, np.array(molecule.certainty)[one]
    right = np.array([symbols[k] == true[j] for k, j in zip(one, other, strict=True)], dtype=bool)
    out = []
    for low, high in pairwise(_CALIBRATED):
        some = (sure >= low) & (sure < high)
        if some.any():
            row = {"from": low, "to": min(high, 1.0), "atoms": int(some.sum())}
            mean, part = float(sure[some].mean()), float(right[some].mean())
            out.append(row | {"mean_probability": mean, "right": part})
    return out


def hetero_right(
    places_A: NDArray[np.float64], molecule: Molecule, model: KnownModel, fit: Fit
) -> dict[str, dict[str, int]]:
    """What the truth has beside its chain, by element, waters apart: how many atoms there are, how
    many have an atom within 0.5 Å, how many of these a confirmed one, and how many of the confirmed
    are named right; and how many confirmed atoms are called so where the truth has none (`wrong`).
    Empty where the truth has a chain only."""
    heavy = np.flatnonzero(model.heavy)
    beside = [_beside_name(model, int(k)) for k in heavy]
    if not any(beside):
        return {}
    called: dict[int, str] = {}
    for group in molecule.unbound:
        for k, symbol in zip(group.atoms, group.elements, strict=True):
            if molecule.graph.sure[k]:
                called[k] = "water" if group.kind == "water" else symbol
    names = [*dict.fromkeys(name for name in beside if name)]
    names += sorted({*called.values()} - {*names, *ELEMENTS})
    keys = ("true", "found", "confirmed", "named", "wrong")
    out = {name: dict.fromkeys(keys, 0) for name in names}
    for name in filter(None, beside):
        out[name]["true"] += 1
    one, other = nearest_pairs(places_A, fit(model.places_A[heavy]), _ATOM_WITHIN_A)
    true = {int(k): beside[int(j)] for k, j in zip(one, other, strict=True)}
    for k, name in true.items():
        if name:
            out[name]["found"] += 1
            out[name]["confirmed"] += int(molecule.graph.sure[k])
            out[name]["named"] += called.get(k) == name
    for k, name in called.items():
        if name in out and true.get(k) != name:
            out[name]["wrong"] += 1
    return out


def _beside_name(model: KnownModel, k: int) -> str:
    """An atom's element, or that it is a water, where it is no part of a protein; else nothing."""
    residue = model.residues[k].split()[-1]
    if residue in ONE_LETTER:
        return ""
    if gemmi.find_tabulated_residue(residue).is_water():
        return "water"
    return str(gemmi.Element(int(model.numbers[k])).name)


def types_right(
    places_A: NDArray[np.float64], molecule: Molecule, model: KnownModel, fit: Fit
) -> float:
    """Part of the truth's residues whose CA is a CA as read, of a residue of the same type."""
    at = [k for k, name in enumerate(model.names) if name == "CA" and model.numbers[k] == 6]
    residues = molecule.residues
    if not at:
        return float("nan")
    places = places_A[[r.backbone.ca for r in residues]].reshape(-1, 3)
    pairs = zip(*nearest_pairs(places, fit(model.places_A[at]), _CA_WITHIN_A), strict=True)
    names = [model.residues[k].split()[-1] for k in at]
    right = [residues[int(k)].by_map == names[int(j)] for k, j in pairs]
    return sum(right) / len(at)
