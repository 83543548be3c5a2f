"""Wavelength, propagator and contrast transfer: pure functions.

Arrays are [..., y, x]; frequencies q are cycles per Å. Multislice transmits exp(+i sigma V) and
propagates by exp(-i pi lambda dz q²), so a positive distance is downstream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import constants
from torch import Tensor

from diffragan.fourier.grids import even_fast_length, frequency_grid


@dataclass(frozen=True)
class Optics:
    """What ties an exit wave to space: beam energy, side of the field, and the object's plane.

    `centre_to_exit_A` is the distance from the molecule's centre plane downstream to the plane in
    which the wave is given and from which `defocus_A` counts.
    """

    energy_ev: float
    box_A: float
    centre_to_exit_A: float

    @property
    def wavelength_A(self) -> float:
        """Relativistic wavelength of the electrons, Å."""
        return wavelength_A(self.energy_ev)


# What files call the fields of a `Defocus`.
DEFOCUS_ARRAYS = ("defocus_u_A", "defocus_v_A", "defocus_angle_deg")


@dataclass(frozen=True)
class Defocus:
    """Defocus of n exposures with astigmatism, in RELION's terms (rlnDefocusU, V and Angle).

    Along the direction phi, counted from x towards y, exposure k has the defocus
    (u + v) / 2 + (u - v) / 2 cos 2 (phi - angle): u along the angle and v across it (RELION's
    `CTF::getGamma`). Its sign is that of `aberration`.

    u_A, v_A, angle_deg: (n,) float64.
    """

    u_A: NDArray[np.float64]
    v_A: NDArray[np.float64]
    angle_deg: NDArray[np.float64]

    @classmethod
    def of(
        cls, mean_A: NDArray[np.float64], astigmatism_A: float = 0.0, angle_deg: float = 0.0
    ) -> Defocus:
        """Exposures of these mean defoci (n,), with one astigmatism u - v."""
        half = astigmatism_A / 2
        return cls(mean_A + half, mean_A - half, np.full(len(mean_A), angle_deg))

    @classmethod
    def joined(cls, parts: Sequence[Defocus]) -> Defocus:
        """The exposures of several, one after the other."""
        columns = zip(*((p.u_A, p.v_A, p.angle_deg) for p in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    def __len__(self) -> int:
        return len(self.u_A)

    def __getitem__(self, items: Any) -> Defocus:
        return Defocus(self.u_A[items], self.v_A[items], self.angle_deg[items])

    @property
    def terms_A(self) -> NDArray[np.float64]:
        """(n, 3) mean, a and b: the defocus along phi is mean + a cos 2 phi + b sin 2 phi."""
        half, double = (self.u_A - self.v_A) / 2, np.deg2rad(2 * self.angle_deg)
        mean = (self.u_A + self.v_A) / 2
        return np.stack((mean, half * np.cos(double), half * np.sin(double)), -1)


def defocus_along(terms_A: Tensor, double_angle: Tensor) -> Tensor:
    """(b, ...) defocus of b exposures in the direction of each frequency, Å.

    Args:
        terms_A: (b, 3), as `Defocus.terms_A`.
        double_angle: (2, ...) cos 2 phi and sin 2 phi of each frequency (`double_angle_grid`).
    """
    mean, a, b = (term.reshape(-1, *[1] * (double_angle.ndim - 1)) for term in terms_A.T)
    result: Tensor = mean + a * double_angle[0] + b * double_angle[1]
    return result


def wavelength_A(energy_ev: float) -> float:
    """Relativistic de Broglie wavelength in Å; 0.025079 Å at 200 keV (Williams and Carter,
    Transmission Electron Microscopy, eq. 1.6)."""
    rest = constants.electron_mass * constants.c**2 / constants.e
    momentum_c_ev = math.sqrt(energy_ev * (energy_ev + 2 * rest))
    result: float = constants.h * constants.c / constants.e / momentum_c_ev * 1e10
    return result


def energy_of_wavelength_ev(wavelength_A: float) -> float:
    """Kinetic energy (eV) of electrons of a wavelength in Å, the inverse of `wavelength_A`."""
    rest = constants.electron_mass * constants.c**2 / constants.e
    momentum_c_ev = constants.h * constants.c / constants.e / (wavelength_A * 1e-10)
    result: float = math.hypot(momentum_c_ev, rest) - rest
    return result


def q_from_angle(angle_mrad: float, energy_ev: float) -> float:
    """Spatial frequency (1/Å) of a scattering angle, in the small-angle form q = theta / lambda."""
    return angle_mrad * 1e-3 / wavelength_A(energy_ev)


def aberration(
    q2: Tensor, energy_ev: float, defocus_A: float | Tensor = 0.0, cs_mm: float = 0.0
) -> Tensor:
    """Phase chi (rad) of the lens; the transfer function is exp(-i chi).

    `defocus_A` has abTEM's sign, C10 = -defocus, so chi = pi lambda C10 q² + pi/2 Cs lambda³ q⁴
    (Kirkland, Advanced Computing in Electron Microscopy, 2010, eq. 3.23). A tensor that broadcasts
    with `q2` gives each exposure and direction its own (`defocus_along`).
    """
    wavelength = wavelength_A(energy_ev)
    cs_A = cs_mm * 1e7
    return math.pi * wavelength * q2 * (-defocus_A + 0.5 * cs_A * wavelength**2 * q2)


def lens_envelope(
    q2: Tensor, energy_ev: float, *, focal_spread_A: float = 0.0, aperture_mrad: float | None = None
) -> Tensor:
    """Part of each amplitude that the lens passes, 0 to 1, on the given q² (1/Å²), float64.

    `focal_spread_A` is the standard deviation of the defocus: the coherent (linear) envelope is
    exp(-(pi lambda spread q²)² / 2). The aperture cuts sharply at its angle; None is no aperture.
    """
    spread = math.pi * wavelength_A(energy_ev) * focal_spread_A
    damping = torch.exp(-0.5 * (spread * q2) ** 2)
    if aperture_mrad is not None:
        damping = damping * (q2 <= q_from_angle(aperture_mrad, energy_ev) ** 2)
    return damping


def image_contrast(
    q2: Tensor,
    optics: Optics,
    *,
    defocus_A: float | Tensor,
    cs_mm: float = 0.0,
    focal_spread_A: float = 0.0,
    aperture_mrad: float | None = None,
) -> Tensor:
    """Contrast of an image per unit of a weak phase object at its centre plane, on the given q².

    The object's scattered wave is i phi(q) with phi real in space, so the contrast is
    2 phi(q) sin chi(q) times the lens's envelope, with chi the aberration from the object's centre
    plane, `optics.centre_to_exit_A` before the plane that `defocus_A` counts from, to the image
    (Kirkland, Advanced Computing in Electron Microscopy, 2010, section 3.1). `defocus_A` may be a
    tensor, as for `aberration`.
    """
    chi = aberration(q2, optics.energy_ev, defocus_A - optics.centre_to_exit_A, cs_mm)
    passed = lens_envelope(
        q2, optics.energy_ev, focal_spread_A=focal_spread_A, aperture_mrad=aperture_mrad
    )
    return 2 * torch.sin(chi) * passed


def transfer_function(
    q2: Tensor,
    energy_ev: float,
    *,
    defocus_A: float | Tensor = 0.0,
    cs_mm: float = 0.0,
    focal_spread_A: float = 0.0,
    aperture_mrad: float | None = None,
) -> Tensor:
    """Complex transfer function of the microscope on the given q² (1/Å²), complex128: the phases
    of `aberration` and the amplitudes of `lens_envelope`."""
    chi = aberration(q2, energy_ev, defocus_A, cs_mm)
    passed = lens_envelope(
        q2, energy_ev, focal_spread_A=focal_spread_A, aperture_mrad=aperture_mrad
    )
    return torch.polar(passed, -chi)


def propagate(wave: Tensor, box_A: float, energy_ev: float, distance_A: float) -> Tensor:
    """A wave (..., y, x) carried through free space by `distance_A` (negative: upstream)."""
    q2 = frequency_grid(wave.shape[-1], box_A, wave.device)
    kernel = transfer_function(q2, energy_ev, defocus_A=-distance_A)
    result: Tensor = torch.fft.ifft2(torch.fft.fft2(wave) * kernel.to(wave.dtype))
    return result


def pattern_pixels(box_A: float, max_angle_mrad: float, energy_ev: float) -> int:
    """Even side, in pixels of 1/L, of the grid that holds a pattern to `max_angle_mrad`."""
    return even_fast_length(2 * q_from_angle(max_angle_mrad, energy_ev) * box_A)
