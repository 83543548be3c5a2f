"""Which R factors stand out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffragan.phasing.proposals import Proposal
from diffragan.phasing.trust import r_outliers, r_warning, verdict


def test_r_above_one_or_far_above_its_peers_stands_out() -> None:
    """Known numbers: R 0.025 where counted patterns are right, 0.085 one pixel off centre."""
    good = np.full(20, 0.025) + 0.001 * np.sin(np.arange(20))
    assert r_outliers(good).tolist() == []
    shifted = good.copy()
    shifted[[3, 11]] = 0.085, 1.3
    assert r_outliers(shifted).tolist() == [3, 11]
    assert r_outliers(np.array([1.2, 1.3, 1.1])).tolist() == [0, 1, 2], "all of them wrong alike"
    assert r_outliers(np.array([0.02, np.nan])).tolist() == [1]
    assert r_outliers(np.array([0.4])).tolist() == []


def test_a_wide_spread_is_no_warning() -> None:
    """Views of a faint molecule range over tens of per cent; a half unsolved is ordinary."""
    assert r_outliers(np.linspace(0.38, 0.46, 300)).tolist() == []
    assert r_outliers(np.array([0.025] * 5 + [0.06] * 5)).tolist() == []


def test_the_warning_names_a_few_items_and_the_count() -> None:
    """A list of thousands helps nobody."""
    r = np.array([0.02] * 30 + [2.0] * 7)
    text = r_warning(r, np.arange(100, 137))
    assert text is not None
    assert "in 7 of 37 results (items 130, 131, 132, 133, 134, ...)" in text
    assert r_warning(r[:30], np.arange(30)) is None


@pytest.mark.parametrize("noise", [1.0, 1.5])
def test_drawn_starts_that_agree_in_part_are_trusted_less(noise: float) -> None:
    """Four starts that a network sent the same way agree in part for that alone."""
    generator = torch.Generator().manual_seed(0)
    m, box = 32, 20.0
    thing = torch.fft.fft2(torch.randn(1, 1, m, m, generator=generator))
    apart = noise * torch.fft.fft2(torch.randn(1, 4, m, m, generator=generator))
    spectra = thing + apart
    r = torch.full((1, 4), 0.03)
    mask = torch.ones(m, m, dtype=torch.bool)
    seen, drawn = (
        Proposal(1j * torch.sgn(thing[:, 0]), torch.full((1, m, m), 0.3), kind)
        for kind in (False, True)
    )
    by_seen, by_drawn = (
        verdict(spectra, r, seen, one, mask, box, 0 * r[:, 0]) for one in (seen, drawn)
    )
    assert float(by_drawn.trust.mean()) < float(by_seen.trust.mean())
    assert torch.equal(by_drawn.phase, by_seen.phase)


def test_drawn_starts_are_trusted_less_the_worse_they_fit_and_the_fewer_the_counts() -> None:
    """An R that counting explains in full is still no R of 0.025: what counts hide stays hidden."""
    generator = torch.Generator().manual_seed(2)
    m = 32
    thing = torch.fft.fft2(torch.randn(1, 1, m, m, generator=generator))
    spectra = thing + 0.3 * torch.fft.fft2(torch.randn(1, 4, m, m, generator=generator))
    drawn = Proposal(1j * torch.sgn(thing[:, 0]), torch.full((1, m, m), 0.3), drawn=True)
    mask = torch.ones(m, m, dtype=torch.bool)

    def trust(r: float, noise_r: float) -> float:
        given = torch.full((1, 4), r), torch.tensor([noise_r])
        told = verdict(spectra, given[0], drawn, drawn, mask, 20.0, given[1])
        return float(told.trust.mean())

    assert trust(0.025, 0.0) > trust(0.04, 0.0) > trust(0.1, 0.0)
    assert trust(0.025, 0.0) > trust(0.103, 0.1) > trust(0.202, 0.2)


def test_starts_are_held_to_the_image_and_not_to_what_was_drawn_from_it() -> None:
    """Right starts fit the image as well as its trust promises, whatever a network promised of its
    own phases; of another molecule's image the same starts are refused."""
    generator = torch.Generator().manual_seed(1)
    m, box = 64, 50.0

    def unit() -> torch.Tensor:
        return torch.sgn(torch.fft.fft2(torch.randn(1, m, m, generator=generator)))

    def shown(phase: torch.Tensor, cosine: float) -> torch.Tensor:
        """Phases of a wave whose error has this mean cosine: as often off by 180° as that takes."""
        right = torch.rand(m, m, generator=generator) < (1 + cosine) / 2
        return 1j * phase * torch.where(right, 1, -1)

    thing = unit()
    spectra = thing[:, None].expand(1, 4, m, m)
    r, mask = torch.full((1, 4), 0.02), torch.ones(m, m, dtype=torch.bool)
    trust = torch.full((1, m, m), 0.6)
    # A network that promises .9 and keeps .6.
    drawn = Proposal(shown(thing, 0.6), torch.full((1, m, m), 0.9), drawn=True)
    own, foreign = (Proposal(shown(x, 0.6), trust) for x in (thing, unit()))
    by_own, by_foreign = (
        verdict(spectra, r, image, drawn, mask, box, 0 * r[:, 0]) for image in (own, foreign)
    )
    assert by_own.solved.tolist() == [True]
    assert by_foreign.solved.tolist() == [False]
    assert float(by_foreign.trust.max()) == 0
    assert float(by_own.trust.mean()) > 0.5
