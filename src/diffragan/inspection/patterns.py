"""The patterns' side of an inspection: mask, centre, calibration of one detector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.inspection.detector.bad_pixels import find_bad_pixels
from diffragan.inspection.detector.calibration import (
    pixel_of_patterns,
    pixel_of_rings,
    uncalibrated,
)
from diffragan.inspection.detector.centre import (
    Centre,
    beam_centre,
    find_centre,
    friedel_centre,
    wandering,
)
from diffragan.inspection.detector.field import (
    Distortion,
    Geometry,
    pattern_on_grid,
    ring_distortion,
)
from diffragan.inspection.detector.smoothing import Image, Mask
from diffragan.inspection.findings import PatternFindings
from diffragan.inspection.frames import Frames
from diffragan.progress import Progress
from diffragan.settings import Settings

_WANDER_FRAMES = 6  # fewer do not show how a centre moves
_WANDER_LOOKS = 256
_SPOT_WIDTHS = 5.0  # beyond so many of them scattering outshines the direct beam


def inspect_patterns(frames: Frames, settings: Settings, progress: Progress) -> PatternFindings:
    """Which pixels to use, where the beam is, and what a pixel is worth.

    Raises:
        DiffraganError: no centre can be found, or nothing tells a pixel's worth.
    """
    chosen = settings.inspect
    total, seen, summed = frames.total(progress)
    bad = find_bad_pixels(total, summed, seen)
    good = seen & ~bad.any
    told = chosen.centre_px or frames.told.get("centre_px")
    centre, found = find_centre(total, good, told)
    if centre is None:
        if chosen.centre_px is None:
            raise DiffraganError(
                f"The centre of the patterns of {frames.path} can't be found, neither by the beam "
                "nor by their symmetry; give --centre ROW,COLUMN, or more frames."
            )
        centre = Centre(*chosen.centre_px, 1.0, "your word")
    scan = scan_of(frames, settings)
    centres, wander = _centres(frames, good, centre, scan, progress)
    known = pixel_of_patterns(frames.path, frames.told, chosen, settings.energy_ev)
    findings = PatternFindings(
        total, summed, good, bad, centre, found, centres, wander, *(known or (0.0, ""))
    )
    if chosen.rings_A:
        return _by_rings(findings, chosen.rings_A, known[0] if known else None)
    if known is None:
        raise uncalibrated(frames.path, frames.told)
    return findings


def pattern_at(
    frames: Frames, found: PatternFindings, item: int, box_A: float, m: int
) -> tuple[Image, Mask]:
    """A pattern (m, m) on the grid of 1 / box, in counts, and where it was measured: on good
    pixels, off the direct beam."""
    counts, usable = frames.counts(item)
    centre = (float(found.centres[item, 0]), float(found.centres[item, 1]))
    good = usable & found.good
    spot = max((other.width_px for other in found.others), default=0.0)
    if spot:
        y, x = np.indices(counts.shape)
        good &= np.hypot(y - centre[0], x - centre[1]) > _SPOT_WIDTHS * spot + 0.5
    geometry = Geometry(centre, found.pixel_per_A, found.distortion or Distortion())
    return pattern_on_grid(counts, good, geometry, box_A, m, seed=item)


def scan_of(frames: Frames, settings: Settings) -> tuple[int, int] | None:
    """Rows and columns of the scan, as told by hand or by the file.

    Raises:
        DiffraganError: the frames do not fill a scan of the shape told by hand.
    """
    shape = settings.inspect.scan_shape
    if shape is None:
        told = frames.told.get("scan_shape")
        return told if told and told[0] * told[1] == len(frames) else None
    if shape[0] * shape[1] != len(frames):
        rows = f", which makes {len(frames) // shape[1]} whole rows of {shape[1]}"
        raise DiffraganError(
            f"{frames.path} holds {len(frames)} frames and not {shape[0]} x {shape[1]}"
            f"{rows}; correct --scan-shape, or leave it out."
        )
    return shape


def _centres(
    frames: Frames,
    good: Mask,
    centre: Centre,
    scan: tuple[int, int] | None,
    progress: Progress,
) -> tuple[NDArray[np.float64], float]:
    """The centre of every frame (n, 2), and how far it moves; the same for all where it stays."""
    n = len(frames)
    same = np.tile([centre.y, centre.x], (n, 1))
    if n < _WANDER_FRAMES:
        return same, 0.0
    centres, errors = np.full((n, 2), np.nan), np.ones(n)
    looks = np.unique((np.arange(min(n, _WANDER_LOOKS)) * n) // min(n, _WANDER_LOOKS))
    by_beam = centre.by == "the direct beam"
    for k, item in enumerate(looks):
        counts, usable = frames.counts(int(item))
        here = (
            beam_centre(counts, usable & good)
            if by_beam
            else friedel_centre(counts, usable & good, (centre.y, centre.x), 4.0)
        )
        if here is not None:
            centres[item], errors[item] = (here.y, here.x), here.error_px
        progress("centres of frames", k + 1, len(looks))
    known = np.isfinite(centres).all(1)
    if known.sum() < _WANDER_FRAMES:
        return same, 0.0
    plane, wander = wandering(centres, errors, scan)
    typical = float(np.median(errors[known])) / np.sqrt(known.sum())
    if wander < max(0.1, 8 * typical):
        return same, 0.0
    return plane, wander


def _by_rings(
    findings: PatternFindings, spacings_A: tuple[float, ...], guess: float | None
) -> PatternFindings:
    """The same calibrated by rings, their ellipticity undone."""
    value, error, radii = pixel_of_rings(
        findings.total, findings.good, findings.centre, spacings_A, guess
    )
    centre = (findings.centre.y, findings.centre.x)
    distortions = []
    for radius in radii:
        span = max(4.0, 0.05 * radius)
        distortions.append(
            ring_distortion(findings.total, findings.good, centre, (radius - span, radius + span))
        )
    best, spread, _ = min(distortions, key=lambda found: found[1])
    real = best.size > 3 * spread and best.size > 0.002
    return replace(
        findings,
        pixel_per_A=value,
        by=f"by {len(radii)} {'ring' if len(radii) == 1 else 'rings'}",
        pixel_error=error,
        distortion=best if real else Distortion(),
        rings_px=tuple(radii),
    )
