"""Arrays of other programs as pairs: checks on what they hold, and the dose of images."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.store import Selection
from diffragan.files.store_header import StructureInfo
from diffragan.fourier.grids import frequency_grid
from diffragan.microscope import imaging
from diffragan.optics import Defocus, Optics, q_from_angle
from diffragan.pairs.exposures import Exposures, checked_side
from diffragan.pairs.lens import lens_of_images
from diffragan.pairs.pairs import Pairs
from diffragan.settings import ImageSettings, Settings


def checked_pattern(
    pattern: NDArray[Any], path: Path, mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Patterns (k, m, m) with masked pixels 0.

    Raises:
        DiffraganError: a valid pixel is NaN, infinite or negative.
    """
    valid = pattern[..., mask]
    if not np.isfinite(valid).all():
        raise DiffraganError(
            f"A pattern of {path} holds NaN or infinite values; mask those pixels (pattern_mask)."
        )
    if (valid < 0).any():
        raise DiffraganError(
            f"A pattern of {path} holds negative intensities, which no detector counts; subtract "
            "less background, or mask those pixels (pattern_mask)."
        )
    return np.where(mask, pattern, 0).astype(np.float32)


def checked_image(image: NDArray[Any], path: Path) -> NDArray[np.float32]:
    """Images (k, m, m).

    Raises:
        DiffraganError: a pixel is NaN or infinite, or a whole image is not positive in the mean.
    """
    if not np.isfinite(image).all():
        raise DiffraganError(f"An image of {path} holds NaN or infinite values; repair it first.")
    if (image.mean((-2, -1)) <= 0).any():
        raise DiffraganError(
            f"An image of {path} has a mean of 0 or less; give intensities, not contrast."
        )
    return image.astype(np.float32)


def estimated_dose(
    image: NDArray[np.float32], optics: Optics, settings: ImageSettings
) -> NDArray[np.float64]:
    """Dose (k,) in e/Å² of images (k, m, m) of mean 1, from the noise beyond the optics' reach.

    An aperture at q passes no intensity beyond 2 q: what is there is counting noise, whose power
    per mode is 1 / (dose L²). Infinite where there is none; the shell just inside the image's
    corner is used where the aperture leaves no empty band.
    """
    q = frequency_grid(image.shape[-1], optics.box_A).sqrt()
    edge = 2 * q_from_angle(settings.aperture_mrad, optics.energy_ev)
    empty = (q > edge) & (q < image.shape[-1] / 2 / optics.box_A)
    if not bool(empty.any()):
        empty = q >= 0.9 * q.max()
    power = torch.fft.fft2(torch.from_numpy(image).double(), norm="forward").abs() ** 2
    noise = power[:, empty].mean(-1).numpy()
    with np.errstate(divide="ignore"):
        dose = 1 / (noise * optics.box_A**2)
    return np.where(noise > 1e-14, dose, math.inf)


class ArrayPairs(Pairs):
    """Patterns and images from arrays: a measurement without a store.

    Defocus counts from the molecule's own plane here, as an instrument would report it.

    Args:
        box_A: side of the field, Å; None where the images' pixel or `simulate.box_A` tells it.

    Raises:
        DiffraganError: arrays that do not fit each other or the settings, or nothing tells the
            field.
    """

    names_molecule = False

    def __init__(self, exposures: Exposures, settings: Settings, box_A: float | None) -> None:
        self._opened_with = (exposures, settings, box_A)
        self.path, self.image_path = exposures.path, exposures.image_path
        m = checked_side(exposures, box_A)
        if box_A is None and exposures.pixel_A:
            box_A = exposures.pixel_A * m
        box_A = box_A or settings.simulate.box_A
        if box_A is None:
            raise DiffraganError(
                f"{self.path} does not tell the side of its field; give --box-A (in Å)."
            )
        self.n = len(exposures.patterns)
        self.settings, self._defocus = lens_of_images(exposures.lens, settings, self.n)
        self.optics = Optics(self.settings.energy_ev, box_A, 0.0)
        default = imaging.pattern_mask(m, self.optics, settings.pattern).numpy()
        mask = exposures.mask
        if mask is not None and mask.shape != default.shape:
            raise DiffraganError(
                f"The pattern mask of {self.path} is {mask.shape}, the patterns are "
                f"{default.shape}; give one mask of the patterns' size."
            )
        self.pattern_mask = default if mask is None else mask & default
        self._patterns, self._images = exposures.patterns, exposures.images
        self._memory_sha256 = exposures.sha256
        self.structures = (StructureInfo(self.path.name.split(".")[0]),)
        self.structure_index = np.zeros(self.n, dtype=np.int64)
        self.rotation, self.shifts_A = exposures.rotation, exposures.shifts_A

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the same file; arrays in memory travel as they are."""
        return type(self), self._opened_with

    @cached_property
    def sha256(self) -> str:
        return self._memory_sha256 or super().sha256

    @property
    def reopens(self) -> bool:
        return self._memory_sha256 is None

    @property
    def source(self) -> dict[str, Any]:
        if self._memory_sha256 is None:
            return super().source
        return {"path": self.path.name, "image": None, "sha256": self.sha256}

    @cached_property
    def defocus(self) -> Defocus | None:
        return self._defocus

    def pattern(self, items: Selection) -> NDArray[np.float32]:
        raw = np.asarray(self._patterns[items], dtype=np.float32)
        raw = checked_pattern(raw, self.path, self.pattern_mask)
        if raw.sum((-2, -1)).max(initial=0) <= 1:
            return raw
        dose = self.settings.pattern.dose_e_per_A2
        if dose is None:
            raise DiffraganError(
                f"The patterns of {self.path} are counts, not fractions of the beam; give the dose "
                "they were taken with (--set pattern.dose_e_per_A2=...)."
            )
        return raw / np.float32(dose * self.box_A**2)

    def image(self, items: Selection) -> NDArray[np.float32]:
        raw = checked_image(
            np.asarray(self._images[items], np.float32), self.image_path or self.path
        )
        result: NDArray[np.float32] = raw / raw.mean((-2, -1), keepdims=True)
        return result

    def image_dose(self, items: Selection) -> NDArray[np.float64]:
        image = self.image(items)
        if self.settings.image.dose_e_per_A2 is not None:
            return np.full(len(image), self.settings.image.dose_e_per_A2)
        return estimated_dose(image, self.optics, self.settings.image)
