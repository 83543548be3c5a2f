"""Supports: outlines of known objects, thresholds on each image's own scale, the ratio."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffragan.microscope.imaging import pattern_mask
from diffragan.optics import Optics
from diffragan.pairs.open import open_pairs
from diffragan.pairs.pairs import Pairs
from diffragan.phasing.proposals import Proposal
from diffragan.phasing.run import make_pair_batch
from diffragan.phasing.support import (
    above_fraction,
    blur,
    first_support,
    local_power,
    measured_to_unknown,
    support_from_density,
    support_from_radius,
)
from diffragan.settings import PatternSettings, Settings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pairs(simulated: Path, published: Settings) -> Pairs:
    return open_pairs(simulated, settings=published)


def test_what_a_network_drew_gives_the_first_outline(pairs: Pairs, published: Settings) -> None:
    """Its map holds the innermost frequencies, which an image lacks; other proposals leave the
    outline to the image, and a setting decides for itself."""
    batch = make_pair_batch(pairs, np.array([0]), published, CPU)
    truth = pairs.truth_wave(np.array([0]))
    assert truth is not None
    phase = torch.sgn(torch.fft.fft2(torch.from_numpy(truth)))
    valid = torch.fft.ifftshift(batch.pattern_mask).float()[None]

    def outline(drawn: bool, **values: object) -> torch.Tensor:
        told = published.phase.model_copy(update=values)
        given = replace(batch, settings=published.model_copy(update={"phase": told}))
        return first_support(given, Proposal(phase, valid, drawn=drawn), 2)

    assert torch.equal(outline(True), outline(False, support="proposal"))
    assert torch.equal(outline(False), outline(True, support="image"))
    assert not torch.equal(outline(True), outline(False))


def test_blur_keeps_the_sum_and_spreads_by_its_width() -> None:
    x = torch.zeros(64, 64)
    x[32, 32] = 1
    got = blur(x, 64.0, 3.0)
    assert float(got.sum()) == pytest.approx(1, abs=1e-5)
    axis = torch.arange(64) - 32
    assert float((got * axis[:, None] ** 2).sum()) == pytest.approx(9, rel=1e-2)


def test_a_density_gives_its_own_outline_on_any_scale_and_ground() -> None:
    """Two discs of different height over different grounds are found alike, one by one."""
    disc = support_from_radius(96, 60.0, 12.0)
    maps = torch.stack([3 * disc - 1.0, 0.01 * disc + 5.0])
    found = support_from_density(maps, 60.0, fraction=0.5, width_A=1.0)
    for k in range(2):
        wrong = int((found[k] ^ disc).sum())
        assert wrong < 0.05 * int(disc.sum())
        alone = support_from_density(maps[k : k + 1], 60.0, fraction=0.5, width_A=1.0)
        assert torch.equal(alone[0], found[k])
    turned = torch.complex(maps, 100 * torch.rand(maps.shape))
    assert torch.equal(support_from_density(turned, 60.0, 0.5, 1.0), found)
    lower = support_from_density(maps, 60.0, fraction=0.1, width_A=1.0)
    assert bool((lower | ~found).all())
    assert int(lower.sum()) > int(found.sum())


def test_the_image_outlines_a_molecule_that_its_density_can_not(pairs: Pairs) -> None:
    """Against the atoms' own outline: nearly all of it is covered, and not too much besides."""
    items = np.array([0, 2, 4, 6])
    batch = make_pair_batch(pairs, items, pairs.settings, CPU)
    power = local_power(
        batch.image,
        batch.amplitude,
        batch.image_dose_e_per_A2,
        batch.image_contrast,
        batch.optics.box_A,
        4.0,
    )
    found = above_fraction(power, 0.1)
    exit_wave = pairs.truth_wave(items)
    assert exit_wave is not None
    spectrum = torch.fft.fft2(torch.from_numpy(exit_wave)) / 1j
    spectrum[:, 0, 0] = 0
    density = torch.fft.ifft2(spectrum).real
    true = support_from_density(density, 70.0, fraction=0.1, width_A=1.5)
    covered = (found & true).sum((-2, -1)) / true.sum((-2, -1))
    assert float(covered.min()) > 0.93
    assert float((found.sum((-2, -1)) / true.sum((-2, -1))).max()) < 2.2


@pytest.mark.parametrize("radius_A", [10.0, 17.5])
def test_ratio_of_measured_to_unknown(radius_A: float) -> None:
    """pi (q L)² / 2 over area x pi q², up to pixels; twice the box measures four times as much."""
    for box in (70.0, 140.0):
        optics = Optics(200e3, box, box / 2)
        m = 112 if box == 70 else 224
        mask = pattern_mask(m, optics, PatternSettings())
        disc = support_from_radius(m, box, radius_A)
        expected = box**2 / 2 / (math.pi * radius_A**2)
        assert float(measured_to_unknown(disc, mask)) == pytest.approx(expected, rel=0.03)
    half = mask.clone()
    half[:, : m // 2] = False
    ratio = float(measured_to_unknown(disc, half))
    assert ratio == pytest.approx(expected / 2, rel=0.05)
