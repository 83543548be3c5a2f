"""Refinement end to end on simulated clusters: it solves, says so, and reads no truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.files.store import open_results, open_simulation
from diffragan.fourier.correlation import centred_fourier, frc_fourier, ring_index, ring_q
from diffragan.fourier.grids import frequency_grid
from diffragan.microscope.imaging import projection_of_centre_wave
from diffragan.pairs.imaged import ImagedPairs
from diffragan.pairs.open import open_pairs
from diffragan.pairs.pairs import Pairs
from diffragan.pairs.write import write_pairs
from diffragan.phasing.method import Context, PairBatch, Phased
from diffragan.phasing.methods import METHODS, hybrid, raar
from diffragan.phasing.modulus import friedel_mate
from diffragan.phasing.proposals import (
    Proposal,
    image_proposal,
    more_trusted,
    network_proposal,
)
from diffragan.phasing.run import make_pair_batch, phase_pairs
from diffragan.phasing.starts import align, concentration, placement_variance_A2, random_starts
from diffragan.phasing.trust import mean_phase
from diffragan.settings import Settings

CPU = torch.device("cpu")
ITEMS = np.array([3, 4])


def with_phase(settings: Settings, **values: object) -> Settings:
    phase = {"method": "raar", "iterations": 240, "starts": 3, **values}
    return settings.model_copy(update={"phase": settings.phase.model_copy(update=phase)})


@pytest.fixture(scope="module")
def settings(published: Settings) -> Settings:
    """Clear images, so that whether a run is solved does not hang on how a processor rounds."""
    clear = published.image.model_copy(update={"snr": 3.0})
    return with_phase(published.model_copy(update={"image": clear}))


@pytest.fixture(scope="module")
def pairs(simulated: Path, settings: Settings) -> Pairs:
    return open_pairs(simulated, settings=settings)


@pytest.fixture(scope="module")
def batch(pairs: Pairs, settings: Settings) -> PairBatch:
    return make_pair_batch(pairs, ITEMS, settings, CPU)


@pytest.fixture(scope="module")
def phased(batch: PairBatch) -> Phased:
    return METHODS["raar"](batch, Context())


def frc_with_truth(wave: Tensor, pairs: Pairs) -> Tensor:
    truth = pairs.truth_wave(ITEMS)
    assert truth is not None
    mask = torch.from_numpy(pairs.pattern_mask)
    return frc_fourier(centred_fourier(wave), centred_fourier(torch.from_numpy(truth)), mask)


def test_image_and_pattern_alone_solve_small_objects(phased: Phased, pairs: Pairs) -> None:
    assert phased.wave is not None
    curves = frc_with_truth(phased.wave, pairs)
    q = ring_q(112, 70.0)
    assert float(curves[:, (q > 1 / 4.2) & (q < 1 / 3.8)].mean(-1).min()) > 0.8
    assert float(curves[:, (q > 1 / 2.2) & (q < 1 / 1.8)].mean(-1).min()) > 0.6
    image = METHODS["image"](make_pair_batch(pairs, ITEMS, pairs.settings, CPU), Context())
    assert image.wave is not None
    before = frc_with_truth(image.wave, pairs)
    assert float(before[:, (q > 1 / 4.2) & (q < 1 / 3.8)].max()) < 0.3


def test_what_a_run_reports(phased: Phased, batch: PairBatch) -> None:
    assert phased.start_r is not None
    assert phased.r_factor is not None
    assert phased.trust is not None
    assert phased.solved is not None
    assert phased.start_r.shape == (2, 3)
    assert torch.equal(phased.start_r.min(1).values, phased.r_factor)
    assert float(phased.r_factor.max()) < 0.06
    assert phased.solved.dtype == torch.bool
    assert bool(phased.solved.any())
    assert phased.trust.shape == (2, 57)
    assert float(phased.trust.min()) >= 0
    assert float(phased.trust.max()) <= 1
    assert phased.projection.shape == (2, batch.projection_px, batch.projection_px)
    assert float(phased.projection.mean()) == pytest.approx(1, abs=1e-4)


def test_the_same_seed_gives_the_same_bits_whatever_the_batch(
    phased: Phased, pairs: Pairs, settings: Settings
) -> None:
    alone = METHODS["raar"](make_pair_batch(pairs, ITEMS[1:], settings, CPU), Context())
    assert phased.wave is not None
    assert alone.wave is not None
    assert torch.equal(alone.wave[0], phased.wave[1])
    assert alone.start_r is not None
    assert phased.start_r is not None
    assert torch.equal(alone.start_r[0], phased.start_r[1])


def test_a_wrong_image_is_not_called_solved(batch: PairBatch) -> None:
    """The image of another molecule misleads outline and phases: the flag must not be set."""
    swapped = replace(batch, image=batch.image.flip(0))
    found = METHODS["raar"](swapped, Context())
    assert found.solved is not None
    assert found.solved.tolist() == [False, False]


@pytest.mark.parametrize(
    "values",
    [
        {"solver": "hio", "beta": 0.9},
        {"model": "complex", "damping_end": 0.9},
        {"support": "radius", "support_radius_A": 17.0},
        {"support": "proposal", "rounds": 1},
        {"starts": 1},
    ],
)
def test_settings_reach_the_run(values: dict[str, object], batch: PairBatch) -> None:
    few = with_phase(batch.settings, iterations=12, **{"starts": 2, **values})
    one = replace(
        batch,
        pattern=batch.pattern[:1],
        image=batch.image[:1],
        image_dose_e_per_A2=batch.image_dose_e_per_A2[:1],
        seeds=batch.seeds[:1],
        settings=few,
    )
    seen: list[tuple[int, tuple[int, ...]]] = []
    proposal = image_proposal(one)
    found = raar.refine_phases(
        one, proposal, each_round=lambda k, r: seen.append((k, tuple(r.shape)))
    )
    assert found.start_r.shape == (1, few.phase.starts)
    assert [k for k, _ in seen] == ([12] if values.get("rounds") == 1 else [4, 8, 12])
    assert bool(torch.isfinite(found.spectrum.abs()).all())


@pytest.mark.parametrize("noise", ["exact", "bounds", "poisson"])
def test_counted_patterns(noise: str, pairs: Pairs, settings: Settings) -> None:
    dosed = with_phase(settings, noise=noise, iterations=30).model_copy(
        update={"pattern": settings.pattern.model_copy(update={"dose_e_per_A2": 5000.0})}
    )
    few = make_pair_batch(open_pairs(pairs.path, settings=dosed), ITEMS[:1], dosed, CPU)
    found = METHODS["raar"](few, Context())
    assert found.r_factor is not None
    assert 0 < float(found.r_factor[0]) < 0.5
    modulus = raar.pattern_modulus(few, "real")
    assert modulus.exact is (noise == "exact")


def test_too_few_measurements_are_refused_with_the_numbers(
    batch: PairBatch, caplog: pytest.LogCaptureFixture
) -> None:
    wide = {"support": "radius", "support_radius_A": 34.0, "iterations": 3, "rounds": 1}
    full = replace(batch, settings=with_phase(batch.settings, **wide))
    with pytest.raises(DiffraganError, match=r"74% of the 70 Å box.*0\.6\d measured.*force"):
        METHODS["raar"](full, Context())
    forced = replace(batch, settings=with_phase(batch.settings, force=True, **wide))
    METHODS["raar"](forced, Context())
    assert "measured numbers per unknown" in caplog.text
    caplog.clear()
    wide["support_radius_A"] = 25.0
    METHODS["raar"](replace(batch, settings=with_phase(batch.settings, **wide)), Context())
    assert "rarely unique" in caplog.text


def test_a_time_budget_ends_a_run_early(batch: PairBatch) -> None:
    long = with_phase(batch.settings, iterations=10**7, time_budget_s=0.3)
    found = METHODS["raar"](replace(batch, settings=long), Context())
    assert found.r_factor is not None
    assert bool(torch.isfinite(found.r_factor).all())


def test_starts_follow_the_proposal_where_it_is_trusted() -> None:
    generator = torch.Generator().manual_seed(0)
    amplitude = torch.rand(2, 32, 32, generator=generator)
    phase = torch.polar(torch.ones(2, 32, 32), 6 * torch.rand(2, 32, 32, generator=generator))
    trust = torch.zeros(2, 32, 32)
    trust[:, :8] = 0.8
    starts = random_starts(amplitude, phase, trust, [1, 2], 50, "complex")
    spectrum = torch.fft.fft2(starts, norm="forward")
    cosine = (spectrum * phase[:, None].conj()).real.mean(1) / amplitude
    assert float(cosine[:, :8].mean()) == pytest.approx(0.8, abs=0.02)
    assert float(cosine[:, 8:].mean()) == pytest.approx(0.0, abs=0.02)
    again = random_starts(amplitude[1:], phase[1:], trust[1:], [2], 50, "complex")
    assert torch.equal(again[0], starts[1])
    assert random_starts(amplitude, phase, trust, [1, 2], 2, "real").dtype == torch.float32


@pytest.mark.parametrize("twin", [False, True])
def test_alignment_undoes_a_shift_and_a_twin(twin: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.fft.fft2(torch.randn(1, 33, 33, generator=generator)).to(torch.complex64)
    f = torch.fft.fftfreq(33)
    cycles = 3.25 * f[:, None] - 1.5 * f[None, :]
    moved = x * torch.polar(torch.ones_like(cycles), 2 * torch.pi * cycles)
    moved = friedel_mate(moved) if twin else moved
    weight = concentration(torch.full((1, 33, 33), 0.5))
    back, fit = align(moved[:, None], torch.sgn(x)[:, None], weight[:, None])
    assert float(fit[0, 0]) > 0.99
    torch.testing.assert_close(back[0, 0], x[0], atol=0.6, rtol=0.02)


def test_placement_error_falls_with_trust_and_reach() -> None:
    """Twice the trust halves the error of faint phases; without a proposal there is none."""
    trust = torch.zeros(1, 32, 32)
    trust[:, 0, 3:6] = 0.02
    trust[:, 3:6, 0] = 0.02
    sd = float(placement_variance_A2(trust, 40.0).sqrt())
    assert sd / float(placement_variance_A2(2 * trust, 40.0).sqrt()) == pytest.approx(2, rel=0.01)
    # six phases with kappa = 0.04 at q = 3, 4, 5 / 40 A along an axis; mates count once
    q2 = (9 + 16 + 25) / 40.0**2
    information = 0.5 * 0.04 * 0.02 * (2 * torch.pi) ** 2 * q2
    assert sd == pytest.approx(information**-0.5, rel=0.01)
    assert float(placement_variance_A2(torch.zeros(1, 32, 32), 40.0)) == 0


def test_agreement_of_equal_and_unrelated_answers() -> None:
    generator = torch.Generator().manual_seed(2)
    one = torch.randn(1, 1, 24, 24, dtype=torch.complex64, generator=generator)
    mean, chance = mean_phase(one.expand(1, 4, 24, 24), torch.ones(1, 4))
    torch.testing.assert_close(mean.abs(), torch.ones(1, 24, 24))
    many = torch.randn(1, 4, 24, 24, dtype=torch.complex64, generator=generator)
    mean, chance = mean_phase(many, torch.ones(1, 4))
    assert float(chance[0]) == pytest.approx(0.25)
    assert float((mean.abs() ** 2).mean()) == pytest.approx(0.25, abs=0.03)
    mean, chance = mean_phase(many, torch.tensor([[0.0, 0, 1, 0]]))
    torch.testing.assert_close(mean, torch.sgn(many[:, 2]))
    assert float(chance[0]) == 1


def test_a_perfect_network_proposes_the_true_phases(pairs: Pairs, batch: PairBatch) -> None:
    truth = pairs.truth_wave(ITEMS)
    assert truth is not None
    wave = torch.from_numpy(truth)
    made = projection_of_centre_wave(
        wave, batch.optics, batch.settings.projection, batch.projection_px
    )
    proposal = network_proposal(made, batch)
    true = torch.sgn(torch.fft.fft2(wave))
    q = frequency_grid(112, 70.0).sqrt()
    sure = (proposal.trust > 0.5) & (q > 0.05) & (q < 0.5)
    cosine = (proposal.phase * true.conj()).real
    assert int(sure.sum()) > 2000
    assert float(cosine[sure].mean()) > 0.9
    assert bool((proposal.trust[:, ~torch.fft.ifftshift(batch.pattern_mask)] == 0).all())


def test_a_network_is_trusted_no_further_than_it_was_right(pairs: Pairs, batch: PairBatch) -> None:
    """Its validation FRC by ring limits the trust; nothing is left where it knew nothing."""
    truth = pairs.truth_wave(ITEMS)
    assert truth is not None
    made = projection_of_centre_wave(
        torch.from_numpy(truth), batch.optics, batch.settings.projection, batch.projection_px
    )
    worth = [0.9] * 10 + [0.3] * 10 + [-0.1] * 40
    trust = torch.fft.fftshift(network_proposal(made, batch, worth).trust, dim=(-2, -1))
    rings = ring_index(112)
    assert float(trust[:, rings < 10].max()) == pytest.approx(0.9)
    assert float(trust[:, (rings >= 10) & (rings < 20)].max()) == pytest.approx(0.3)
    assert float(trust[:, rings >= 20].max()) == 0


def test_the_more_trusted_proposal_wins(batch: PairBatch) -> None:
    one = image_proposal(batch)
    other = Proposal(-one.phase, torch.full_like(one.trust, 0.4))
    found = more_trusted(one, other)
    image_wins = one.trust >= 0.4
    assert 0 < int(image_wins.sum()) < image_wins.numel()
    assert torch.equal(found.phase[image_wins], one.phase[image_wins])
    assert torch.equal(found.phase[~image_wins], -one.phase[~image_wins])
    torch.testing.assert_close(found.trust, one.trust.clamp_min(0.4))


def test_hybrid_refines_what_the_network_gives(
    batch: PairBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a network that draws what the image tells, `hybrid` is `raar`."""
    assert METHODS["hybrid"].needs_weights
    monkeypatch.setattr(hybrid, "proposed", lambda batch, context: image_proposal(batch))
    few = replace(batch, settings=with_phase(batch.settings, iterations=9))
    found, alone = METHODS["hybrid"](few, Context()), METHODS["raar"](few, Context())
    assert found.wave is not None
    assert alone.wave is not None
    assert torch.equal(found.wave, alone.wave)


