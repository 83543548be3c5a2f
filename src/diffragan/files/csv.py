"""Rows as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffragan.files.atomic import write_atomically

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


def _cell(value: float | int | str | None, digits: int) -> float | int | str:
    if isinstance(value, float | np.floating):
        return f"{value:.{digits}g}" if math.isfinite(value) else ""
    return "" if value is None else value
