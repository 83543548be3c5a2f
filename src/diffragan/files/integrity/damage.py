"""Which items of a store can't be read any more, by the checksums of its chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray


def chunk_file(array: zarr.Array[Any], item: int) -> str:
    """The file that holds an item; arrays are cut along their items alone."""
    place = int(item) // (array.shards or array.chunks)[0]
    return array.metadata.encode_chunk_key((place, *(0,) * (array.ndim - 1)))


def is_readable(array: zarr.Array[Any], items: int | slice) -> bool:
    """Whether these items can be read and have the checksums that were written with them."""
    try:
        array[items]
    except Exception:  # zarr, its codecs and the system have a word each for damage
        return False
    return True


def damaged_items(array: zarr.Array[Any], folder: Path) -> NDArray[np.bool_]:
    """(n,) of an array's first axis: whether the item's file is missing, cut off or changed.

    Args:
        folder: of the array's files.
    """
    n = int(array.shape[0])
    damaged = np.zeros(n, dtype=bool)
    size = int((array.shards or array.chunks)[0])
    for start in range(0, n, size):
        span = slice(start, min(start + size, n))
        file = folder / chunk_file(array, start)
        there = file.is_file() and file.stat().st_size > 0  # zarr reads a missing file as zeros
        damaged[span] = not there or not is_readable(array, span)
    return damaged


def remove_damaged(array: zarr.Array[Any], folder: Path, damaged: NDArray[np.bool_]) -> None:
    """Delete the files of these items, which can't be written to in part any more."""
    for item in np.flatnonzero(damaged):
        (folder / chunk_file(array, int(item))).unlink(missing_ok=True)
