"""What real cameras give of an exit wave: a pattern off its centre on a detector with faults, and
an image of a wider field."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.fourier.grids import resample
from diffragan.fourier.grids import shift as shifted
from diffragan.microscope.geometry import OVERSAMPLED, at, far_field, seen_by_pixels
from diffragan.microscope.imaging import defocused_image
from diffragan.optics import Optics
from diffragan.settings import ImageSettings


@dataclass(frozen=True)
class Detector:
    """A pixelated detector in the far field.

    n_px: its side. pixel_per_A: mean side of a pixel in 1/Å. centre_px: (y, x) of the beam.
    ellipse, ellipse_deg: distances from the centre come out longer by this fraction along the
    angle (from x towards y) and shorter across it. spot_px: standard deviation of the direct beam.
    hot: (n_px, n_px) counts that each pixel adds in an exposure. blind: True where a pixel counts
    nothing, for dead pixels and the beam stop. None: no faults.
    """

    n_px: int
    pixel_per_A: float
    centre_px: tuple[float, float]
    ellipse: float = 0.0
    ellipse_deg: float = 0.0
    spot_px: float = 0.8
    hot: NDArray[np.float64] | None = field(default=None, repr=False)
    blind: NDArray[np.bool_] | None = field(default=None, repr=False)


def detector_counts(
    exit_wave: NDArray[np.complex64],
    optics: Optics,
    detector: Detector,
    dose_e_per_A2: float,
    beam_diameter_A: float,
    rng: np.random.Generator | None,
) -> NDArray[np.float64]:
    """Electrons in each pixel (n_px, n_px) of one exposure; without `rng` what is expected.

    The beam is a disc around the molecule, whose wave less the plane wave is given on the store's
    grid. Multiplying what a pixel's middle sees by its area stands for integrating over it.
    """
    n = exit_wave.shape[-1]
    far = far_field(exit_wave - 1) * (optics.box_A / n) ** 4
    y, x = seen_by_pixels(detector.n_px, detector.centre_px, detector.ellipse, detector.ellipse_deg)
    finer = detector.pixel_per_A * OVERSAMPLED * optics.box_A
    flux = at(far, y * finer, x * finer)
    y, x = np.indices((detector.n_px,) * 2, dtype=np.float64)
    dy, dx = y - detector.centre_px[0], x - detector.centre_px[1]
    expected = dose_e_per_A2 * flux.clip(min=0) * detector.pixel_per_A**2
    beam = dose_e_per_A2 * math.pi / 4 * beam_diameter_A**2
    spot = np.exp(-(dy**2 + dx**2) / (2 * detector.spot_px**2))
    expected += max(beam - expected.sum(), 0) * spot / spot.sum()
    if detector.blind is not None:
        expected[detector.blind] = 0
    if detector.hot is not None:
        expected += detector.hot
    counts: NDArray[np.float64] = expected if rng is None else rng.poisson(expected).astype(float)
    return counts


def camera_image(
    exit_wave: NDArray[np.complex64],
    optics: Optics,
    settings: ImageSettings,
    *,
    field_A: float,
    n_px: int,
    shift_A: tuple[float, float] = (0.0, 0.0),
    rng: np.random.Generator | None = None,
) -> NDArray[np.float64]:
    """Image (n_px, n_px) of a field wider than the molecule's box, its box moved by `shift_A`
    (y, x) from the middle; electrons where `settings` tell a dose, which `rng` counts, else of mean
    1."""
    n = exit_wave.shape[-1]
    wide = round(field_A / optics.box_A * n)
    wide += wide % 2
    field_A = wide * optics.box_A / n
    wave = torch.ones(wide, wide, dtype=torch.complex128)
    start = wide // 2 - n // 2
    wave[start : start + n, start : start + n] = torch.from_numpy(exit_wave).to(wave.dtype)
    wave = 1 + shifted(wave - 1, shift_A, field_A)
    of_field = Optics(optics.energy_ev, field_A, optics.centre_to_exit_A)
    expected = resample(defocused_image(wave[None], of_field, settings, wide)[0].double(), n_px)
    image: NDArray[np.float64] = expected.clamp_min(0).numpy()
    if settings.dose_e_per_A2 is None:
        return image
    image = image * settings.dose_e_per_A2 * (field_A / n_px) ** 2
    return image if rng is None else rng.poisson(image).astype(np.float64)
