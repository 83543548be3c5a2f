"""Free atoms as an mmCIF file that ChimeraX, Coot and gemmi read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.atoms.model.atoms import Atoms
from diffragan.files.atomic import write_atomically

_SULPHUR_FROM = 1.7  # carbons


def write_atoms_cif(
    path: Path,
    atoms: Atoms,
    confirmed: NDArray[np.bool_],
    name: str,
    symbols: Sequence[str] | None = None,
    errors_A: NDArray[np.floating[Any]] | None = None,
) -> None:
    """Atoms without bonds: chain A the confirmed ones, chain B the others; occupancy is the weight
    in carbons, B the refined B factor.

    Args:
        atoms: about the map's rotation centre, so that atoms and map lie together.
        confirmed: (n,).
        symbols: (n,) elements; where nothing is known of them, all are carbons but those that
            scatter like sulphur.
        errors_A: (n,) standard uncertainty of each coordinate, nan where it is not known.

    Raises:
        DiffraganError: the disk refuses.
    """
    import gemmi

    fields = (atoms.positions_A, atoms.weights, atoms.b_A2)
    positions_A, weights, b_A2 = (x.double().numpy() for x in fields)
    structure = gemmi.Structure()
    structure.name = name
    model = gemmi.Model(1)
    for chain_name, which in (("A", confirmed), ("B", ~confirmed)):
        chain = gemmi.Chain(chain_name)
        for number, k in enumerate(np.flatnonzero(which), 1):
            residue = gemmi.Residue()
            residue.name, residue.seqid = "UNX", gemmi.SeqId(number, " ")
            residue.het_flag = "H"
            atom = gemmi.Atom()
            by_weight = "S" if weights[k] >= _SULPHUR_FROM else "C"
            atom.element = gemmi.Element(symbols[int(k)] if symbols else by_weight)
            atom.name = atom.element.name
            atom.pos = gemmi.Position(*(float(x) for x in positions_A[k]))
            atom.occ, atom.b_iso = float(weights[k]), float(b_A2[k])
            residue.add_atom(atom)
            chain.add_residue(residue)
        if len(chain):
            model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    document = structure.make_mmcif_document()
    if errors_A is not None:
        _write_errors(document, np.concatenate((errors_A[confirmed], errors_A[~confirmed])))
    write_atomically(path, document.as_string().encode())


def _write_errors(document: Any, errors_A: NDArray[np.floating[Any]]) -> None:
    """Uncertainties of the coordinates beside them, in the order of the file."""
    names = [f"_atom_site.Cartn_{axis}_esd" for axis in "xyz"]
    document.sole_block().find_loop("_atom_site.id").get_loop().add_columns(names, "?")
    for row, error in zip(document.sole_block().find(names), errors_A, strict=True):
        if np.isfinite(error):
            for column in range(len(names)):
                row[column] = f"{error:.4f}"
