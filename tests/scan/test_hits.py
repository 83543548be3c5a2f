"""Background, weights and classes of single patterns."""

from __future__ import annotations

import numpy as np
import pytest

from diffragan.scan.hits.background import (
    counts_a_kda,
    excess_of,
    free_atoms,
    half_sample_mode,
    mass_kda,
)
from diffragan.scan.hits.classes import CLASSES, FEATURES, called, shipped
from diffragan.scan.hits.rings import RINGS, SECTORS, RingSums


def sums_of(counts: np.ndarray, pixels: np.ndarray) -> RingSums:
    n = len(counts)
    return RingSums(
        counts, counts, counts * 0, np.zeros((n, SECTORS)), np.full(n, 1e6),
        np.ones(n, bool), pixels,
    )  # fmt: skip


def test_the_mode_is_where_values_lie_densest() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate((rng.normal(100, 3, 600), rng.uniform(120, 900, 400)))
    assert half_sample_mode(values) == pytest.approx(100, abs=3)


def test_the_background_is_that_of_empty_patterns() -> None:
    """40 % of the patterns hold more; of the others five standard deviations are chance."""
    rng = np.random.default_rng(1)
    pixels = np.linspace(100, 1000, RINGS)
    level, hit = 0.3 * pixels, 0.2 * pixels
    lit = rng.random(900) < 0.4
    counts = rng.poisson(level + np.where(lit[:, None], hit, 0)).astype(float)
    excess = excess_of(sums_of(counts, pixels), (30, 30))
    np.testing.assert_allclose(excess.background.mean(0), level, rtol=0.02)
    assert (excess.z[~lit] > 5).mean() < 0.002
    assert (excess.z[lit] > 5).mean() > 0.999
    assert np.std(excess.z[~lit]) == pytest.approx(1, abs=0.2)


def test_a_background_that_rises_over_the_scan_is_followed() -> None:
    rng = np.random.default_rng(2)
    pixels = np.full(RINGS, 500.0)
    rise = np.linspace(0.8, 1.2, 60)[:, None] * np.ones(60)
    counts = rng.poisson(rise.reshape(-1, 1) * 0.5 * pixels).astype(float)
    excess = excess_of(sums_of(counts, pixels), (60, 60))
    middle = excess.z.reshape(60, 60)[20:40]
    assert np.abs(middle.mean()) < 1


def test_a_weight_is_that_of_free_atoms() -> None:
    """What free atoms of 7 kDa scatter is told as 7 kDa, and its error as large as it is."""
    rng = np.random.default_rng(3)
    pixels = np.linspace(200, 2000, RINGS)
    a_kda = counts_a_kda(pixels, 200e3, 100.0, 500.0)
    assert a_kda == pytest.approx(a_kda[0] * free_atoms(pixels) / free_atoms(pixels)[0])
    background = np.tile(0.2 * pixels, (400, 1))
    rings = rng.poisson(7 * a_kda + background) - background
    mass, deviation = mass_kda(rings, background, a_kda)
    assert mass.mean() == pytest.approx(7, rel=0.01)
    assert mass.std() == pytest.approx(deviation.mean(), rel=0.15)


def test_the_threshold_decides_and_noise_is_empty() -> None:
    chance = np.array([[0.3, 0.4, 0.1, 0.1, 0.1], [0.9, 0.1, 0, 0, 0], [0.9, 0.1, 0, 0, 0]])
    z, read = np.array([50.0, 50.0, 2.0]), np.ones(3, bool)
    assert called(chance, z, read, 0.5, 5.0).tolist() == ["empty", "molecule", "empty"]
    assert called(chance, z, read, 0.3, 5.0)[0] == "molecule"


def test_the_shipped_classifier_calls_nothing_empty() -> None:
    """A pattern of no excess."""
    found = shipped()
    assert found.coefficients.shape == (len(CLASSES), len(FEATURES))
    plain = found.mean.copy()
    plain[:2] = 0.0, -4.0
    assert CLASSES[found.probabilities(plain[None])[0].argmax()] == "empty"
