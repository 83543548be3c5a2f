"""Phase proposals with a trust per frequency: from the image alone, or from a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from diffragan.fourier.correlation import ring_index
from diffragan.fourier.grids import frequency_grid, resample, resized_spectrum
from diffragan.microscope.alone import MoleculeAlone
from diffragan.microscope.imaging import counted_electrons
from diffragan.microscope.noise import item_seed
from diffragan.networks.maps_generator import Evidence
from diffragan.optics import image_contrast
from diffragan.phasing.method import PairBatch
from diffragan.phasing.modulus import friedel_mate
from diffragan.phasing.starts import concentration

# What is drawn for a pair, beside `run.METHOD_NOISE`.
MAPS_NOISE, PHASE_SAMPLE = 3, 4
_NETWORK_TRUST = 0.95  # no frequency of a network is trusted more


def image_proposal(batch: PairBatch) -> Proposal:
    """The image's own phases, CTF-corrected."""
    return propose_from_image(
        batch.image,
        batch.amplitude,
        batch.image_dose_e_per_A2,
        batch.image_contrast,
        batch.optics.box_A,
        batch.image_beside,
    )


def network_proposal(projection: Tensor, batch: PairBatch, worth: Sequence[float] = ()) -> Proposal:
    """Phases of a network's projections (b, y, x), its CTF undone, inside the measured band.

    The trust is abs(X) / A, X the amplitude that the network gives a frequency: an estimate of
    least squared error shrinks by the mean cosine of its phase error. An adversarial network does
    not shrink, it invents; so the trust of a ring never exceeds `worth`, the network's mean FRC
    there (ring k at q = k / box) on proteins it has not seen.
    """
    m = batch.pattern.shape[-1]
    optics, target = batch.optics, batch.settings.projection
    image = resample(projection.double(), m)
    image = image / image.mean((-2, -1), keepdim=True)
    q2 = frequency_grid(m, optics.box_A, image.device)
    contrast = image_contrast(q2, optics, defocus_A=target.defocus_A)
    spectrum = torch.fft.fft2(image, norm="forward")
    amplitude = batch.amplitude
    trust = spectrum.abs() / (amplitude * contrast.abs()).clamp_min(1e-12)
    # Close to a zero of the transfer function the quotient says nothing.
    weak = (contrast.abs() < 0.2) | (amplitude == 0)
    trust = torch.where(weak, 0.0, trust.clamp(max=_NETWORK_TRUST))
    if worth:
        limits = torch.tensor(worth, device=trust.device).clamp_min(0)
        rings = ring_index(m, device=trust.device).clamp_max(len(worth) - 1)
        trust = torch.minimum(trust, torch.fft.ifftshift(limits[rings]).to(trust))
    phase = torch.sgn(1j * spectrum * torch.sign(contrast))
    return Proposal(phase.to(torch.complex64), trust.to(torch.float32))


