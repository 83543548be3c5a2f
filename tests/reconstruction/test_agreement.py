"""What two half sets let a run claim."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diffragan.fourier.correlation import resolution_at
from diffragan.reconstruction.maps.agreement import CLAIM_THRESHOLD, Agreement


def test_the_reported_resolution_is_the_coarser_of_two() -> None:
    """Of what the half maps' FSC and the agreement with what was left out let expect."""
    q = torch.arange(1, 41, dtype=torch.float64) / 80
    good, bad = (torch.sigmoid((limit - q) * 60).float() for limit in (0.4, 0.2))
    nothing = torch.full_like(good, torch.nan)
    alone = Agreement(q, good, nothing, 0.2)
    limited = Agreement(q, good, bad, 0.2)
    assert limited.resolution_A == resolution_at(bad.sqrt(), q, CLAIM_THRESHOLD)
    assert limited.fsc_resolution_A == alone.fsc_resolution_A < alone.resolution_A
    assert alone.resolution_A < limited.resolution_A
    assert Agreement(q, good, torch.ones_like(good), 0.2).resolution_A == alone.resolution_A
    assert limited.trust.shape == (41,)
    assert bool((limited.trust[1:].diff() <= 0).all())


def test_halves_are_trusted_less_where_they_go_astray_alike() -> None:
    """In the images' band a half-set FSC of 1/7 is a map that correlates 0.5 with the truth, as
    for halves whose noise is their own; from 1.5 times its edge on that takes more."""
    q = torch.arange(1, 41, dtype=torch.float64) / 80
    found = Agreement(q, torch.full((40,), 1 / 7), torch.full((40,), torch.nan), 0.2)
    inside, beyond = q <= 0.2, q >= 0.3
    assert found.expected[inside].tolist() == pytest.approx([0.5] * int(inside.sum()))
    assert found.expected[beyond].tolist() == pytest.approx([0.25**0.85] * int(beyond.sum()))
    assert bool((found.expected.diff() <= 1e-6).all())
    refuted = replace(found, other=torch.full((2, 40), 0.005))
    assert refuted.expected[inside].tolist() == found.expected[inside].tolist()
    assert float(refuted.expected[beyond].max()) < 0.1
    stricter = replace(found, shared=1.0)
    assert stricter.expected[inside].tolist() == found.expected[inside].tolist()
    assert stricter.expected[beyond].tolist() == pytest.approx([0.25] * int(beyond.sum()))
    low = Agreement(q, torch.full((40,), -0.5), torch.full((40,), torch.nan), 0.2)
    assert float(low.expected.abs().max()) == 0
