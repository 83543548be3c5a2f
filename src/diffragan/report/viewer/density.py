"""Maps small enough to sit inside an HTML page: cropped, resampled, in a byte a voxel."""

from __future__ import annotations

import base64
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.fourier.grids import even_fast_length

Array = NDArray[Any]

VOLUME_PER_DA_A3 = 1.21
# A Gaussian of 0.225 d is what ChimeraX's molmap takes for a map at d.
GAUSSIAN_PER_A = 0.225
FINEST_A = 0.4
MOST_VOXELS = 1_000_000
_MARGIN_A = 2.0


@dataclass(frozen=True)
class Crop:
    """The part of space that a page shows. low_A, high_A: x, y, z from the rotation centre."""

    low_A: tuple[float, float, float]
    high_A: tuple[float, float, float]

    @property
    def finest_A(self) -> float:
        """The voxel at which it has at most `MOST_VOXELS`, and no finer than a map is worth."""
        sides = [high - low for low, high in zip(self.low_A, self.high_A, strict=True)]
        return max(FINEST_A, float(np.cbrt(math.prod(sides) / MOST_VOXELS)))


def crop_of(mask: Array, voxel_A: float) -> Crop:
    """The box around a mask (n, n, n), [z, y, x], rotation centre at [n // 2] * 3, and a margin
    of 2 Å; the whole volume where the mask is empty."""
    n = mask.shape[0]
    at = np.argwhere(mask) if mask.any() else np.array([[0, 0, 0], [n - 1] * 3])
    low = np.maximum((at.min(0) - n // 2) * voxel_A - _MARGIN_A, -(n // 2) * voxel_A)
    high = np.minimum((at.max(0) - n // 2) * voxel_A + _MARGIN_A, (n - 1 - n // 2) * voxel_A)
    return Crop(_three(low[::-1]), _three(high[::-1]))


@dataclass(frozen=True)
class Packed:
    """A map as the viewer takes it.

    data: base64 of the deflated bytes, x fastest; byte b stands for `top` (b / 255)² standard
    deviations above the mean of the whole map, so low contours have the finer steps, and what lies
    below the mean is 0. The rim is 0, which closes every surface.
    size: voxels along x, y, z. origin_A: place of the first. sigma: a standard deviation in the
    map's own unit, mean: its mean.
    """

    data: str
    size: tuple[int, int, int]
    origin_A: tuple[float, float, float]
    voxel_A: float
    top: float
    mean: float
    sigma: float


def packed(volume: Array, voxel_A: float, crop: Crop, finest_A: float = 0.0) -> Packed | None:
    """A map (n, n, n), [z, y, x], rotation centre at [n // 2] * 3, over a part of space.

    It is resampled in Fourier space. A flat map has no surface and gives None.

    Args:
        finest_A: voxels may be coarser than the crop asks for, where the map is smooth.
    """
    import torch

    from diffragan.fourier.volumes import centred, resized, uncentred

    values = np.asarray(volume, dtype=np.float32)
    mean, sigma = float(values.mean()), float(values.std())
    if not sigma > 0 or not math.isfinite(sigma):
        return None
    box_A = values.shape[0] * voxel_A
    n = even_fast_length(box_A / max(crop.finest_A, finest_A))
    fine = centred(resized(uncentred(torch.from_numpy(values)), n)).numpy()
    step = box_A / n
    first = [max(0, math.floor(low / step) + n // 2) for low in crop.low_A]
    last = [min(n, math.ceil(high / step) + n // 2 + 1) for high in crop.high_A]
    part = fine[tuple(slice(a, b) for a, b in zip(first[::-1], last[::-1], strict=True))]
    above = (part - mean) / sigma
    top = float(above.max())
    if not top > 0:
        return None
    steps = np.rint(255 * np.sqrt(np.clip(above / top, 0, 1))).astype(np.uint8)
    steps = np.pad(steps, 1)
    origin = _three((np.array(first) - 1 - n // 2) * step)
    text = base64.b64encode(zlib.compress(steps.tobytes(), 6)).decode()
    z, y, x = steps.shape
    return Packed(text, (x, y, z), origin, step, top, mean, sigma)


def unpacked(packed: Packed) -> Array:
    """(z, y, x) standard deviations above the mean, as the viewer reads them."""
    raw = np.frombuffer(zlib.decompress(base64.b64decode(packed.data)), np.uint8)
    result: Array = packed.top * (raw.reshape(packed.size[::-1]) / 255.0) ** 2
    return result


def smoothed(volume: Array, voxel_A: float, resolution_A: float) -> Array:
    """A map (n, n, n) as it would look at a coarser resolution."""
    from scipy.ndimage import gaussian_filter

    width = GAUSSIAN_PER_A * resolution_A / voxel_A
    result: Array = gaussian_filter(np.asarray(volume, np.float32), width, mode="wrap")
    return result


def level_enclosing(volume: Array, voxel_A: float, volume_A3: float) -> float | None:
    """The contour, in standard deviations above the mean, that encloses a volume; None where it
    would enclose nothing or everything."""
    values = np.asarray(volume, dtype=np.float32)
    count, spread = round(volume_A3 / voxel_A**3), float(values.std())
    if not 0 < count < values.size or not spread > 0:
        return None
    place = values.size - 1 - count
    ordered = np.partition(values.ravel(), (place, place + 1))
    level = (float(ordered[place]) + float(ordered[place + 1])) / 2
    return (level - float(values.mean())) / spread


def _three(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
