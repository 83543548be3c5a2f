"""Interpolation in the padded spectrum of a volume.

A padded spectrum holds kx = -PAD to n/2 + PAD (x last), ky and kz in FFT order. A point is
interpolated from the WIDTH³ voxels around it with a separable Kaiser-Bessel window (Jackson et
al., IEEE Trans. Med. Imaging 10, 473 (1991)), and inserted with the same weights. On the CPU by
compiled loops (`loops`); elsewhere by gathers and scatters of torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.fourier.compiled import run_loop
from diffragan.fourier.loops import PAD, STEPS, WIDTH, extract_loop, insert_loop

# Shape of the window for an object that fills 0.7 of the box (Beatty et al., IEEE TMI 24, 799).
_OVERSAMPLING = 1.4
_BETA = math.pi * math.sqrt((WIDTH / _OVERSAMPLING) ** 2 * (_OVERSAMPLING - 0.5) ** 2 - 0.8)


@lru_cache(maxsize=1)
def window_table() -> NDArray[np.float32]:
    """Window weights (STEPS, WIDTH) by the point's place between voxels; each row sums to 1
    on average."""
    from scipy.special import i0

    place = (np.arange(STEPS) + 0.5) / STEPS
    distance = (np.arange(WIDTH) + 1 - WIDTH / 2)[None, :] - place[:, None]
    inside = np.maximum(1 - (2 * distance / WIDTH) ** 2, 0)
    weights = i0(_BETA * np.sqrt(inside))
    weights = weights / weights.sum(1).mean()
    return np.ascontiguousarray(weights, dtype=np.float32)


def window_transform(n: int) -> Tensor:
    """What the window does to a voxel line of n, origin first: its Fourier transform (n,), 1 at 0.

    Summed from the table itself, so that it holds for exactly the weights that are used.
    """
    table = torch.from_numpy(window_table()).double()
    place = (torch.arange(STEPS, dtype=torch.float64) + 0.5) / STEPS
    nodes = torch.arange(WIDTH, dtype=torch.float64) + 1 - WIDTH / 2
    distance = nodes[None, :] - place[:, None]
    x = torch.fft.fftfreq(n, dtype=torch.float64)
    wave = torch.cos(2 * math.pi * x[:, None, None] * distance)
    result: Tensor = (wave * table).sum((1, 2)) / STEPS
    return result


def loop_threads() -> int:
    """Threads of the compiled loops; sums are made in this order, so bits depend on it alone."""
    count: int = numba.get_num_threads()
    return count


def extract_points(padded: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
    """Values (v, k) complex64 of a padded spectrum at the points of each view.

    Args:
        padded: (n, n, n // 2 + 1 + 2 PAD) complex64.
        rotations: (v, 3, 3) float32; view v looks at points @ rotations[v].
        points: (k, 3) float32 or (v, k, 3), in voxels, as x, y, z.
    """
    if padded.device.type == "cpu":
        out = torch.empty((len(rotations), points.shape[-2]), dtype=torch.complex64)
        given = (_rows(padded).numpy(), rotations.numpy(), points.numpy())
        run_loop(extract_loop, *given, window_table(), out.numpy())
        return out
    conjugate, neighbours = window_voxels(rotations, points, padded.shape[0])
    flat = padded.reshape(-1)
    total = torch.zeros(conjugate.shape, dtype=padded.dtype, device=padded.device)
    for index, weight in neighbours:
        total += flat[index].mul_(weight)
    return torch.where(conjugate, total.conj(), total)


def insert_points(padded: Tensor, values: Tensor, rotations: Tensor, points: Tensor) -> None:
    """Add values (v, k) at their points into padded spectra, in place.

    Args:
        padded: (parts, n, n, n // 2 + 1 + 2 PAD) complex64, added to; threads fill one part each,
            so that the sum over parts does not depend on timing.
        values, rotations, points: as `extract_points` gives and takes them.
    """
    if padded.device.type == "cpu":
        given = (values.contiguous().numpy(), rotations.numpy(), points.numpy())
        run_loop(insert_loop, _rows(padded).numpy(), *given, window_table())
        return
    conjugate, neighbours = window_voxels(rotations, points, padded.shape[1])
    flat = torch.view_as_real(padded[0]).reshape(-1, 2)
    turned = torch.where(conjugate, values.conj(), values).to(padded.dtype)
    for index, weight in neighbours:
        flat.index_add_(0, index.reshape(-1), torch.view_as_real(turned * weight).reshape(-1, 2))


def _rows(padded: Tensor) -> Tensor:
    """Of complex spectra, real and imaginary parts side by side along a row, (..., 2 columns)."""
    return torch.view_as_real(padded).reshape(*padded.shape[:-1], -1)


def window_voxels(
    rotations: Tensor, points: Tensor, n: int
) -> tuple[Tensor, Iterator[tuple[Tensor, Tensor]]]:
    """Which points (v, k) lie at x < 0 and are seen by their mates, and then, one neighbour after
    the other, the flat voxel index (v, k) and the weight (v, k) of the WIDTH³ around each."""
    at = points @ rotations
    conjugate = at[..., 0] < 0
    at = torch.where(conjugate[..., None], -at, at) - WIDTH / 2
    low = torch.floor(at)
    entry = ((at - low) * STEPS).long().clamp_(0, STEPS - 1)
    return conjugate, _neighbours(low.long() + 1, _table_on(at.device)[entry], n)


def _neighbours(first: Tensor, weight: Tensor, n: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Made as they are used: all together would take many times the memory of the values.

    Args:
        first: (v, k, 3) int64, x, y, z of the first voxel. weight: (v, k, 3, WIDTH).
    """
    columns = n // 2 + 1 + 2 * PAD
    for c in range(WIDTH):
        plane = (first[..., 2] + c) % n * n
        for b in range(WIDTH):
            row = (plane + (first[..., 1] + b) % n) * columns + first[..., 0] + PAD
            line = weight[..., 2, c] * weight[..., 1, b]
            for a in range(WIDTH):
                yield row + a, line * weight[..., 0, a]


@lru_cache(maxsize=4)
def _table_on(device: torch.device) -> Tensor:
    return torch.from_numpy(window_table()).to(device)
