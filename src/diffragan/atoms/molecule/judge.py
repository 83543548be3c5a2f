"""A molecule held against a known structure: elements, residues."""

from __future__ import annotations

from typing import Any

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
_CA_WITHIN_A = 1.0
_MAIN_CHAIN = ("N", "CA", "C", "O")
_NUMBERS = {6: "C", 7: "N", 8: "O", 16: "S"}


def against_structure(
    molecule: Molecule, model: Model | None, known: KnownModel, fit: Fit
) -> dict[str, Any]:
    """The metrics of elements and residues against a structure laid on the atoms.

    `elements`: rows of the truth's C, N, O, S and of atoms that are none of its, columns as read.
    `types_right`: part of the truth's residues that have a CA within 1 Å, of the right type as the
    atoms alone tell it. With a docked sequence `residues_right`: part of the truth's residues of
    the right type and number, CA within 1 Å; and the rms of their N, CA, C and O.
    """
    places = molecule.graph.places_A * (-1 if molecule.mirrored else 1)
    confusion = element_confusion(places, molecule.symbols, known, fit)
    right = sum(confusion[e][e] for e in ELEMENTS)
    count = sum(sum(confusion[e].values()) for e in ELEMENTS)
    return {
        "elements": confusion,
        "elements_right": right / count if count else None,
        "types_right": types_right(places, molecule, known, fit),
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
            atom.name: float(np.linalg.norm(sign * np.array(atom.pos.tolist()) - atoms[atom.name]))
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
    """Counts by true element ("none" for atoms that lie on none) and element as read."""
    heavy = model.places_A[model.heavy]
    numbers = model.numbers[model.heavy]
    out = {row: dict.fromkeys(ELEMENTS, 0) for row in (*ELEMENTS, "none")}
    pairs = zip(*nearest_pairs(places_A, fit(heavy), _ATOM_WITHIN_A), strict=True)
    true = {int(k): _NUMBERS.get(int(numbers[j])) for k, j in pairs}
    for k, symbol in enumerate(symbols):
        row = true.get(k, "none")
        if row is not None:
            out[row][symbol] += 1
    return out


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
