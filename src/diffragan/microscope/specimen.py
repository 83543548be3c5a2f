"""A molecule in ice under the beam: what its exposures hold beside the wave of the ideal molecule.

All is added to a simulated exit wave in Fourier space, so that nothing is simulated again:

- molecules differ: atoms displaced by their own (B factor) take intensity from what all molecules
  share, and give it to a speckle that each molecule has for itself;
- damage fades the coherent intensity; what is lost comes back smooth, as atoms that scatter by
  themselves;
- ice scatters with the molecule, coherently, as random waves from layers along the beam, each with
  the structure factor of vitreous water;
- electrons that lose energy are filtered out, or spread about the direct beam.

The molecule displaces no water here, and what scatters twice in ice is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffragan.fourier.grids import frequency_grid
from diffragan.microscope import water
from diffragan.microscope.damage import amplitude_fade, critical_exposure_e_per_A2, intensity_fade
from diffragan.microscope.exit_waves.form_factors import CARBON, form_factor_A
from diffragan.microscope.noise import ICE, MOTION, item_seed
from diffragan.optics import Optics
from diffragan.settings import Settings, SpecimenSettings

_LAYER_A = 20.0  # thickest layer of ice that scatters as one plane
_FREE_ATOMS_PER_A = (1 / 3.0, 1 / 1.25)  # q where a protein's mean intensity is its atoms' own


@dataclass(frozen=True)
class Specimen:
    """What the exposures of b molecules hold, on the exit waves' grid (y, x), FFT order.

    molecule: (b, y, x) complex Fourier values of the molecules as they are, undamaged, direct beam
        included. ice: (b, y, x) of the ice in the field, or None. independent: (b, y, x) intensity
        of their atoms one by one. critical: (y, x) critical exposure.
    """

    molecule: Tensor
    ice: Tensor | None
    independent: Tensor
    critical: Tensor
    q: Tensor
    optics: Optics
    settings: Settings

    def intensity(self) -> Tensor:
        """(b, y, x) expected pattern, fraction of the beam that lost no energy, FFT order."""
        specimen = self.settings.specimen
        fade = intensity_fade(self.critical, *pattern_exposure(self.settings))
        wave = self.molecule * fade.sqrt()
        if self.ice is not None:
            wave = wave + self.ice
        total = wave.abs() ** 2 + (1 - fade) * self.independent
        beside = water.beside_molecule(self.q, self.optics, specimen)
        if self.ice is not None:  # whose part in the field is a wave, above
            area = min(self.optics.box_A**2, water.beam_area_A2(self.optics, specimen))
            beside -= water.elastic_intensity(self.q, self.optics, specimen.ice_nm, area)
        return total + beside

    def imaged_wave(self, dose_e_per_A2: Tensor) -> Tensor:
        """(b, y, x) the exit wave that images of these doses (b,) show, the damage averaged."""
        settings = self.settings
        fade = amplitude_fade(self.critical, dose_e_per_A2, image_exposed_before(settings))
        wave = self.molecule * fade
        if self.ice is not None:
            wave = wave + self.ice
        result: Tensor = torch.fft.ifft2(wave, norm="forward").to(torch.complex64)
        return result


def is_ideal(specimen: SpecimenSettings) -> bool:
    """Whether molecules are alike, undamaged and in vacuum."""
    return specimen.damage is None and not (specimen.ice_nm or specimen.motion_b_A2)


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
    if specimen.motion_b_A2:
        shared = torch.exp(-specimen.motion_b_A2 * q**2 / 4)
        own = ((1 - shared**2) * independent).sqrt()
        wave = wave * shared + own * _random_waves(seeds, MOTION, side).to(wave.device)
    critical = critical_exposure_e_per_A2(away, optics.energy_ev, specimen)
    critical[0, 0] = torch.inf
    ice = _ice(seeds, q, optics, specimen) if specimen.ice_nm else None
    return Specimen(wave, ice, independent, critical, away, optics, settings)


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


def _ice(seeds: Sequence[int], q: Tensor, optics: Optics, specimen: SpecimenSettings) -> Tensor:
    """(b, y, x) complex128 Fourier values of the ice that lies in the field, as layers of weak
    phase objects about the molecule's plane."""
    area = min(optics.box_A**2, water.beam_area_A2(optics, specimen))
    count = max(1, round(10 * specimen.ice_nm / _LAYER_A))
    power = water.elastic_intensity(q, optics, specimen.ice_nm / count, area)
    power[0, 0] = 0
    thick_A = 10 * specimen.ice_nm / count
    side = q.shape[-1]
    total = torch.zeros(len(seeds), side, side, dtype=torch.complex128, device=q.device)
    for k in range(count):
        to_exit_A = optics.centre_to_exit_A + (k - 0.5 * (count - 1)) * thick_A
        turn = -torch.pi * optics.wavelength_A * to_exit_A * q**2
        wave = 1j * torch.polar(power.sqrt(), turn)
        total += wave * _random_objects(seeds, ICE, k, side).to(q.device)
    return total


def _random_objects(seeds: Sequence[int], kind: int, layer: int, side: int) -> Tensor:
    """(b, y, x) Fourier values of real white noise, of mean square 1."""
    drawn = [
        torch.randn(
            (side, side),
            generator=torch.Generator().manual_seed(item_seed(seed, kind, layer)),
            dtype=torch.float64,
        )
        for seed in seeds
    ]
    result: Tensor = torch.fft.fft2(torch.stack(drawn), norm="ortho")
    return result


def _random_waves(seeds: Sequence[int], kind: int, side: int) -> Tensor:
    """(b, y, x) Fourier values of complex white noise, of mean square 1."""
    real, imaginary = (_random_objects(seeds, kind, part, side) for part in (0, 1))
    return (real + 1j * imaginary) / 2**0.5
