"""Where the object may be: supports from the image, a proposal, a radius, or the object itself.

Supports are bool (..., m, m) on the measured grid, [y, x], the field's centre at [m//2, m//2].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffragan.optics import Optics, aberration, frequency_grid, transfer_function
from diffragan.settings import ImageSettings


def blur(x: Tensor, box_A: float, width_A: float) -> Tensor:
    """Real arrays (..., m, m) convolved with a Gaussian of standard deviation `width_A`."""
    m = x.shape[-1]
    q2 = frequency_grid(m, box_A, x.device)[..., : m // 2 + 1].to(x.dtype)
    result: Tensor = torch.fft.irfft2(
        torch.fft.rfft2(x) * torch.exp(-2 * (math.pi * width_A) ** 2 * q2), s=(m, m)
    )
    return result


def local_power(
    image: Tensor,
    amplitude: Tensor,
    dose_e_per_A2: Tensor,
    optics: Optics,
    settings: ImageSettings,
    width_A: float,
) -> Tensor:
    """Local power of the image's contrast above that of its noise, (b, m, m) float32.

    The image is Wiener-filtered with the signal power that the pattern itself implies,
    4 A² sin² chi, and its square averaged over a Gaussian of `width_A`. A defocused protein is
    texture on an even ground, so this outlines it where its density can't: the image has next to
    no contrast beyond 20 Å, and a map without those frequencies has no outline.

    Arguments as `propose_from_image`.
    """
    q2 = frequency_grid(image.shape[-1], optics.box_A, image.device)
    defocus = settings.defocus_A - optics.centre_to_exit_A
    chi = aberration(q2, optics.energy_ev, defocus, settings.cs_mm)
    passed = transfer_function(
        q2,
        optics.energy_ev,
        focal_spread_A=settings.focal_spread_A,
        aperture_mrad=settings.aperture_mrad,
    ).abs()
    noise = (1 / (dose_e_per_A2.to(q2) * optics.box_A**2))[:, None, None]
    signal = (2 * amplitude.double() * torch.sin(chi) * passed) ** 2
    wiener = signal / (signal + noise).clamp_min(1e-30)
    filtered = torch.fft.ifft2(torch.fft.fft2(image.double()) * wiener).real
    power = (
        blur(filtered**2, optics.box_A, width_A) - (wiener**2 * noise).sum((-2, -1))[:, None, None]
    )
    return power.to(torch.float32)


def above_fraction(values: Tensor, fraction: float) -> Tensor:
    """Where `values` (..., m, m) exceed this fraction of their own 99th percentile."""
    top = torch.quantile(values.flatten(-2).float(), 0.99, dim=-1)[..., None, None]
    return values > fraction * top


def support_from_density(
    density: Tensor, box_A: float, fraction: float = 0.1, width_A: float = 1.5
) -> Tensor:
    """Support where a map (..., m, m), or the real part of one, rises from its own ground.

    The map is blurred by `width_A`; its ground is the median, so the molecule must fill less than
    half of the field. Applied to the running object this is shrink-wrap (Marchesini et al. 2003).
    """
    smooth = blur(density.real if density.is_complex() else density, box_A, width_A)
    ground = smooth.flatten(-2).median(-1).values[..., None, None]
    return above_fraction(smooth - ground, fraction)


def support_from_radius(m: int, box_A: float, radius_A: float) -> Tensor:
    """Disc of `radius_A` about the field's centre, (m, m)."""
    axis = (torch.arange(m) - m // 2) * (box_A / m)
    return (axis[:, None] ** 2 + axis[None, :] ** 2) <= radius_A**2


def measured_to_unknown(support: Tensor, mask: Tensor) -> Tensor:
    """Measured numbers over unknown ones, (...): below 1 no algorithm can be unique.

    A real object has (area x band area) unknowns, and half of the valid pixels measure it, since
    Friedel mates are alike: with a full band pi (q_max L)² / 2 against area x pi q_max². A complex
    object doubles both, so the ratio is the same; damping its imaginary part only helps.

    Args:
        support: (..., m, m) bool.
        mask: (m, m) bool, True where the pattern is valid, zero frequency at [m//2, m//2].
    """
    m = mask.shape[-1]
    axis = torch.arange(m, device=mask.device) - m // 2
    radius2 = axis[:, None] ** 2 + axis[None, :] ** 2
    reach = int(torch.where(mask, radius2, 0).max())
    inside = (radius2 <= reach).sum()
    unknown = support.double().mean((-2, -1)) * inside
    return mask.sum() / 2 / unknown.clamp_min(1e-12)
