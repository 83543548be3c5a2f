"""Free atoms as an mmCIF file that ChimeraX, Coot and gemmi read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffragan.files.atomic import write_atomically

_SULPHUR_FROM = 1.7  # carbons


def write_atoms_cif(
    path: Path,
    positions_A: NDArray[np.float64],
    weights: NDArray[np.float64],
    b_A2: NDArray[np.float64],
    confirmed: NDArray[np.bool_],
    name: str,
    symbols: Sequence[str] | None = None,
) -> None:
    """Atoms without bonds: chain A the confirmed ones, chain B the others; occupancy is the weight
    in carbons, B the refined B factor.

    Args:
        positions_A: (n, 3), x, y, z about the map's rotation centre, so that atoms and map lie
            together. weights, b_A2, confirmed: (n,).
        symbols: (n,) elements; where nothing is known of them, all are carbons but those that
            scatter like sulphur.

    Raises:
        DiffraganError: the disk refuses.
    """
    import gemmi

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
    write_atomically(path, structure.make_mmcif_document().as_string().encode())
