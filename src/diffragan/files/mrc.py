"""MRC files that RELION, ChimeraX and Coot open: maps, and stacks of images.

Every file is written under a temporary name and then renamed, so that a failure leaves what was
there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.files.atomic import replacing, write_atomically
from diffragan.files.instruments.fei_header import fei_metadata


def read_mrc_stack(path: Path) -> Mapping[str, Any]:
    """A stack of images as `pattern`, (n, y, x), read from the disk by item, `pixel_A`, the
    header's pixel in Å or None, and what an extended header tells (`fei_metadata`)."""
    import mrcfile

    with mrcfile.mmap(path, mode="r", permissive=False) as file:
        data, pixel = file.data, float(file.voxel_size.x)
        fei = bytes(file.header.exttyp) in (b"FEI1", b"FEI2")
        told = fei_metadata(file.indexed_extended_header) if fei else {}
    stack = data[None] if data.ndim == 2 else data
    return {"pattern": stack, "pixel_A": pixel or None, **told}


_IMAGE_STACK, _VOLUME = 0, 1


# A background whose spread is below this part of the image's holds only rounding.
_ROUNDING = 1e-5


def write_map(path: Path, volume: Tensor | NDArray[Any], voxel_A: float, label: str) -> None:
    """A volume as an MRC file of mode 2 (float32), its rotation centre at 0, 0, 0 Å.

    ChimeraX and Coot place the map by the ORIGIN field; RELION ignores it and takes the same
    voxel for the centre.

    Args:
        volume: (n, n, n), [z, y, x], rotation centre at voxel [n // 2] * 3.
        voxel_A: side of a voxel in Å.
        label: up to 80 ASCII characters for the header; more are cut.

    Raises:
        DiffraganError: the volume is no cube or not finite, or the disk refuses.
    """
    data = np.ascontiguousarray(as_array(volume), dtype="<f4")
    if data.ndim != 3 or len(set(data.shape)) != 1:
        raise DiffraganError(f"A map must be a cube, not {data.shape}; nothing went to {path}.")
    if not np.isfinite(data).all():
        raise DiffraganError(f"The map for {path} holds NaN or infinite values; nothing written.")
    n = data.shape[-1]
    header = _header((n, n, n), voxel_A, _VOLUME, label)
    header["origin"] = (-(n // 2) * voxel_A,) * 3
    moments = _Moments()
    for section in data:
        moments.add(section)
    moments.put(header)
    write_atomically(path, header.tobytes() + data.tobytes())


def read_map(path: Path) -> tuple[NDArray[np.float32], float]:
    """A cubic map as [z, y, x], and its voxel's side in Å. The ORIGIN field is not looked at.

    Raises:
        DiffraganError: no such file, no MRC file, not cubic, not finite, or no voxel size.
    """
    import mrcfile

    if not path.is_file():
        raise DiffraganError(f"There is no file {path}; check the name.")
    try:
        with mrcfile.open(path, mode="r", permissive=False) as file:
            data = np.array(file.data)
            sides = [float(file.voxel_size[axis]) for axis in "xyz"]
            order = [int(file.header[name]) for name in ("maps", "mapr", "mapc")]
    except Exception as error:  # mrcfile has several words for a damaged file
        raise DiffraganError(f"{path} can't be read as MRC ({error}); is it whole?") from None
    if data.ndim != 3 or len(set(data.shape)) != 1 or np.iscomplexobj(data):
        raise DiffraganError(
            f"{path} holds {data.dtype} of shape {data.shape}, not one cubic map; resample or pad "
            "it to a cube."
        )
    if min(sides) <= 0 or max(sides) > min(sides) * 1.001:
        raise DiffraganError(
            f"{path} gives its voxel as {' x '.join(f'{side:.4g}' for side in sides)} Å; set one "
            "positive voxel size for all axes in its header."
        )
    if sorted(order) != [1, 2, 3]:
        raise DiffraganError(f"{path} doesn't say which of its axes is x; write it anew.")
    volume = np.transpose(data, [order.index(axis) for axis in (3, 2, 1)]).astype(np.float32)
    if not np.isfinite(volume).all():
        raise DiffraganError(f"{path} holds NaN or infinite values; repair the map first.")
    return np.ascontiguousarray(volume), float(np.mean(sides))


def write_image_stack(
    path: Path,
    batches: Iterable[NDArray[Any]],
    count: int,
    pixel_A: float,
    *,
    normalise: bool = True,
    label: str = "diffragan projections",
) -> int:
    """Streams images into an MRC stack of mode 2 (float32) and returns their side in pixels.

    Args:
        batches: (k, y, x) each, together `count` images of one square size.
        pixel_A: side of a pixel in Å.
        normalise: bring the background to mean 0 and standard deviation 1, as RELION wants it;
            otherwise the numbers are written as they are.
        label: up to 80 ASCII characters for the header.

    Raises:
        DiffraganError: another number of images, one that is not square or not finite, or the
            disk refuses.
    """
    moments, written, side = _Moments(), 0, 0
    background = np.zeros((0, 0), dtype=bool)
    with replacing(path) as file:
        for batch in batches:
            images = np.asarray(batch, dtype=np.float64)
            side = side or images.shape[-1]
            if images.shape[1:] != (side, side):
                raise DiffraganError(
                    f"{path} is to hold images of {side} x {side} px, not {images.shape[1:]}."
                )
            if not written:
                background = _outside_circle(side)
                file.write(_header((count, side, side), pixel_A, _IMAGE_STACK, "").tobytes())
            normal = _normalised(images, background) if normalise else images.astype("<f4")
            if not np.isfinite(normal).all():
                raise DiffraganError(f"An image for {path} holds NaN or infinite values.")
            moments.add(normal)
            file.write(normal.tobytes())
            written += len(normal)
        if written != count or not count:
            raise DiffraganError(f"{path} was to hold {count} images and got {written}.")
        # The header stands first in the file, and its statistics are known last.
        header = _header((count, side, side), pixel_A, _IMAGE_STACK, label)
        moments.put(header)
        file.seek(0)
        file.write(header.tobytes())
    return side


def write_image_rows(
    path: Path,
    strips: Iterable[NDArray[Any]],
    shape: tuple[int, int],
    pixel_A: float,
    *,
    label: str = "diffragan image",
) -> None:
    """Streams one image of any shape, strip after strip of rows, into an MRC file of mode 2.

    Args:
        strips: (k, columns) each, together `shape` (rows, columns).

    Raises:
        DiffraganError: strips that don't make up the shape, or the disk refuses.
    """
    moments, rows = _Moments(), 0
    with replacing(path) as file:
        file.write(_header((1, *shape), pixel_A, _IMAGE_STACK, label).tobytes())
        for strip in strips:
            values = np.ascontiguousarray(strip, dtype="<f4")
            moments.add(values)
            file.write(values.tobytes())
            rows += len(values)
        if rows != shape[0]:
            raise DiffraganError(f"{path} was to hold {shape[0]} rows and got {rows}.")
        header = _header((1, *shape), pixel_A, _IMAGE_STACK, label)
        moments.put(header)
        file.seek(0)
        file.write(header.tobytes())


def _outside_circle(side: int) -> NDArray[np.bool_]:
    """(side, side): pixels farther than half the box from pixel [side // 2] * 2."""
    axis = np.arange(side) - side // 2
    outside: NDArray[np.bool_] = axis[:, None] ** 2 + axis[None, :] ** 2 > (side / 2) ** 2
    return outside


def _normalised(images: NDArray[np.float64], background: NDArray[np.bool_]) -> NDArray[np.float32]:
    empty = images[:, background]
    centred = images - empty.mean(-1)[:, None, None]
    spread = empty.std(-1)
    scale = np.where(spread > _ROUNDING * images.std((-2, -1)), spread, 1.0)
    normal: NDArray[np.float32] = (centred / scale[:, None, None]).astype("<f4")
    return normal


def _header(shape: tuple[int, int, int], voxel_A: float, group: int, label: str) -> Any:
    """An MRC2014 header, little-endian, without statistics; shape is (z, y, x)."""
    from mrcfile.dtypes import HEADER_DTYPE

    header = np.zeros((), dtype=HEADER_DTYPE.newbyteorder("<"))
    depth = 1 if group == _IMAGE_STACK else shape[0]
    sizes = (shape[2], shape[1], depth)
    for axis, size, cell in zip("xyz", (shape[2], shape[1], shape[0]), sizes, strict=True):
        header[f"n{axis}"], header[f"m{axis}"] = size, cell
        header["cella"][axis] = cell * voxel_A
    header["cellb"] = (90.0,) * 3
    header["mode"] = 2
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["ispg"] = group
    header["map"], header["machst"], header["nversion"] = b"MAP ", (0x44, 0x44, 0, 0), 20141
    header["label"][0] = label.encode("ascii", "replace")[:80]
    header["nlabl"] = 1
    return header


class _Moments:
    """Minimum, maximum, mean and standard deviation of values that come in parts."""

    def __init__(self) -> None:
        self._low, self._high = math.inf, -math.inf
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, part: NDArray[Any]) -> None:
        values = part.astype(np.float64)
        self._low = min(self._low, float(values.min()))
        self._high = max(self._high, float(values.max()))
        # Merged about the means (Chan et al. 1983): a difference of large sums would lose digits.
        mean, count = float(values.mean()), self._count + values.size
        step = mean - self._mean
        self._squares += float(((values - mean) ** 2).sum())
        self._squares += step**2 * self._count * values.size / count
        self._mean += step * values.size / count
        self._count = count

    def put(self, header: Any) -> None:
        header["dmin"], header["dmax"], header["dmean"] = self._low, self._high, self._mean
        header["rms"] = math.sqrt(self._squares / self._count)


def as_array(values: Tensor | NDArray[Any]) -> NDArray[Any]:
    """A tensor, wherever it lies, or an array, as an array in memory."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
