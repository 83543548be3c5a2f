"""A molecule's own amplitudes, out of counts through damage and ice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from diffragan.fourier.grids import frequency_grid
from diffragan.microscope.alone import MoleculeAlone, expected_amplitude, molecule_alone
from diffragan.microscope.effective_dose import folded_part, protein_intensity
from diffragan.microscope.imaging import counted_electrons
from diffragan.microscope.matter import water
from diffragan.microscope.specimen import pattern_fade
from diffragan.optics import Optics
from diffragan.settings import Settings, load_settings

OPTICS = Optics(200e3, 60.0, 35.0)
M, KDA = 96, 5.0
Q = torch.fft.fftshift(frequency_grid(M, 60.0)).sqrt().clamp_min(1 / 60)
MASK = (Q <= 0.75) & (Q * 60 > 0.5)
DAMAGED = ["pattern.dose_e_per_A2=3.6", "specimen.damage=grant_grigorieff"]
ICE = [*DAMAGED, "specimen.ice_nm=5"]

pytestmark = pytest.mark.usefixtures("one_thread")


def settings_of(words: list[str], molecules: int) -> Settings:
    return load_settings(overrides=[*words, f"specimen.molecules={molecules}"])


def counts(settings: Settings, ice: bool) -> tuple[Tensor, Tensor]:
    """True intensities (m, m) of a protein by Wilson's statistics, and a counted pattern of it."""
    rng = np.random.default_rng(5)
    drawn = torch.from_numpy(rng.exponential(size=(M, M)))
    atoms = protein_intensity(Q, OPTICS, KDA)
    true = drawn * folded_part(Q) * atoms if ice else drawn * atoms
    fade = pattern_fade(Q, OPTICS.energy_ev, settings)
    assert fade is not None
    expected = fade * true + (1 - fade) * atoms
    if ice:
        expected = expected + water.beside_molecule(Q, OPTICS, settings.specimen)
    electrons = counted_electrons(OPTICS, settings)
    assert electrons is not None
    pattern = torch.from_numpy(rng.poisson(expected.numpy() * electrons) / electrons) * MASK
    return true.sqrt(), pattern[None].float()


def alone(settings: Settings, pattern: Tensor, **told: Tensor) -> MoleculeAlone:
    return molecule_alone(pattern, MASK, torch.tensor([18.0]), OPTICS, settings, **told)


def test_damage_is_divided_out() -> None:
    """With counts enough the amplitudes are those of the undamaged molecule, without its weight."""
    settings = settings_of(DAMAGED, 10**9)
    true, pattern = counts(settings, ice=False)
    found = alone(settings, pattern)
    far = MASK & (Q > 0.1)
    apart = (found.amplitude[0] - true)[far].square().mean() / true[far].square().mean()
    assert float(apart) < 0.001


@pytest.mark.parametrize("molecules", [3000, 300_000])
def test_errors_are_as_large_as_they_are_told_to_be(molecules: int) -> None:
    """Few counts and many: the deviation is the error's."""
    settings = settings_of(DAMAGED, molecules)
    true, pattern = counts(settings, ice=False)
    found = alone(settings, pattern)
    far = MASK & (Q > 0.15)
    error = (found.amplitude[0] - true)[far].square().mean().sqrt()
    assert float(error / found.deviation[0][far].square().mean().sqrt()) == pytest.approx(
        1, abs=0.1
    )


@pytest.mark.parametrize("by", ["weight", "empty positions"])
def test_ice_is_taken_off(by: str) -> None:
    """Many times the molecule's intensity beside it: what is left is the molecule's."""
    settings = settings_of(ICE, 10**8)
    true, pattern = counts(settings, ice=True)
    mass = torch.tensor([KDA], dtype=torch.float64)
    told = {"mass_kda": mass}
    if by == "empty positions":
        told["empty"] = water.beside_molecule(Q, OPTICS, settings.specimen)
    found = alone(settings, pattern, **told)
    far = MASK & (Q > 0.25)
    ice = water.beside_molecule(Q, OPTICS, settings.specimen)[far].mean()
    assert float(ice / true[far].square().mean()) > 8
    apart = (found.amplitude[0] - true)[far].square().mean() / true[far].square().mean()
    assert float(apart) < 0.05
    assert float(found.image_beside.max()) > 0


def test_one_exposure_of_ice_is_as_random_as_ice() -> None:
    """However many electrons one molecule's pattern counted, its own ice stays."""
    many = load_settings(overrides=[*ICE, "pattern.dose_e_per_A2=1e6"])
    pattern = counts(settings_of(ICE, 10**6), ice=True)[1]
    mass = torch.tensor([KDA], dtype=torch.float64)
    found = alone(many, pattern, mass_kda=mass)
    far = MASK & (Q > 0.25)
    # All that Wilson's law leaves unknown of an amplitude of this strength.
    least = math.sqrt(1 - math.pi / 4)
    own = (folded_part(Q) * protein_intensity(Q, OPTICS, KDA)).sqrt()
    assert float((found.deviation[0] / own)[far].mean()) > 0.8 * least


def test_expected_amplitudes_are_french_and_wilsons() -> None:
    """Sure intensities have their roots; unsure ones what Wilson's law expects, and as much error;
    none is less than nothing."""
    strength = torch.ones(3, dtype=torch.float64)
    intensity = torch.tensor([4.0, -3.0, 0.2], dtype=torch.float64)
    sigma = torch.tensor([1e-3, 1e3, 0.3], dtype=torch.float64)
    mean, deviation = expected_amplitude(intensity, sigma, strength)
    assert float(mean[0]) == pytest.approx(2, rel=1e-3)
    assert float(deviation[0]) == pytest.approx(1e-3 / 4, rel=0.02)
    assert float(mean[1]) == pytest.approx(math.sqrt(math.pi) / 2, rel=0.01)
    assert float(deviation[1]) == pytest.approx(math.sqrt(1 - math.pi / 4), rel=0.01)
    rng = np.random.default_rng(0)
    true = rng.exponential(size=400_000)
    like = np.abs(true + 0.3 * rng.standard_normal(len(true)) - 0.2) < 0.02
    assert float(mean[2]) == pytest.approx(np.sqrt(true[like]).mean(), abs=0.01)
