"""What image and pattern tell of an orientation: limits that are known, and waves one by one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from diffragan.microscope.effective_dose import Exposure, protein_intensity
from diffragan.microscope.planning.orientation_information import (
    image_information,
    pattern_information,
    protein_power,
)
from diffragan.optics import Optics
from diffragan.settings import DetectorSettings, ImageSettings, SpecimenSettings

IMAGE = ImageSettings(defocus_A=-3000.0)


def exposure(mass_kda: float = 47.0, box_A: float = 80.0, **specimen: object) -> Exposure:
    optics = Optics(200e3, box_A, 0.0)
    return Exposure(optics, mass_kda, SpecimenSettings.model_validate(specimen), DetectorSettings())


def test_the_field_has_no_part_in_it() -> None:
    """Half as many electrons reach a molecule in no field."""
    wide = exposure(box_A=160.0, ice_nm=10.0, beam_diameter_A=80.0)
    close = replace(wide, optics=Optics(200e3, 80.0, 0.0))
    assert image_information(wide, IMAGE, 18.0, 0.0) == pytest.approx(
        image_information(close, IMAGE, 18.0, 0.0)
    )
    assert pattern_information(wide, 4.0) == pytest.approx(pattern_information(close, 4.0))


def test_without_damage_it_grows_with_electrons_and_atoms() -> None:
    one = image_information(exposure(), IMAGE, 10.0, 0.0)
    assert image_information(exposure(), IMAGE, 20.0, 0.0) == pytest.approx(2 * one)
    assert image_information(exposure(94.0), IMAGE, 10.0, 0.0) == pytest.approx(2 * one)
    pattern = pattern_information(exposure(), 4.0)
    assert pattern_information(exposure(), 8.0) == pytest.approx(2 * pattern)


def test_ice_sets_an_end_to_what_electrons_tell() -> None:
    """However many electrons, an image's ice is as strong as it is."""
    icy = exposure(ice_nm=20.0)
    few, many, endless = (image_information(icy, IMAGE, n, 0.0) for n in (1e1, 1e6, 1e8))
    assert few < many
    assert endless == pytest.approx(many, rel=0.01)


def test_what_faded_tells_nothing() -> None:
    damaged = exposure(damage="grant_grigorieff")
    fresh = image_information(damaged, IMAGE, 18.0, 0.0)
    assert image_information(damaged, IMAGE, 18.0, 40.0) < 0.2 * fresh
    assert pattern_information(damaged, 4.0) < pattern_information(exposure(), 4.0)


def test_a_pattern_tells_what_speckles_tell_one_by_one() -> None:
    """Pixels drawn as Wilson's intensities are, two orientations of them."""
    one = exposure(motion_b_A2=3.0, ice_nm=2.0, beam_diameter_A=80.0)
    q = torch.linspace(1 / 25, 1 / 1.25, 120, dtype=torch.float64)
    mean, coherent = protein_power(q, one), one.coherent(q, 4.0)
    atoms = protein_intensity(q, one.optics, 47.0)
    flat = ((1 - coherent) + one.beside(q)) * atoms
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(2, 20_000, 1, generator=generator, dtype=torch.float64).log().neg()
    electrons = 4.0 * 80.0**2 * math.exp(-2 / 285)
    true, wrong = electrons * (flat + coherent * mean * drawn)
    pixel = (true * (true / wrong).log() - true + wrong).mean(0)
    total = torch.trapezoid(pixel * 2 * math.pi * q * 80.0**2, q)
    assert pattern_information(one, 4.0) == pytest.approx(float(total), rel=0.03)
