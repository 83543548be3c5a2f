"""The inner loops of `spreading`, compiled."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from diffragan.fourier.compiled import parallel_loop


@parallel_loop  # type: ignore[untyped-decorator]
def spread_loop(
    first: Any, value: Any, weights: Any, grid: Any
) -> None:  # pragma: no cover - compiled
    # Each plane looks for its own atoms, so sums do not depend on the number of threads.
    side, width = grid.shape[0], value.shape[2]
    for plane in numba.prange(side):
        for k in range(first.shape[0]):
            p = plane - first[k, 2]
            if p < 0:
                p += side
            if p >= width:
                continue
            start = first[k, 0]
            until = min(width, side - start)
            for q in range(width):
                row = first[k, 1] + q
                if row >= side:
                    row -= side
                factor = weights[k] * value[k, 2, p] * value[k, 1, q]
                for o in range(until):
                    grid[plane, row, start + o] += factor * value[k, 0, o]
                for o in range(until, width):
                    grid[plane, row, start + o - side] += factor * value[k, 0, o]


@parallel_loop  # type: ignore[untyped-decorator]
def gather_loop(first: Any, parts: Any, grid: Any, out: Any) -> None:  # pragma: no cover - compiled
    side, width = grid.shape[0], parts.shape[3]
    for k in numba.prange(first.shape[0]):
        start = first[k, 0]
        until = min(width, side - start)
        to_x, to_y, to_z = np.float32(0), np.float32(0), np.float32(0)
        plain, wide = np.float32(0), np.float32(0)
        for p in range(width):
            plane = first[k, 2] + p
            if plane >= side:
                plane -= side
            flat_line, flat_x, flat_y = np.float32(0), np.float32(0), np.float32(0)
            flat_wide = np.float32(0)
            for q in range(width):
                row = first[k, 1] + q
                if row >= side:
                    row -= side
                line, slope, wider = np.float32(0), np.float32(0), np.float32(0)
                for o in range(until):
                    voxel = grid[plane, row, start + o]
                    line += voxel * parts[k, 0, 0, o]
                    slope += voxel * parts[k, 0, 1, o]
                    wider += voxel * parts[k, 0, 2, o]
                for o in range(until, width):
                    voxel = grid[plane, row, start + o - side]
                    line += voxel * parts[k, 0, 0, o]
                    slope += voxel * parts[k, 0, 1, o]
                    wider += voxel * parts[k, 0, 2, o]
                flat_line += line * parts[k, 1, 0, q]
                flat_x += slope * parts[k, 1, 0, q]
                flat_y += line * parts[k, 1, 1, q]
                flat_wide += wider * parts[k, 1, 0, q] + line * parts[k, 1, 2, q]
            plain += flat_line * parts[k, 2, 0, p]
            to_x += flat_x * parts[k, 2, 0, p]
            to_y += flat_y * parts[k, 2, 0, p]
            to_z += flat_line * parts[k, 2, 1, p]
            wide += flat_wide * parts[k, 2, 0, p] + flat_line * parts[k, 2, 2, p]
        out[k, 0], out[k, 1], out[k, 2] = to_x, to_y, to_z
        out[k, 3], out[k, 4] = plain, wide
