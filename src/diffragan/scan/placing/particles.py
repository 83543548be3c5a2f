"""Particles in the overview: what stands out by phase contrast and is no larger than a molecule.

The overview is worked through in tiles, so that memory does not grow with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from diffragan.errors import DiffraganError
from diffragan.optics import q_from_angle
from diffragan.settings import Settings

_TILE_PX = 1024
_COARSEST_A = 30.0  # of the contrast that tells a particle
_DEVIATIONS = 8.0  # above the power of noise, of a particle
_LARGE = 6.0  # times a molecule's area, from which something is a film or a crystal
_DARK = 0.93  # of the mean that a film lets through at most

Image = NDArray[np.float64]


@dataclass(frozen=True)
class Particles:
    """Particles of an overview.

    places_A: (k, 2) y, x. power: (k,) of their contrast, over the noise's deviation.
    covered: (rows, columns) coarse map of film and crystals, of pixels of `coarse_A`.
    """

    places_A: NDArray[np.float64]
    power: NDArray[np.float64]
    covered: NDArray[np.bool_]
    coarse_A: float

    def __len__(self) -> int:
        return len(self.places_A)

    def on_film(self, places_A: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(n,) whether places (n, 2) lie on film or crystals, or outside the overview."""
        index = np.floor(places_A / self.coarse_A).astype(int)
        inside = ((index >= 0) & (index < self.covered.shape)).all(1)
        index = index.clip(0, np.array(self.covered.shape) - 1)
        result: NDArray[np.bool_] = ~inside | self.covered[index[:, 0], index[:, 1]]
        return result


def pick_particles(
    image: NDArray[np.float32], pixel_A: float, diameter_A: float, settings: Settings
) -> Particles:
    """Particles about as wide as a diameter, in an image (rows, columns) of counts.

    Contrast between 30 Å and the aperture, squared and averaged over a third of the diameter, peaks
    at molecules. Regions that are larger than molecules, or let fewer electrons through, are film
    or crystals, and what peaks on them is none.

    Raises:
        DiffraganError: the image is empty.
    """
    from skimage.feature import peak_local_max

    if not image.size or not float(np.mean(image[:: max(1, len(image) // 64)])) > 0:
        raise DiffraganError("The overview is empty; is it the right file?")
    power = np.zeros(image.shape, np.float32)
    smooth = np.zeros(image.shape, np.float32)
    margin = math.ceil(2 * (diameter_A + _COARSEST_A) / pixel_A)
    width = diameter_A / 6 / pixel_A
    high = min(q_from_angle(settings.image.aperture_mrad, settings.energy_ev), 0.45 / pixel_A)
    for outer, inner, keep in _tiles(image.shape, margin):
        tile = image[outer].astype(np.float64)
        wide = ndimage.gaussian_filter(tile, 0.5 * diameter_A / pixel_A)
        flat = tile / np.maximum(wide, 1e-6) - 1
        found = ndimage.gaussian_filter(_band(flat, pixel_A, high) ** 2, width)
        power[inner], smooth[inner] = found[keep], wide[keep]
    typical, spread = _noise(power)
    covered, coarse = _large(power, smooth, typical + _DEVIATIONS * spread, pixel_A, diameter_A)
    # Half a diameter apart: of two that overlap, both are seen.
    at = peak_local_max(  # type: ignore[no-untyped-call]
        power,
        min_distance=max(1, round(0.45 * diameter_A / pixel_A)),
        threshold_abs=typical + _DEVIATIONS * spread,
        exclude_border=round(0.5 * diameter_A / pixel_A),
    )
    places = np.array([_centre(power, y, x, typical, diameter_A / pixel_A) for y, x in at])
    places = places.reshape(-1, 2) * pixel_A
    strength = ((power[at[:, 0], at[:, 1]] - typical) / spread).astype(np.float64)
    particles = Particles(places, strength, covered, coarse)
    free = ~particles.on_film(places) if len(places) else np.zeros(0, bool)
    return Particles(places[free], strength[free], covered, coarse)


def _tiles(
    shape: tuple[int, ...], margin: int
) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice], tuple[slice, slice]]]:
    """Tiles with a margin, where they lie in the image without it, and in themselves."""
    for top in range(0, shape[0], _TILE_PX):
        for left in range(0, shape[1], _TILE_PX):
            inner = (
                slice(top, min(top + _TILE_PX, shape[0])),
                slice(left, min(left + _TILE_PX, shape[1])),
            )
            outer = tuple(
                slice(max(s.start - margin, 0), min(s.stop + margin, side))
                for s, side in zip(inner, shape, strict=True)
            )
            keep = tuple(
                slice(i.start - o.start, i.stop - o.start)
                for i, o in zip(inner, outer, strict=True)
            )
            yield (outer[0], outer[1]), inner, (keep[0], keep[1])


def _band(flat: Image, pixel_A: float, high: float) -> Image:
    """What lies between 30 Å and a frequency (1/Å)."""
    y, x = np.fft.fftfreq(flat.shape[0], pixel_A), np.fft.rfftfreq(flat.shape[1], pixel_A)
    q = np.hypot(y[:, None], x[None, :])
    spectrum = fft.rfft2(flat) * ((q > 1 / _COARSEST_A) & (q < high))
    result: Image = fft.irfft2(spectrum, flat.shape)
    return result


def _noise(power: NDArray[np.float32]) -> tuple[float, float]:
    """Median of where nothing lies and its deviation, from the lower half."""
    some = power[:: max(1, power.shape[0] // 1000), :: max(1, power.shape[1] // 1000)]
    level = float(np.percentile(some, 40))
    low = float(np.percentile(some, 10))
    return level, max(level - low, 1e-12)


def _large(
    power: NDArray[np.float32],
    smooth: NDArray[np.float32],
    above: float,
    pixel_A: float,
    diameter_A: float,
) -> tuple[NDArray[np.bool_], float]:
    """Film and crystals, on a map of coarse pixels, and the side of these."""
    step = max(1, round(diameter_A / 4 / pixel_A))
    rows, columns = (side // step * step for side in power.shape)

    def coarse(values: NDArray[np.float32]) -> Image:
        cut = values[:rows, :columns].reshape(rows // step, step, columns // step, step)
        mean: Image = cut.mean((1, 3)).astype(np.float64)
        return mean

    light = coarse(smooth)
    dark = light < _DARK * float(np.median(light))
    strong = coarse(power) > above
    labels, count = ndimage.label(ndimage.binary_closing(strong))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    molecule = math.pi / 4 * (diameter_A / (step * pixel_A)) ** 2
    keep = sizes > _LARGE * max(molecule, 1)
    keep[0] = False
    whole = ndimage.binary_fill_holes(keep[labels] | dark)
    covered = ndimage.binary_dilation(whole, iterations=2)
    return covered, step * pixel_A


def _centre(
    power: NDArray[np.float32], y: int, x: int, typical: float, diameter_px: float
) -> tuple[float, float]:
    """The centre of mass of a peak's upper half, within half a diameter."""
    reach = max(1, round(0.45 * diameter_px))
    top, left = max(y - reach, 0), max(x - reach, 0)
    near = power[top : y + reach + 1, left : x + reach + 1].astype(np.float64)
    weight = (near - typical - 0.4 * (float(power[y, x]) - typical)).clip(min=0)
    iy, ix = np.indices(near.shape)
    apart = np.hypot(iy + top - y, ix + left - x) > reach
    weight[apart] = 0
    total = max(float(weight.sum()), 1e-30)
    return top + float((iy * weight).sum()) / total, left + float((ix * weight).sum()) / total
