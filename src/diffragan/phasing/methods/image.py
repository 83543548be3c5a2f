"""The method `image`: measured amplitudes with the image's own phases."""

from __future__ import annotations

from diffragan.phasing.method import Context, Method, PairBatch, Phased, phased_wave
from diffragan.phasing.proposals import image_proposal, trusted_wave


def image_phases(batch: PairBatch, context: Context) -> Phased:
    """Measured amplitudes with the image's own phases, each weighted by its trust."""
    proposal = image_proposal(batch)
    wave = trusted_wave(proposal, batch.amplitude, batch.direct_beam)
    return phased_wave(wave, batch, trust=proposal.trust)


METHOD = Method(image_phases)
