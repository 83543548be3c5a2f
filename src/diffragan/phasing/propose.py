"""Phase proposals with a trust per frequency: from the image alone, or from a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffragan.optics import Optics, aberration, frequency_grid, transfer_function
from diffragan.settings import ImageSettings


@dataclass(frozen=True)
class Proposal:
    """Phases of the wave at the molecule's centre plane, and how far to trust them.

    phase: (b, m, m) complex64 of unit modulus, zero frequency first (FFT order).
    trust: (b, m, m) float32 in [0, 1], the expected cosine of the phase error.
    """

    phase: Tensor
    trust: Tensor


def propose_from_image(
    image: Tensor,
    amplitude: Tensor,
    dose_e_per_A2: Tensor,
    optics: Optics,
    settings: ImageSettings,
) -> Proposal:
    """CTF-corrected phases of the image, at any defocus.

    The object is taken as a weak phase object at its centre plane: its scattered wave is i phi(q)
    with phi real in space, so the image's contrast is I(q) = 2 phi(q) sin chi(q), with chi the
    aberration from that plane to the image. The sign of sin chi, which alternates past the first
    zero, is undone here.

    The trust is the mean cosine of the phase error under counting noise, I1(x) / I0(x) with
    x = 2 A |I| |2 sin chi| / noise power per mode (the phase of a signal of known modulus in
    complex Gaussian noise; Sim, Acta Cryst. 13, 511 (1960), is the same law in crystallography).

    Args:
        image: (b, m, m), mean 1.
        amplitude: (b, m, m) measured amplitudes, zero frequency first, unit: the plane wave.
        dose_e_per_A2: (b,) dose of the images; infinite for no noise.
        optics: energy, box and object plane.
        settings: how the image was taken.
    """
    m = image.shape[-1]
    q2 = frequency_grid(m, optics.box_A, image.device)
    chi = aberration(
        q2, optics.energy_ev, settings.defocus_A - optics.centre_to_exit_A, settings.cs_mm
    )
    passed = transfer_function(
        q2,
        optics.energy_ev,
        focal_spread_A=settings.focal_spread_A,
        aperture_mrad=settings.aperture_mrad,
    ).abs()
    contrast = 2 * torch.sin(chi) * passed
    spectrum = torch.fft.fft2(image.double(), norm="forward")
    corrected = 1j * spectrum * torch.sign(contrast)
    phase = torch.polar(torch.ones_like(corrected.real), corrected.angle())

    noise = 1 / (dose_e_per_A2.to(q2) * optics.box_A**2)
    strength = 2 * amplitude.double() * spectrum.abs() * contrast.abs()
    x = strength / noise[:, None, None].clamp_min(1e-30)
    trust = torch.special.i1e(x) / torch.special.i0e(x)
    return Proposal(phase.to(torch.complex64), trust.to(torch.float32))


def trusted_wave(proposal: Proposal, amplitude: Tensor, direct_beam: Tensor) -> Tensor:
    """The wave (b, m, m) of least expected error: amplitude x trust with the proposed phases.

    `amplitude` (b, m, m) has its zero frequency first; `direct_beam` (b,) is its amplitude, which
    the pattern hides.
    """
    spectrum = amplitude * proposal.trust * proposal.phase
    spectrum[..., 0, 0] = direct_beam.to(spectrum)
    result: Tensor = torch.fft.ifft2(spectrum, norm="forward")
    return result
