"""A molecule held against a known structure: elements, residues."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.atoms.comparison.confirm import nearest_pairs
from diffragan.atoms.molecule.molecule import Molecule
from diffragan.atoms.molecule.scattering import ELEMENTS
from diffragan.evaluation.fit_model import Fit
from diffragan.evaluation.known_model import KnownModel

_ATOM_WITHIN_A = 0.5
_CA_WITHIN_A = 1.0
_NUMBERS = {6: "C", 7: "N", 8: "O", 16: "S"}


def against_structure(molecule: Molecule, model: KnownModel, fit: Fit) -> dict[str, Any]:
    """The metrics of elements and residues against a structure laid on the atoms.

    `elements`: rows of the truth's C, N, O, S and of atoms that are none of its, columns as read.
    `types_right`: part of the truth's residues that have a CA within 1 Å, of the right type.
    """
    places = molecule.graph.places_A * (-1 if molecule.mirrored else 1)
    confusion = element_confusion(places, molecule.symbols, model, fit)
    right = sum(confusion[e][e] for e in ELEMENTS)
    known = sum(sum(confusion[e].values()) for e in ELEMENTS)
    return {
        "elements": confusion,
        "elements_right": right / known if known else None,
        "types_right": types_right(places, molecule, model, fit),
    }


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
    right = [residues[int(k)].name == names[int(j)] for k, j in pairs]
    return sum(right) / len(at)
