"""The overview image of a square, strip by strip: what a lens shows of all that lies on it.

What each molecule adds to the beam, simulated alone, goes through the lens alone and is added up,
so that the square is never held as one wave.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft
from torch import Tensor

from diffragan.microscope.matter import water
from diffragan.microscope.matter.carbon import carbon_intensity
from diffragan.microscope.matter.damage import amplitude_fade, critical_exposure_e_per_A2
from diffragan.microscope.noise import IMAGE_NOISE, item_seed
from diffragan.microscope.session.exposures import Exposures
from diffragan.microscope.session.square import Crystal
from diffragan.optics import Optics, q_from_angle, transfer_function

_STRIP_PX = 512
_AROUND_A = 60.0  # how far the lens spreads a molecule
_INNER_POTENTIAL_RAD_PER_A = 0.0026  # phase of ice at 200 keV, 3.5 V
_LOST_PER_A = 1 / 2500  # of the electrons in a crystal beside its reflections: energy losses

Field = NDArray[np.complex64]


@dataclass(frozen=True, eq=False)
class Overview:
    """One image (rows, columns) of the whole square, in electrons; `exposures` hold the square."""

    exposures: Exposures

    @cached_property
    def pixel_A(self) -> float:
        """A multiple of the waves' pixel, so that images are cut from their Fourier grid."""
        own = self._wave_pixel_A
        wanted = self.exposures.settings.session.overview_pixel_A
        return max(1, round(wanted / own)) * own

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        height, width = self.exposures.square.side_A
        return math.ceil(height / self.pixel_A), math.ceil(width / self.pixel_A)

    def strips(self) -> Iterator[NDArray[np.float32]]:
        """The image from the top, in strips (k, columns), counted."""
        settings = self.exposures.settings
        dose = (settings.image.dose_e_per_A2 or 0.0) * self.pixel_A**2 * settings.detector.dqe
        for k, start in enumerate(range(0, self.shape[0], _STRIP_PX)):
            rows = np.arange(start, min(start + _STRIP_PX, self.shape[0]))
            rng = np.random.default_rng(item_seed(settings.seed, k, IMAGE_NOISE + 200))
            expected = self._strip(rows, rng)
            yield rng.poisson(dose * expected).astype(np.float32)

    def _strip(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
        """(k, columns) expected intensity."""
        field = np.zeros((len(rows), self.shape[1]), np.complex64)
        for molecule in self._near(rows):
            place = self.exposures.square.molecules.places_A[molecule]
            _add(field, self._imaged(molecule), place / self.pixel_A, int(rows[0]))
        passed = np.ones(field.shape, np.float32)
        for crystal in self.exposures.square.crystals:
            self._add_crystal(field, passed, crystal, rows)
        self._add_films(field, passed, rows, rng)
        intensity: NDArray[np.float64] = (np.abs(1 + field) ** 2 * passed).astype(np.float64)
        return intensity

    def _near(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        y = self.exposures.square.molecules.places_A[:, 0] / self.pixel_A
        reach = self._patch_px
        return np.nonzero((y > rows[0] - reach) & (y < rows[-1] + reach))[0]

    @cached_property
    def _wave_pixel_A(self) -> float:
        store = self.exposures.store
        return store.optics.box_A / store.n_px

    @cached_property
    def _patch_px(self) -> int:
        """Pixels of the overview that hold a molecule with what the lens spreads of it."""
        side = self.exposures.store.optics.box_A + _AROUND_A
        return 2 * math.ceil(side / self.pixel_A / 2)

    @cached_property
    def _patch_optics(self) -> Optics:
        side = self._patch_px * self.pixel_A
        stored = self.exposures.store.optics
        return Optics(stored.energy_ev, side, stored.centre_to_exit_A)

    def _lens(self, rows: int, columns: int, *, thin: bool) -> Tensor:
        """(rows, columns) transfer function of a grid of the overview's pixels.

        Args:
            thin: of what lies at the molecules' middle, and not of their exit waves.
        """
        image = self.exposures.settings.image
        y, x = (torch.fft.fftfreq(n, self.pixel_A, dtype=torch.float64) for n in (rows, columns))
        stored = self.exposures.store.optics
        return transfer_function(
            y[:, None] ** 2 + x[None, :] ** 2,
            stored.energy_ev,
            defocus_A=image.defocus_A - (stored.centre_to_exit_A if thin else 0.0),
            cs_mm=image.cs_mm,
            focal_spread_A=image.focal_spread_A,
            aperture_mrad=image.aperture_mrad,
        )

    @cached_property
    def _molecule_lens(self) -> NDArray[np.complex128]:
        return self._lens(self._patch_px, self._patch_px, thin=False).numpy()

    def _imaged(self, molecule: int) -> NDArray[np.complex128]:
        """A molecule through the lens in a patch, moved by parts of a pixel."""
        fine = round(self.pixel_A / self._wave_pixel_A)
        side = self._patch_px * fine
        wave = self.exposures.scattered(molecule)
        n = len(wave)
        padded = np.zeros((side, side), np.complex128)
        start = side // 2 - n // 2
        padded[start : start + n, start : start + n] = wave
        spectrum = _cropped(fft.fft2(padded), self._patch_px) / fine**2
        spectrum *= self._molecule_lens * self._fade(molecule)
        place = self.exposures.square.molecules.places_A[molecule] / self.pixel_A
        dy, dx = (float(p - round(p)) for p in place)
        f = np.fft.fftfreq(self._patch_px)
        ramp = np.exp(-2j * np.pi * (f[:, None] * dy + f[None, :] * dx))
        imaged: NDArray[np.complex128] = fft.ifft2(spectrum * ramp)
        return imaged

    def _fade(self, molecule: int) -> NDArray[np.float64] | float:
        settings = self.exposures.settings
        if settings.specimen.damage is None:
            return 1.0
        f = torch.fft.fftfreq(self._patch_px, self.pixel_A, dtype=torch.float64)
        q = torch.hypot(f[:, None], f[None, :]).clamp_min(0.5 / self._patch_optics.box_A)
        critical = critical_exposure_e_per_A2(q, settings.energy_ev, settings.specimen)
        first = settings.specimen.image_first
        before = 0.0 if first else self.exposures.exposed_before(molecule)
        dose = torch.tensor([settings.image.dose_e_per_A2 or 0.0], dtype=torch.float64)
        return amplitude_fade(critical, dose, before)[0].numpy()

    def _add_crystal(
        self, field: Field, passed: NDArray[np.float32], crystal: Crystal, rows: NDArray[np.int64]
    ) -> None:
        """A ball of ice: its mean potential as phase, and what it scatters beyond the aperture."""
        radius = crystal.diameter_A / 2
        side = 2 * math.ceil((2 * radius + _AROUND_A) / self.pixel_A / 2)
        place = np.asarray(crystal.place_A) / self.pixel_A
        if place[0] < rows[0] - side or place[0] > rows[-1] + side:
            return
        axis = (np.arange(side) - side // 2) * self.pixel_A
        depth = 2 * np.sqrt((radius**2 - axis[:, None] ** 2 - axis[None, :] ** 2).clip(min=0))
        phase = np.exp(1j * _INNER_POTENTIAL_RAD_PER_A * depth) - 1
        lens = self._lens(side, side, thin=True).numpy()
        _add(field, fft.ifft2(fft.fft2(phase) * lens), place, int(rows[0]))
        lost = depth * _LOST_PER_A + float(crystal.parts.sum()) * depth / (2 * radius)
        _add(passed, -lost.clip(max=0.9), place, int(rows[0]))
        np.clip(passed, 0.1, 1, out=passed)

    def _add_films(
        self,
        field: Field,
        passed: NDArray[np.float32],
        rows: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> None:
        """Vitreous ice, and carbon where the film lies: random phase objects."""
        specimen = self.exposures.settings.specimen
        carbon = self.exposures.square.carbon
        if not specimen.ice_nm and carbon is None:
            return
        y, x = (np.fft.fftfreq(n, self.pixel_A) for n in field.shape)
        q = torch.from_numpy(np.hypot(y[:, None], x[None, :]))
        area = field.size * self.pixel_A**2
        optics = Optics(self._patch_optics.energy_ev, math.sqrt(area), 0.0)
        lens = self._lens(*field.shape, thin=True)
        noise = torch.from_numpy(rng.standard_normal(field.shape))
        spectrum = torch.fft.fft2(noise, norm="ortho") * lens

        def film(power: Tensor) -> NDArray[np.complex64]:
            power[0, 0] = 0
            wave = torch.fft.ifft2(1j * power.sqrt() * spectrum, norm="forward")
            values: Field = wave.numpy().astype(np.complex64)
            return values

        covered = np.zeros(field.shape, bool)
        if carbon is not None:
            edge = carbon.edge_A(rows.astype(np.float64) * self.pixel_A)
            covered = np.arange(field.shape[1])[None, :] * self.pixel_A < edge[:, None]
        if specimen.ice_nm:
            ice = water.elastic_intensity(q, optics, specimen.ice_nm, area)
            field += np.where(covered, 0, film(ice))
        if covered.any():
            thick = self.exposures.settings.session.carbon_nm
            power = carbon_intensity(q, optics, thick, area)
            field[covered] += film(power)[covered]
            passed[covered] *= 1 - self._beyond_aperture(thick)

    def _beyond_aperture(self, carbon_nm: float) -> float:
        """Part of the electrons that a film scatters outside the aperture."""
        image = self.exposures.settings.image
        low = q_from_angle(image.aperture_mrad, self._patch_optics.energy_ev)
        q = torch.linspace(low, 3.0, 600, dtype=torch.float64)
        one = Optics(self._patch_optics.energy_ev, 1.0, 0.0)
        per_area = carbon_intensity(q, one, carbon_nm, 1.0) * 2 * math.pi * q
        return min(0.9, float(torch.trapezoid(per_area, q)))


def _cropped(spectrum: NDArray[np.complex128], side: int) -> NDArray[np.complex128]:
    """The middle of a spectrum in FFT order, without the lines that have no partner."""
    n, half = len(spectrum), side // 2
    keep = np.r_[0:half, n - half : n]
    result: NDArray[np.complex128] = spectrum[np.ix_(keep, keep)].copy()
    if n > side:
        result[half, :] = 0
        result[:, half] = 0
    return result


def _add(
    target: NDArray[Any], patch: NDArray[Any], place_px: NDArray[np.float64], first_row: int
) -> None:
    """Add a patch, its middle pixel [n // 2, n // 2] at a place, where it lies in the target."""
    side = len(patch)
    top = round(place_px[0]) - side // 2 - first_row
    left = round(place_px[1]) - side // 2
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + side, target.shape[0]), min(left + side, target.shape[1])
    if y0 < y1 and x0 < x1:
        target[y0:y1, x0:x1] += patch[y0 - top : y1 - top, x0 - left : x1 - left]
