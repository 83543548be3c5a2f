"""Frames brought to one field: patterns on the grid of 1 / box, images on its pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from diffragan.fourier.grids import resample
from diffragan.inspection.detector.smoothing import Image, Mask, filled

_AS_FINE = 1.1  # detector pixels in one of the grid up to which they are interpolated
_LEAST_BAD = 0.01  # part of a pixel that may not have been measured


@dataclass(frozen=True)
class Distortion:
    """A pattern that is longer by the fraction `size` along `angle_deg` (from x towards y) and
    shorter across it."""

    size: float = 0.0
    angle_deg: float = 0.0

    def on_detector(self, qy: Image, qx: Image) -> tuple[Image, Image]:
        """Where an undistorted point (y, x) comes out."""
        turn = math.radians(self.angle_deg)
        along = (math.cos(turn) * qx + math.sin(turn) * qy) * (1 + self.size)
        across = (-math.sin(turn) * qx + math.cos(turn) * qy) * (1 - self.size)
        return (
            math.sin(turn) * along + math.cos(turn) * across,
            math.cos(turn) * along - math.sin(turn) * across,
        )

    def undone(self, y: Image, x: Image) -> tuple[Image, Image]:
        """Where a point (y, x) of the detector would be without it."""
        turn = math.radians(self.angle_deg)
        along = (math.cos(turn) * x + math.sin(turn) * y) / (1 + self.size)
        across = (-math.sin(turn) * x + math.cos(turn) * y) / (1 - self.size)
        return (
            math.sin(turn) * along + math.cos(turn) * across,
            math.cos(turn) * along - math.sin(turn) * across,
        )


@dataclass(frozen=True)
class Geometry:
    """Where frequencies fall on a detector: the beam's centre (y, x) in pixels, what a pixel is
    worth in 1/Å, and how the pattern is distorted."""

    centre: tuple[float, float]
    pixel_per_A: float
    distortion: Distortion = Distortion()


def pattern_on_grid(
    counts: Image, good: Mask, geometry: Geometry, box_A: float, m: int, seed: int = 0
) -> tuple[Image, Mask]:
    """Electrons (m, m) in each pixel of 1 / box, zero frequency at [m // 2, m // 2], and which of
    them were measured.

    On a grid coarser than the detector's electrons are put into its pixels, each into one of those
    that its own reaches, with the chance of the area (counts that are no whole numbers by area): so
    counts stay counts, none is used twice, and their noise is that of counting. On a finer one,
    cubic splines between the detector's pixels. A pixel of the grid that a bad one contributes to
    by more than 1 % is masked.
    """
    step = 1 / box_A / geometry.pixel_per_A
    if step > _AS_FINE:
        return _put(counts, good, geometry, step, m, seed)
    axis = (np.arange(m) - m // 2) * step
    dy, dx = geometry.distortion.on_detector(*np.meshgrid(axis, axis, indexing="ij"))
    place = (geometry.centre[0] + dy, geometry.centre[1] + dx)
    values = ndimage.map_coordinates(filled(counts, good), place, order=3, mode="nearest")
    near = ndimage.map_coordinates(
        good.astype(np.float64), place, order=1, mode="constant", cval=0.0
    )
    mask: Mask = near > 1 - _LEAST_BAD
    return np.where(mask, values.clip(min=0) * step**2, 0.0), mask


def _put(
    counts: Image, good: Mask, geometry: Geometry, step: float, m: int, seed: int
) -> tuple[Image, Mask]:
    """Electrons sorted into a grid whose pixel is `step` of the detector's, above 1."""
    axes = [
        np.arange(n, dtype=np.float64) - c
        for n, c in zip(counts.shape, geometry.centre, strict=True)
    ]
    dy, dx = geometry.distortion.undone(*np.meshgrid(*axes, indexing="ij"))
    # The first pixel of the grid that one of the detector's reaches, and its part in that.
    sides = []
    for off in (dy, dx):
        left = off / step + m // 2 - 0.5 / step
        first = np.floor(left + 0.5).astype(np.int64)
        sides.append((first, ((first + 0.5 - left) * step).clip(0, 1)))
    rng = np.random.default_rng(seed)
    whole = bool((counts == np.rint(counts)).all())

    def sorted_in(values: Image, split: Callable[[Image, Image], Image]) -> Image:
        total = np.zeros((m + 2, m + 2))
        here = (values > 0) & np.all([(k >= -1) & (k < m) for k, _ in sides], axis=0)
        (row, high), (column, wide) = ((k[here] + 1, part[here]) for k, part in sides)
        upper = split(values[here], high)
        for values_, rows in ((upper, row), (values[here] - upper, row + 1)):
            left = split(values_, wide)
            np.add.at(total, (rows, column), left)
            np.add.at(total, (rows, column + 1), values_ - left)
        return total[1:-1, 1:-1]

    def drawn(values: Image, part: Image) -> Image:
        return rng.binomial(values.astype(np.int64), part).astype(np.float64)

    electrons = sorted_in(np.where(good, counts, 0.0), drawn if whole else np.multiply)
    covered = sorted_in(good.astype(np.float64), np.multiply)
    mask: Mask = covered > (1 - _LEAST_BAD) * step**2
    return np.where(mask, electrons, 0.0), mask


def image_on_field(
    image: Image, pixel_A: float, centre: tuple[float, float], box_A: float, m: int
) -> tuple[Image, float]:
    """The image (m, m) of a field around a centre (y, x in pixels of the camera), its middle at
    pixel [m // 2, m // 2], mean 1; and the part of the field that lies outside the camera's image,
    where the image's mean stands in."""
    target = box_A / m
    if pixel_A < 0.8 * target:
        side = min(image.shape) // 2 * 2
        start = [
            int(np.clip(round(c) - side // 2, 0, size - side))
            for c, size in zip(centre, image.shape, strict=True)
        ]
        cut = image[start[0] : start[0] + side, start[1] : start[1] + side]
        fewer = max(2, round(side * pixel_A / target / 2) * 2)
        image = resample(torch.from_numpy(cut.copy()), fewer).numpy()
        factor = fewer / side
        centre = ((centre[0] - start[0]) * factor, (centre[1] - start[1]) * factor)
        pixel_A = pixel_A / factor
    axis = (np.arange(m) - m // 2) * target / pixel_A
    y, x = np.meshgrid(centre[0] + axis, centre[1] + axis, indexing="ij")
    # A pixel reaches half its side around its middle.
    inside = (np.abs(y - (image.shape[0] - 1) / 2) <= image.shape[0] / 2) & (
        np.abs(x - (image.shape[1] - 1) / 2) <= image.shape[1] / 2
    )
    values = ndimage.map_coordinates(image, (y, x), order=5, mode="mirror")
    mean = float(values[inside].mean()) if inside.any() else 1.0
    values = np.where(inside, values, mean).clip(min=0)
    return values / values.mean(), float((~inside).mean())


def molecule_centre(
    image: Image, pixel_A: float, box_A: float, aperture_q: float
) -> tuple[float, float]:
    """(y, x) in pixels of what stands out most in an image: where its contrast between 25 Å and
    the aperture, squared and averaged over a quarter of the box, is largest."""
    flat = image / max(float(image.mean()), 1e-12) - 1
    frequency = [np.fft.fftfreq(side, pixel_A) for side in flat.shape]
    q = np.hypot(frequency[0][:, None], frequency[1][None, :])
    band = (q > 1 / 25.0) & (q < aperture_q)
    contrast = np.fft.ifft2(np.fft.fft2(flat) * band).real
    width = box_A / 8 / pixel_A
    power = ndimage.gaussian_filter(contrast**2, width)
    edge = [int(min(2 * width, side // 4)) for side in power.shape]
    inner = power[edge[0] : power.shape[0] - edge[0], edge[1] : power.shape[1] - edge[1]]
    peak = np.unravel_index(int(inner.argmax()), inner.shape)
    y, x = peak[0] + edge[0], peak[1] + edge[1]
    # The centre of what is there above half of the peak, near it.
    reach = round(box_A / 2.5 / pixel_A)
    top, left = max(int(y) - reach, 0), max(int(x) - reach, 0)
    near = (
        power[top : int(y) + reach + 1, left : int(x) + reach + 1]
        - 0.5 * (power[y, x] + np.median(power))
    ).clip(min=0)
    iy, ix = np.indices(near.shape)
    total = max(float(near.sum()), 1e-30)
    return (
        top + float((iy * near).sum()) / total,
        left + float((ix * near).sum()) / total,
    )


def ring_distortion(
    counts: Image, good: Mask, centre: tuple[float, float], radii_px: tuple[float, float]
) -> tuple[Distortion, float, NDArray[np.float64]]:
    """The distortion that makes a ring between two radii round; its error; and the ring's radius in
    each of 36 directions, NaN where it is hidden."""
    y, x = np.indices(counts.shape)
    dy, dx = y - centre[0], x - centre[1]
    distance, phi = np.hypot(dy, dx), np.arctan2(dy, dx)
    sector = np.floor((phi + np.pi) / (2 * np.pi) * 36).astype(int) % 36
    near = good & (distance >= radii_px[0]) & (distance <= radii_px[1])
    radius = np.full(36, np.nan)
    for k in range(36):
        here = near & (sector == k)
        if here.sum() < 5:
            continue
        r, v = distance[here], counts[here]
        base = np.polyval(np.polyfit(r, v, 1), r)
        weight = (v - np.minimum(base, np.percentile(v, 40))).clip(min=0) ** 2
        if weight.sum() > 0:
            radius[k] = float((r * weight).sum() / weight.sum())
    known = np.isfinite(radius)
    if known.sum() < 12:
        return Distortion(), math.inf, radius
    angle = (np.arange(36) + 0.5) / 36 * 2 * np.pi - np.pi
    basis = np.stack((np.ones(36), np.cos(2 * angle), np.sin(2 * angle)), -1)[known]
    fit, *_ = np.linalg.lstsq(basis, radius[known], rcond=None)
    left = radius[known] - basis @ fit
    error = float(np.sqrt((left**2).sum() / max(known.sum() - 3, 1) * 2 / known.sum())) / fit[0]
    size = math.hypot(fit[1], fit[2]) / fit[0]
    return Distortion(float(size), math.degrees(math.atan2(fit[2], fit[1])) / 2), error, radius
