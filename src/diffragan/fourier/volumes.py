"""Volumes and their spectra: centring, resizing, turning, moving, and the window's fall-off."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from diffragan.fourier.interpolation import (
    window_transform,
)

CPU = torch.device("cpu")
_EDGE = 0.46  # of the box: beyond this radius a volume is not interpolated faithfully


def centred(volume: Tensor) -> Tensor:
    """The rotation centre moved from [0, 0, 0] to [n//2]*3."""
    result: Tensor = torch.fft.fftshift(volume, dim=(-3, -2, -1))
    return result


def uncentred(volume: Tensor) -> Tensor:
    """The rotation centre moved from [n//2]*3 to [0, 0, 0]."""
    result: Tensor = torch.fft.ifftshift(volume, dim=(-3, -2, -1))
    return result


def resized(volume: Tensor, n: int) -> Tensor:
    """A volume (o, o, o) on n voxels a side of the same box, values kept; FFT order.

    What does not fit is cut, Nyquist planes among it; what is new is zero.
    """
    old = volume.shape[-1]
    if old == n:
        return volume
    spectrum = torch.fft.rfftn(volume, norm="forward")
    keep = (min(old, n) - 1) // 2
    out = spectrum.new_zeros((n, n, n // 2 + 1))
    low, high = slice(0, keep + 1), slice(-keep, None)
    for z in (low, high):
        for y in (low, high):
            out[z, y, : keep + 1] = spectrum[z, y, : keep + 1]
    result: Tensor = torch.fft.irfftn(out, s=(n, n, n), norm="forward")
    return result


def rotated(volume: Tensor, turn: Tensor) -> Tensor:
    """The volume (n, n, n), FFT order, whose value at r (x, y, z) is the old one at turn r.

    Views R of the old volume are views R turn of the new one. By cubic splines, so for small
    turns of smooth volumes. Works on the CPU.
    """
    from scipy.ndimage import affine_transform

    n = volume.shape[-1]
    matrix = turn.double().flip(0, 1).cpu().numpy()
    middle = np.full(3, n // 2)
    offset = middle - matrix @ middle
    turned = affine_transform(centred(volume).cpu().numpy(), matrix, offset, order=3)
    return uncentred(torch.from_numpy(turned).to(volume.device))


@lru_cache(maxsize=8)
def radius_px(n: int, device: torch.device = CPU) -> Tensor:
    """(n, n, n) distance from the rotation centre in voxels, FFT order."""
    axis = torch.fft.fftfreq(n, 1 / n, device=device) ** 2
    result: Tensor = (axis[:, None, None] + axis[None, :, None] + axis[None, None, :]).sqrt()
    return result


@lru_cache(maxsize=8)
def frequency_radius(n: int, device: torch.device = CPU) -> Tensor:
    """(n, n, n // 2 + 1) distance of a spectrum's voxels from zero frequency, in voxels."""
    axis = torch.fft.fftfreq(n, 1 / n, device=device) ** 2
    last = torch.arange(n // 2 + 1, dtype=axis.dtype, device=device) ** 2
    result: Tensor = (axis[:, None, None] + axis[None, :, None] + last[None, None, :]).sqrt()
    return result


@lru_cache(maxsize=8)
def deconvolution(n: int, device: torch.device) -> Tensor:
    """1 / the window's transform inside the faithful radius, 0 outside. (n, n, n)."""
    line = window_transform(n)
    window = line[:, None, None] * line[None, :, None] * line[None, None, :]
    inside = radius_px(n, CPU) <= _EDGE * n
    return torch.where(inside, 1 / window, 0.0).float().to(device)


def window_gain(n: int, largest: float, device: torch.device = CPU) -> Tensor:
    """What undoes the window's fall-off at every voxel (n, n, n), FFT order, but at most
    `largest`."""
    return deconvolution(n, device).clamp(max=largest)


def volume_spectrum(volume: Tensor) -> Tensor:
    """The spectrum (n, n, n // 2 + 1) that slices are taken from, the window's fall-off
    divided out; what lies beyond 0.46 of the box is left out."""
    n = volume.shape[-1]
    result: Tensor = torch.fft.rfftn(volume * deconvolution(n, volume.device), norm="forward")
    return result


def spectrum_volume(spectrum: Tensor) -> Tensor:
    """The volume of a merged spectrum, the window's fall-off divided out; 0 beyond 0.46 of the
    box. Inverse of `volume_spectrum` inside."""
    n = spectrum.shape[0]
    volume = torch.fft.irfftn(spectrum, s=(n, n, n), norm="forward")
    result: Tensor = volume * deconvolution(n, spectrum.device)
    return result


def low_pass(volume: Tensor, box_A: float, width_A: float) -> Tensor:
    """A volume convolved with a Gaussian of standard deviation `width_A`."""
    n = volume.shape[-1]
    factor = torch.exp(-2 * (math.pi * width_A / box_A * frequency_radius(n, volume.device)) ** 2)
    result: Tensor = torch.fft.irfftn(torch.fft.rfftn(volume) * factor, s=(n, n, n))
    return result


def best_shift(volume: Tensor, goal: Tensor) -> Tensor:
    """The shift (z, y, x), in voxels, at which a volume (n, n, n) correlates best with the volume
    of a spectrum (n, n, n // 2 + 1)."""
    n = volume.shape[-1]
    spectrum = torch.fft.rfftn(volume, norm="forward")
    match = torch.fft.irfftn(goal * spectrum.conj(), s=(n, n, n))
    at = int(match.argmax())
    place = [at // (n * n), at // n % n, at % n]
    out = []
    for axis in range(3):
        low, high = list(place), list(place)
        low[axis], high[axis] = (place[axis] - 1) % n, (place[axis] + 1) % n
        before, top, after = (float(match[tuple(p)]) for p in (low, place, high))
        bend = 2 * top - before - after
        moved = place[axis] + (0.5 * (after - before) / bend if bend > 0 else 0.0)
        out.append(moved - n if moved > n / 2 else moved)
    return torch.tensor(out, device=volume.device)


def moved(volume: Tensor, shift: Tensor) -> Tensor:
    """A volume carried by a shift (z, y, x) in voxels, exact for what is band-limited."""
    n = volume.shape[-1]
    axis, last = (f(n, device=volume.device) for f in (torch.fft.fftfreq, torch.fft.rfftfreq))
    cycles = (
        axis[:, None, None] * shift[0]
        + axis[None, :, None] * shift[1]
        + last[None, None, :] * shift[2]
    )
    ramp = torch.polar(torch.ones_like(cycles), -2 * torch.pi * cycles)
    result: Tensor = torch.fft.irfftn(torch.fft.rfftn(volume) * ramp, s=(n, n, n))
    return result