def test_an_object_lies_where_the_image_has_it_and_not_where_it_was_drawn(
    batch: PairBatch, pairs: Pairs
) -> None:
    """Drawn 1 Å out of place; left there, waves would have an FRC of J0(pi) = -.3 at 2 Å."""
    seen = image_proposal(batch)
    f = torch.fft.fftfreq(112, 70.0 / 112)
    aside = torch.polar(torch.ones(112), -2 * torch.pi * f).expand(112, 112)
    drawn = Proposal(seen.phase * aside, seen.trust, drawn=True)
    told = replace(batch, settings=with_phase(batch.settings, support="image"))
    found = raar.phased_by_projections(told, raar.refine_phases(told, drawn))
    assert found.wave is not None
    q = ring_q(112, 70.0)
    assert float(frc_with_truth(found.wave, pairs)[:, (q > 1 / 2.2) & (q < 1 / 1.8)].min()) > 0.4


def test_nothing_of_a_truth_is_read(simulated: Path, settings: Settings, tmp_path: Path) -> None:
    """The pipeline gives the same bits from stores with the truth and without it."""
    few = with_phase(settings, iterations=30)
    simulation = open_simulation(simulated)
    found = []
    for truth in (True, False):
        store = write_pairs(
            ImagedPairs(simulation, few), tmp_path / f"{truth}.zarr", items=slice(2), truth=truth
        )
        given = open_pairs(store, settings=few)
        assert given.has_truth is truth
        out = phase_pairs(given, tmp_path / f"{truth}-phased.zarr", given.settings)
        results = open_results(out)
        found.append((results.wave(slice(0, 2)), results.r_factor))
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one, other)