def maps_evidence(batch: PairBatch, finest_A: float, draw: int = 0) -> Evidence:
    """What a generator of maps takes of pairs: the object o (wave = beam + i o) to a resolution.

    Friedel mates are averaged, as of a real object. A map has pixels of half of `finest_A`.

    Args:
        draw: number of the sample; each has noise of its own, drawn on the CPU from the item's
            seed and this number alone.
    """
    box = batch.optics.box_A
    n = 2 * round(box / finest_A)
    inside = frequency_grid(n, box, batch.pattern.device) < ((n // 2 - 0.5) / box) ** 2
    valid = torch.fft.ifftshift(batch.pattern_mask).float()
    intensity = batch.amplitude**2 * valid
    seen = valid + friedel_mate(valid)
    mean = (intensity + friedel_mate(intensity)) / seen.clamp_min(1)
    amplitude = resized_spectrum(mean.sqrt(), n) * inside
    image = image_proposal(batch)
    seen_phase = image.trust * image.phase / 1j
    seen_phase = 0.5 * (seen_phase + friedel_mate(seen_phase).conj())
    electrons = counted_electrons(batch.optics, batch.settings)
    each = (amplitude**2).sum((-2, -1)) / (amplitude > 0).sum((-2, -1)).clamp_min(1)
    drawn = [
        torch.randn(n, n, generator=torch.Generator().manual_seed(item_seed(s, draw, MAPS_NOISE)))
        for s in batch.seeds
    ]
    return Evidence(
        amplitude,
        amplitude * resized_spectrum(seen_phase, n),
        each * (torch.inf if electrons is None else electrons)
        if batch.alone is None
        else _counts_alike(batch.alone),
        torch.stack(drawn).to(amplitude),
    )


def _counts_alike(alone: MoleculeAlone) -> Tensor:
    """(b,) electrons a pixel, in vacuum, that would tell intensities as well as these are told."""
    known = (alone.amplitude > 0).sum((-2, -1)).clamp_min(1)
    each = (alone.amplitude**2).sum((-2, -1)) / known
    variance = ((2 * alone.amplitude * alone.deviation) ** 2).sum((-2, -1)) / known
    return each**2 / variance.clamp_min(1e-30)


def maps_proposal(spectrum: Tensor, batch: PairBatch) -> Proposal:
    """Phases of drawn objects (b, n, n) and their trust, on the measured grid.

    An object drawn with least squared error shrinks by the mean cosine of its phase errors, so
    the trust is its amplitude over the measured one. Nothing beyond the maps' resolution.
    """
    m = batch.pattern.shape[-1]
    whole = resized_spectrum(spectrum, m)
    trust = (whole.abs() / batch.amplitude.clamp_min(1e-12)).clamp(max=_NETWORK_TRUST)
    trust = torch.where(batch.amplitude > 0, trust, 0.0)
    return Proposal(1j * torch.sgn(whole), trust.to(torch.float32), drawn=True)


def sampled(proposal: Proposal, seeds: Sequence[int], sample: int) -> Proposal:
    """One sample of what phases may be, instead of the best guess at them.

    Each phase is turned by an angle of the von Mises law whose mean cosine is its trust, mates of a
    real object by opposite angles. Where the trust is right, samples lie as far from each other as
    from the truth. Frequencies are drawn each by itself, so a sample is not confined to the
    molecule. Trust is 1 where there was any, since a sample has the whole measured amplitude.

    Args:
        seeds: one for each pair. sample: its number; each has angles of its own.
    """
    m = proposal.trust.shape[-1]
    spread = concentration(proposal.trust.double()).cpu().numpy()
    angles = [
        np.random.default_rng([s, sample, PHASE_SAMPLE]).vonmises(0.0, kappa)
        for s, kappa in zip(seeds, spread, strict=True)
    ]
    angle = torch.from_numpy(np.stack(angles)).to(proposal.trust)
    f = torch.fft.fftfreq(m, 1 / m, device=angle.device)
    first = (f[:, None] > 0) | ((f[:, None] == 0) & (f > 0))
    angle = torch.where(first, angle, -friedel_mate(angle))
    phase = proposal.phase * torch.polar(torch.ones_like(angle), angle)
    return replace(proposal, phase=phase, trust=(proposal.trust > 0).to(proposal.trust))


def more_trusted(one: Proposal, other: Proposal) -> Proposal:
    """At each frequency the proposal with the larger trust.

    A network has seen the image, so the two are not independent, and their trusts don't add.
    """
    first = one.trust >= other.trust
    return Proposal(
        torch.where(first, one.phase, other.phase), torch.maximum(one.trust, other.trust)
    )


@dataclass(frozen=True)
class Proposal:
    """Phases of the wave at the molecule's centre plane, and how far to trust them.

    phase: (b, m, m) complex64 of unit modulus, zero frequency first (FFT order).
    trust: (b, m, m) float32 in [0, 1], the expected cosine of the phase error.
    drawn: whether a network drew them past what the image shows: starts from them agree more than
        they are right.
    """

    phase: Tensor
    trust: Tensor
    drawn: bool = False

    def __getitem__(self, items: slice) -> Proposal:
        """That of some of the pairs."""
        return replace(self, phase=self.phase[items], trust=self.trust[items])


def propose_from_image(
    image: Tensor,
    amplitude: Tensor,
    dose_e_per_A2: Tensor,
    contrast: Tensor,
    box_A: float,
    beside: Tensor | None = None,
) -> Proposal:
    """CTF-corrected phases of the image, at any defocus.

    The object is taken as a weak phase object at its centre plane. The sign of sin chi, which
    alternates past the first zero, is undone here.

    The trust is the mean cosine of the phase error under counting noise, I1(x) / I0(x) with
    x = 2 A |I| |2 sin chi| / noise power per mode (the phase of a signal of known modulus in
    complex Gaussian noise; Sim, Acta Cryst. 13, 511 (1960), is the same law in crystallography).

    Args:
        image: (b, m, m), mean 1.
        amplitude: (b, m, m) measured amplitudes, zero frequency first, unit: the plane wave.
        dose_e_per_A2: (b,) dose of the images; infinite for no noise.
        contrast: (m, m), or (b, m, m) for each image, float64, from `optics.image_contrast`.
        beside: (b, m, m) power of what images show beside the molecule, or None.
    """
    spectrum = torch.fft.fft2(image.double(), norm="forward")
    corrected = 1j * spectrum * torch.sign(contrast)
    phase = torch.polar(torch.ones_like(corrected.real), corrected.angle())

    noise = (1 / (dose_e_per_A2.to(contrast) * box_A**2))[:, None, None]
    noise = noise if beside is None else noise + beside
    strength = 2 * amplitude.double() * spectrum.abs() * contrast.abs()
    x = strength / noise.clamp_min(1e-30)
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
