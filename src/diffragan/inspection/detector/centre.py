"""The centre of a pattern: by the beam itself, by Friedel's symmetry, and where it wanders."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from diffragan.inspection.detector.smoothing import Image, Mask, distances, filled, rough_centre

_SPOT_PX = 4  # radius that holds the direct beam
_LOOK_PX = 32  # about where it is guessed, within which it is found
_LEAST_ELECTRONS = 1000  # of a direct beam
_SURE_Z = 8.0  # standard deviations of a symmetry that is there
_SMOOTH_PX = 0.7


@dataclass(frozen=True)
class Centre:
    """Where the zero frequency lies: (y, x) in pixels, the pixel's middle being whole.

    error_px: standard deviation of each coordinate. by: what it was found by. z: how many standard
    deviations the symmetry about it stands above chance, 0 for the beam. width_px: standard
    deviation of the direct beam's spot, 0 where it is not seen.
    """

    y: float
    x: float
    error_px: float
    by: str
    z: float = 0.0
    width_px: float = 0.0


def beam_centre(total: Image, good: Mask) -> Centre | None:
    """By the direct beam, where the sum (y, x) of frames shows one: its centre of mass."""
    counts = filled(total, good)
    guess = rough_centre(counts, good)
    # All of it happens near the guess: the rest of the frame is not looked at again and again.
    rows, columns = (slice(max(round(c) - _LOOK_PX, 0), round(c) + _LOOK_PX + 1) for c in guess)
    around_it = counts[rows, columns]
    y, x = np.indices(around_it.shape, dtype=np.float64)
    y, x = y + rows.start, x + columns.start
    cy, cx = guess
    for _ in range(8):
        ring = np.hypot(y - cy, x - cx)
        near = ring <= _SPOT_PX
        around = around_it[(ring > _SPOT_PX + 1) & (ring <= _SPOT_PX + 3)]
        if not around.size:
            return None
        spot = np.where(near, around_it - np.median(around), 0.0).clip(min=0)
        electrons = spot.sum()
        if electrons <= 0:
            return None
        cy, cx = float((spot * y).sum() / electrons), float((spot * x).sum() / electrons)
    blocked = not good[rows, columns][near].all()
    if spot.max() > 0.7 * electrons and electrons < 0.5 * counts.sum():
        return None  # a hot pixel
    faint = electrons < max(_LEAST_ELECTRONS, 0.05 * float(counts.sum()))
    if blocked or faint or spot.max() < 5 * np.median(around):
        return None
    width = math.sqrt(float((spot * ((y - cy) ** 2 + (x - cx) ** 2)).sum()) / electrons / 2)
    error = max(width, 0.3) / math.sqrt(electrons)
    return Centre(cy, cx, error, "the direct beam", width_px=width)


def friedel_centre(
    total: Image, good: Mask, guess: tuple[float, float], reach_px: float
) -> Centre | None:
    """By Friedel's symmetry: the point about which counts (y, x) are most like themselves turned
    by 180 degrees, within `reach_px` of a guess; None where no such point stands out.

    Speckles of counts whose noise was made even (Anscombe) are convolved with themselves: the peak
    lies at twice the centre. Masked pixels take no part.
    """
    usable = good & (distances(total.shape, guess) > _SPOT_PX)
    even = np.where(usable, 2 * np.sqrt(np.clip(total, 0, None) + 3 / 8), 0.0)
    weight = ndimage.gaussian_filter(usable.astype(float), 4.0)
    wide = ndimage.gaussian_filter(even, 4.0) / np.maximum(weight, 1e-6)
    speckles = np.where(usable, even - wide, 0.0)
    speckles = ndimage.gaussian_filter(speckles, _SMOOTH_PX) * usable
    # A few bright ones shall not decide.
    limit = 4 * float(speckles[usable].std()) if usable.any() else 0.0
    speckles = np.clip(speckles, -limit, limit)
    like = _with_itself(speckles)
    size = _with_itself(speckles**2).clip(min=0)
    score = like / np.sqrt(np.maximum(size, 1e-3 * size.max(initial=1e-12)))
    y, x = np.indices(score.shape)
    near = np.hypot(y - 2 * guess[0], x - 2 * guess[1]) <= 2 * reach_px
    if not near.any():
        return None
    peak = np.unravel_index(int(np.where(near, score, -np.inf).argmax()), score.shape)
    apart = near | (np.hypot(y - peak[0], x - peak[1]) < 60)
    apart &= np.hypot(y - peak[0], x - peak[1]) > 10
    spread = float(np.sqrt(np.mean(score[apart] ** 2))) if apart.any() else 1.0
    z = float(score[peak]) / max(spread, 1e-9)
    if z < _SURE_Z or not all(2 <= p < s - 2 for p, s in zip(peak, score.shape, strict=True)):
        return None
    (sy, wy), (sx, wx) = _vertex(score[:, peak[1]], peak[0]), _vertex(score[peak[0]], peak[1])
    return Centre(sy / 2, sx / 2, max(wy, wx) / (2 * z), "Friedel's symmetry", z)


def _with_itself(values: Image) -> Image:
    """The sum over x of v(x) v(s - x), for every s."""
    shape = [fft.next_fast_len(2 * side - 1, real=True) for side in values.shape]
    spectrum = fft.rfft2(values, shape)
    y, x = (2 * side - 1 for side in values.shape)
    result: Image = fft.irfft2(spectrum**2, shape)[:y, :x]
    return result


def _vertex(line: Image, at: np.intp) -> tuple[float, float]:
    """Where the parabola through a peak and its neighbours is highest, and the peak's width."""
    low, mid, high = (float(line[int(at) + k]) for k in (-1, 0, 1))
    bend = low - 2 * mid + high
    if bend >= 0:
        return float(at), 1.0
    return float(at) + (low - high) / (2 * bend), math.sqrt(-mid / bend)


