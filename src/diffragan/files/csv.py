"""Rows as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffragan.files.atomic import write_atomically


def write_history(path: Path, rows: Sequence[Mapping[str, float | int | str]]) -> None:
    """Rows as CSV; columns in the order they first appear, empty where a row has none.

    Raises:
        DiffraganError: the disk refuses.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(row.get(name, "")) for name in names] for row in rows)
    write_atomically(path, text.getvalue().encode())


def _cell(value: float | int | str) -> float | int | str:
    if isinstance(value, float | np.floating):
        return f"{value:.7g}" if math.isfinite(value) else ""
    return value
