"""Rows as CSV, and curves by resolution as CSV and as RELION's STAR."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.files.mrc import as_array
from diffragan.files.star import write_tables

Row = Mapping[str, float | int | str | None]


def csv_text(rows: Sequence[Row], names: Sequence[str] = (), *, digits: int = 7) -> str:
    """Rows as CSV; a cell is empty where its row has no such value, or none that is finite.

    Args:
        names: columns that come first, whether rows have them or not; others follow as they appear.
        digits: significant digits of numbers that are no integers.
    """
    columns = list(dict.fromkeys([*names, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name), digits) for name in columns] for row in rows)
    return text.getvalue()


def write_history(path: Path, rows: Sequence[Row]) -> None:
    """Rows as a CSV file; columns in the order they first appear.

    Raises:
        DiffraganError: the disk refuses.
    """
    write_atomically(path, csv_text(rows).encode())


# What RELION writes for the resolution of shell 0, which has none.
NO_RESOLUTION_A = 999.0

_STAR_CURVES = {
    "half": "rlnFourierShellCorrelationCorrected",
    "masked": "rlnFourierShellCorrelationMaskedMaps",
    "unmasked": "rlnFourierShellCorrelationUnmaskedMaps",
}


def write_fsc(folder: Path, q: Tensor, curves: Mapping[str, Tensor]) -> None:
    """`fsc.csv` and `fsc.star` with one row per shell.

    The CSV names the curves as given. The STAR table `data_fsc` calls the curve between half maps
    ("half") rlnFourierShellCorrelationCorrected, "masked" and "unmasked" as RELION does, and any
    other NAME rlnFourierShellCorrelationName. Shell 0 has the resolution 999 Å, as in RELION.
    A value that is not known (nan) is an empty cell in the CSV and `nan` in the STAR table.

    Args:
        folder: must exist.
        q: (s,) spatial frequencies in 1/Å, shell k at k steps; s at least 2.
        curves: name to (s,).

    Raises:
        DiffraganError: fewer than two shells, a curve of another length, or the disk refuses.
    """
    at = as_array(q).astype(np.float64)
    if len(at) < 2:
        raise DiffraganError(f"An FSC of {len(at)} shells tells nothing; give two or more.")
    values = {name: as_array(curve).astype(np.float64) for name, curve in curves.items()}
    for name, curve in values.items():
        if curve.shape != at.shape:
            raise DiffraganError(
                f"The FSC curve “{name}” has shape {curve.shape}, its frequencies {at.shape}."
            )
    with np.errstate(divide="ignore"):
        resolution = np.where(at > 0, 1 / at, NO_RESOLUTION_A)
    rows = [
        dict(zip(("q_per_A", "resolution_A", *values), map(float, row), strict=True))
        for row in zip(at, resolution, *values.values(), strict=True)
    ]
    write_history(folder / "fsc.csv", rows)
    columns: dict[str, NDArray[Any]] = {
        "rlnSpectralIndex": np.rint(at / (at[1] - at[0])).astype(int),
        "rlnResolution": at,
        "rlnAngstromResolution": resolution,
    }
    columns |= {_star_name(name): curve for name, curve in values.items()}
    write_tables(folder / "fsc.star", {"fsc": columns})


def _star_name(curve: str) -> str:
    plain = "".join(part[:1].upper() + part[1:] for part in curve.replace("-", "_").split("_"))
    return _STAR_CURVES.get(curve, f"rlnFourierShellCorrelation{plain}")


def _cell(value: float | int | str | None, digits: int) -> float | int | str:
    if isinstance(value, float | np.floating):
        return f"{value:.{digits}g}" if math.isfinite(value) else ""
    return "" if value is None else value
