"""Does an image fit its pattern? How likely each way to lay one over the other is.

Pattern and image share one exit wave. Of a weak object with Friedel-symmetric intensities P, the
image's Fourier coefficients have the known modulus A = 2 |sin chi| sqrt(P) times the lens's
envelope, and complex normal noise of power N from counting: their moduli follow Rice's distribution
(Rice, Bell Syst. Tech. J. 24, 46, 1945). Its likelihood compares flips, quarter turns, defocus and
the pattern's dose. Where few electrons were counted, P is known by its count and by the mean of its
ring (below). A turn by 180 degrees, or the sign of the defocus with Cs = 0, leaves A as it
is; the sign shows in the image itself, where a molecule's potential is positive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import i0e

from diffragan.fourier.grids import frequency_grid, quarter_turn
from diffragan.microscope.imaging import contrast_of_images
from diffragan.optics import Optics, q_from_angle
from diffragan.settings import ImageSettings

Stack = NDArray[np.float64]

# What the weak-phase model leaves unexplained, in parts of the power that it explains.
_MODEL_ERROR = 0.15
_COARSEST_A = 25.0  # below this frequency the field's surroundings rule, not the molecule
# Ways to lay an image over its pattern that differ under Friedel's symmetry, and words for them.
PLACEMENTS = {
    "as-is": "as it is",
    "flipped": "flipped (rows reversed)",
    "turned": "turned by 90°",
    "flipped-turned": "flipped and turned by 90°",
}


def placed(images: Stack, placement: str) -> Stack:
    """Images (n, m, m) flipped (rows reversed), turned, or both; about pixel [m // 2, m // 2]."""
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    if placement.startswith("flipped"):
        tensor = torch.flip(tensor, (-2,))
        if tensor.shape[-1] % 2 == 0:
            tensor = torch.roll(tensor, 1, -2)
    if placement.endswith("turned"):
        tensor = quarter_turn(tensor)
    return tensor.numpy()


@dataclass(frozen=True)
class ImagedPatterns:
    """n patterns and the images that are laid over them.

    patterns: (n, m, m), fraction of the beam, zero frequency at [m // 2, m // 2]. mask: (m, m).
    images: (n, m, m), mean 1. image_dose: (n,) e/Å², infinite without noise.
    optics: `box_A` is the field of both.
    electrons: of a pattern's exposure, where it was counted and its values are fractions of them:
        few counts tell an image's moduli only so well; None: exact.
    """

    patterns: Stack
    mask: NDArray[np.bool_]
    images: Stack
    image_dose: NDArray[np.float64]
    optics: Optics
    electrons: float | None = None

    def laid(self, placement: str) -> ImagedPatterns:
        """The same with the images flipped or turned (`PLACEMENTS`)."""
        return replace(self, images=placed(self.images, placement))

    def exposed(self, times: float) -> ImagedPatterns:
        """The same where the exposure had so many times the electrons that it was thought to."""
        electrons = None if self.electrons is None else self.electrons * times
        return replace(self, patterns=self.patterns / times, electrons=electrons)

    @property
    def image_noise(self) -> NDArray[np.float64]:
        """(n,) power of counting noise at a frequency of each image."""
        with np.errstate(divide="ignore"):
            noise = 1 / (self.image_dose * self.optics.box_A**2)
        return np.where(np.isfinite(self.image_dose), noise, 0.0)


@dataclass(frozen=True)
class Agreement:
    """How well pairs fit when laid over each other in some way.

    gain: log likelihood over that of images that know nothing of their patterns, by pair (n,).
    share: part of the image's power above noise that the pattern explains, all pairs together.
    scale: the factor on the patterns with which they were compared.
    """

    gain: NDArray[np.float64]
    share: float
    scale: float

    @property
    def total(self) -> float:
        """Of all pairs."""
        return float(self.gain.sum())


def agreement(
    pairs: ImagedPatterns,
    lens: ImageSettings,
    scale: float | None = 1.0,
    own_defocus_A: NDArray[np.float64] | None = None,
) -> Agreement:
    """How well images fit their patterns with a lens.

    Args:
        scale: factor on the patterns; none: the most likely one, for unknown doses.
        own_defocus_A: (n,) of each image; none: the lens's.
    """
    return _Fit.of(pairs, lens).with_lens(lens, scale, own_defocus_A)


@dataclass(frozen=True)
class _Fit:
    """What every hypothesis shares: images' power and symmetric patterns in the image's band.

    power, pattern: (n, k) over the k frequencies of the band. noise: (n,) power of counting noise a
    frequency. ring: (k,) number of each frequency's ring. q2: (k,). counting: (k,) intensity that a
    symmetric pattern's counts leave open at each frequency: half an electron, or the mean of its
    ring where that is less.

    `pattern` and `counting` are what `_known` gives of symmetric counts.
    """

    power: Stack
    pattern: Stack
    noise: NDArray[np.float64]
    ring: NDArray[np.int64]
    q2: NDArray[np.float64]
    optics: Optics
    counting: NDArray[np.float64]

    @classmethod
    def of(cls, pairs: ImagedPatterns, lens: ImageSettings) -> _Fit:
        """The band that both hold, each frequency and its mate once."""
        optics, mask = pairs.optics, pairs.mask
        m, box_A = mask.shape[-1], optics.box_A
        centred = np.fft.ifftshift(mask)
        mate = np.roll(centred[::-1, ::-1], 1, (0, 1))
        both = centred & mate
        intensity = np.fft.ifftshift(pairs.patterns, axes=(-2, -1))
        symmetric = (intensity + np.roll(intensity[:, ::-1, ::-1], 1, (-2, -1))) / 2
        q2 = frequency_grid(m, box_A).numpy()
        edge = min(q_from_angle(lens.aperture_mrad, optics.energy_ev), 0.25)
        band = both & (q2 >= 1 / _COARSEST_A**2) & (q2 <= edge**2)
        band[:, m // 2 :] = False
        band[m // 2 :, 0] = False
        spectrum = np.fft.fft2(pairs.images, norm="forward")
        ring = np.rint(np.sqrt(q2) * box_A).astype(np.int64)
        power = np.abs(spectrum[:, band]) ** 2
        pattern, ring = symmetric[:, band], ring[band]
        counting = np.zeros(len(ring))
        if pairs.electrons is not None:
            pattern, counting = _known(pattern, ring, 2 * pairs.electrons)
        return cls(power, pattern, pairs.image_noise, ring, q2[band], optics, counting)

    def with_lens(
        self,
        lens: ImageSettings,
        scale: float | None,
        own_A: NDArray[np.float64] | None = None,
    ) -> Agreement:
        """The agreement if the lens was as this one, with a defocus for each image."""
        own = None if own_A is None else torch.from_numpy(own_A)[:, None]
        q2 = torch.from_numpy(self.q2)
        contrast = contrast_of_images(q2, self.optics, lens, own).numpy() ** 2
        model = self.pattern * contrast
        if scale is None:
            seen = (self.power - self.noise[:, None]).sum()
            open_too = np.broadcast_to(self.counting * contrast, model.shape)
            expected = model.sum() + open_too.sum()
            scale = float(seen / max(expected, 1e-300))
        model = model * max(scale, 0.0)
        floor = 1e-3 * self.power.mean(1)
        noise = (self.noise + floor)[:, None] + self.counting * max(scale, 0.0) * contrast
        gain = _rice(self.power, model, noise) - self._unknowing(floor)
        left = self.power - self.noise[:, None] - model
        signal = self.power.sum() - self.noise.sum() * self.power.shape[1]
        ring_left = np.abs(self._ring_means(left)).sum() / max(signal, 1e-300)
        return Agreement(gain, max(0.0, 1 - float(ring_left)), max(scale, 0.0))

    def _unknowing(self, floor: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) log likelihood of images of which only the mean power of each ring in all of them is
        known."""
        rings = self._ring_means(self.power.mean(0, keepdims=True))
        mean = np.maximum(rings, (self.noise + floor)[:, None])
        return np.asarray((-self.power / mean - np.log(mean)).sum(1))

    def _ring_means(self, values: Stack) -> Stack:
        counts = np.maximum(np.bincount(self.ring), 1)
        sums = np.stack([np.bincount(self.ring, row) for row in values])
        result: Stack = (sums / counts)[:, self.ring]
        return result


def _known(
    intensity: Stack, ring: NDArray[np.int64], electrons: float
) -> tuple[Stack, NDArray[np.float64]]:
    """What counts tell of speckles: the power (n, k) of a wave that is known, and that (k,) of the
    normal spread about it.

    Speckles of mean m are spread exponentially. After c counts of so many electrons an intensity
    follows the gamma distribution of shape c + 1 and scale t = 1 / (1 / m + electrons), whose mean
    is that of a wave of power c t with a normal spread of power t.

    Args:
        intensity: (n, k), counts over electrons. ring: (k,) number of each frequency's ring.
    """
    # One count more than there are, or a ring without any would be known to be dark.
    total = np.bincount(ring, intensity.sum(0)) + 1 / electrons
    mean = (total / np.maximum(len(intensity) * np.bincount(ring), 1))[ring]
    spread = 1 / (1 / mean + electrons)
    return intensity * (electrons * spread), spread


def _rice(power: Stack, model: Stack, noise: Stack) -> NDArray[np.float64]:
    """(n,) log likelihood of |F|² = power (n, k) where a model's power (n, k) was expected, with
    noise of power (n, k)."""
    spread = noise + _MODEL_ERROR * model
    cross = 2 * np.sqrt(power * model) / spread
    difference = np.sqrt(power) - np.sqrt(model)
    return np.asarray((-(difference**2) / spread + np.log(i0e(cross)) - np.log(spread)).sum(1))


def best_placement(
    pairs: ImagedPatterns, lens: ImageSettings, scale: float | None = 1.0
) -> dict[str, Agreement]:
    """The agreement of every placement, the likeliest first."""
    found = {way: agreement(pairs.laid(way), lens, scale) for way in PLACEMENTS}
    return dict(sorted(found.items(), key=lambda item: -item[1].total))


def best_defocus(
    pairs: ImagedPatterns, lens: ImageSettings, candidates_A: Sequence[float]
) -> tuple[float, float, float]:
    """The likeliest of some defoci (Å, of the optics' plane), refined; its standard error; and its
    log likelihood over that of an image that knows nothing of its pattern."""
    fit = _Fit.of(pairs, lens)

    def gain(defocus_A: float) -> float:
        return fit.with_lens(_focused(lens, defocus_A), None).total

    best = max(candidates_A, key=gain)
    step = float(np.min(np.abs(np.diff(np.sort(np.asarray(candidates_A))))))
    while step > 2.0:
        step /= 2
        best = max((best - step, best, best + step), key=gain)
    h = 10.0
    bend = gain(best + h) - 2 * gain(best) + gain(best - h)
    error = h / math.sqrt(-bend) if bend < 0 else math.inf
    return float(best), error, gain(best)


def _focused(lens: ImageSettings, defocus_A: float) -> ImageSettings:
    """The lens at another defocus."""
    return lens.model_copy(update={"defocus_A": float(defocus_A)})


def own_defoci(
    pairs: ImagedPatterns, lens: ImageSettings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The likeliest defocus of each image (n,) in Å, of the sign of the lens's and no more than
    600 Å from it, and its standard error."""
    fit = _Fit.of(pairs, lens)
    scale = fit.with_lens(lens, None).scale
    step, near = 10.0, lens.defocus_A
    tried = near + np.arange(-60, 61) * step
    tried = tried[np.sign(tried) == np.sign(near)]

    def gains(defocus_A: float) -> NDArray[np.float64]:
        return fit.with_lens(_focused(lens, defocus_A), scale).gain

    gain = np.stack([gains(defocus) for defocus in tried])
    best = gain.argmax(0).clip(1, len(tried) - 2)
    below, at, above = (np.take_along_axis(gain, (best + k)[None], 0)[0] for k in (-1, 0, 1))
    bend = np.minimum(below - 2 * at + above, -1e-9)
    off = (0.5 * (below - above) / bend).clip(-1, 1)
    return tried[best] + off * step, step / np.sqrt(-bend)


def sign_of_defocus(
    pairs: ImagedPatterns,
    lens: ImageSettings,
    own_defocus_A: NDArray[np.float64] | None = None,
) -> float:
    """Above 0 where the lens's sign of defocus makes the objects positive, below 0 where the
    other does; its size in standard deviations.

    Phases of the image with the lens's sign undone and amplitudes of least squared error give each
    object's potential; its third moment tells which way it points.
    """
    optics, mask, box_A = pairs.optics, pairs.mask, pairs.optics.box_A
    q2 = frequency_grid(mask.shape[-1], box_A)
    own = None if own_defocus_A is None else torch.from_numpy(own_defocus_A)[:, None, None]
    contrast = contrast_of_images(q2, optics, lens, own).numpy()
    edge = min(q_from_angle(lens.aperture_mrad, optics.energy_ev), 0.25)
    keep = (q2.numpy() <= edge**2) & (q2.numpy() >= 1 / _COARSEST_A**2)
    intensity = np.fft.ifftshift(np.where(mask, pairs.patterns, 0), axes=(-2, -1))
    if pairs.electrons is not None:
        seen = np.fft.ifftshift(mask)
        ring = np.rint(np.sqrt(q2.numpy()[seen]) * box_A).astype(np.int64)
        wave, spread = _known(intensity[:, seen], ring, pairs.electrons)
        intensity[:, seen] = wave + spread
    noise = pairs.image_noise[:, None, None]
    wiener = contrast * intensity / (contrast**2 * intensity + noise + 1e-12)
    # A positive potential phi enters the contrast as 2 sin chi phi.
    objects = np.fft.ifft2(
        np.fft.fft2(pairs.images, norm="forward") * wiener * keep, norm="forward"
    ).real
    # Independent values a field, for the error of the third moment of noise.
    independent = max(float(keep.sum()), 1.0)
    skew = (objects**3).mean((-2, -1)) / np.maximum((objects**2).mean((-2, -1)) ** 1.5, 1e-300)
    return float(skew.sum() / math.sqrt(len(skew) * 6 / independent))
