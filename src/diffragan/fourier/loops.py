"""The inner loops of interpolation, compiled, and how compiled loops run: the same machine code in
every process.

Numba optimises the parallel part of a loop once for the process that compiles it and once more
when it links what the disk keeps. Sums may be reordered, so a process that compiles and one that
loads differ in the last bits, and a run interrupted in the first would not go on to the same ones.
So a loop is compiled by a process of its own, and every other process loads what that left.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import pickle
import subprocess
import sys
from typing import Any

import numba
import numpy as np

log = logging.getLogger(__name__)

WIDTH = 3  # window, in voxels
PAD = 2  # columns beyond both ends of kx
STEPS = 1024  # table entries per voxel
_HALF = WIDTH / 2

parallel_loop: Any = numba.njit(
    parallel=True, fastmath=True, nogil=True, cache=True, error_model="numpy"
)


def run_loop(loop: Any, *arguments: Any) -> None:
    """Call a `parallel_loop` at the top of its module with arrays, by the machine code that the
    disk keeps."""
    types = tuple(numba.typeof(a) for a in arguments)  # type: ignore[no-untyped-call]
    if types not in loop.overloads and loop._cache.load_overload(types, loop.targetctx) is None:
        _compile_elsewhere(loop.__module__, loop.__name__, types)
    loop(*arguments)


def _compile_elsewhere(module: str, name: str, types: tuple[Any, ...]) -> None:
    """Have another process compile a loop for these types of arguments, and keep it on the disk."""
    program = f"from {__name__} import compile_loop; compile_loop()"
    path = os.pathsep.join(folder for folder in sys.path if folder)
    try:
        subprocess.run(
            [sys.executable, "-c", program],
            input=pickle.dumps((module, name, types)),
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.warning(
            "The loops had to be compiled in this process (%s); its results may differ from those "
            "of later ones in the last digits.",
            error,
        )


def compile_loop() -> None:
    """Compile the loop, for the types, that standard input names (`_compile_elsewhere`)."""
    module, name, types = pickle.load(sys.stdin.buffer)
    getattr(importlib.import_module(module), name).compile(types)


@parallel_loop  # type: ignore[untyped-decorator]
def extract_loop(
    padded: Any, rotations: Any, points: Any, table: Any, out: Any
) -> None:  # pragma: no cover - compiled
    n = padded.shape[0]
    for v in numba.prange(out.shape[0]):
        r = rotations[v]
        own = points[v] if points.ndim == 3 else points
        for k in range(out.shape[1]):
            a, b, c = own[k, 0], own[k, 1], own[k, 2]
            x = a * r[0, 0] + b * r[1, 0] + c * r[2, 0]
            y = a * r[0, 1] + b * r[1, 1] + c * r[2, 1]
            z = a * r[0, 2] + b * r[1, 2] + c * r[2, 2]
            sign = np.float32(1)
            if x < 0:
                x, y, z, sign = -x, -y, -z, np.float32(-1)
            x, y, z = x - np.float32(_HALF), y - np.float32(_HALF), z - np.float32(_HALF)
            fx, fy, fz = math.floor(x), math.floor(y), math.floor(z)
            tx, ty, tz = int((x - fx) * STEPS), int((y - fy) * STEPS), int((z - fz) * STEPS)
            ix, iy, iz = int(fx) + 1 + PAD, int(fy) + 1, int(fz) + 1
            real, imag = np.float32(0), np.float32(0)
            for p in range(WIDTH):
                pz = iz + p
                if pz < 0:
                    pz += n
                for q in range(WIDTH):
                    py = iy + q
                    if py < 0:
                        py += n
                    part_real, part_imag = np.float32(0), np.float32(0)
                    for o in range(WIDTH):
                        value = padded[pz, py, ix + o]
                        part_real += table[tx, o] * value.real
                        part_imag += table[tx, o] * value.imag
                    weight = table[tz, p] * table[ty, q]
                    real += weight * part_real
                    imag += weight * part_imag
            out[v, k] = complex(real, sign * imag)


@parallel_loop  # type: ignore[untyped-decorator]
def insert_loop(
    padded: Any, values: Any, rotations: Any, points: Any, table: Any
) -> None:  # pragma: no cover - compiled
    parts, n = padded.shape[0], padded.shape[1]
    for part in numba.prange(parts):
        target = padded[part]
        for v in range(part, values.shape[0], parts):
            r = rotations[v]
            own = points[v] if points.ndim == 3 else points
            for k in range(values.shape[1]):
                a, b, c = own[k, 0], own[k, 1], own[k, 2]
                x = a * r[0, 0] + b * r[1, 0] + c * r[2, 0]
                y = a * r[0, 1] + b * r[1, 1] + c * r[2, 1]
                z = a * r[0, 2] + b * r[1, 2] + c * r[2, 2]
                real, imag = values[v, k].real, values[v, k].imag
                if x < 0:
                    x, y, z, imag = -x, -y, -z, -imag
                x, y, z = x - np.float32(_HALF), y - np.float32(_HALF), z - np.float32(_HALF)
                fx, fy, fz = math.floor(x), math.floor(y), math.floor(z)
                tx, ty, tz = int((x - fx) * STEPS), int((y - fy) * STEPS), int((z - fz) * STEPS)
                ix, iy, iz = int(fx) + 1 + PAD, int(fy) + 1, int(fz) + 1
                for p in range(WIDTH):
                    pz = iz + p
                    if pz < 0:
                        pz += n
                    for q in range(WIDTH):
                        py = iy + q
                        if py < 0:
                            py += n
                        weight = table[tz, p] * table[ty, q]
                        for o in range(WIDTH):
                            w = weight * table[tx, o]
                            target[pz, py, 2 * (ix + o)] += w * real
                            target[pz, py, 2 * (ix + o) + 1] += w * imag
