"""What a pixel is worth: of a pattern in 1/Å, of an image in Å."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffragan.errors import DiffraganError
from diffragan.inspection.detector.centre import Centre
from diffragan.inspection.detector.smoothing import Image, Mask, distances
from diffragan.optics import wavelength_A
from diffragan.settings import InspectSettings

_RING_REACH = 0.1  # how far off a ring may be from where it is told to be


def pixel_of_patterns(
    file: Path, told: Mapping[str, Any], settings: InspectSettings, energy_ev: float
) -> tuple[float, str] | None:
    """1/Å a pixel of the detector, and by whose word; None where nobody tells.

    Args:
        told: what the file tells, as `read_arrays` has it.
    """
    if settings.reciprocal_pixel_per_A:
        return settings.reciprocal_pixel_per_A, "by hand"
    wavelength = wavelength_A(energy_ev)
    length = settings.camera_length_mm or told.get("camera_length_mm")
    pixel = settings.detector_pixel_um or told.get("detector_pixel_um")
    by_hand = settings.camera_length_mm or settings.detector_pixel_um
    if not by_hand and "reciprocal_pixel_per_A" in told:
        return float(told["reciprocal_pixel_per_A"]), f"as {file.name} tells"
    if not by_hand and "pixel_mrad" in told:
        return float(told["pixel_mrad"]) * 1e-3 / wavelength, f"as {file.name} tells"
    if length and pixel:
        whose = "by hand" if settings.camera_length_mm else f"as {file.name} tells"
        where = f"camera length {float(length):.5g} mm, pixels of {float(pixel):.4g} µm, {whose}"
        return float(pixel) * 1e-3 / float(length) / wavelength, where
    return None


def uncalibrated(file: Path, told: Mapping[str, Any]) -> DiffraganError:
    """What to give where nobody tells a pattern's pixel."""
    length, pixel = "camera_length_mm" in told, "detector_pixel_um" in told
    both = "--camera-length-mm and --detector-pixel-um"
    missing = "--camera-length-mm" if pixel else "--detector-pixel-um" if length else both
    return DiffraganError(
        f"{file} does not tell what a pixel of its patterns is worth; give {missing}, or "
        "--reciprocal-pixel (1/Å), or the spacings of its rings (--rings-A)."
    )


def pixel_of_rings(
    total: Image, good: Mask, centre: Centre, spacings_A: tuple[float, ...], guess: float | None
) -> tuple[float, float, list[float]]:
    """1/Å a pixel by rings of known spacings; its relative error; the rings' radii in pixels.

    Where nothing else tells a pixel's worth, the brightest ring is taken for the first spacing.

    Raises:
        DiffraganError: a ring that is not there.
    """
    profile = radial_profile(total, good, centre)
    radius = np.arange(len(profile))
    wide = np.exp(np.convolve(np.log(profile + 1e-3), np.ones(15) / 15, mode="same"))
    excess = profile / np.maximum(wide, 1e-9) - 1
    excess[:10] = 0
    excess[-8:] = 0
    if guess is None:
        guess = 1 / spacings_A[0] / float(_peak(excess, int(excess.argmax())))
    radii = []
    for spacing in spacings_A:
        expected = 1 / spacing / guess
        near = np.abs(radius - expected) <= max(_RING_REACH * expected, 2)
        if not near.any() or excess[near].max() < 0.03:
            raise DiffraganError(
                f"There is no ring of {spacing:g} Å near {expected:.0f} pixels from the centre; "
                "check --rings-A and the calibration, or leave --rings-A out."
            )
        radii.append(_peak(excess, int(np.where(near, excess, -1).argmax())))
    q = 1 / np.asarray(spacings_A)
    each = q / np.asarray(radii)
    value = float((q * radii).sum() / (np.asarray(radii) ** 2).sum())
    error = float(np.std(each) / value / np.sqrt(len(each))) if len(each) > 1 else 0.3 / radii[0]
    return value, error, radii


def radial_profile(total: Image, good: Mask, centre: Centre) -> Image:
    """Mean count in rings one pixel wide about the centre."""
    ring = np.rint(distances(total.shape, (centre.y, centre.x))).astype(int)
    counts = np.maximum(np.bincount(ring[good], minlength=int(ring.max()) + 1), 1)
    result: Image = np.bincount(ring[good], total[good], int(ring.max()) + 1) / counts
    return result


def _peak(excess: Image, at: int) -> float:
    """A peak's place by the mean of what stands above half of it."""
    span = np.arange(max(at - 4, 0), min(at + 5, len(excess)))
    weight = (excess[span] - 0.5 * excess[at]).clip(min=0)
    return float((span * weight).sum() / max(weight.sum(), 1e-12))
