"""TIFF stacks as ImageJ and napari open them, with pixel size and unit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.atomic import replacing
from diffragan.files.instruments.stacks import FrameStack, frames_of

# Classic TIFF counts its bytes in 32 bits; the margin is for the pages' tags.
CLASSIC_BYTES = 2**32 - 2**25


def read_tiff_stack(path: Path) -> dict[str, Any]:
    """Pages of one size as `pattern`, (n, y, x), read page by page, and `pixel_A` where the file
    is ImageJ's and tells its unit.

    Raises:
        DiffraganError: pages that are no grey images of one size.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        *_, y, x = series.shape if len(series.shape) >= 2 else (0, 0)
        if series.axes[-2:] != "YX" or not y:
            raise DiffraganError(
                f"{path} holds {series.shape} ({series.axes}), not grey images of one size; save "
                "it as a stack of grey pages."
            )
        told = _imagej_pixel(file)
        if series.dataoffset:
            return {"pattern": frames_of(tifffile.memmap(path, mode="r")), **told}
        if len(series.pages) * y * x == np.prod(series.shape):
            shape = (len(series.pages), int(y), int(x))
            return {"pattern": FrameStack(partial(_read_pages, path), shape), **told}
        return {"pattern": frames_of(series.asarray()), **told}


def _read_pages(path: Path, numbers: Iterable[int]) -> NDArray[Any]:
    """(n, y, x) of some pages. The file is open no longer than they are read."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        return np.stack([file.asarray(series=0, key=int(k)) for k in numbers])


# One unit of ImageJ in Å.
_UNITS_A = {"angstrom": 1.0, "Å": 1.0, "A": 1.0, "nm": 10.0, "pm": 0.01, "µm": 1e4, "um": 1e4}


def _imagej_pixel(file: Any) -> dict[str, float]:
    unit = str((file.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
    tag = file.pages[0].tags.get("XResolution")
    if unit not in _UNITS_A or tag is None or not tag.value[0]:
        return {}
    return {"pixel_A": _UNITS_A[unit] * tag.value[1] / tag.value[0]}


def write_tiff_stack(
    path: Path, batches: Iterable[NDArray[Any]], shape: tuple[int, int, int], pixel_A: float
) -> None:
    """Streams images into one TIFF file of float32 pages; the numbers are written as they are.

    Row 0 is the array's first row, which viewers draw at the top. Below 4 GB the file is ImageJ's
    (unit `angstrom`, pixel size in its resolution tags); a larger one is a BigTIFF with the same
    tags and a JSON description.

    Args:
        batches: (k, y, x) each, together `shape[0]` images.
        shape: (n, y, x) of the whole stack.
        pixel_A: side of a pixel in Å.

    Raises:
        DiffraganError: another number of images or another size, or the disk refuses.
    """
    import tifffile

    large = 4 * int(np.prod(shape)) > CLASSIC_BYTES
    about: dict[str, Any] = {"axes": "ZYX", "unit": "angstrom"}
    with replacing(path) as file, tifffile.TiffWriter(file, bigtiff=large, imagej=not large) as out:
        out.write(
            _pages(path, batches, shape),
            shape=shape,
            dtype=np.float32,
            resolution=(1 / pixel_A, 1 / pixel_A),
            resolutionunit="NONE",
            metadata=about,
        )


def _pages(
    path: Path, batches: Iterable[NDArray[Any]], shape: tuple[int, int, int]
) -> Iterator[NDArray[np.float32]]:
    """Image by image, counted."""
    written = 0
    for batch in batches:
        if batch.shape[1:] != shape[1:]:
            raise DiffraganError(
                f"{path} is to hold images of {shape[2]} x {shape[1]} px, not {batch.shape[1:]}."
            )
        written += len(batch)
        yield from np.asarray(batch, dtype=np.float32)
    if written != shape[0]:
        raise DiffraganError(f"{path} was to hold {shape[0]} images and got {written}.")
