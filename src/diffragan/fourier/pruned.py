"""Transforms between a fine grid of space and a coarser grid of frequencies.

What is cut afterwards, or is zero beforehand, is never transformed: one axis after the other, each
on no more rows than the next one needs. A volume may be told by the planes (z) and rows (y) that
hold all of it, since a molecule fills no more than a part of its box. By SciPy on the CPU, whose
transforms along far axes are the quicker ones; by torch, of everything, elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Indices of planes (z) and of rows in each of them (y).
Filled = tuple[NDArray[np.int64], NDArray[np.int64]]


def cut_spectrum(volume: Tensor, n: int, filled: Filled | None = None) -> Tensor:
    """The plain `rfftn` of a volume (o, o, o), o >= n, on the grid of n: (n, n, n // 2 + 1).

    Nyquist planes of the coarser grid, which have no mates there, are 0.

    Args:
        filled: planes and rows outside of which the volume is 0; all of them if not given.
    """
    if volume.device.type == "cpu":
        z, y = filled or _all(volume.shape[0])
        on_cpu: Tensor = torch.from_numpy(
            _cut_on_cpu(volume.numpy(), n, z, y, torch.get_num_threads())
        )
        return on_cpu
    fine = torch.fft.rfftn(volume)
    cut: Tensor = fine.new_zeros(n, n, n // 2 + 1)
    for corner in corners(n):
        cut[corner] = fine[corner]
    return cut


def fine_volume(spectrum: Tensor, side: int, filled: Filled | None = None) -> Tensor:
    """The `irfftn`, norm "forward", of a spectrum (n, n, n // 2 + 1) on a finer grid (side, side,
    side). Nyquist planes of the coarser grid count as 0.

    Args:
        filled: planes and rows that are asked for; others may be left 0. All of them if not given.
    """
    n = spectrum.shape[0]
    if spectrum.device.type == "cpu":
        z, y = filled or _all(side)
        on_cpu: Tensor = torch.from_numpy(
            _fine_on_cpu(spectrum.detach().numpy(), side, z, y, torch.get_num_threads())
        )
        return on_cpu
    fine = spectrum.new_zeros(side, side, side // 2 + 1)
    for corner in corners(n):
        fine[corner] = spectrum[corner]
    result: Tensor = torch.fft.irfftn(fine, s=(side, side, side), norm="forward")
    return result


def corners(n: int) -> list[tuple[slice, slice, slice]]:
    """The parts of a spectrum that a grid of n and any finer one share, Nyquist planes left out."""
    keep = (n - 1) // 2
    low, high = slice(0, keep + 1), slice(-keep, None)
    return [(z, y, low) for z in (low, high) for y in (low, high)]


def _all(side: int) -> Filled:
    return np.arange(side), np.arange(side)


def _cut_on_cpu(volume: Any, n: int, z: Any, y: Any, threads: int) -> Any:
    from scipy import fft

    keep, side = (n - 1) // 2, volume.shape[0]
    lines = fft.rfft(volume[z[:, None], y], axis=2, workers=threads)[..., : keep + 1]
    rows = np.zeros((len(z), side, keep + 1), dtype=lines.dtype)
    rows[:, y] = lines
    rows = fft.fft(rows, axis=1, workers=threads, overwrite_x=True)
    planes = np.zeros((side, 2 * keep + 1, keep + 1), dtype=rows.dtype)
    planes[z, : keep + 1] = rows[:, : keep + 1]
    planes[z, keep + 1 :] = rows[:, -keep:]
    planes = fft.fft(planes, axis=0, workers=threads, overwrite_x=True)
    cut = np.zeros((n, n, n // 2 + 1), dtype=planes.dtype)
    for at in corners(n):
        cut[at] = planes[at[:2]]
    return cut


def _fine_on_cpu(spectrum: Any, side: int, z: Any, y: Any, threads: int) -> Any:
    from scipy import fft

    n = spectrum.shape[0]
    keep = (n - 1) // 2
    low, high = slice(0, keep + 1), slice(-keep, None)
    planes = np.zeros((side, 2 * keep + 1, keep + 1), dtype=spectrum.dtype)
    for at in corners(n):
        planes[at[:2]] = spectrum[at]
    planes = fft.ifft(planes, axis=0, norm="forward", workers=threads, overwrite_x=True)[z]
    rows = np.zeros((len(z), side, keep + 1), dtype=spectrum.dtype)
    for part in (low, high):
        rows[:, part] = planes[:, part]
    rows = fft.ifft(rows, axis=1, norm="forward", workers=threads, overwrite_x=True)[:, y]
    volume = np.zeros((side, side, side), dtype=spectrum.real.dtype)
    volume[z[:, None], y] = fft.irfft(rows, n=side, axis=2, norm="forward", workers=threads)
    return volume
