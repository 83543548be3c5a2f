"""Frames brought to one field: patterns on the grid of 1 / box, images on its pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from diffragan.fourier.grids import resample
from diffragan.inspection.detector.smoothing import Image, Mask, filled


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


def pattern_on_grid(
    counts: Image,
    good: Mask,
    centre: tuple[float, float],
    pixel_per_A: float,
    box_A: float,
    m: int,
    distortion: Distortion | None = None,
) -> tuple[Image, Mask]:
    """Electrons (m, m) in each pixel of 1 / box, zero frequency at [m // 2, m // 2], and which of
    them were measured.

    Cubic splines between pixels, whose density is kept; a pixel of the grid that a bad one
    contributes to by more than 1 % is masked. A grid coarser than the detector's gets the mean over
    its pixels.
    """
    step = 1 / box_A / pixel_per_A
    parts = max(1, round(step))  # samples along a side of a grid pixel
    whole = filled(counts, good)
    coefficients = ndimage.spline_filter(whole, order=3, mode="nearest")
    usable = good.astype(np.float64)
    total, least = np.zeros((m, m)), np.ones((m, m))
    axis = np.arange(m) - m // 2
    for i in range(parts):
        for j in range(parts):
            off = (np.array((i, j)) + 0.5) / parts - 0.5
            qy, qx = np.meshgrid((axis + off[0]) * step, (axis + off[1]) * step, indexing="ij")
            dy, dx = (distortion or Distortion()).on_detector(qy, qx)
            place = (centre[0] + dy, centre[1] + dx)
            total += ndimage.map_coordinates(
                coefficients, place, order=3, mode="nearest", prefilter=False
            )
            near = ndimage.map_coordinates(usable, place, order=1, mode="constant", cval=0.0)
            least = np.minimum(least, near)
    electrons = total.clip(min=0) / parts**2 * step**2
    mask: Mask = least > 0.99
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
