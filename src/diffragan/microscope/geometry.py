"""Where a detector's pixels lie in the pattern: centre, camera length, elliptical distortion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from torch import Tensor

from diffragan.microscope.noise import GEOMETRY
from diffragan.settings import DetectorSettings

OVERSAMPLED = 4  # far field computed on a grid so much finer than 1 / box

Grid = NDArray[np.float64]


def seen_by_pixels(
    n_px: int, centre_px: tuple[float, float], ellipse: float = 0.0, ellipse_deg: float = 0.0
) -> tuple[Grid, Grid]:
    """(n, n) y and x, in pixels from the beam, of the undistorted pattern at each pixel of a
    detector.

    Args:
        centre_px: (y, x) of the beam. ellipse, ellipse_deg: distances from it come out longer by
            this fraction along the angle (from x towards y) and shorter across it.
    """
    y, x = np.indices((n_px, n_px), dtype=np.float64)
    dy, dx = y - centre_px[0], x - centre_px[1]
    turn = math.radians(ellipse_deg)
    along = (math.cos(turn) * dx + math.sin(turn) * dy) / (1 + ellipse)
    across = (-math.sin(turn) * dx + math.cos(turn) * dy) / (1 - ellipse)
    return (
        math.sin(turn) * along + math.cos(turn) * across,
        math.cos(turn) * along - math.sin(turn) * across,
    )


def far_field(scattered: NDArray[np.complexfloating]) -> Grid:
    """(k n, k n) intensity of what an object (n, n) scatters out of the beam, zero frequency in the
    middle, on a grid `OVERSAMPLED` times as fine as 1 / its field; `fft2` unscaled."""
    n = scattered.shape[-1]
    wide = np.zeros((n * OVERSAMPLED,) * 2, np.complex128)
    wide[:n, :n] = scattered
    result: Grid = np.fft.fftshift(np.abs(np.fft.fft2(wide)) ** 2)
    return result


def at(values: Grid, y: Grid, x: Grid, *, order: int = 3) -> Grid:
    """Values (n, n), zero in the middle, at places y, x in their pixels from there."""
    middle = len(values) // 2
    result: Grid = map_coordinates(values, (middle + y, middle + x), order=order, mode="nearest")
    return result


def as_detected(
    wave: Tensor,
    direct: Tensor,
    smooth: Tensor,
    m: int,
    detector: DetectorSettings,
    seeds: Sequence[int],
) -> Tensor:
    """Intensities (b, m, m), zero frequency at [m // 2, m // 2], as a detector shows them whose
    centre, camera length and roundness are off; each item's errors by its seed.

    Args:
        wave: (b, y, x) Fourier values, FFT order. direct: (b,) complex, of the direct beam in it.
        smooth: (b, y, x) intensity beside it.
    """
    out = []
    for one, beam, beside, seed in zip(wave, direct, smooth, seeds, strict=True):
        rng = np.random.default_rng([seed, GEOMETRY])
        off = detector.centre_error_px * rng.standard_normal(2)
        longer = 1 + detector.scale_error * float(rng.standard_normal())
        centre = (m // 2 + float(off[0]), m // 2 + float(off[1]))
        y, x = seen_by_pixels(m, centre, detector.ellipse, detector.ellipse_deg)
        scattered = one.clone()
        scattered[0, 0] -= beam
        n = scattered.shape[-1]
        space = torch.fft.ifft2(scattered, norm="forward").numpy()
        fine = far_field(space) / n**4
        shown = at(fine, OVERSAMPLED * y / longer, OVERSAMPLED * x / longer).clip(min=0)
        even = np.fft.fftshift(beside.numpy())
        shown += at(even, y / longer, x / longer, order=1).clip(min=0)
        # A pixel of a longer camera sees less of the pattern.
        shown /= longer**2 * (1 + detector.ellipse) * (1 - detector.ellipse)
        shown += float(beam.abs()) ** 2 * _spot(m, centre)
        out.append(torch.from_numpy(shown))
    return torch.stack(out)


def _spot(m: int, centre_px: tuple[float, float]) -> Grid:
    """(m, m) a point shared by the pixels around it."""
    near = [np.clip(1 - np.abs(np.arange(m) - c), 0, None) for c in centre_px]
    result: Grid = np.outer(*near)
    return result
