"""TIFF stacks as ImageJ and napari open them, with pixel size and unit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.atomic import replacing

# Classic TIFF counts its bytes in 32 bits; the margin is for the pages' tags.
CLASSIC_BYTES = 2**32 - 2**25


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
