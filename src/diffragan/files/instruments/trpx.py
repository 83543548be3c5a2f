"""TRPX files: patterns compressed by TERSE (Matinyan & Abrahams, Acta Cryst. A79, 536, 2023)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.instruments.extra import needs_extra
from diffragan.files.instruments.stacks import FrameStack


def read_trpx(path: Path) -> Mapping[str, Any]:
    """Frames as `pattern`, (n, y, x): kept compressed, and each unpacked when it is asked for.

    Raises:
        DiffraganError: pyterse is not installed, or the frames have no two sides.
    """
    with needs_extra(path):
        import pyterse
    _check_whole(path)
    packed = pyterse.Terse.load(str(path))
    sides, n = [int(side) for side in packed.dim()], int(packed.number_of_frames)
    if len(sides) != 2:
        raise DiffraganError(f"{path} tells no height and width of its frames; write it again.")

    def read(numbers: NDArray[np.int64]) -> NDArray[Any]:
        return np.stack([packed.at(int(k)).prolix() for k in numbers])

    return {"pattern": FrameStack(read, (n, sides[0], sides[1]))}


def _check_whole(path: Path) -> None:
    """Refuses what is no TRPX file and one that was cut off: the library would read zeros."""
    with path.open("rb") as file:
        start = file.read(1 << 20)
    header, closed, _ = start.partition(b"/>")
    told = re.search(rb'memory_size="(\d+)', header)
    if not header.startswith(b"<Terse") or not told:
        raise DiffraganError(f"{path} is no TRPX file, whatever its name; check its origin.")
    if not closed or path.stat().st_size < len(header) + len(closed) + int(told[1]):
        raise DiffraganError(
            f"{path} is cut off, it tells of more bytes than it has; copy it again."
        )
