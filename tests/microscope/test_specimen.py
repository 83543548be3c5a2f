"""Damage, ice and motion: what they take and add, ring by ring, against the laws they follow."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.files.store import open_simulation
from diffragan.fourier.grids import frequency_grid
from diffragan.microscope.imaging import counted_electrons, measure
from diffragan.microscope.matter import water
from diffragan.microscope.matter.damage import (
    amplitude_fade,
    critical_exposure_e_per_A2,
    intensity_fade,
)
from diffragan.microscope.specimen import in_specimen, independent_intensity
from diffragan.optics import Optics
from diffragan.settings import Settings, SpecimenSettings, load_settings

DAMAGED = SpecimenSettings(damage="grant_grigorieff")


@pytest.fixture(scope="module")
def waves(simulated: Path) -> Tensor:
    return torch.from_numpy(open_simulation(simulated).exit_wave([0, 3, 6]))


@pytest.fixture(scope="module")
def optics(simulated: Path) -> Optics:
    return open_simulation(simulated).optics


def blank(optics: Optics, copies: int) -> Tensor:
    """Exit waves of an empty field."""
    return torch.ones(copies, 128, 128, dtype=torch.complex64)


def with_specimen(*pairs: str) -> Settings:
    return load_settings(overrides=("pattern.dose_e_per_A2=20", *pairs))


def by_ring(values: Tensor, optics: Optics) -> Tensor:
    """Mean of (b, y, x) in FFT order by ring of 1 / box."""
    side = values.shape[-1]
    ring = (frequency_grid(side, optics.box_A).sqrt() * optics.box_A + 0.5).long().flatten()
    total = torch.zeros(int(ring.max()) + 1, dtype=torch.float64)
    total.index_add_(0, ring, values.double().mean(0).flatten())
    return (total / torch.bincount(ring))[: side // 2]


def test_critical_exposure() -> None:
    """Grant & Grigorieff's curve at 300 kV, and 0.8 of it at 200 kV."""
    q = torch.tensor([1 / 5.0, 1 / 3.0, 0.5, 0.8], dtype=torch.float64)
    high = critical_exposure_e_per_A2(q, 300e3, DAMAGED)
    expected = [0.24499 * d**1.6649 + 2.8141 for d in (5.0, 3.0, 2.0, 1.25)]
    np.testing.assert_allclose(high, expected, rtol=1e-3)
    low = critical_exposure_e_per_A2(q, 200e3, DAMAGED)
    np.testing.assert_allclose(low / high, 0.80, atol=0.003)
    b = SpecimenSettings(damage="b_factor", damage_b_A2_per_e=2.0)
    fade = intensity_fade(critical_exposure_e_per_A2(q, 200e3, b), 1e-6, 3.0)
    # An amplitude falls by exp(-B q² / 4), an intensity by its square.
    np.testing.assert_allclose(fade, torch.exp(-2.0 * 3.0 * q**2 / 2), rtol=1e-5)


def test_fade_is_the_mean_over_an_exposure() -> None:
    """Numbers from a sum over the exposure; an endless one leaves nothing of what fades."""
    critical = torch.tensor([3.0, 10.0, math.inf], dtype=torch.float64)
    t = torch.linspace(2, 9, 20_001, dtype=torch.float64)[:, None]
    mean = torch.exp(-t / critical).mean(0)
    torch.testing.assert_close(intensity_fade(critical, 7.0, 2.0), mean, rtol=1e-3, atol=0)
    endless = amplitude_fade(critical, torch.tensor([math.inf], dtype=torch.float64), 0.0)
    assert endless.tolist() == [[0.0, 0.0, 1.0]]


def test_damage_removes_no_electron(waves: Tensor, optics: Optics) -> None:
    """What the coherent intensity loses comes back as that of atoms one by one."""
    settings = with_specimen("specimen.damage=grant_grigorieff")
    specimen = in_specimen(waves, optics, settings, [1, 2, 3])
    ideal = specimen.molecule.abs() ** 2
    fade = intensity_fade(specimen.critical, 20.0, 0.0)
    expected = fade * ideal + (1 - fade) * independent_intensity(ideal, specimen.q)
    torch.testing.assert_close(specimen.intensity(), expected)
    q = specimen.q
    band = (q > 1 / 3.0) & (q < 1 / 1.25)
    before, after = ((x * band).sum() for x in (ideal, specimen.intensity()))
    assert float(after / before) == pytest.approx(1, abs=0.02)
    assert float((fade * band).sum() / band.sum()) < 0.2


def test_ice_has_the_intensity_of_its_molecules(optics: Optics) -> None:
    """Twice the ice, twice the intensity; its ring at 3.7 Å; mean and spread of speckle."""
    seeds = list(range(12))
    thin, thick = (
        in_specimen(
            blank(optics, 12), optics, with_specimen(f"specimen.ice_nm={nm}"), seeds
        ).intensity()
        for nm in (4, 8)
    )
    thin[..., 0, 0], thick[..., 0, 0] = 0, 0
    q = torch.arange(64, dtype=torch.float64) / optics.box_A
    rings, twice = by_ring(thin, optics), by_ring(thick, optics)
    expected = water.elastic_intensity(q, optics, 4.0, optics.box_A**2)
    outside = slice(6, 60)
    np.testing.assert_allclose(rings[outside] / expected[outside], 1, atol=0.25)
    assert float(rings[outside].sum() / expected[outside].sum()) == pytest.approx(1, abs=0.05)
    assert float(twice[outside].sum() / rings[outside].sum()) == pytest.approx(2, abs=0.1)
    # A random wave's intensity varies by as much as its mean.
    at = (frequency_grid(128, optics.box_A).sqrt() - 0.5).abs() < 0.05
    speckle = thin[:, at]
    assert float(speckle.std() / speckle.mean()) == pytest.approx(1, abs=0.15)


