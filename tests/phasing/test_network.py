"""The method `network`, with the weights that ship: phases past the image, and an honest trust."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from diffragan.commands.demo import example_path
from diffragan.fourier.correlation import centred_fourier, frc_fourier
from diffragan.fourier.grids import frequency_grid
from diffragan.pairs.open import open_pairs
from diffragan.pairs.pairs import Pairs
from diffragan.phasing.method import Context, PairBatch
from diffragan.phasing.methods import METHODS
from diffragan.phasing.methods.network import drawn_phases
from diffragan.phasing.modulus import friedel_mate
from diffragan.phasing.proposals import Proposal, maps_evidence, sampled
from diffragan.phasing.run import load_context, make_pair_batch

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return open_pairs(example_path())


@pytest.fixture(scope="module")
def batch(pairs: Pairs) -> PairBatch:
    return make_pair_batch(pairs, np.arange(4), pairs.settings, torch.device("cpu"))


@pytest.fixture(scope="module")
def truth(pairs: Pairs) -> Tensor:
    true = pairs.truth_wave(np.arange(4))
    assert true is not None
    return torch.from_numpy(true)


@pytest.fixture(scope="module")
def context() -> Context:
    return load_context("network")


def at(curve: Tensor, resolution_A: float, box_A: float) -> float:
    return float(curve[:, round(box_A / resolution_A)].mean())


def test_it_phases_past_the_image_on_a_protein_it_never_saw(
    batch: PairBatch, truth: Tensor, context: Context
) -> None:
    box = batch.optics.box_A
    curves = {}
    for name in ("network", "image"):
        wave = METHODS[name](batch, context).wave
        assert wave is not None
        curves[name] = frc_fourier(centred_fourier(wave), centred_fourier(truth))
    assert at(curves["network"], 8, box) > at(curves["image"], 8, box)
    assert at(curves["image"], 4, box) < 0.1
    assert at(curves["network"], 5, box) > 0.7
    assert at(curves["network"], 4, box) > 0.35


def test_its_trust_is_the_cosine_of_its_phase_error(
    batch: PairBatch, truth: Tensor, context: Context
) -> None:
    """Weighted by measured amplitude, over all frequencies that it draws."""
    drawn = drawn_phases(batch, context)
    true = torch.sgn(torch.fft.fft2(truth))
    weight = batch.amplitude**2 * (drawn.trust > 0)
    for low, high in ((0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        some = weight * ((drawn.trust >= low) & (drawn.trust < high))
        cosine = float((some * (drawn.phase * true.conj()).real).sum() / some.sum())
        said = float((some * drawn.trust).sum() / some.sum())
        assert cosine == pytest.approx(said, abs=0.2)


def test_a_pair_gets_the_same_bits_in_any_batch(batch: PairBatch, context: Context) -> None:
    together = drawn_phases(batch, context)
    alone = drawn_phases(batch[2:3], context)
    assert torch.equal(together.phase[2:3], alone.phase)
    assert torch.equal(together.trust[2:3], alone.trust)


def test_evidence_is_what_was_measured(batch: PairBatch, truth: Tensor) -> None:
    """Amplitudes of the real object, mates averaged; counts only where electrons were counted."""
    evidence = maps_evidence(batch, 2.5)
    n = evidence.amplitude.shape[-1]
    assert n == 56
    assert torch.isinf(evidence.counts).all()
    spectrum = torch.fft.fft2(truth, norm="forward")
    for q in ((0, 5), (7, 3), (12, -20)):
        both = 0.5 * (spectrum[:, q[0], q[1]].abs() ** 2 + spectrum[:, -q[0], -q[1]].abs() ** 2)
        torch.testing.assert_close(
            evidence.amplitude[:, q[0], q[1]], both.sqrt(), rtol=1e-3, atol=0
        )
    pattern = batch.settings.pattern.model_copy(update={"dose_e_per_A2": 100.0})
    counted = replace(batch, settings=batch.settings.model_copy(update={"pattern": pattern}))
    assert torch.isfinite(maps_evidence(counted, 2.5).counts).all()


def test_each_draw_has_noise_of_its_own_that_the_seed_fixes(batch: PairBatch) -> None:
    one, again, other = (maps_evidence(batch, 2.5, k).noise for k in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert float(one.std()) == pytest.approx(1, abs=0.05)


def test_samples_lie_from_the_best_guess_as_far_as_it_is_trusted() -> None:
    """The mean cosine of the angles is the trust; mates of a real object turn oppositely."""
    m = 128
    real = torch.fft.fft2(torch.randn(3, m, m, generator=torch.Generator().manual_seed(0)))
    trust = torch.tensor([0.1, 0.5, 0.9])[:, None, None].expand(3, m, m)
    best = Proposal(torch.sgn(real), trust)
    drawn = sampled(best, [4, 5, 6], 0)
    cosine = (drawn.phase * best.phase.conj()).real.mean((-2, -1))
    torch.testing.assert_close(cosine, torch.tensor([0.1, 0.5, 0.9]), atol=0.02, rtol=0)
    band = torch.fft.fftfreq(m).abs() < 0.49
    some = (band[:, None] & band)[None] & (torch.fft.fftfreq(m) != 0)
    apart = (drawn.phase - friedel_mate(drawn.phase).conj()).abs() * some
    assert float(apart.max()) < 1e-4
    assert torch.equal(drawn.trust, torch.ones_like(drawn.trust))
    assert torch.equal(sampled(best, [4, 5, 6], 0).phase, drawn.phase)
    assert not torch.equal(sampled(best, [4, 5, 6], 1).phase, drawn.phase)
    assert torch.equal(sampled(best[1:2], [5], 0).phase, drawn.phase[1:2])


def test_samples_of_a_pair_are_as_far_apart_as_from_the_truth(
    batch: PairBatch, truth: Tensor, context: Context
) -> None:
    """From 5 Å on, where little is certain; each sample has the measured amplitudes."""
    waves = []
    for k in (0, 1):
        phase = batch.settings.phase.model_copy(update={"sample": k})
        settings = batch.settings.model_copy(update={"phase": phase})
        wave = METHODS["network"](replace(batch, settings=settings), context).wave
        assert wave is not None
        waves.append(torch.fft.fft2(wave, norm="forward"))
    drawn = drawn_phases(batch, context).trust > 0
    for wave in waves:
        torch.testing.assert_close(wave.abs()[drawn], batch.amplitude[drawn], rtol=1e-3, atol=1e-6)
    fine = drawn & (frequency_grid(batch.pattern.shape[-1], batch.optics.box_A) > 1 / 5.0**2)
    true = torch.fft.fft2(truth, norm="forward")
    apart = float((waves[0] - waves[1]).abs().square()[fine].sum())
    wrong = float((waves[0] - true).abs().square()[fine].sum())
    assert apart == pytest.approx(wrong, rel=0.2)
