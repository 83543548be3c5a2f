"""Array files of other programs, as lazy stacks (n, y, x), and checks on what they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.mrc import read_mrc_stack
from diffragan.files.star import read_particles


class Stack(Protocol):
    """Anything like an array (n, y, x) that is read by item."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, items: Any) -> Any: ...


Reader = Callable[[Path], Mapping[str, Any]]


def reader(path: Path) -> Reader | None:
    """The function that reads a file of this name, or None.

    It returns lazy arrays by name: `pattern`, `image`, `pattern_mask`, and `pixel_A` where the
    file tells the image's pixel size. A file that holds one unnamed stack gives it as `pattern`.
    """
    readers: dict[str, Reader] = {
        ".npy": _npy,
        ".npz": _npz,
        ".mrc": read_mrc_stack,
        ".mrcs": read_mrc_stack,
        ".star": read_particles,
        ".h5": _h5,
        ".hdf5": _h5,
    }
    found = readers.get(path.suffix.lower())
    if found is None:
        return None

    def read(file: Path) -> Mapping[str, Any]:
        if not file.exists():
            raise DiffraganError(f"There is no file {file}; check the name.")
        try:
            return found(file)
        except DiffraganError:
            raise
        except Exception as error:  # each library has its own word for a damaged file
            raise DiffraganError(f"{file} can't be read ({error}); is it whole?") from None

    return read


def _npy(path: Path) -> Mapping[str, Any]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return {"pattern": array[None] if array.ndim == 2 else array}


def _npz(path: Path) -> Mapping[str, Any]:
    # numpy leaves a file open that it can't read, unless it is opened for it.
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        found = {name: archive[name] for name in archive.files}
    for name in ("pattern", "image"):
        if name in found and found[name].ndim == 2:
            found[name] = found[name][None]
    if "pixel_A" in found:
        found["pixel_A"] = float(found["pixel_A"])
    return found


def _h5(path: Path) -> Mapping[str, Any]:
    import h5py

    file = h5py.File(path, "r")
    found: dict[str, Any] = {}
    for name in ("pattern", "image"):
        if name in file:
            stack = file[name]
            found[name] = _H5Stack(stack) if stack.ndim == 3 else np.asarray(stack)[None]
    if "pattern_mask" in file:
        found["pattern_mask"] = np.asarray(file["pattern_mask"])
    if "pixel_A" in file.attrs:
        found["pixel_A"] = float(file.attrs["pixel_A"])
    return found


class _H5Stack:
    """An HDF5 data set whose items may be asked for in any order."""

    def __init__(self, data: Any) -> None:
        self._data = data

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._data.shape)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, items: Any) -> NDArray[Any]:
        chosen = np.atleast_1d(np.arange(len(self))[items])
        ordered, back = np.unique(chosen, return_inverse=True)
        return np.asarray(self._data[ordered])[back]
