"""The inner loops of interpolation, compiled: a point and the WIDTH³ voxels around it.

Voxels along x lie side by side, WIDTH real and imaginary parts: a row. The processor takes a row as
one vector; Numba has no words for that, so what is done to rows is written in LLVM's own.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from diffragan.fourier.compiled import parallel_loop

WIDTH = 3  # window, in voxels
PAD = 2  # columns beyond both ends of kx
STEPS = 1024  # table entries per voxel
_HALF, _STEPS = np.float32(WIDTH / 2), np.float32(STEPS)
_ROW = ir.VectorType(ir.FloatType(), 2 * WIDTH)

_NUMBERS: Any = types.UniTuple(types.float32, 2 * WIDTH)  # type: ignore[no-untyped-call]

_by_llvm: Any = intrinsic
_part: Any = numba.njit(fastmath=True, error_model="numpy")


def _of_row(build: Any, numbers: list[Any]) -> Any:
    """A row of numbers."""
    row = ir.Constant(_ROW, ir.Undefined)
    for k, number in enumerate(numbers):
        row = build.insert_element(row, number, ir.IntType(32)(k))
    return row


def _rows(context: Any, build: Any, kind: Any, given: Any) -> Any:
    """Of a flat array, the places of rows with their weights, each repeated as a row."""
    data = context.make_array(kind.args[0])(context, build, given[0]).data
    for k in range(kind.args[1].count):
        at = build.gep(data, [build.extract_value(given[1], k)])
        weight = build.extract_value(given[2], k)
        yield build.bitcast(at, _ROW.as_pointer()), _of_row(build, [weight] * 2 * WIDTH)


@_by_llvm  # type: ignore[untyped-decorator]
def _sum_of_rows(typing: Any, flat: Any, starts: Any, weights: Any) -> Any:
    """Rows of a flat float32 array that begin at `starts`, times their weights, added up."""

    def code(context: Any, build: Any, kind: Any, given: Any) -> Any:
        total = ir.Constant(_ROW, [0.0] * 2 * WIDTH)
        for at, weight in _rows(context, build, kind, given):
            part = build.fmul(build.load(at, align=4), weight, flags=("fast",))
            total = build.fadd(total, part, flags=("fast",))
        numbers = [build.extract_element(total, ir.IntType(32)(k)) for k in range(2 * WIDTH)]
        return context.make_tuple(build, kind.return_type, numbers)

    return _NUMBERS(flat, starts, weights), code


@_by_llvm  # type: ignore[untyped-decorator]
def _add_to_rows(typing: Any, flat: Any, starts: Any, weights: Any, row: Any) -> Any:
    """Add a row, times their weights, to rows of a flat float32 array that begin at `starts`."""

    def code(context: Any, build: Any, kind: Any, given: Any) -> Any:
        added = _of_row(build, [build.extract_value(given[3], k) for k in range(2 * WIDTH)])
        for at, weight in _rows(context, build, kind, given):
            part = build.fmul(added, weight, flags=("fast",))
            build.store(build.fadd(build.load(at, align=4), part, flags=("fast",)), at, align=4)
        return context.get_dummy_value()

    return types.none(flat, starts, weights, row), code


@_part  # type: ignore[untyped-decorator]
def _turned(a: Any, b: Any, c: Any, r: Any) -> Any:  # pragma: no cover - compiled
    """(a, b, c) @ r."""
    return (
        a * r[0, 0] + b * r[1, 0] + c * r[2, 0],
        a * r[0, 1] + b * r[1, 1] + c * r[2, 1],
        a * r[0, 2] + b * r[1, 2] + c * r[2, 2],
    )


@_part  # type: ignore[untyped-decorator]
def _between(x: Any) -> Any:  # pragma: no cover - compiled
    """The first of the WIDTH voxels around a place, and the table's entry for where it lies
    between them."""
    low = np.floor(x - _HALF)
    # A place a last bit below a voxel is 1 above the one before it in single precision.
    entry = min(np.uint32((x - _HALF - low) * _STEPS), np.uint32(STEPS - 1))
    return np.int64(np.int32(low)) + 1, entry


@_part  # type: ignore[untyped-decorator]
def _around(
    x: Any, y: Any, z: Any, n: Any, columns: Any, table: Any
) -> Any:  # pragma: no cover - compiled
    """Where the rows around a point begin, their weights, and the weights along each of them.

    n: planes, and rows in each. columns: numbers in a row of the array, two for each voxel."""
    (ix, tx), (iy, ty), (iz, tz) = _between(x), _between(y), _between(z)
    ix = 2 * (ix + PAD)
    y0 = (iy + n if iy < 0 else iy) * columns + ix
    y1 = (iy + 1 + n if iy + 1 < 0 else iy + 1) * columns + ix
    y2 = (iy + 2 + n if iy + 2 < 0 else iy + 2) * columns + ix
    z0 = (iz + n if iz < 0 else iz) * n * columns
    z1 = (iz + 1 + n if iz + 1 < 0 else iz + 1) * n * columns
    z2 = (iz + 2 + n if iz + 2 < 0 else iz + 2) * n * columns
    a, b, c = table[ty, 0], table[ty, 1], table[ty, 2]
    d, e, f = table[tz, 0], table[tz, 1], table[tz, 2]
    starts = (z0 + y0, z0 + y1, z0 + y2, z1 + y0, z1 + y1, z1 + y2, z2 + y0, z2 + y1, z2 + y2)
    weights = (d * a, d * b, d * c, e * a, e * b, e * c, f * a, f * b, f * c)
    return starts, weights, (table[tx, 0], table[tx, 1], table[tx, 2])


@parallel_loop  # type: ignore[untyped-decorator]
def extract_loop(
    padded: Any, rotations: Any, points: Any, table: Any, out: Any
) -> None:  # pragma: no cover - compiled
    """Values (v, k) complex64 from padded (n, n, 2 columns) float32."""
    n, columns = padded.shape[0], padded.shape[2]
    for v in numba.prange(out.shape[0]):
        flat = padded.reshape(-1)
        r = rotations[v]
        own = points[v] if points.ndim == 3 else points
        for k in range(out.shape[1]):
            x, y, z = _turned(own[k, 0], own[k, 1], own[k, 2], r)
            sign = np.float32(1)
            if x < 0:
                x, y, z, sign = -x, -y, -z, np.float32(-1)
            starts, weights, w = _around(x, y, z, n, columns, table)
            s = _sum_of_rows(flat, starts, weights)
            real = w[0] * s[0] + w[1] * s[2] + w[2] * s[4]
            imag = w[0] * s[1] + w[1] * s[3] + w[2] * s[5]
            out[v, k] = complex(real, sign * imag)


@parallel_loop  # type: ignore[untyped-decorator]
def insert_loop(
    padded: Any, values: Any, rotations: Any, points: Any, table: Any
) -> None:  # pragma: no cover - compiled
    """Values (v, k) complex64 into padded (parts, n, n, 2 columns) float32."""
    parts, n, columns = padded.shape[0], padded.shape[1], padded.shape[3]
    for part in numba.prange(parts):
        flat = padded[part].reshape(-1)
        for v in range(part, values.shape[0], parts):
            r = rotations[v]
            own = points[v] if points.ndim == 3 else points
            for k in range(values.shape[1]):
                x, y, z = _turned(own[k, 0], own[k, 1], own[k, 2], r)
                real, imag = values[v, k].real, values[v, k].imag
                if x < 0:
                    x, y, z, imag = -x, -y, -z, -imag
                starts, weights, w = _around(x, y, z, n, columns, table)
                row = (w[0] * real, w[0] * imag, w[1] * real, w[1] * imag, w[2] * real, w[2] * imag)
                _add_to_rows(flat, starts, weights, row)
