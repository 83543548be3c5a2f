"""Fourier grids in two dimensions: frequencies, resampling, shifts and quarter turns."""

from __future__ import annotations

import math

import torch
from scipy.fft import next_fast_len
from torch import Tensor


def frequency_grid(n_px: int, box_A: float, device: torch.device | None = None) -> Tensor:
    """Squared spatial frequencies q² (1/Å²) of an FFT grid, zero first. Shape (n_px, n_px)."""
    q = torch.fft.fftfreq(n_px, box_A / n_px, dtype=torch.float64, device=device)
    result: Tensor = q[:, None] ** 2 + q[None, :] ** 2
    return result


def double_angle_grid(n_px: int, device: torch.device | None = None) -> Tensor:
    """cos 2 phi and sin 2 phi of an FFT grid, phi the direction of a frequency from x towards y.

    Shape (2, n_px, n_px), float64, zero frequency first, where both are 0.
    """
    q = torch.fft.fftfreq(n_px, 1 / n_px, dtype=torch.float64, device=device)
    y, x = q[:, None], q[None, :]
    result: Tensor = torch.stack((x**2 - y**2, 2 * x * y)) / (x**2 + y**2).clamp_min(1)
    return result


def resample(array: Tensor, n_px: int) -> Tensor:
    """Fourier crop or pad (..., n, n) to (..., n_px, n_px), values preserved.

    Band-limited arrays keep their values at shared points. On an even grid the Nyquist row and
    column have no partner of opposite sign; they are dropped, so that a real array stays real.
    """
    n = array.shape[-1]
    if n == n_px:
        return array
    values = torch.fft.ifft2(resized_spectrum(torch.fft.fft2(array), n_px)) * (n_px / n) ** 2
    result: Tensor = values if array.is_complex() else values.real
    return result


def resized_spectrum(spectrum: Tensor, n_px: int) -> Tensor:
    """A spectrum (..., n, n), zero frequency first, on n_px x n_px frequencies of the same step:
    what does not fit is cut, and of an even grid the Nyquist row and column; new ones are 0."""
    n = spectrum.shape[-1]
    if n == n_px:
        return spectrum
    half = (min(n, n_px) - 1) // 2
    out = spectrum.new_zeros((*spectrum.shape[:-2], n_px, n_px))
    low, high = slice(0, half + 1), slice(-half, None)
    for rows in (low, high):
        for columns in (low, high):
            out[..., rows, columns] = spectrum[..., rows, columns]
    return out


def even_fast_length(n: float) -> int:
    """The smallest even grid size of at least `n` with no prime factor above 7."""
    size = max(2, math.ceil(n - 1e-9))
    while size % 2 or size % 11 == 0 or next_fast_len(size) != size:
        size += 1
    return size


def shift(array: Tensor, shift_A: tuple[float, float], box_A: float) -> Tensor:
    """An array (..., y, x) moved by (y, x) Å in Fourier space; the box is periodic."""
    n = array.shape[-1]
    q = torch.fft.fftfreq(n, box_A / n, dtype=torch.float64)
    ramp = torch.exp(-2j * math.pi * (q[:, None] * shift_A[0] + q[None, :] * shift_A[1]))
    # A real array's Nyquist line has no partner to carry the opposite phase.
    ramp[n // 2, :] = ramp[n // 2, :].real.to(ramp.dtype)
    ramp[:, n // 2] = ramp[:, n // 2].real.to(ramp.dtype)
    moved = torch.fft.ifft2(torch.fft.fft2(array) * ramp.to(array.device))
    result: Tensor = (moved if array.is_complex() else moved.real).to(array.dtype)
    return result


def quarter_turn(array: Tensor, turns: int = 1) -> Tensor:
    """A square array (..., y, x) turned by 90 degrees about its pixel n//2: no pixel is
    interpolated, and of an even size the row and column that have no partner wrap around."""
    turned = torch.rot90(array, turns % 4, (-2, -1))
    # Reversing an even axis moves pixel n//2 to n//2 - 1.
    step = 1 - array.shape[-1] % 2
    rolls = {0: (0, 0), 1: (step, 0), 2: (step, step), 3: (0, step)}[turns % 4]
    return torch.roll(turned, rolls, (-2, -1))
