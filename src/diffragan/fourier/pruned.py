"""Transforms between a fine grid of space and a coarser grid of frequencies.

What is cut afterwards, or is zero beforehand, is never transformed: one axis after the other, each
on no more rows than the next one needs. By SciPy on the CPU, whose transforms along far axes are
the quicker ones; by torch elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def cut_spectrum(volume: Tensor, n: int) -> Tensor:
    """The plain `rfftn` of a volume (o, o, o), o >= n, on the grid of n: (n, n, n // 2 + 1).

    Nyquist planes of the coarser grid, which have no mates there, are 0.
    """
    if volume.device.type == "cpu":
        on_cpu: Tensor = torch.from_numpy(_cut_on_cpu(volume.numpy(), n, torch.get_num_threads()))
        return on_cpu
    fine = torch.fft.rfftn(volume)
    cut: Tensor = fine.new_zeros(n, n, n // 2 + 1)
    for corner in corners(n):
        cut[corner] = fine[corner]
    return cut


def fine_volume(spectrum: Tensor, side: int) -> Tensor:
    """The `irfftn`, norm "forward", of a spectrum (n, n, n // 2 + 1) on a finer grid (side, side,
    side). Nyquist planes of the coarser grid count as 0."""
    n = spectrum.shape[0]
    if spectrum.device.type == "cpu":
        threads = torch.get_num_threads()
        on_cpu: Tensor = torch.from_numpy(_fine_on_cpu(spectrum.detach().numpy(), side, threads))
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


def _cut_on_cpu(volume: Any, n: int, threads: int) -> Any:
    from scipy import fft

    keep = (n - 1) // 2
    rows = fft.rfft(volume, axis=2, workers=threads)[..., : keep + 1]
    rows = fft.fft(rows, axis=1, workers=threads)
    rows = np.concatenate((rows[:, : keep + 1], rows[:, -keep:]), axis=1)
    rows = fft.fft(rows, axis=0, workers=threads, overwrite_x=True)
    cut = np.zeros((n, n, n // 2 + 1), dtype=rows.dtype)
    for z, y, x in corners(n):
        cut[z, y, x] = rows[z, y]
    return cut


def _fine_on_cpu(spectrum: Any, side: int, threads: int) -> Any:
    from scipy import fft

    n = spectrum.shape[0]
    keep = (n - 1) // 2
    low, high = slice(0, keep + 1), slice(-keep, None)
    planes = np.zeros((side, 2 * keep + 1, keep + 1), dtype=spectrum.dtype)
    for z, y, x in corners(n):
        planes[z, y] = spectrum[z, y, x]
    planes = fft.ifft(planes, axis=0, norm="forward", workers=threads, overwrite_x=True)
    rows = np.zeros((side, side, keep + 1), dtype=spectrum.dtype)
    for part in (low, high):
        rows[:, part] = planes[:, part]
    rows = fft.ifft(rows, axis=1, norm="forward", workers=threads, overwrite_x=True)
    return fft.irfft(rows, n=side, axis=2, norm="forward", workers=threads)
