"""What a virtual session knows and no instrument tells: tables of molecules and positions."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from diffragan.files.csv import Row, csv_text
from diffragan.microscope.session.exposures import Exposures
from diffragan.rotations import relion_angles

CLASSES = ("molecule", "empty", "ice", "carbon", "several")
_LEAST_FILM = 0.03  # part of the beam on carbon or a crystal from which a position is its
_LEAST_LIT = 0.1  # part of the beam on a molecule from which it counts


def true_classes(exposures: Exposures) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    """Class of every position (n,), and the beam's part on the molecule that gets most (n,)."""
    square = exposures.square
    n = len(square.positions_A)
    counted, most = np.zeros(n, np.int64), np.zeros(n)
    for place in square.molecules.places_A:
        off = square.positions_A - place
        part = exposures.beam.intensity(np.hypot(off[:, 0], off[:, 1]))
        counted += part > _LEAST_LIT
        most = np.maximum(most, part)
    kinds = np.where(counted == 0, "empty", np.where(counted == 1, "molecule", "several"))
    if square.carbon is not None:
        covered = square.carbon.part_lit(square.positions_A, exposures.beam)
        kinds = np.where(covered > _LEAST_FILM, "carbon", kinds)
    if len(square.crystals):
        iced = exposures.crystal_parts.max(0) > _LEAST_FILM
        kinds = np.where(iced & (kinds != "carbon"), "ice", kinds)
    return kinds, most


def truth_tables(exposures: Exposures) -> dict[str, str]:
    """File names and their text: molecules.csv, positions.csv, square.json."""
    square, store = exposures.square, exposures.store
    of = square.molecules
    items = of.kind * exposures.orientations + of.wave
    rotations = store.rotation
    assert rotations is not None
    angles = relion_angles(rotations[items]) if len(of) else np.zeros((0, 3))
    molecules: list[Row] = [
        {
            "molecule": k,
            "structure": store.structures[int(of.kind[k])].stem,
            "x_A": float(of.places_A[k, 1]),
            "y_A": float(of.places_A[k, 0]),
            "rot": float(angles[k, 0]),
            "tilt": float(angles[k, 1]),
            "psi": float(angles[k, 2]),
            "wave": int(items[k]),
            "aggregate": int(of.heap[k]),
        }
        for k in range(len(of))
    ]
    kinds, most = true_classes(exposures)
    columns = exposures.settings.session.columns
    positions: list[Row] = [
        {
            "index": k,
            "row": k // columns,
            "column": k % columns,
            "x_A": float(place[1]),
            "y_A": float(place[0]),
            "class": str(kinds[k]),
            "illumination": float(most[k]),
        }
        for k, place in enumerate(square.positions_A)
    ]
    drift = square.positions_A - square.nominal.positions()
    described = {
        "side_A": list(square.side_A),
        "affine": square.nominal.to_json() | {"drift_A": drift[:: max(1, columns)].tolist()},
        "drift_at": "the first position of each row, y and x in Å",
        "beam_centre_px": list(exposures.centre_px),
        "carbon": None if square.carbon is None else vars(square.carbon),
        "crystals": [
            {"place_A": list(c.place_A), "diameter_A": c.diameter_A} for c in square.crystals
        ],
    }
    return {
        "molecules.csv": csv_text(molecules, ("molecule", "structure", "x_A", "y_A")),
        "positions.csv": csv_text(positions, ("index", "row", "column", "x_A", "y_A")),
        "square.json": json.dumps(described, indent=1) + "\n",
    }
