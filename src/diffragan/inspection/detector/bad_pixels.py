"""Pixels of a detector that tell nothing: hot, dead, behind the beam stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from diffragan.inspection.detector.centre import beam_centre
from diffragan.inspection.detector.smoothing import Image, Mask, distances, filled, rough_centre

# A pixel stands out beyond so many standard deviations of its count...
_DEVIATIONS = 6.0
# ... and beyond this factor on its surroundings in one frame, for the speckles of a molecule are
# peaks too; in the sum of n frames of different molecules the excess over 1 falls with sqrt(n).
_FACTOR = 3.0
_BEAM_PX = 6  # around the direct beam no pixel is called hot
_BLOCKED = 0.2  # of what its ring has, on the average over a few pixels
_SHADE = 0.05  # of what a line would have, behind a thin holder
_LEAST_STOP_PX = 30
_LINE_PX = 15
_RING = np.ones((5, 5), bool)
_RING[2, 2] = False


@dataclass(frozen=True)
class BadPixels:
    """(y, x) masks of the pixels to leave out, True where bad; they do not overlap."""

    hot: Mask
    dead: Mask
    stop: Mask

    @property
    def any(self) -> Mask:
        """All of them."""
        return self.hot | self.dead | self.stop


def find_bad_pixels(total: Image, frames: int, valid: Mask | None = None) -> BadPixels:
    """Hot and dead pixels and the beam stop in the sum (y, x) of so many frames of counts.

    Args:
        valid: pixels that are known to be good or bad already; False ones are not looked at.
    """
    good = np.isfinite(total) if valid is None else valid & np.isfinite(total)
    counts = filled(np.where(good, total, 0.0), good)
    factor = 1 + (_FACTOR - 1) / np.sqrt(frames)
    high = ndimage.percentile_filter(counts, 70, footprint=_RING, mode="mirror") * factor
    hot = good & (counts > high + _DEVIATIONS * np.sqrt(high + 1))
    low = ndimage.percentile_filter(counts, 40, footprint=_RING, mode="mirror") / factor
    # On Anscombe's scale; a slope or a zero of a pattern leaves more than a tenth.
    dead = good & (2 * (np.sqrt(low) - np.sqrt(counts)) > _DEVIATIONS) & (counts < 0.1 * low)
    hot &= distances(counts.shape, rough_centre(counts, ~hot & good)) > _BEAM_PX
    beam = beam_centre(counts, good & ~hot)
    if beam is not None:
        dead &= distances(counts.shape, (beam.y, beam.x)) > _BEAM_PX
    stop = beam_stop(counts, good & ~hot & ~dead, None if beam is None else (beam.y, beam.x))
    return BadPixels(hot & ~stop, dead & ~stop, stop & good)


def beam_stop(counts: Image, good: Mask, beam: tuple[float, float] | None) -> Mask:
    """The shadow of a beam stop and its holder: a region in which far less arrives than elsewhere
    at the same distance or, in the middle, further out. Nothing where the `beam` (y, x) is seen."""
    if beam is not None:
        return np.zeros(counts.shape, dtype=bool)
    few = filled(counts, good)
    smooth = ndimage.uniform_filter(few, 3)
    distance = distances(counts.shape, _light_centre(smooth))
    ring = distance.astype(int)
    # The third quartile of a ring: half of it may lie behind the stop.
    levels = ndimage.labeled_comprehension(
        smooth, ring, np.arange(ring.max() + 1), lambda v: np.percentile(v, 75), float, 0.0
    )
    # Scattering never falls towards the middle, so a ring in shadow has its neighbours' level.
    levels = np.maximum.accumulate(levels[::-1])[::-1]
    expected = levels[ring]
    dark = (smooth < _BLOCKED * expected) & (expected > 3.0)
    # Where counts are few a wider mean is needed to tell shadow from chance.
    dark |= (ndimage.uniform_filter(few, 5) < _BLOCKED * expected) & (expected > 0.8)
    dark = ndimage.binary_opening(dark, np.ones((3, 3)))
    # The holder is a thin line; what lies along one is averaged.
    for line in _lines():
        lit = ndimage.convolve(few, line, mode="nearest")
        dark |= (lit < _SHADE * ndimage.convolve(expected, line)) & (expected > 0.25)
    labels, count = ndimage.label(dark)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    nearest = ndimage.minimum(distance, labels, np.arange(count + 1))
    keep = (sizes >= _LEAST_STOP_PX) & (nearest < max(3.0, 0.05 * counts.shape[0]))
    keep[0] = False
    # The rim of the shadow is half lit.
    grown = ndimage.binary_dilation(keep[labels], np.ones((3, 3)))
    result: Mask = ndimage.binary_fill_holes(grown)
    return result


def _lines() -> list[Image]:
    """Lines through a pixel, three wide, in twelve directions; each adds up to 1."""
    y, x = np.indices((_LINE_PX, _LINE_PX)) - _LINE_PX // 2
    turns = np.deg2rad(np.arange(0, 180, 15))
    lines = [np.abs(np.cos(t) * y - np.sin(t) * x) <= 1.0 for t in turns]
    return [line / line.sum() for line in lines]


def _light_centre(smooth: Image) -> tuple[float, float]:
    """(y, x) about which most light lies alike in all directions: the centre of mass of what is
    bright, mirrored at itself until it stays."""
    y, x = np.indices(smooth.shape)
    weight = np.sqrt(np.clip(smooth, 0, np.percentile(smooth, 98)))
    cy, cx = (float((axis * weight).sum() / max(weight.sum(), 1e-9)) for axis in (y, x))
    for radius in (0.5, 0.35, 0.25):
        near = weight * (np.hypot(y - cy, x - cx) < radius * smooth.shape[0])
        if near.sum() > 0:
            cy, cx = (float((axis * near).sum() / near.sum()) for axis in (y, x))
    return cy, cx
