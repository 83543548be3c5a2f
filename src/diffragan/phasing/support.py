"""Where the object may be: supports from the image, a proposal, a radius, or the object itself.

Supports are bool (..., m, m) on the measured grid, [y, x], the field's centre at [m//2, m//2].
"""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.fourier.grids import frequency_grid
from diffragan.phasing.method import PairBatch
from diffragan.phasing.proposals import Proposal

log = logging.getLogger(__name__)


# Thresholds of the first supports, in parts of `support_fraction`, start by start.
_SPREAD = (0.6, 1.0, 1.4, 1.0)


def first_support(batch: PairBatch, proposal: Proposal, starts: int) -> Tensor:
    """Supports (b, starts, m, m) before anything was phased: of the proposal where a network drew
    it, else of the image, unless `phase.support` says otherwise.

    Raises:
        DiffraganError: the measurements are fewer than the unknowns, and `force` is not set.
    """
    settings, box = batch.settings.phase, batch.optics.box_A
    m = batch.pattern.shape[-1]
    if settings.support == "radius":
        radius = settings.support_radius_A or box / 4
        disc = support_from_radius(m, box, radius).to(batch.pattern.device)
        supports = disc.expand(len(batch.pattern), starts, m, m)
        check_ratio(supports[:, 0], batch)
        return supports
    width = settings.support_width_A
    if (settings.support or ("proposal" if proposal.drawn else "image")) == "image":
        values = local_power(
            batch.image,
            batch.amplitude,
            batch.image_dose_e_per_A2,
            batch.image_contrast,
            box,
            width,
            batch.image_beside,
        )
    else:
        spectrum = batch.amplitude * proposal.trust * proposal.phase / 1j
        density = torch.fft.ifft2(spectrum, norm="forward").real
        smooth = blur(density, box, width)
        values = smooth - smooth.flatten(-2).median(-1).values[:, None, None]
    # A blurred outline is too wide; at twice the threshold its area is closest to the molecule's.
    check_ratio(above_fraction(values, min(2 * settings.support_fraction, 0.9)), batch)
    levels = [min(settings.support_fraction * _SPREAD[k % 4], 0.95) for k in range(starts)]
    return torch.stack([above_fraction(values, level) for level in levels], 1)


def check_ratio(supports: Tensor, batch: PairBatch) -> None:
    """Refuses supports (b, m, m) with more unknowns than measurements; warns below 1.5."""
    ratio = measured_to_unknown(supports, batch.pattern_mask)
    worst = int(ratio.argmin())
    lowest, area = float(ratio[worst]), float(supports[worst].double().mean())
    if lowest >= 1.5:
        return
    numbers = (
        f"The molecule seems to fill {area:.0%} of the {batch.optics.box_A:g} Å box, which leaves "
        f"{lowest:.2f} measured numbers per unknown one"
    )
    if lowest < 1 and not batch.settings.phase.force:
        raise DiffraganError(
            f"{numbers}; no algorithm can be right below 1. Sample the pattern more finely (a "
            "larger box), or set phase.force=true."
        )
    log.warning("%s; below 1.5 the answer is rarely unique.", numbers)


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
    contrast: Tensor,
    box_A: float,
    width_A: float,
    beside: Tensor | None = None,
) -> Tensor:
    """Local power of the image's contrast above that of its noise, (b, m, m) float32.

    The image is Wiener-filtered with the signal power that the pattern itself implies,
    4 A² sin² chi, and its square averaged over a Gaussian of `width_A`. A defocused protein is
    texture on an even ground, so this outlines it where its density can't: the image has next to
    no contrast beyond 20 Å, and a map without those frequencies has no outline.

    Arguments as `propose_from_image`.
    """
    noise = (1 / (dose_e_per_A2.to(contrast) * box_A**2))[:, None, None]
    noise = noise if beside is None else noise + beside
    signal = (amplitude.double() * contrast) ** 2
    wiener = signal / (signal + noise).clamp_min(1e-30)
    filtered = torch.fft.ifft2(torch.fft.fft2(image.double()) * wiener).real
    power = blur(filtered**2, box_A, width_A) - (wiener**2 * noise).sum((-2, -1))[:, None, None]
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
