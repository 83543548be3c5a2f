"""The method `network`: a generator that draws maps between measured amplitudes."""

from __future__ import annotations

import torch

from diffragan.phasing.method import Context, Method, PairBatch, Phased, phased_wave
from diffragan.phasing.proposals import (
    Proposal,
    maps_evidence,
    maps_proposal,
    sampled,
    trusted_wave,
)

GENERATOR = "maps"


def drawn_phases(batch: PairBatch, context: Context) -> Proposal:
    """Phases of the mean of `phase.samples` draws, and their trust.

    Each item runs alone, so the same pair and seed give the same bits whatever the batch.
    """
    weights = context.weights
    assert weights is not None
    finest = weights.metadata.settings.network.maps_finest_A
    spectra = []
    with torch.inference_mode():
        for k in range(len(batch.pattern)):
            one = batch[k : k + 1]
            draws = [
                weights.generator(maps_evidence(one, finest, draw))[-1]
                for draw in range(batch.settings.phase.samples)
            ]
            spectra.append(torch.stack(draws).mean(0))
    return maps_proposal(torch.cat(spectra), batch)


def from_generator(batch: PairBatch, context: Context) -> Phased:
    """Measured amplitudes with the phases that the generator draws, weighted by its trust; or one
    sample of phases that this trust allows, `phase.sample`."""
    proposal = drawn_phases(batch, context)
    sample = batch.settings.phase.sample
    shown = proposal if sample is None else sampled(proposal, batch.seeds, sample)
    wave = trusted_wave(shown, batch.amplitude, batch.direct_beam)
    return phased_wave(wave, batch, trust=proposal.trust)


METHOD = Method(
    from_generator,
    needs_weights=True,
    bundled="network.safetensors",
    generators=frozenset({GENERATOR}),
    invents=True,
    options=frozenset({"samples", "sample"}),
)
