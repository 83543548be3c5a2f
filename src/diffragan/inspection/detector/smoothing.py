"""Frames with faults made smooth: what lies under a bad pixel, and where most light falls."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float64]
Mask = NDArray[np.bool_]


def rough_centre(counts: Image, good: Mask) -> tuple[float, float]:
    """(y, x) of the brightest region some pixels wide: where scattering comes from, or where it
    comes from behind a beam stop."""
    smooth = ndimage.gaussian_filter(filled(counts, good), 3.0)
    y, x = np.unravel_index(int(smooth.argmax()), smooth.shape)
    return float(y), float(x)


def filled(values: Image, good: Mask) -> Image:
    """The same with bad pixels as the mean of the good ones around them."""
    if good.all():
        return values
    weight = ndimage.gaussian_filter(good.astype(float), 1.5)
    around = ndimage.gaussian_filter(np.where(good, values, 0.0), 1.5) / np.maximum(weight, 1e-6)
    wide = float(values[good].mean()) if good.any() else 0.0
    result: Image = np.where(good, values, np.where(weight > 1e-3, around, wide))
    return result


def distances(shape: tuple[int, ...], centre: tuple[float, float]) -> Image:
    """Of every pixel (y, x) from a centre, in pixels."""
    y, x = np.indices(shape)
    result: Image = np.hypot(y - centre[0], x - centre[1])
    return result
