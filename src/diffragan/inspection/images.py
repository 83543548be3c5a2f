"""The images' side of an inspection: dose, defocus, and how they lie to their patterns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.inspection.agreement import (
    PLACEMENTS,
    Agreement,
    ImagedPatterns,
    agreement,
    best_defocus,
    own_defoci,
    sign_of_defocus,
)
from diffragan.inspection.detector.field import image_on_field, molecule_centre
from diffragan.inspection.detector.smoothing import Image, Mask
from diffragan.inspection.frames import Frames
from diffragan.inspection.thon_rings import thon_rings
from diffragan.optics import Optics, q_from_angle
from diffragan.settings import Settings, given_by_hand

_COMPARED = 32  # pairs that are enough to tell placement and defocus by
_LOOKED_AT = 8  # images that are enough to see rings in
_LEAST_DEFOCI = 4  # images from which it can be told that they differ
_SAME_DEFOCUS_A = 30.0  # no nearer does the model of a weak object tell a defocus
_TYPICAL = 0.67  # median of |x| for a normal x of standard deviation 1
# Defoci tried where none is told, Å; finer where the transfer function changes faster with them.
DEFOCI_A = tuple(float(d) for d in np.round(np.geomspace(150, 30_000, 90) / 10) * 10)


@dataclass(frozen=True)
class FieldImages:
    """Images on the patterns' field, not yet placed.

    images: (n, m, m), mean 1. dose: (n,) e/Å², infinite without noise. centres_px: (n, 2).
    outside: largest part of a field beyond the camera's image.
    """

    images: NDArray[np.float64]
    dose: NDArray[np.float64]
    centres_px: NDArray[np.float64]
    outside: float


@dataclass(frozen=True)
class ToldDefocus:
    """A defocus in Å that need not be found, who tells it, and whether its sign is told too."""

    value_A: float
    by: str
    signed: bool = True


def pixel_of_images(frames: Frames, settings: Settings) -> float:
    """Å a pixel of the images.

    Raises:
        DiffraganError: nobody tells.
    """
    pixel = settings.inspect.image_pixel_A or frames.told.get("pixel_A")
    if not pixel:
        raise DiffraganError(
            f"{frames.path} does not tell the images' pixel; give --image-pixel-A."
        )
    return float(pixel)


def images_on_field(
    frames: Frames,
    items: NDArray[np.int64],
    pixel_A: float,
    box_A: float,
    m: int,
    settings: Settings,
) -> FieldImages:
    """Some images cut out around their molecules.

    A field as wide as the camera's image is cut around the image's middle, not the molecule's.
    """
    aperture = q_from_angle(settings.image.aperture_mrad, settings.energy_ev)
    shape = frames.valid.shape
    tight = min(shape) * pixel_A < 1.15 * box_A
    images, doses, centres, outside = [], [], [], 0.0
    for item in items:
        counts, good = frames.counts(int(item))
        counts = np.where(good, counts, np.median(counts[good]) if good.any() else 0.0)
        if counts.mean() <= 0:
            raise DiffraganError(f"Image {item} of {frames.path} is empty; leave it out.")
        if settings.inspect.image_centre_px is not None:
            centre = settings.inspect.image_centre_px
        elif tight:
            centre = (float(shape[0] // 2), float(shape[1] // 2))
        else:
            centre = molecule_centre(counts, pixel_A, box_A, aperture)
        image, beyond = image_on_field(counts, pixel_A, centre, box_A, m)
        images.append(image)
        doses.append(settings.image.dose_e_per_A2 or dose_of_image(counts, pixel_A, 2 * aperture))
        centres.append(centre)
        outside = max(outside, beyond)
    return FieldImages(np.stack(images), np.array(doses), np.array(centres), outside)


def dose_of_image(counts: Image, pixel_A: float, empty_q: float) -> float:
    """Dose (e/Å²) of a camera's image (y, x) by its noise: beyond twice the aperture no intensity
    is passed, and what is there is counting noise, of power 1 / (dose area) per mode of the image
    of mean 1. Infinite without noise."""
    flat = counts / counts.mean()
    q = np.hypot(*np.meshgrid(*(np.fft.fftfreq(s, pixel_A) for s in flat.shape), indexing="ij"))
    edge = 0.5 / pixel_A
    empty = (q > min(empty_q, 0.9 * edge)) & (q < edge)
    noise = float((np.abs(np.fft.fft2(flat, norm="forward")[empty]) ** 2).mean())
    area = flat.size * pixel_A**2
    return 1 / (noise * area) if noise * flat.size > 1e-10 else math.inf


def chosen_pairs(n: int) -> NDArray[np.int64]:
    """The pairs that placement and defocus are told by, spread evenly."""
    few = min(n, _COMPARED)
    return (np.arange(few) * n) // few


@dataclass(frozen=True)
class Placement:
    """How images lie to their patterns: the placement used and all, the defocus, how it is known
    and how sure, its sign in standard deviations, the dose that the patterns must have had, and
    whether the images differ in defocus."""

    placement: str
    placements: dict[str, Agreement]
    defocus_A: float
    defocus_by: str
    defocus_error_A: float | None
    sign: float
    pattern_dose: float
    differ: bool = False


def place(
    electrons: NDArray[np.float64],
    mask: Mask,
    images: FieldImages,
    optics: Optics,
    settings: Settings,
    told: ToldDefocus | None,
    own_A: NDArray[np.float64] | None = None,
) -> Placement:
    """Placement and defocus by which images are likeliest, given their patterns.

    Args:
        electrons: (n, m, m) of each pixel of the patterns.
        told: the defocus and who tells it; none: it is found.
        own_A: (n,) the defocus of each image, where somebody tells that.
    """
    # Fractions of the beam as at a dose of 1 e/Å², and the electrons of that beam.
    beam, lens = optics.box_A**2, settings.image
    pairs = ImagedPatterns(electrons / beam, mask, images.images, images.dose, optics, beam)
    found: dict[str, Agreement] = {}
    defoci: dict[str, tuple[float, float | None]] = {}
    for way in PLACEMENTS:
        laid = pairs.laid(way)
        if told is None:
            defocus, error, _ = best_defocus(laid, lens, DEFOCI_A)
            # Which of the two is found below; the modulus knows no sign.
            defoci[way] = (math.copysign(defocus, lens.defocus_A), error)
        else:
            defoci[way] = (told.value_A, None)
        at = lens.model_copy(update={"defocus_A": defoci[way][0]})
        found[way] = agreement(laid, at, None, own_defocus_A=own_A)
    wanted = settings.inspect.placement
    used = max(found, key=lambda way: found[way].total) if wanted == "auto" else wanted
    defocus, sd = defoci[used]
    scale = found[used].scale
    dose = 1 / scale if scale > 0 else math.inf
    laid = pairs.laid(used)
    laid = laid.exposed(dose) if scale > 0 else laid
    at = lens.model_copy(update={"defocus_A": defocus})
    sign = sign_of_defocus(laid, at, own_A)
    differ = own_A is not None
    if told is None:
        differ = found[used].total > 0 and _differ(*own_defoci(laid, at))
    if sign < 0 and (told is None or not told.signed):
        defocus, sign = -defocus, -sign
    by = told.by if told else "as pattern and image agree best"
    return Placement(used, found, defocus, by, sd, sign, dose, differ)


def _differ(defocus_A: NDArray[np.float64], error_A: NDArray[np.float64]) -> bool:
    """Whether defoci scatter by clearly more than their errors."""
    if len(defocus_A) < _LEAST_DEFOCI:
        return False
    error = np.hypot(error_A, _SAME_DEFOCUS_A)
    mean = float(np.average(defocus_A, weights=error**-2))
    return bool(np.median(np.abs(defocus_A - mean) / error) > 2 * _TYPICAL)


def own_defocus(
    electrons: NDArray[np.float64],
    mask: Mask,
    images: FieldImages,
    optics: Optics,
    settings: Settings,
    laid: Placement,
) -> NDArray[np.float64]:
    """(n,) defocus of each image, where they differ and nobody tells: as it fits its pattern best,
    near the one that fits all."""
    beam, lens = optics.box_A**2, settings.image
    pairs = ImagedPatterns(electrons / beam, mask, images.images, images.dose, optics, beam)
    placed_pairs = pairs.laid(laid.placement).exposed(laid.pattern_dose)
    at = lens.model_copy(update={"defocus_A": laid.defocus_A})
    found, _ = own_defoci(placed_pairs, at)
    return found


def told_defocus(frames: Frames, settings: Settings) -> ToldDefocus | None:
    """The images' defocus as given by hand or as their file tells; none where nobody does."""
    if given_by_hand(settings, "image.defocus_A"):
        return ToldDefocus(settings.image.defocus_A, "by hand")
    told = frames.told
    if "defocus_u_A" in told:
        mean = np.mean(told["defocus_u_A"]) + np.mean(told.get("defocus_v_A", told["defocus_u_A"]))
        return ToldDefocus(float(mean / 2), f"as {frames.path.name} tells")
    if "defocus_A" in told:
        return ToldDefocus(float(np.mean(told["defocus_A"])), f"as {frames.path.name} tells")
    return None


def with_aberration(frames: Frames, settings: Settings) -> Settings:
    """The settings with the images' spherical aberration as their file tells it, unless it was
    given by hand."""
    if "cs_mm" not in frames.told or given_by_hand(settings, "image.cs_mm"):
        return settings
    told = {"cs_mm": float(np.mean(frames.told["cs_mm"]))}
    return settings.model_copy(update={"image": settings.image.model_copy(update=told)})


def shown_defocus(frames: Frames, pixel_A: float, settings: Settings) -> ToldDefocus | None:
    """The defocus that the images' own Thon rings show, the median of up to eight images; none
    where fewer than half of them show some. Rings do not tell its sign."""
    some = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _LOOKED_AT)).astype(int))
    sizes = []
    for item in some:
        counts, good = frames.counts(int(item))
        middle = float(np.median(counts[good])) if good.any() else 0.0
        rings = thon_rings(np.where(good, counts, middle), pixel_A, settings, DEFOCI_A)
        sizes += [] if rings is None else [rings.defocus_A]
    if 2 * len(sizes) < len(some):
        return None
    size = math.copysign(float(np.median(sizes)), settings.image.defocus_A)
    return ToldDefocus(size, "by the image's Thon rings", signed=False)