def find_centre(
    total: Image, good: Mask, told: tuple[float, float] | None = None
) -> tuple[Centre | None, list[Centre]]:
    """The best centre of the sum (y, x) of frames, and all that were found.

    Args:
        told: (y, x) as the file or the user says, to look around.
    """
    beam = beam_centre(total, good)
    guess = told or ((beam.y, beam.x) if beam else rough_centre(total, good))
    reach = 8.0 if beam else 0.15 * min(total.shape)
    friedel = friedel_centre(total, good, guess, reach)
    if friedel is not None and not beam:
        # Once more where it is, as the mask about the guess was somewhere else.
        friedel = friedel_centre(total, good, (friedel.y, friedel.x), 4.0) or friedel
    found = [centre for centre in (friedel, beam) if centre is not None]
    best = min(found, key=lambda c: c.error_px) if found else None
    # A bright spot about which nothing is symmetric is not the beam.
    if beam and friedel and math.hypot(beam.y - friedel.y, beam.x - friedel.x) > 1.0:
        best = friedel
    return best, found


def wandering(
    centres: NDArray[np.float64], errors_px: NDArray[np.float64], scan: tuple[int, int] | None
) -> tuple[NDArray[np.float64], float]:
    """Centres (n, 2) of n frames on the plane that fits them best, as the beam's descan moves it
    with the scan; and by how many pixels they move in all. One centre where they stay.

    Args:
        centres: (n, 2) of each frame, NaN where it was not found. errors_px: (n,).
        scan: rows and columns of the scan, n in all; none: the plane is a line over the frames.
    """
    n = len(centres)
    rows, columns = scan if scan else (1, n)
    row, column = np.divmod(np.arange(n), columns)
    basis = np.stack((np.ones(n), row / max(rows - 1, 1), column / max(columns - 1, 1)), -1)
    basis = basis[:, [0, *(k for k, side in ((1, rows), (2, columns)) if side > 1)]]
    known = np.isfinite(centres).all(1)
    weight = np.where(known, 1 / np.maximum(errors_px, 0.02), 0.0)
    for _ in range(5):  # without those far off
        left, right = basis * weight[:, None], np.nan_to_num(centres) * weight[:, None]
        plane, *_ = np.linalg.lstsq(left, right, rcond=None)
        off = np.abs(np.nan_to_num(centres) - basis @ plane).max(1)
        typical = 1.4826 * float(np.median(off[weight > 0])) if (weight > 0).any() else 0.0
        weight = np.where(off > 4 * max(typical, 0.05), 0.0, weight)
    fitted: NDArray[np.float64] = basis @ plane
    return fitted, float(np.ptp(fitted, axis=0).max())
