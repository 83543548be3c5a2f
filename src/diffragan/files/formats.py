"""Array files of other programs, as lazy stacks (n, y, x), by their suffix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from diffragan.errors import DiffraganError, one_line
from diffragan.files.instruments.emd import read_emd
from diffragan.files.instruments.folder import read_folder
from diffragan.files.instruments.hdf5 import read_hdf5
from diffragan.files.instruments.rosetta import MODULES, read_rosetta
from diffragan.files.instruments.trpx import read_trpx
from diffragan.files.mrc import read_mrc_stack
from diffragan.files.star import read_particles
from diffragan.files.tiff import read_tiff_stack
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


def read_arrays(path: Path, keys: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a file of arrays holds, by name.

    Args:
        keys: `pattern` and `image` to the names of their data sets, in HDF5 and NPZ files that
            name them otherwise.

    Returns:
        Lazy stacks (n, m, m) `pattern` and `image`, where the file has them; a file of one unnamed
        stack gives it as `pattern`. `pattern_mask` (m, m). Where the file tells them: `pixel_A`
        of the image, `rotation` (n, 3, 3), `shifts_A` (n, 2), `energy_ev`, `cs_mm`, and the images'
        defocus, one or (n,): `defocus_A`, or with astigmatism `defocus_u_A`, `defocus_v_A` and
        `defocus_angle_deg` as `optics.Defocus` has them. Of instruments also
        `reciprocal_pixel_per_A` or `pixel_mrad` of a pattern, `detector_pixel_um`,
        `camera_length_mm`, `exposure_s`, `scan_shape` (rows, columns), `centre_px` (y, x) of the
        beam, `saturation` (counts that are no longer counted), `beam_diameter_A` and `step_A` of a
        scan, `whole_scan_shape` and `frame_numbers` (n,) where frames are missing, and `notes`,
        sentences on what is missing in the file.

    Raises:
        DiffraganError: there is no such file, no reader for it, or it is damaged.
    """
    read = read_folder if path.is_dir() else _reader(path)
    if not path.exists():
        raise DiffraganError(f"There is no file {path}; check the name.")
    try:
        arrays = dict(_with_keys(path, keys)) if keys else dict(read(path))
        for name in ("pattern", "image"):
            if name in arrays and len(arrays[name].shape) == 2:
                arrays[name] = np.asarray(arrays[name])[None]
    except DiffraganError:
        raise
    except Exception as error:  # each library has its own word for a damaged file
        raise DiffraganError(f"{path} can't be read ({one_line(error)}); is it whole?") from None
    return arrays


def _with_keys(path: Path, keys: Mapping[str, str]) -> Mapping[str, Any]:
    """What a file holds under names of its own."""
    if path.suffix.lower() not in _WITH_KEYS:
        raise DiffraganError(
            f"{path} holds no data sets by name; --pattern-key and --image-key are for HDF5 and "
            "NPZ files."
        )
    if path.suffix.lower() != ".npz":
        return read_hdf5(path, keys)
    arrays = dict(_npz(path))
    for name, key in keys.items():
        if key not in arrays:
            raise DiffraganError(f"{path} has no array '{key}'; it has {', '.join(arrays)}.")
        arrays[name] = arrays[key]
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


READERS: dict[str, Reader] = {
    ".npy": _npy,
    ".npz": _npz,
    ".mrc": read_mrc_stack,
    ".mrcs": read_mrc_stack,
    ".star": read_particles,
    ".tif": read_tiff_stack,
    ".tiff": read_tiff_stack,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".nxs": read_hdf5,
    ".trpx": read_trpx,
    **dict.fromkeys(MODULES, read_rosetta),
    ".emd": read_emd,
}
"""The package's own readers, by suffix; a folder is read as one of .npy files."""

_WITH_KEYS = (".h5", ".hdf5", ".nxs", ".emd", ".npz")
