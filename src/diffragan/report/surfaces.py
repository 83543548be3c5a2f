"""Isosurfaces of a map, small enough to sit inside an HTML page.

A surface goes to the viewer as base64 text: vertices quantised to 16 bits and normals to 8, both
little-endian, and triangles as 16-bit indices, which every WebGL draws.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


VOLUME_PER_DA_A3 = 1.21

MOST_TRIANGLES = 60_000

# At atomic resolution the space between atoms is as empty as solvent, so the surface around the
# whole molecule is that of the map at 4 Å; a Gaussian of 0.225 d is what ChimeraX's molmap takes.
ENVELOPE_A = 4.0

GAUSSIAN_PER_A = 0.225

# Parts of the molecule's volume, and multiples of sigma where no mass is known.
PARTS = {"outline at 4 Å": 1.0, "densest 35 %": 0.35, "densest 15 %": 0.15}

SIGMAS = {"2 sigma": 2.0, "3 sigma": 3.0, "5 sigma": 5.0}

_DEFAULTS = ("densest 35 %", "3 sigma")

# Part of the largest frequency where a coarser grid's soft edge starts.
_EDGE_FROM = 0.75

_MOST_VERTICES = 65_535

_TRIES = 8


@dataclass(frozen=True)
class Surface:
    """An isosurface around the rotation centre; x right, y up, z to the viewer: no mirror image.

    label: what it encloses, for a button. default: shown first.
    level_sigma: the contour in standard deviations of the whole map.
    volume_A3: what lies above the contour. grid_A: voxel of the grid it was drawn on.
    vertices: (v, 3) float32, x, y, z in Å. normals: (v, 3) float32, of length 1.
    triangles: (t, 3) int64.
    """

    label: str
    default: bool
    level_sigma: float
    volume_A3: float
    grid_A: float
    vertices: Array
    normals: Array
    triangles: Array

    def packed(self) -> dict[str, Any]:
        """JSON-ready: buffers in base64, `reach_A` the radius that 32767 stands for."""
        reach = float(np.linalg.norm(self.vertices, axis=1).max())
        places = np.rint(self.vertices / reach * 32767).astype("<i2")
        return {
            "label": self.label,
            "default": self.default,
            "sigma": round(self.level_sigma, 2),
            "volume_A3": round(self.volume_A3),
            "grid_A": round(self.grid_A, 3),
            "reach_A": round(reach, 4),
            "triangles": len(self.triangles),
            "vertex": _text(places),
            "normal": _text(np.rint(self.normals * 127).astype("i1")),
            "index": _text(self.triangles.astype("<u2")),
        }


def surfaces(
    volume: Array,
    voxel_A: float,
    mass_da: float | None = None,
    most_triangles: int = MOST_TRIANGLES,
) -> list[Surface]:
    """Isosurfaces at three levels, outermost first.

    With a mass they enclose the volume it implies (1.21 Å3/Da) in the map smoothed to 4 Å, and
    0.35 (the default) and 0.15 of that volume in the map itself. Without one they lie at 2, 3
    (the default) and 5 sigma of the whole map. A surface with too many triangles is drawn on a
    coarser grid, at the level that encloses the same volume.

    Args:
        volume: (n, n, n), [z, y, x], rotation centre at voxel [n // 2] * 3.

    Returns:
        at most three; a level outside the map's range is left out, and a flat map has none.
    """
    values = np.asarray(volume, dtype=np.float32)
    spread = float(values.std())
    if not spread > 0 or not np.isfinite(spread):
        return []
    made = []
    for name, part in (SIGMAS if mass_da is None else PARTS).items():
        if mass_da is None:
            count = int((values > values.mean() + part * spread).sum())
        else:
            count = round(part * VOLUME_PER_DA_A3 * mass_da / voxel_A**3)
        if not 0 < count < values.size:
            continue
        density = _smooth(values, ENVELOPE_A / voxel_A) if part == 1 else values
        level = _level_enclosing(density, count)
        mesh = _mesh(density, level, count, most_triangles)
        if mesh is None:
            continue
        vertices, normals, triangles, step = mesh
        made.append(
            Surface(
                label=name,
                default=name in _DEFAULTS,
                level_sigma=(level - float(values.mean())) / spread,
                volume_A3=count * voxel_A**3,
                grid_A=voxel_A * step,
                vertices=(vertices * voxel_A).astype(np.float32),
                normals=normals,
                triangles=triangles,
            )
        )
    if made and not any(surface.default for surface in made):
        return [replace(made[0], default=True), *made[1:]]
    return made


def fourier_cropped(volume: Array, side: int) -> Array:
    """A volume (n, n, n) on a coarser grid (side, side, side), rotation centre at side // 2.

    Frequencies fade out towards the new grid's last, as a sharp cut would ring.
    """
    n = volume.shape[0]
    spectrum = np.fft.rfftn(np.fft.ifftshift(volume))
    at = np.rint(np.fft.fftfreq(side, 1 / side)).astype(int)
    cropped = spectrum[at % n][:, at % n][:, :, : side // 2 + 1]
    squares = at[:, None, None] ** 2 + at[None, :, None] ** 2 + np.arange(side // 2 + 1) ** 2
    beyond = np.clip((np.sqrt(squares) / (side / 2) - _EDGE_FROM) / (1 - _EDGE_FROM), 0, 1)
    cropped *= (1 + np.cos(np.pi * beyond)) / 2
    coarse = np.fft.irfftn(cropped, s=(side,) * 3, axes=(0, 1, 2)) * (side / n) ** 3
    result: Array = np.fft.fftshift(coarse).astype(np.float32)
    return result


def _smooth(values: Array, resolution_px: float) -> Array:
    from scipy.ndimage import gaussian_filter

    result: Array = gaussian_filter(values, GAUSSIAN_PER_A * resolution_px, mode="wrap")
    return result


def _level_enclosing(values: Array, count: int) -> float:
    """The contour that `count` voxels exceed."""
    flat = values.ravel()
    place = len(flat) - 1 - count
    ordered = np.partition(flat, (place, place + 1))
    return (float(ordered[place]) + float(ordered[place + 1])) / 2


def _mesh(
    values: Array, level: float, count: int, most: int
) -> tuple[Array, Array, Array, float] | None:
    """Vertices (x, y, z in voxels of `values` from its centre), normals, triangles, step."""
    n = values.shape[0]
    side, grid = n, values
    for _ in range(_TRIES):
        if not grid.min() < level < grid.max():
            return None
        vertices, normals, triangles = _march(grid, level)
        if len(triangles) <= most and len(vertices) <= _MOST_VERTICES:
            step = n / side
            return (vertices - side // 2) * step, normals, triangles, step
        # Triangles go with the area, so with the square of the sampling.
        excess = max(len(triangles) / most, len(vertices) / _MOST_VERTICES)
        side = max(8, min(side - 2, int(side * excess**-0.5 * 0.97)) // 2 * 2)
        grid = fourier_cropped(values, side)
        level = _level_enclosing(grid, max(1, round(count * (side / n) ** 3)))
    return None


def _march(grid: Array, level: float) -> tuple[Array, Array, Array]:
    """Closed surfaces of the grid at the level, as x, y, z in voxels."""
    from skimage import measure

    march: Any = measure.marching_cubes  # not typed in every version

    # A rim below the level closes what the box would cut open.
    low = min(float(grid.min()), 2 * level - float(grid.max()))
    above = np.argwhere(grid > level)
    first = np.maximum(above.min(0) - 1, 0)
    last = above.max(0) + 2
    part = np.pad(grid[tuple(map(slice, first, last))], 1, constant_values=low)
    vertices, triangles, normals, _ = march(part, level)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = normals / np.where(length > 0, length, 1)
    return (vertices + first - 1)[:, ::-1], normals[:, ::-1], triangles.astype(np.int64)


def _text(values: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
