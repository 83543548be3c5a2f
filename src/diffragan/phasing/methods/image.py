"""The method `image`: measured amplitudes with the image's own phases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffragan.phasing.method import Context, PairBatch, Phased, method, phased_wave
from diffragan.phasing.proposals import propose_from_image, trusted_wave

if TYPE_CHECKING:
    pass


@method("image")
def image_phases(batch: PairBatch, context: Context) -> Phased:
    """Measured amplitudes with the image's own phases, each weighted by its trust."""
    proposal = propose_from_image(
        batch.image, batch.amplitude, batch.image_dose_e_per_A2, batch.optics, batch.settings.image
    )
    wave = trusted_wave(proposal, batch.amplitude, batch.direct_beam)
    return phased_wave(wave, batch, trust=proposal.trust)
