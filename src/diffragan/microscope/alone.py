"""What a single exposure tells of the molecule alone, through damage, ice and a support.

A pixel's expectation is fade |P|² N + b. Counts less b over fade are the molecule's intensity, as
it was undamaged, with a variance that grows by b, and by b's own randomness where b is ice: its
waves differ from molecule to molecule. Such an intensity may be less than nothing. The amplitude
that is expected of it, and how sure that is, are French & Wilson's (Acta Cryst. A 34, 517, 1978):
of all intensities that a molecule of this strength may have there, in the measure in which they
would give this count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, make_interp_spline
from torch import Tensor

from diffragan.fourier.grids import frequency_grid
from diffragan.microscope.effective_dose import (
    FOLDED_FROM_PER_A,
    folded_part,
    protein_intensity,
)
from diffragan.microscope.exit_waves.form_factors import CARBON, form_factor_A
from diffragan.microscope.imaging import counted_electrons
from diffragan.microscope.matter import water
from diffragan.microscope.matter.carbon import carbon_intensity
from diffragan.microscope.matter.damage import amplitude_fade, critical_exposure_e_per_A2
from diffragan.microscope.specimen import image_exposed_before, pattern_fade
from diffragan.optics import Optics
from diffragan.settings import Settings, SpecimenSettings

_FREE_ATOMS_PER_A = (1 / 3.0, 1 / 1.25)  # where a protein's mean intensity is that of its atoms
_LEAST_STRENGTH = 0.05  # of what is measured, that a molecule is thought to have where none is seen
_LEAST_LEFT = 1e-3  # of intensities, that damage is thought to leave
# By which single views' mean intensities differ from what their weight tells, beyond 5 Å and
# nearer to the beam.
_UNLIKE, _UNLIKE_INSIDE = 0.2, 0.5
_PARTS, _LEAST_PIXELS = 2, 6  # of a ring, in the mean over directions; and what one must hold
_NODES = 48  # of the integrals over amplitudes
_REACH = 6.0  # standard deviations that they go to
_TINY = 1e-30


@dataclass(frozen=True)
class MoleculeAlone:
    """What b exposures tell of their molecules alone.

    amplitude, deviation: (b, m, m) of the undamaged molecule's pattern, expected and its standard
        deviation, in units of the plane wave, zero frequency at [m // 2, m // 2]; 0 where masked.
    image_fade: (b, m, m) what damage leaves of the amplitudes that images show, and image_beside:
        the power of ice's waves in front of their lens; zero frequency first.
    """

    amplitude: Tensor
    deviation: Tensor
    image_fade: Tensor
    image_beside: Tensor

    def __getitem__(self, items: slice) -> MoleculeAlone:
        """That of some of the exposures."""
        return MoleculeAlone(
            self.amplitude[items],
            self.deviation[items],
            self.image_fade[items],
            self.image_beside[items],
        )


def films_beside(specimen: SpecimenSettings) -> bool:
    """Whether something scatters beside the molecule that its own pattern does not tell."""
    return bool(specimen.ice_nm or specimen.support)


def molecule_alone(
    pattern: Tensor,
    mask: Tensor,
    image_dose_e_per_A2: Tensor,
    optics: Optics,
    settings: Settings,
    mass_kda: Tensor | None = None,
    empty: Tensor | None = None,
) -> MoleculeAlone:
    """Amplitudes of the molecule from counted patterns (b, m, m), fractions of the beam.

    Damage alone is told by the pattern itself: beyond 3 Å a protein scatters as its atoms one by
    one, and what fades comes back as just that. Ice is told by `empty`, or as what a molecule of
    this weight does not explain, ring by ring.

    Args:
        mask: (m, m) bool. image_dose_e_per_A2: (b,), of all molecules in an image.
        mass_kda: (b,) of the molecules. empty: (m, m) mean pattern of positions without a molecule.
    """
    assert mass_kda is not None or empty is not None or not films_beside(settings.specimen)
    q = torch.fft.fftshift(frequency_grid(mask.shape[-1], optics.box_A, pattern.device)).sqrt()
    q = q.clamp_min(1 / optics.box_A)
    fade = pattern_fade(q, optics.energy_ev, settings)
    fade = torch.ones_like(q) if fade is None else fade.clamp_min(_LEAST_LEFT)
    raw, electrons = pattern.double() * mask, counted_electrons(optics, settings)
    assert electrons is not None
    own, seen = None, _Seen(q, mask, optics.box_A)
    if mass_kda is not None and (empty is not None or films_beside(settings.specimen)):
        own = _Strength.of(mass_kda, q, optics, settings.specimen)
    beside, films = _beside(raw, seen, fade, own, empty)
    intensity = (raw - beside) / fade
    shown = fade * intensity.clamp_min(0)
    waves = (films**2 + 2 * shown * films) / settings.specimen.molecules
    variance = (torch.maximum(raw, beside) / electrons + waves) / fade**2
    if empty is not None:
        variance = variance + seen.error(empty) / fade**2
    elif own is not None:
        unlike = torch.where(q < FOLDED_FROM_PER_A, _UNLIKE_INSIDE, _UNLIKE)
        variance = variance + (unlike * own.folded) ** 2
    strength = seen.mean(intensity)
    least = _LEAST_STRENGTH * seen.mean(raw) / fade
    strength = torch.maximum(strength, least if own is None else own.folded)
    amplitude, deviation = expected_amplitude(intensity, variance.sqrt(), strength)
    image_fade, image_beside = _of_images(films, q, image_dose_e_per_A2, optics, settings)
    keep = mask.to(pattern.dtype)
    return MoleculeAlone(
        amplitude.to(pattern) * keep, deviation.to(pattern) * keep, image_fade, image_beside
    )


def expected_amplitude(intensity: Tensor, sigma: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """Expected amplitudes and their standard deviations, from intensities that were measured with
    an error sigma, where intensities are exponential of mean `strength` (Wilson's statistics).
    All of one shape; sigma and strength above 0."""
    sigma, strength = sigma.clamp_min(_TINY), strength.clamp_min(_TINY)
    middle = intensity - sigma**2 / strength  # of the normal law that is cut off at 0
    low = (middle - _REACH * sigma).clamp_min(0)
    tail = sigma / (1 + (-middle / sigma).clamp_min(0))
    high = middle.clamp_min(0) + torch.where(middle > 0, _REACH * sigma, 2 * _REACH * tail)
    first, last = low.sqrt(), high.sqrt()
    total = [torch.zeros_like(first) for _ in range(3)]
    for k in range(_NODES):
        a = first + (last - first) * (k + 0.5) / _NODES
        away = (a**2 - middle) / sigma
        away = 0.5 * (away**2 - (middle / sigma).clamp(max=0) ** 2)
        weight = a * torch.exp(-away)
        for line, power in zip(total, (weight, weight * a, weight * a**2), strict=True):
            line += power
    mean = total[1] / total[0].clamp_min(_TINY)
    square = total[2] / total[0].clamp_min(_TINY)
    return mean, (square - mean**2).clamp_min(0).sqrt()


def _beside(
    raw: Tensor, seen: _Seen, fade: Tensor, own: _Strength | None, empty: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What lies beside the coherent part of the molecule (b, m, m), in the pattern's units; and of
    it what films scatter."""
    q, mask = seen.q, seen.mask
    if empty is None and own is not None:
        beside = (seen.mean(raw) - fade * own.folded).clamp_min(0)
        law = own.films
        near = mask & (q >= FOLDED_FROM_PER_A) & (q <= 1.5 * FOLDED_FROM_PER_A)
        scale = beside[..., near].sum(-1) / law[near].sum().clamp_min(_TINY)
        inner = scale[:, None, None] * law + (1 - fade) * own.atoms
        beside = torch.where(q < FOLDED_FROM_PER_A, inner, beside)
        return beside, (beside - (1 - fade) * own.atoms).clamp_min(0)
    films = torch.zeros_like(q) if empty is None else seen.mean(empty)
    if own is None:
        shape = form_factor_A(CARBON, q**2) ** 2
        low, high = _FREE_ATOMS_PER_A
        band = (q >= low) & (q <= high) & mask
        told = ((raw - films) * band).sum((-2, -1)).clamp_min(0) / (shape * band).sum()
        atoms = told[:, None, None] * shape
    else:
        atoms = own.atoms
    beside = films + (1 - fade) * atoms
    return beside, films.expand_as(beside)


def _of_images(
    films: Tensor, q: Tensor, dose_e_per_A2: Tensor, optics: Optics, settings: Settings
) -> tuple[Tensor, Tensor]:
    """What damage leaves of amplitudes in images, and the power of ice's waves there: of the ice in
    the field, which a beam that is wider lights more of; (b, m, m), zero frequency first."""
    specimen = settings.specimen
    critical = critical_exposure_e_per_A2(q, optics.energy_ev, specimen)
    fade = amplitude_fade(
        critical, dose_e_per_A2.to(q) / specimen.molecules, image_exposed_before(settings)
    )
    seen = min(1.0, optics.box_A**2 / water.beam_area_A2(optics, specimen)) / specimen.molecules
    both = (fade.expand_as(films), seen * films)
    first, second = (torch.fft.ifftshift(x, dim=(-2, -1)) for x in both)
    return first, second


@dataclass(frozen=True)
class _Strength:
    """What molecules of known weights scatter, undamaged: folded (b, m, m), and as atoms one by
    one; and films (m, m), what the specimen's films are told to, as good as their thickness."""

    folded: Tensor
    atoms: Tensor
    films: Tensor

    @classmethod
    def of(
        cls, mass_kda: Tensor, q: Tensor, optics: Optics, specimen: SpecimenSettings
    ) -> _Strength:
        """That of molecules of weights (b,)."""
        atoms = mass_kda[:, None, None] * protein_intensity(q, optics, 1.0)
        films = water.beside_molecule(q, optics, specimen)
        if specimen.support == "carbon":
            area = water.beam_area_A2(optics, specimen)
            films = films + carbon_intensity(q, optics, specimen.carbon_nm, area)
        return cls(folded_part(q) * atoms, atoms, films)


@dataclass(frozen=True)
class _Seen:
    """Where pixels lie, q (m, m) in 1/Å, and which are valid, mask (m, m); with means over all
    directions by distance from the beam, a curve through halves of rings of 1 / field: ice rises
    and falls within one by many times what the molecule scatters."""

    q: Tensor
    mask: Tensor
    box_A: float

    def mean(self, values: Tensor) -> Tensor:
        """(..., m, m) means of values (..., m, m)."""
        flat = self._valid(values)
        return self._drawn(self._by_part(flat), CubicSpline).reshape(values.shape)

    def error(self, values: Tensor) -> Tensor:
        """(..., m, m) squared standard error of these means, by how pixels scatter about them."""
        count = torch.bincount(self._part[self.mask.flatten()])
        off = self._valid((values - self.mean(values)) ** 2)
        return self._drawn(self._by_part(off) / count, _straight).reshape(values.shape)

    @property
    def _part(self) -> Tensor:
        return (_PARTS * self.q * self.box_A + 0.5).long().flatten()

    def _valid(self, values: Tensor) -> Tensor:
        seen = self.mask.flatten()
        return values.double().flatten(-2)[..., seen].reshape(-1, int(seen.sum()))

    def _by_part(self, flat: Tensor) -> Tensor:
        """(c, parts) means by part of a ring."""
        part = self._part[self.mask.flatten()]
        count = torch.bincount(part)
        return flat.new_zeros(len(flat), len(count)).index_add_(1, part, flat) / count.clamp_min(1)

    def _drawn(self, means: Tensor, curve: Callable[..., Any]) -> Tensor:
        """(c, m, m) a curve through means by part of a ring, where a part has pixels enough."""
        seen = self.mask.flatten()
        radius = self._by_part(self.q.flatten()[seen].double()[None])[0]
        filled = torch.bincount(self._part[seen]) >= _LEAST_PIXELS
        places, known = radius[filled], means[:, filled]
        drawn = curve(places.cpu().numpy(), known.cpu().numpy(), axis=1)
        at = self.q.clamp(float(places[0]), float(places[-1])).double()
        return torch.from_numpy(np.asarray(drawn(at.cpu().numpy()))).to(self.q.device)


def _straight(x: NDArray[np.float64], y: NDArray[np.float64], axis: int) -> Callable[..., Any]:
    """Straight lines between points, never below the lower of two."""
    lines: Callable[..., Any] = make_interp_spline(x, y, k=1, axis=axis)
    return lines
