"""A molecule in ice under the beam: what its exposures hold beside the wave of the ideal molecule.

All is added to a simulated exit wave in Fourier space, so that nothing is simulated again:

- molecules differ: atoms displaced by their own (B factor) take intensity from what all molecules
  share, and give it to a speckle that each molecule has for itself;
- damage fades the coherent intensity; what is lost comes back smooth, as atoms that scatter by
  themselves;
- ice and a support scatter with the molecule, coherently (`films.py`);
- the molecule's wave loses what the water that it displaces had scattered, where that is asked for;
- electrons that lose energy are filtered out, or spread about the direct beam.

What scatters twice in ice is left out. Where a pair is the sum of several molecules' exposures,
what they scatter alike is drawn as their mean, and the rest as the intensity that it adds up to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffragan.fourier.grids import frequency_grid
from diffragan.microscope.exit_waves.form_factors import CARBON, form_factor_A
from diffragan.microscope.films import in_field, light, outside_field
from diffragan.microscope.matter import water
from diffragan.microscope.matter.damage import (
    amplitude_fade,
    critical_exposure_e_per_A2,
    intensity_fade,
)
from diffragan.microscope.noise import MOTION, each_apart, random_waves
from diffragan.optics import Optics
from diffragan.settings import Settings, SpecimenSettings

_FREE_ATOMS_PER_A = (1 / 3.0, 1 / 1.25)  # q where a protein's mean intensity is its atoms' own


@dataclass(frozen=True)
class Specimen:
    """What the exposures of b molecules hold, on the exit waves' grid (y, x), FFT order.

    molecule: (b, y, x) complex Fourier values of the molecules as they are, undamaged, direct beam
        included. films: (b, y, x) of ice and support in the field, and of the beam's own edge, or
        None. independent: (b, y, x) intensity of their atoms one by one. critical: (y, x) critical
        exposure. beside: (y, x) or (b, y, x) intensity that no wave of the field holds. direct:
        (b,) complex, of the direct beam in the wave. apart: (b, y, x) twice, what several summed
        molecules scatter each for itself, by motion (which fades) and by films.
    """

    molecule: Tensor
    films: Tensor | None
    independent: Tensor
    critical: Tensor
    q: Tensor
    beside: Tensor
    direct: Tensor
    optics: Optics
    settings: Settings
    apart: tuple[Tensor, Tensor] | None = None

    @property
    def _fade(self) -> Tensor:
        return intensity_fade(self.critical, *pattern_exposure(self.settings))

    def wave(self) -> Tensor:
        """(b, y, x) Fourier values of the wave that makes the pattern."""
        wave = self.molecule * self._fade.sqrt()
        return wave if self.films is None else wave + self.films

    def smooth(self) -> Tensor:
        """(b, y, x) intensity beside that of the wave."""
        fade = self._fade
        total = (1 - fade) * self.independent + self.beside
        if self.apart is not None:
            total = total + fade * self.apart[0] + self.apart[1]
        return total

    def intensity(self) -> Tensor:
        """(b, y, x) expected pattern, fraction of the beam that lost no energy, FFT order."""
        total = self.wave().abs() ** 2 + (1 - self._fade) * self.independent
        if self.apart is not None:
            total = total + self._fade * self.apart[0] + self.apart[1]
        return total + self.beside

    def imaged_wave(self, dose_e_per_A2: Tensor) -> Tensor:
        """(b, y, x) the exit wave that images of these doses (b,) show, the damage averaged."""
        settings = self.settings
        fade = amplitude_fade(self.critical, dose_e_per_A2, image_exposed_before(settings))
        wave = self.molecule * fade
        if self.films is not None:
            wave = wave + self.films
        result: Tensor = torch.fft.ifft2(wave, norm="forward").to(torch.complex64)
        return result


def is_ideal(specimen: SpecimenSettings) -> bool:
    """Whether molecules are alike, undamaged and in vacuum, under a beam that is even."""
    beside = specimen.ice_nm or specimen.motion_b_A2 or specimen.support
    uneven = specimen.beam_edge_A is not None or specimen.beam_offset_A
    return specimen.damage is None and not (beside or uneven)


def in_specimen(
    exit_wave: Tensor, optics: Optics, settings: Settings, seeds: Sequence[int]
) -> Specimen:
    """Molecules (b, y, x) in ice; what is random is drawn by each item's seed, on the CPU."""
    specimen, side = settings.specimen, exit_wave.shape[-1]
    q = frequency_grid(side, optics.box_A, exit_wave.device).sqrt()
    wave = torch.fft.fft2(exit_wave, norm="forward").to(torch.complex128)
    # The beam itself does not fade; a finite stand-in for zero frequency, where nothing else is.
    away = q.clone()
    away[0, 0] = away[0, 1]
    independent = independent_intensity(wave.abs() ** 2, away)
    thickness_A = None
    if specimen.displaced_water:
        wave, thickness_A = without_displaced(wave, q, optics)
    moved_apart = torch.zeros((), dtype=torch.float64, device=q.device)
    if specimen.motion_b_A2:
        shared = torch.exp(-specimen.motion_b_A2 * q**2 / 4)
        power = (1 - shared**2) * independent
        own = (power / specimen.molecules).sqrt()
        wave = wave * shared + own * random_waves(seeds, MOTION, side).to(wave.device)
        moved_apart = power * each_apart(seeds, MOTION, side, specimen.molecules).to(q.device)
    critical = critical_exposure_e_per_A2(away, optics.energy_ev, specimen)
    critical[0, 0] = torch.inf
    lit = light(seeds, q, optics, specimen)
    films, films_apart = in_field(seeds, q, optics, specimen, lit, thickness_A)
    if lit is not None:
        wave = lit.on(wave)
        films = lit.tails if films is None else films + lit.tails
    return Specimen(
        wave,
        films,
        independent,
        critical,
        away,
        outside_field(seeds, away, optics, specimen, lit),
        torch.ones(len(wave), dtype=torch.complex128) if lit is None else lit.middle,
        optics,
        settings,
        None if specimen.molecules == 1 else (moved_apart, films_apart),
    )


