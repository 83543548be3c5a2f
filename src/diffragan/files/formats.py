"""Array files of other programs, as lazy stacks (n, y, x), by their suffix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError, one_line
from diffragan.files.mrc import read_mrc_stack
from diffragan.files.star import read_particles
from diffragan.optics import DEFOCUS_ARRAYS
from diffragan.plugins import load_plugins

# Entry points under which other packages offer readers; an entry's name is the suffix.
GROUP = "diffragan.readers"


class Stack(Protocol):
    """Anything like an array (n, y, x) that is read by item."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, items: Any) -> Any: ...


Reader = Callable[[Path], Mapping[str, Any]]


def read_arrays(path: Path) -> dict[str, Any]:
    """What a file of arrays holds, by name.

    Returns:
        Lazy stacks (n, m, m) `pattern` and `image`, where the file has them; a file of one unnamed
        stack gives it as `pattern`. `pattern_mask` (m, m). Where the file tells them: `pixel_A`
        of the image, `rotation` (n, 3, 3), `shifts_A` (n, 2), `energy_ev`, `cs_mm`, and the images'
        defocus, one or (n,): `defocus_A`, or with astigmatism `defocus_u_A`, `defocus_v_A` and
        `defocus_angle_deg` as `optics.Defocus` has them.

    Raises:
        DiffraganError: there is no such file, no reader for it, or it is damaged.
    """
    read = _reader(path)
    if not path.exists():
        raise DiffraganError(f"There is no file {path}; check the name.")
    try:
        arrays = dict(read(path))
        for name in ("pattern", "image"):
            if name in arrays and len(arrays[name].shape) == 2:
                arrays[name] = np.asarray(arrays[name])[None]
    except DiffraganError:
        raise
    except Exception as error:  # each library has its own word for a damaged file
        raise DiffraganError(f"{path} can't be read ({one_line(error)}); is it whole?") from None
    return arrays


def _reader(path: Path) -> Reader:
    suffix = path.suffix.lower()
    if suffix in READERS:
        return READERS[suffix]
    offered = {
        f".{name.lower().lstrip('.')}": reader for name, reader in load_plugins(GROUP).items()
    }
    if suffix in offered:
        read: Reader = offered[suffix]
        return read
    names = [".zarr", ".zarr.zip", *READERS, *sorted(offered)]
    raise DiffraganError(
        f"{path} is of no kind this package reads; it takes {', '.join(names[:-1])} and "
        f"{names[-1]}."
    )


def _npy(path: Path) -> Mapping[str, Any]:
    return {"pattern": np.load(path, mmap_mode="r", allow_pickle=False)}


def _npz(path: Path) -> Mapping[str, Any]:
    # numpy leaves a file open that it can't read, unless it is opened for it.
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    if "pixel_A" in arrays:
        arrays["pixel_A"] = float(arrays["pixel_A"])
    return arrays


def _h5(path: Path) -> Mapping[str, Any]:
    import h5py

    file = h5py.File(path, "r")
    arrays: dict[str, Any] = {}
    for name in ("pattern", "image"):
        if name in file:
            stack = file[name]
            arrays[name] = _H5Stack(stack) if stack.ndim == 3 else np.asarray(stack)
    if "pattern_mask" in file:
        arrays["pattern_mask"] = np.asarray(file["pattern_mask"])
    if "pixel_A" in file.attrs:
        arrays["pixel_A"] = float(file.attrs["pixel_A"])
    for name in ("energy_ev", "cs_mm", "defocus_A", *DEFOCUS_ARRAYS):
        for holder in (file, file.attrs):
            if name in holder:
                arrays[name] = np.asarray(holder[name])
    return arrays


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


READERS: dict[str, Reader] = {
    ".npy": _npy,
    ".npz": _npz,
    ".mrc": read_mrc_stack,
    ".mrcs": read_mrc_stack,
    ".star": read_particles,
    ".h5": _h5,
    ".hdf5": _h5,
}
"""The package's own readers, by suffix."""
