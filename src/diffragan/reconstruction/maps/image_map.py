"""What the images alone give: a 3D map to their aperture, and how far it is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffragan.engine.processes import summed
from diffragan.fourier.slices import Inserter
from diffragan.fourier.volumes import best_shift, frequency_radius, spectrum_volume
from diffragan.reconstruction.maps.views import Views

# Of an image's power, what is of second order in the potential: it shows whatever the defocus.
SECOND_ORDER = 0.1**2


@dataclass(frozen=True)
class ImageMap:
    """The map that the images make together.

    volume: (n, n, n), FFT order. spectrum: its plain `rfftn`, (n, n, n // 2 + 1).
    known: (n, n, n // 2 + 1) in [0, 1], signal over signal and noise of each frequency.
    """

    volume: Tensor
    spectrum: Tensor
    known: Tensor


def ring_power(views: Views) -> Tensor:
    """Mean measured intensity by ring of 1 / box, (rings,), over all views, background off."""
    rings = ring_of(views)
    total = torch.zeros(int(rings.max()) + 1, dtype=torch.float64, device=views.device)
    for block in views.own_blocks():
        observed = views.observed(block, views.flat).double()
        intensity = observed if views.electrons is not None else observed**2
        total.index_add_(0, rings, intensity.sum(0))
    total = summed(total)
    if views.background is not None:
        total.index_add_(0, rings, -len(views) * views.background.double())
        total.clamp_min_(0)
    return (total / torch.bincount(rings).clamp_min(1) / len(views)).float()


def ring_of(views: Views) -> Tensor:
    """(k,) ring of each pair."""
    return (views.flat.radius + 0.5).long()


def power_by_voxel(power: Tensor, n: int, padding: float = 1.0) -> Tensor:
    """A power by ring spread over a half volume's voxels; 0 beyond the last ring, and zero
    frequency as the first ring."""
    radius = (frequency_radius(n, power.device) / padding + 0.5).long()
    line = power.new_zeros(int(radius.max()) + 1)
    shared = min(len(power), len(line))
    line[:shared] = power[:shared]
    line[0] = power[1]
    return line[radius]


def wiener(
    total: Tensor, information: Tensor, signal: Tensor, beyond_linear: Tensor | float = 0.0
) -> Tensor:
    """The Wiener estimate at each voxel of a spectrum, all (n, n, n // 2 + 1).

    Args:
        total: sum of transfer x contrast / noise. information: sum of transfer² / noise.
        signal: expected power. beyond_linear: power of what does not average away, over signal.
    """
    damped = information * signal * (1 + beyond_linear) + 1
    return total * signal / damped


def image_map(views: Views, power: Tensor | None = None, second_order: float = 0.0) -> ImageMap:
    """Least-squares map of the images with their contrast transfer, damped where noise rules.

    Each image is a projection filtered by 2 sin(chi), zeros and sign changes included; the sum
    over views of transfer x contrast / noise, divided by that of transfer² / noise + 1 / signal,
    is the Wiener estimate (RELION's, without its iteration). The signal's power is that of the
    patterns, since amplitudes are measured, whatever became of the phases.

    Args:
        power: `ring_power(views)`, if it is known already.
        second_order: power of what images show beyond the linear term, as a part of the signal's
            (`SECOND_ORDER`). It does not average away, and rules where the transfer is weaker:
            without it a large molecule's map may have its lowest frequencies in the wrong sign.
    """
    n, count = views.n, len(views.transfer)
    power = ring_power(views) if power is None else power
    points = views.flat.points[:count]
    total, weight = (Inserter(n, points.device) for _ in range(2))
    floor = 1e-6 * float(power[1:].max())
    for block in views.own_blocks():
        noise = views.image_noise[block].clamp_min(floor)[:, None]
        transfer = views.transfer.of(block)
        factor = views.weights[block][:, None] * transfer / noise
        spectra = views.spectra(block) * views.image_phase_ramp(block)
        filtered, squared = (spectra * factor).contiguous(), (factor * transfer + 0j).contiguous()
        for rotations in views.equivalents(views.rotations[block]):
            total.add(filtered, rotations, points)
            weight.add(squared, rotations, points)
    information = summed(weight.spectrum().real)
    signal = power_by_voxel(power, n, views.flat.padding)
    rings = ring_of(views)[:count]
    strength = torch.zeros_like(power).index_add_(0, rings, views.transfer.mean_square())
    strength = strength / torch.bincount(rings, minlength=len(power)).clamp_min(1)
    beyond_linear = second_order / power_by_voxel(strength, n, views.flat.padding).clamp_min(1e-12)
    volume = spectrum_volume(wiener(summed(total.spectrum()), information, signal, beyond_linear))
    known = wiener(information, information, signal, beyond_linear)
    return ImageMap(volume, torch.fft.rfftn(volume, norm="forward"), known)


def first_guess(image: ImageMap, signal: Tensor, inside: Tensor, seed: int, noise: float) -> Tensor:
    """A start (n, n, n): the image map, and beyond it noise of the measured power in the mask.

    Args:
        signal: (n, n, n // 2 + 1) power (`power_by_voxel`). inside: (n, n, n) bool.
        noise: factor on the noise's amplitude.
    """
    n = inside.shape[-1]
    # Drawn on the CPU, so that a seed means the same start on every device.
    random = torch.randn((n, n, n), generator=torch.Generator().manual_seed(seed))
    drawn = torch.fft.rfftn(random.to(inside.device) * inside, norm="forward")
    drawn = drawn / drawn.abs().square().mean().sqrt()
    unknown = (1 - image.known).clamp_min(0) * signal
    spectrum = image.spectrum + noise * drawn * unknown.sqrt()
    result: Tensor = torch.fft.irfftn(spectrum, s=(n, n, n), norm="forward")
    return result


def shift_onto(volume: Tensor, image: ImageMap) -> Tensor:
    """The shift (z, y, x), in voxels, that best lays a volume on the image map.

    Patterns don't see where the molecule lies; the images do, and this ties a map to them.
    """
    return best_shift(volume, image.spectrum * image.known)