def test_the_table_of_water() -> None:
    """Its first ring is where vitreous ice has it, and far out molecules scatter by themselves."""
    q = torch.linspace(0.1, 1.1, 501, dtype=torch.float64)
    intensity = water.intensity_per_molecule_A2(q)
    ring = 1 / float(q[:150][intensity[:150].argmax()])
    assert ring == pytest.approx(3.7, abs=0.3)
    assert water.molecules_per_A3() == pytest.approx(0.0314, abs=2e-4)


def test_inelastic_angles(optics: Optics) -> None:
    """All that is lost is somewhere, some 85 % of it within 5 mrad; a filter takes it out."""
    settings = with_specimen("specimen.ice_nm=20", "specimen.energy_filter=false")
    wide = Optics(optics.energy_ev, 20 * optics.box_A, optics.centre_to_exit_A)
    q = torch.arange(1, 20_000, dtype=torch.float64) / wide.box_A / 10
    ring = water.inelastic_intensity(q, wide, settings.specimen) * 2 * math.pi * q * q[0]
    ring = ring * wide.box_A**2
    lost = 1 / water.zero_loss(settings.specimen) - 1
    assert float(ring.sum()) == pytest.approx(lost, rel=0.02)
    within = float(ring[q * wide.wavelength_A < 5e-3].sum() / ring.sum())
    assert within == pytest.approx(0.85, abs=0.03)
    assert float(ring[q > 1 / 2.3].sum()) == 0


def test_motion_moves_intensity_into_speckle(waves: Tensor, optics: Optics) -> None:
    """Averaged over many molecules the coherent part is that of the B factor."""
    settings = load_settings(overrides=("specimen.motion_b_A2=20",))
    seeds = list(range(40))
    many = waves[:1].expand(40, -1, -1)
    moved = in_specimen(many, optics, settings, seeds).molecule
    still = torch.fft.fft2(waves[0], norm="forward")
    q2 = frequency_grid(waves.shape[-1], optics.box_A)
    band = (q2 > 0.1) & (q2 < 0.25)
    expected = still * torch.exp(-5 * q2)
    error = (moved.mean(0) - expected).abs()[band]
    spread = (moved - expected).abs().square().mean(0)[band]
    assert float(error.square().mean() / spread.mean()) == pytest.approx(1 / 40, rel=0.15)
    assert float(moved.abs().square().mean(0)[band].sum() / still.abs().square()[band].sum()) == (
        pytest.approx(1, abs=0.1)
    )


def test_off_changes_nothing(waves: Tensor, optics: Optics) -> None:
    """The ideal molecule's pattern and image, to the bit, whatever a filter would do."""
    plain = measure(waves, optics, with_specimen(), [1, 2, 3])
    off = measure(waves, optics, with_specimen("specimen.energy_filter=false"), [1, 2, 3])
    assert torch.equal(plain.pattern, off.pattern)
    assert torch.equal(plain.image, off.image)


def test_pattern_and_image_of_a_specimen(waves: Tensor, optics: Optics) -> None:
    """Counts have the expectation of the specimen; the image's electrons are those that pass."""
    pairs = ("specimen.ice_nm=10", "specimen.damage=grant_grigorieff", "image.dose_e_per_A2=8")
    settings = load_settings(overrides=("pattern.dose_e_per_A2=4", *pairs))
    measured = measure(waves, optics, settings, [1, 2, 3])
    specimen = in_specimen(waves, optics, settings, [1, 2, 3])
    expected = torch.fft.fftshift(specimen.intensity(), dim=(-2, -1))
    m, side = measured.pattern.shape[-1], expected.shape[-1]
    crop = slice(side // 2 - m // 2, side // 2 - m // 2 + m)
    mean = (expected[:, crop, crop] * measured.pattern_mask).sum()
    electrons = counted_electrons(optics, settings)
    assert electrons is not None
    assert electrons == pytest.approx(4 * optics.box_A**2 * math.exp(-10 / 285))
    error = float((measured.pattern.sum() - mean).abs() / mean)
    assert error < 4 / math.sqrt(float(mean) * electrons)
    passed = measured.image_dose_e_per_A2
    assert passed.tolist() == pytest.approx([8 * math.exp(-10 / 285)] * 3)


def test_detector(waves: Tensor, optics: Optics) -> None:
    """Half of the electrons counted: twice the variance; dead pixels are masked in every pattern;
    a blurred pattern keeps its electrons."""
    dead = with_specimen("detector.dead_fraction=0.1")
    whole = measure(waves, optics, with_specimen(), [1, 2, 3])
    holed = measure(waves, optics, dead, [1, 2, 3])
    lost = whole.pattern_mask & ~holed.pattern_mask
    assert float(lost.sum() / whole.pattern_mask.sum()) == pytest.approx(0.1, abs=0.02)
    assert not bool(holed.pattern[:, lost].any())
    half = with_specimen("detector.dqe=0.5")
    assert counted_electrons(optics, half) == 10 * optics.box_A**2
    exact = load_settings(overrides=("detector.blur_px=1",))
    blurred = measure(waves, optics, exact, [1, 2, 3]).pattern
    sharp = measure(waves, optics, load_settings(), [1, 2, 3]).pattern
    assert float(blurred.sum() / sharp.sum()) == pytest.approx(1, abs=0.02)
    assert float(blurred.std()) < float(sharp.std())


def test_specimen_needs_counts() -> None:
    """Without a dose there is no exposure that could do damage."""
    with pytest.raises(DiffraganError, match=r"give their dose \(pattern.dose_e_per_A2\)"):
        load_settings(overrides=("specimen.ice_nm=10",))
