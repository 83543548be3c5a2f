"""What the detector counts at a beam position: molecules, ice, carbon and crystals under the beam.

A molecule's exit wave, simulated alone, less the beam, is what it adds to the beam: it is put where
the molecule lies, times the beam's amplitude there. Between neighbours nothing scatters twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial import cKDTree
from scipy.special import ndtr
from torch import Tensor

from diffragan.files.store import SimulationStore
from diffragan.microscope.detector import detected
from diffragan.microscope.matter import water
from diffragan.microscope.matter.carbon import carbon_intensity
from diffragan.microscope.matter.damage import critical_exposure_e_per_A2, intensity_fade
from diffragan.microscope.noise import ICE, MOTION, PATTERN_NOISE, item_seed
from diffragan.microscope.session.raster import Beam, distances
from diffragan.microscope.session.square import Crystal, Square
from diffragan.microscope.specimen import in_specimen, independent_intensity
from diffragan.optics import Optics
from diffragan.settings import Settings, SpecimenSettings

_RIM = 0.04  # of the waves' field on each side

Wave = NDArray[np.complex128]
Image = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Exposures:
    """A scan over a square, position by position.

    store: exit waves of the kinds, all orientations of the first, then those of the next.
    orientations: so many each. centre_px: (y, x) of the beam on the detector.
    """

    square: Square
    store: SimulationStore
    orientations: int
    centre_px: tuple[float, float]
    settings: Settings

    @cached_property
    def beam(self) -> Beam:
        """The beam on the specimen."""
        session = self.settings.session
        return Beam(session.beam_diameter_A, session.beam_edge_A)

    @cached_property
    def optics(self) -> Optics:
        """Of the detector's own field, 1 / its pixel."""
        stored = self.store.optics
        pixel = stored.box_A / self.store.n_px
        side = self.settings.session.detector_px * pixel
        return Optics(stored.energy_ev, side, stored.centre_to_exit_A)

    @cached_property
    def q(self) -> Tensor:
        """(N, N) spatial frequency at each pixel, FFT order about the nearest pixel of the beam;
        nowhere zero."""
        n = self.settings.session.detector_px
        axis = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
        (dy, dx), side = self._offset, self.optics.box_A
        q = torch.hypot(axis[:, None] - dy, axis[None, :] - dx) / side
        return q.clamp_min(0.5 / side)

    @cached_property
    def electrons(self) -> float:
        """Counted of a full beam on the detector's field, of those that lost no energy."""
        specimen, dose = self.settings.specimen, self.settings.pattern.dose_e_per_A2 or 0.0
        passed = water.zero_loss(specimen) if specimen.ice_nm else 1.0
        return dose * self.optics.box_A**2 * passed * self.settings.detector.dqe

    def counts(self, position: int) -> NDArray[np.float64]:
        """(N, N) electrons counted at a position, its noise drawn from its own seed."""
        rng = np.random.default_rng(item_seed(self.settings.seed, position, PATTERN_NOISE))
        return rng.poisson(self.expected(position)).astype(np.float64)

    def expected(self, position: int) -> Image:
        """(N, N) expected counts at a position, the beam at `centre_px`."""
        wave, smooth = self._molecules(position)
        wave = wave + self._ice(position) + self._carbon_wave(position)
        total = np.abs(wave) ** 2 + smooth + self._beside(position)
        pattern = fft.fftshift(total) * self.electrons
        # The beam's nearest pixel was in the middle until here.
        pattern = np.roll(pattern, self._whole, (0, 1))
        for crystal, part in zip(
            self.square.crystals, self.crystal_parts[:, position], strict=True
        ):
            if part > 0:
                pattern = pattern + part * self._reflections(crystal)
        beam = self.electrons * self.beam.area_A2 / self.optics.box_A**2
        spot = self._spot(*self.centre_px)
        direct = max(beam - float(pattern.sum()), 0.02 * beam)
        pattern = pattern + direct * spot
        seen, good = detected(torch.from_numpy(pattern)[None], self._works, self.settings)
        result: Image = (seen[0] * good).numpy()
        return result

    def lit(self, position: int) -> list[tuple[int, float]]:
        """Molecules that the beam reaches at a position, and the part of its intensity on each."""
        place = self.square.positions_A[position]
        near = sorted(self._tree.query_ball_point(place, self.beam.reach_A + self._reach_A))
        off = distances(self.square.molecules.places_A[near].reshape(-1, 2), place)
        return list(zip(near, map(float, self.beam.intensity(off)), strict=True))

    def exposed_before(self, molecule: int, position: int | None = None) -> float:
        """e/Å² that a molecule got before a position of the scan; none: in all of it."""
        numbers, parts = self._history(molecule)
        until = len(numbers) if position is None else np.searchsorted(numbers, position)
        return float(parts[:until].sum()) * (self.settings.pattern.dose_e_per_A2 or 0.0)

    def imaged_before(self) -> float:
        """e/Å² of the overview, where it is taken first."""
        image = self.settings.image.dose_e_per_A2 or 0.0
        return image if self.settings.specimen.image_first else 0.0

    def scattered(self, molecule: int) -> Wave:
        """(n, n) what a molecule adds to a beam of 1 around itself, undamaged, its own motion in
        it."""
        of = self.square.molecules
        item = int(of.kind[molecule]) * self.orientations + int(of.wave[molecule])
        wave = _read(self.store, item)
        if not self.settings.specimen.motion_b_A2:
            return (wave - 1) * self._rim
        own = self.settings.specimen.model_copy(update={"ice_nm": 0.0, "damage": None})
        alone = self.settings.model_copy(update={"specimen": own})
        seed = item_seed(self.settings.seed, molecule, MOTION)
        moved = in_specimen(torch.from_numpy(wave)[None], self.store.optics, alone, [seed])
        added: Wave = (fft.ifft2(moved.molecule[0].numpy(), norm="forward") - 1) * self._rim
        return added

    # What follows is computed once.

    @cached_property
    def _rim(self) -> Image:
        """1, and softly 0 at the edge of the waves' field, where a step would scatter."""
        side = self._wave_px
        from_edge = (np.minimum(np.arange(side), side - 1 - np.arange(side)) + 0.5) / side
        soft = np.sin(0.5 * np.pi * np.clip(from_edge / _RIM, 0, 1)) ** 2
        rim: Image = np.outer(soft, soft)
        return rim

    @cached_property
    def _wave_px(self) -> int:
        return self.store.n_px

    @cached_property
    def _whole(self) -> tuple[int, int]:
        half = self.settings.session.detector_px // 2
        return round(self.centre_px[0]) - half, round(self.centre_px[1]) - half

    @cached_property
    def _offset(self) -> tuple[float, float]:
        return tuple(c - round(c) for c in self.centre_px)  # type: ignore[return-value]

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.square.molecules.places_A.reshape(-1, 2))

    @cached_property
    def _reach_A(self) -> float:
        return 0.5 * self.store.optics.box_A

    @cached_property
    def _works(self) -> Tensor:
        n = self.settings.session.detector_px
        return torch.ones(n, n, dtype=torch.bool)

    @cached_property
    def _critical(self) -> Tensor:
        energy = self.settings.energy_ev
        return critical_exposure_e_per_A2(self.q, energy, self.settings.specimen)

    @cached_property
    def _independent(self) -> list[Image]:
        """For each kind, its atoms' intensity one by one, on the detector's pixels."""
        kinds, optics = len(self.store.structures), self.store.optics
        n = self.store.n_px
        axis = torch.fft.fftfreq(n, optics.box_A / n, dtype=torch.float64)
        q = torch.hypot(axis[:, None], axis[None, :])
        shapes = []
        for kind in range(kinds):
            items = kind * self.orientations + np.arange(min(self.orientations, 16))
            waves = self.store.exit_wave(items) - 1
            power = np.abs(fft.fft2(waves, norm="forward")) ** 2
            mean = torch.from_numpy(power.mean(0, keepdims=True))
            # A pixel of the pattern holds more of a smaller field's, in parts of the beam on it.
            scale = (optics.box_A / self.optics.box_A) ** 4
            own = independent_intensity(mean, q)[0] * scale
            at_zero = float(own[0, 0])
            shapes.append(at_zero * _free_atoms(self.q).numpy())
        return shapes

    def _history(self, molecule: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Positions at which a molecule is lit, in order, and by which part."""
        off = distances(self.square.positions_A, self.square.molecules.places_A[molecule])
        parts = self.beam.intensity(off)
        numbers = np.nonzero(parts > 0)[0]
        return numbers, parts[numbers]

    def _molecules(self, position: int) -> tuple[Wave, Image]:
        """Their wave (FFT order), and what damage has made of it that is smooth."""
        n = self.settings.session.detector_px
        spectrum, smooth = np.zeros((n, n), np.complex128), np.zeros((n, n))
        together = np.zeros((n, n), np.complex128)
        place, fades = self.square.positions_A[position], self.settings.specimen.damage is not None
        for molecule, part in self.lit(position):
            field = self._on_field(molecule, place)
            if not fades:
                together += field
                continue
            dose = (self.settings.pattern.dose_e_per_A2 or 0.0) * part
            before = self.exposed_before(molecule, position) + self.imaged_before()
            fade = intensity_fade(self._critical, dose, before).numpy()
            spectrum += fft.fft2(field, norm="forward") * np.sqrt(fade)
            kind = int(self.square.molecules.kind[molecule])
            smooth += (1 - fade) * part * self._independent[kind]
        if together.any():
            spectrum += fft.fft2(together, norm="forward")
        return spectrum, smooth

    def _on_field(self, molecule: int, place: NDArray[np.float64]) -> Wave:
        """(N, N) a molecule's part of the wave under the beam, tilted by what the beam lies beside
        a pixel's middle, then wrapped into the detector's field: its Fourier transform at the
        detector's frequencies is that of the wave itself."""
        n, side = self.settings.session.detector_px, self._wave_px
        pixel = self.optics.box_A / n
        off = self.square.molecules.places_A[molecule] - place
        start = np.rint(off / pixel).astype(int) - side // 2
        rows, columns = (start[k] + np.arange(side) for k in (0, 1))
        distance = np.hypot(rows[:, None] * pixel, columns[None, :] * pixel)
        dy, dx = self._offset
        # By the place itself: wrapped first, a wave on both sides of the beam's middle would break.
        tilt = np.exp(2j * np.pi / n * (dy * rows[:, None] + dx * columns[None, :]))
        lit = self.scattered(molecule) * self.beam.amplitude(distance) * tilt
        field = np.zeros((n, n), np.complex128)
        np.add.at(field, (rows[:, None] % n, columns[None, :] % n), lit)
        return field

    def _ice(self, position: int) -> Wave | float:
        specimen = self.settings.specimen
        if not specimen.ice_nm:
            return 0.0
        area = min(self.optics.box_A**2, self.beam.area_A2) * (1 - self._carbon_part(position))
        return self._random_wave(self._ice_a_square_A * area, position, ICE)

    def _carbon_wave(self, position: int) -> Wave | float:
        part = self._carbon_part(position)
        if not part:
            return 0.0
        area = min(self.optics.box_A**2, self.beam.area_A2) * part
        return self._random_wave(self._carbon_a_square_A * area, position, ICE + 100)

    def _random_wave(self, power: Image, position: int, kind: int) -> Wave:
        """A weak phase object of this mean power, its own at every position."""
        rng = np.random.default_rng(item_seed(self.settings.seed, position, kind))
        noise = fft.fft2(rng.standard_normal(power.shape, dtype=np.float32), norm="ortho")
        wave: Wave = 1j * np.sqrt(power) * noise
        return wave

    def _beside(self, position: int) -> Image | float:
        """What the beam's part beyond the detector's field adds, as intensity."""
        wide = self.beam.area_A2 - min(self.optics.box_A**2, self.beam.area_A2)
        part = self._carbon_part(position)
        specimen = self._specimen
        total: Image | float = 0.0
        if specimen.ice_nm:
            total = total + self._ice_a_square_A * (wide * (1 - part))
        if part:
            total = total + self._carbon_a_square_A * (wide * part)
        if not specimen.energy_filter and specimen.ice_nm:
            total = total + self._inelastic
        return total

    @cached_property
    def _ice_a_square_A(self) -> Image:
        """Mean intensity of vitreous ice for each Å² that the beam meets."""
        thick = self.settings.specimen.ice_nm
        return water.elastic_intensity(self.q, self.optics, thick, 1.0).numpy()

    @cached_property
    def _carbon_a_square_A(self) -> Image:
        thick = self.settings.session.carbon_nm
        return carbon_intensity(self.q, self.optics, thick, 1.0).numpy()

    @cached_property
    def _inelastic(self) -> Image:
        return water.inelastic_intensity(self.q, self.optics, self._specimen).numpy()

    @cached_property
    def _specimen(self) -> SpecimenSettings:
        diameter = self.settings.session.beam_diameter_A
        return self.settings.specimen.model_copy(update={"beam_diameter_A": diameter})

    def _carbon_part(self, position: int) -> float:
        return float(self._carbon_parts[position])

    @cached_property
    def _carbon_parts(self) -> NDArray[np.float64]:
        if self.square.carbon is None:
            return np.zeros(len(self.square.positions_A))
        return self.square.carbon.part_lit(self.square.positions_A, self.beam)

    @cached_property
    def crystal_parts(self) -> NDArray[np.float64]:
        """(c, n) part of the beam on each crystal at each position, discs overlapping."""
        parts = np.zeros((len(self.square.crystals), len(self.square.positions_A)))
        for row, crystal in zip(parts, self.square.crystals, strict=True):
            off = distances(self.square.positions_A, crystal.place_A)
            row[:] = overlap(off, crystal.diameter_A / 2, self.beam.diameter_A / 2)
        return parts

    def _reflections(self, crystal: Crystal) -> Image | float:
        beam = self.electrons * self.beam.area_A2 / self.optics.box_A**2
        total: Image | float = 0.0
        for q, strength in zip(crystal.q_per_A, crystal.parts, strict=True):
            y, x = (c + f * self.optics.box_A for c, f in zip(self.centre_px, q, strict=True))
            total = total + beam * strength * self._spot(float(y), float(x))
        return total

    def _spot(self, y: float, x: float) -> Image:
        """(N, N) a spot as wide as the direct beam, of sum 1 on an endless detector."""
        n, width = self.settings.session.detector_px, self.settings.session.spot_px
        edges = np.arange(n + 1) - 0.5
        rows, columns = (np.diff(ndtr((edges - c) / width)) for c in (y, x))
        result: Image = np.outer(rows, columns)
        return result


def overlap(
    distance: NDArray[np.float64], radius_A: float, beam_radius_A: float
) -> NDArray[np.float64]:
    """Area that two discs at a distance share, over the second's."""
    r, b = radius_A, beam_radius_A
    d = np.maximum(distance, 1e-9)
    first = np.clip((d**2 + r**2 - b**2) / (2 * d * r), -1, 1)
    second = np.clip((d**2 + b**2 - r**2) / (2 * d * b), -1, 1)
    inside = (-d + r + b) * (d + r - b) * (d - r + b) * (d + r + b)
    lens = r**2 * np.arccos(first) + b**2 * np.arccos(second) - 0.5 * np.sqrt(inside.clip(min=0))
    lens = np.where(d <= abs(r - b), np.pi * min(r, b) ** 2, lens)
    result: NDArray[np.float64] = np.where(d >= r + b, 0.0, lens) / (np.pi * b**2)
    return result


@lru_cache(maxsize=64)
def _read(store: SimulationStore, item: int) -> Wave:
    wave: Wave = store.exit_wave(np.array([item]))[0].astype(np.complex128)
    return wave


def _free_atoms(q: Tensor) -> Tensor:
    from diffragan.microscope.exit_waves.form_factors import CARBON, form_factor_A

    shape = form_factor_A(CARBON, q**2) ** 2
    return shape / form_factor_A(CARBON, torch.zeros(1, dtype=q.dtype)) ** 2