def without_displaced(wave: Tensor, q: Tensor, optics: Optics) -> tuple[Tensor, Tensor]:
    """Molecules' Fourier values (b, y, x) less the water that they displace, and how thick that
    water is (b, y, x), Å."""
    taken = water.displaced(q)
    to_centre = torch.polar(
        torch.ones_like(q), torch.pi * optics.wavelength_A * optics.centre_to_exit_A * q**2
    )
    phase = torch.fft.ifft2(wave * taken * to_centre, norm="forward").imag.clamp_min(0)
    taken[0, 0] = 0
    return wave * (1 - taken), phase / water.phase_per_A(optics.energy_ev)


def independent_intensity(intensity: Tensor, q: Tensor) -> Tensor:
    """(b, y, x) sum of f² over a molecule's atoms, from its own pattern (b, y, x).

    Between 3 and 1.25 Å the mean intensity of a protein is that sum (Wilson, Nature 150, 152,
    1942), which falls as carbon's squared form factor.
    """
    shape = form_factor_A(CARBON, q**2) ** 2
    low, high = _FREE_ATOMS_PER_A
    band = ((q >= low) & (q <= high)).double()
    scale = (intensity * band).sum((-2, -1)) / (shape * band).sum()
    result: Tensor = scale[:, None, None] * shape
    return result


def pattern_exposure(settings: Settings) -> tuple[float, float]:
    """Exposure of a pattern, and of what went before, e/Å²."""
    own, image = settings.pattern.dose_e_per_A2, settings.image.dose_e_per_A2
    return own or 0.0, (image or 0.0) if settings.specimen.image_first else 0.0


def image_exposed_before(settings: Settings) -> float:
    """Exposure before the image is taken, e/Å²."""
    return 0.0 if settings.specimen.image_first else settings.pattern.dose_e_per_A2 or 0.0


def pattern_fade(q: Tensor, energy_ev: float, settings: Settings) -> Tensor | None:
    """What damage leaves of coherent intensities at q (1/Å, not zero), the same shape; None where
    nothing fades."""
    if settings.specimen.damage is None:
        return None
    critical = critical_exposure_e_per_A2(q, energy_ev, settings.specimen)
    return intensity_fade(critical, *pattern_exposure(settings))
