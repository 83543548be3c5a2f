"""The measured amplitudes as a set to project on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

_TINY = 1e-30
_SPECK = 1e-18

ObjectModel = Literal["real", "complex"]


def to_fourier(x: Tensor) -> Tensor:
    """Fourier amplitudes of objects (..., m, m): half plane for real ones, whole for complex."""
    result: Tensor = (
        torch.fft.fft2(x, norm="forward") if x.is_complex() else torch.fft.rfft2(x, norm="forward")
    )
    return result


def from_fourier(spectrum: Tensor, m: int) -> Tensor:
    """The inverse of `to_fourier`; the half plane gives a real object."""
    if spectrum.shape[-1] == m:
        result: Tensor = torch.fft.ifft2(spectrum, norm="forward")
    else:
        result = torch.fft.irfft2(spectrum, s=(m, m), norm="forward")
    return result


def friedel_mate(spectrum: Tensor) -> Tensor:
    """The array (..., m, m), zero frequency first, at -q."""
    return torch.roll(spectrum.flip(-2, -1), (1, 1), (-2, -1))


@dataclass(frozen=True)
class Modulus:
    """The measured amplitudes as a set to project on.

    low, high: (..., m, m or m // 2 + 1) float, smallest and largest allowed amplitude: equal where
        the amplitude is exact, 0 and infinity where it is free, both 0 beyond the band.
    measured: (m, m or m // 2 + 1) bool.
    exact: whether no measured amplitude has an interval or a Poisson weight.
    poisson_weight: for counts, see `measured_modulus`.
    """

    low: Tensor
    high: Tensor
    measured: Tensor
    m: int
    exact: bool
    poisson_weight: float | None = None

    @property
    def amplitude(self) -> Tensor:
        """The measured amplitudes, 0 where none."""
        return torch.where(self.measured, 0.5 * (self.low + self.high), 0.0)

    def allowed(self, size: Tensor) -> Tensor:
        """The amplitude that each Fourier modulus `size` goes to."""
        if self.poisson_weight is None:
            return torch.clamp(size, self.low, self.high)
        rho = self.poisson_weight
        optimum = (rho * size + (rho**2 * size**2 + (1 + 2 * rho) * self.low**2).sqrt()) / (
            1 + 2 * rho
        )
        return torch.where(self.measured, optimum, torch.clamp(size, self.low, self.high))

    @cached_property
    def _free(self) -> Tensor:
        """1 where the amplitude is free, 0 elsewhere."""
        return torch.isinf(self.high).to(self.low.dtype)

    def project_spectrum(self, spectrum: Tensor) -> Tensor:
        """The nearest allowed spectrum, in place; the phase of an exact 0 is taken as 0."""
        # Far below rounding, this only gives an exact zero a phase.
        real, imag = spectrum.real, spectrum.imag
        real.add_(_SPECK)
        if self.exact:
            square = torch.addcmul(real * real, imag, imag).clamp_min_(_SPECK**2)
            factor = square.rsqrt_().mul_(self.low).add_(self._free)
        else:
            size = spectrum.abs().clamp_min_(_SPECK)
            factor = self.allowed(size).div_(size)
        return spectrum.mul_(factor)

    def __call__(self, x: Tensor) -> Tensor:
        """The nearest object (..., m, m) with allowed amplitudes."""
        return from_fourier(self.project_spectrum(to_fourier(x)), self.m)

    def r_factor(self, x: Tensor) -> Tensor:
        """Amplitude R of objects (..., m, m) over the measured pixels. Shape (...).

        For a real object the pixels of the half plane that stand for two count twice.
        """
        size = to_fourier(x).abs()
        weight = self.measured.to(size.dtype)
        if weight.shape[-1] != self.m:
            weight = weight * 2
            weight[..., 0] /= 2
        goal = self.amplitude
        error = (weight * (size - goal) ** 2).sum((-2, -1)).sqrt()
        return error / (weight * goal**2).sum((-2, -1)).sqrt().clamp_min(_TINY)


def measured_modulus(
    amplitude: Tensor,
    mask: Tensor,
    model: ObjectModel,
    *,
    uncertainty: Tensor | float = 0.0,
    poisson_weight: float | None = None,
) -> Modulus:
    """The set of objects that have the measured amplitudes.

    Args:
        amplitude: (..., m, m), zero frequency first, unit: the plane wave.
        mask: (m, m) bool, True where the pattern is valid, zero frequency first.
        model: "real" averages Friedel mates: the mean amplitude where both are measured, the one
            that is elsewhere. (At the centre plane the mean lies nearest to the amplitude of the
            real part; the mates of a protein differ by about 10 %.)
        uncertainty: (..., m, m) or a number: amplitudes within it of the measured one are allowed.
        poisson_weight: for counts: measured pixels go to the amplitude a that is best under
            c log(N a²) - N a² - 2 N rho (a - size)², c the count, N the electrons, c/N = amplitude²
            and rho this weight: 0 is the likelihood's own optimum, sqrt(c/N).

    Raises:
        ValueError: both an uncertainty and a Poisson weight.
    """
    spread = torch.as_tensor(uncertainty, dtype=amplitude.dtype, device=amplitude.device)
    has_spread = bool((spread != 0).any())
    if has_spread and poisson_weight is not None:
        raise ValueError("give an amplitude uncertainty or a Poisson weight, not both")
    m = amplitude.shape[-1]
    valid = mask.to(amplitude.device)
    spread = spread.expand(amplitude.shape)
    inside = band(valid)
    if model == "real":
        weight = valid.to(amplitude.dtype)
        both = (weight + friedel_mate(weight)).clamp_min(1)
        amplitude, spread = (
            ((a * weight + friedel_mate(a * weight)) / both)[..., : m // 2 + 1]
            for a in (amplitude, spread)
        )
        valid = (valid | friedel_mate(valid))[..., : m // 2 + 1]
        inside = (inside | friedel_mate(inside))[..., : m // 2 + 1]
    low = torch.where(valid, (amplitude - spread).clamp_min(0), 0.0)
    high = torch.where(valid, amplitude + spread, torch.where(inside, torch.inf, 0.0))
    exact = not has_spread and poisson_weight is None
    return Modulus(low, high, valid, m, exact, poisson_weight)


def band(mask: Tensor) -> Tensor:
    """(m, m) bool: frequencies up to the largest valid one of the mask (zero frequency first)."""
    m = mask.shape[-1]
    axis = torch.fft.fftfreq(m, 1 / m, dtype=torch.float64, device=mask.device)
    radius2 = axis[:, None] ** 2 + axis[None, :] ** 2
    inside: Tensor = radius2 <= torch.where(mask, radius2, 0.0).max()
    if m % 2 == 0:  # the unpaired lines of an even grid are never measured
        inside = inside & (axis[:, None] != -m / 2) & (axis[None, :] != -m / 2)
    return inside
