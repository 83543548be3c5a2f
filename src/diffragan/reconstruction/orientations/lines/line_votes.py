"""The inner loop of common lines, compiled: what lines say to an orientation."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from diffragan.fourier.compiled import parallel_loop

# Square of the sine between slices below which a shared line counts for nothing: where slices
# nearly coincide any line will do, and views would crowd together to choose their best.
_PARALLEL = np.float32(math.sin(math.radians(15)) ** 2)

_inline: Any = numba.njit(fastmath=True, inline="always")


@_inline  # type: ignore[untyped-decorator]
def _line_angle(y: Any, x: Any) -> Any:  # pragma: no cover - compiled
    """atan2(y, x) modulo pi, in [0, pi), within 3e-4 rad: a polynomial, as this is what a search
    spends its time on."""
    high, wide = abs(y), abs(x)
    low = min(high, wide) / (max(high, wide) + np.float32(1e-12))
    square = low * low
    angle = (
        (np.float32(-0.0464964749) * square + np.float32(0.15931422)) * square
        - np.float32(0.327622764)
    ) * square * low + low
    if high > wide:
        angle = np.float32(math.pi / 2) - angle
    if (x < 0) != (y < 0):
        angle = np.float32(math.pi) - angle
    return angle


@parallel_loop  # type: ignore[untyped-decorator]
def vote_loop(
    table: Any, candidates: Any, references: Any, offset: Any, out: Any
) -> None:  # pragma: no cover - compiled
    count = table.shape[1]
    scale = np.float32(count / math.pi)
    for g in numba.prange(candidates.shape[0]):
        r = candidates[g]
        total = np.float32(0)
        for j in range(references.shape[0]):
            s = references[j]
            a = r[0, 0] * s[2, 0] + r[0, 1] * s[2, 1] + r[0, 2] * s[2, 2]
            b = r[1, 0] * s[2, 0] + r[1, 1] * s[2, 1] + r[1, 2] * s[2, 2]
            if a * a + b * b < _PARALLEL:
                continue
            c = s[0, 0] * r[2, 0] + s[0, 1] * r[2, 1] + s[0, 2] * r[2, 2]
            d = s[1, 0] * r[2, 0] + s[1, 1] * r[2, 1] + s[1, 2] * r[2, 2]
            own = int(_line_angle(a, -b) * scale + offset)
            its = int(_line_angle(-c, d) * scale + offset)
            total += table[j, own if own < count else 0, its if its < count else 0]
        out[g] = total / references.shape[0]
