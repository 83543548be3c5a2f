"""Defocus by the rings that carbon or ice leaves in an image's power spectrum: its power is least
where the lens passes no contrast (Thon, Z. Naturforsch. 21a, 476, 1966)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.inspection.detector.smoothing import Image
from diffragan.optics import aberration, q_from_angle
from diffragan.settings import Settings

_TILE_A, _MOST_PX = 400.0, 1024  # side of the pieces whose power is averaged
_COARSEST_A = 30.0  # below its frequency the power falls too fast
_SMOOTH = 3  # powers of q that background and envelope are made of
_RINGS = 1.5  # dark rings that the band must hold: fewer may be the object's own shape
_EXPLAINED = 0.7  # of what a smooth curve leaves, by the rings, to believe them


@dataclass(frozen=True)
class ThonRings:
    """The size of the defocus in Å that an image's rings tell (not its sign), and the part of the
    power's variation about a smooth curve that they explain."""

    defocus_A: float
    explained: float


def thon_rings(
    image: Image, pixel_A: float, settings: Settings, tried_A: Sequence[float]
) -> ThonRings | None:
    """The rings of an image (y, x), where it shows some.

    Args:
        tried_A: sizes of the defocus to look at, above 0; the best is refined.
    """
    q, power = radial_power(image, pixel_A)
    aperture = q_from_angle(settings.image.aperture_mrad, settings.energy_ev)
    band = (q > 1 / _COARSEST_A) & (q < min(0.95 * aperture, 0.45 / pixel_A))
    if band.sum() < 4 * _SMOOTH:
        return None
    q, power = q[band], power[band]
    q2 = torch.from_numpy(q**2)
    x = (q - q.mean()) / np.ptp(q) * 2
    smooth = np.stack([x**k for k in range(_SMOOTH)], -1)
    # As many numbers as with rings, so that both curves have the same freedom.
    free = np.stack([x**k for k in range(2 * _SMOOTH)], -1)
    alone = _left(free, power)

    def explained(defocus_A: float) -> float:
        chi = aberration(q2, settings.energy_ev, defocus_A, settings.image.cs_mm).numpy()
        rings = np.sin(chi) ** 2
        return 1 - _left(np.hstack((smooth, smooth * rings[:, None])), power) / alone

    # sin chi is 0 once more with every pi.
    rings_an_A = abs(float(aberration(q2[-1:], settings.energy_ev, 1.0, 0.0)[0])) / math.pi
    some = [defocus for defocus in tried_A if defocus * rings_an_A >= _RINGS]
    if not some:
        return None
    best = max(some, key=explained)
    step = 0.1 * best
    while step > 2.0:
        step /= 2
        best = max((best - step, best, best + step), key=explained)
    found = explained(best)
    return ThonRings(float(best), found) if found > _EXPLAINED else None


def _left(basis: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Sum of squares that a least-squares fit leaves."""
    fit, *_ = np.linalg.lstsq(basis, values, rcond=None)
    return float(((values - basis @ fit) ** 2).sum())


def radial_power(image: Image, pixel_A: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frequencies in 1/Å and the mean power there of an image's contrast, over pieces that overlap
    by half, softly cut out."""
    side = int(min(_TILE_A / pixel_A, _MOST_PX, *image.shape)) // 2 * 2
    window = np.outer(np.hanning(side), np.hanning(side))
    total, count = np.zeros((side, side // 2 + 1)), 0
    for y in range(0, image.shape[0] - side + 1, side // 2):
        for x in range(0, image.shape[1] - side + 1, side // 2):
            piece = image[y : y + side, x : x + side]
            if piece.mean() > 0:
                contrast = (piece / piece.mean() - 1) * window
                total += np.abs(np.fft.rfft2(contrast)) ** 2
                count += 1
    fy, fx = np.fft.fftfreq(side), np.fft.rfftfreq(side)
    ring = np.rint(np.hypot(fy[:, None], fx[None]) * side).astype(int)
    rings = side // 2
    inside = ring < rings
    sums = np.bincount(ring[inside], total[inside], rings)
    power = sums / np.maximum(np.bincount(ring[inside], minlength=rings), 1) / max(count, 1)
    return np.arange(rings) / (side * pixel_A), power
