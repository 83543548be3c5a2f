"""HDF5 files that were cut off: opened all the same, and what of their frames is whole."""

from __future__ import annotations

import atexit
import io
from pathlib import Path
from typing import Any

import numpy as np

_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def open_hdf5(path: Path) -> tuple[Any, int | None]:
    """The file, open for reading, and how many bytes are left of it where its end is missing (else
    None). HDF5 refuses such a file; here zeros stand in for what is gone, so what is taken from it
    must be known to be whole (`whole_frames`).

    Raises:
        OSError: no HDF5, or one that lost what describes it.
    """
    import h5py

    try:
        return h5py.File(path, "r"), None
    except OSError as error:
        if "truncated" not in str(error):
            raise
    padded = _Padded(path)
    try:
        file = h5py.File(padded, "r")
    except (RuntimeError, ValueError) as error:
        raise OSError(str(error)) from None
    # HDF5 must let go of the Python object before Python ends.
    atexit.register(file.close)
    return file, padded.size


class _Padded(io.RawIOBase):
    """A file that lost its end, with zeros there."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.size = path.stat().st_size
        self._end, self._at = max(self.size, _told_end(self._file)), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, into: Any) -> int:
        self._file.seek(self._at)
        got = self._file.readinto(into)
        into[got:] = bytes(len(into) - got)
        self._at += len(into)
        return len(into)

    def close(self) -> None:
        self._file.close()
        super().close()


def _told_end(file: Any) -> int:
    """The length that a superblock tells (HDF5 specification, II.A); 0 where it is none."""
    head = file.read(64)
    if head[:8] != _SIGNATURE:
        return 0
    at = {0: 40, 1: 44}.get(head[8], 28)
    return int.from_bytes(head[at : at + 8], "little")


def whole_frames(data: Any, size: int) -> int:
    """How many frames of a data set (n, y, x), from the first, lie wholly in the first `size`
    bytes of a file that was cut off."""
    n = int(data.shape[0])
    each = int(np.prod(data.shape[1:])) * data.dtype.itemsize
    if data.chunks is None:
        start = data.id.get_offset()
        return 0 if start is None else int(min(n, max(0, size - start) // each))
    corners = [range(0, side, step) for side, step in zip(data.shape, data.chunks, strict=True)]
    for first in corners[0]:
        for y in corners[1]:
            for x in corners[2]:
                try:
                    chunk = data.id.get_chunk_info_by_coord((first, y, x))
                except (OSError, RuntimeError, ValueError):  # what lists the chunks is gone
                    return int(first)
                if chunk.byte_offset is None or chunk.byte_offset + chunk.size > size:
                    return int(first)
    return n
