"""Electrons a voxel, and what they make of a map."""

from __future__ import annotations

import math

import pytest
import torch

from diffragan.microscope.effective_dose import Exposure, protein_intensity
from diffragan.microscope.planning.law import (
    A3_PER_DALTON,
    CLIMBS_AT_A,
    CLIMBS_FROM,
    electrons_for,
    electrons_per_voxel,
    expected_fsc,
)
from diffragan.microscope.planning.plan import patterns_needed
from diffragan.optics import Optics
from diffragan.settings import DetectorSettings, SpecimenSettings


@pytest.mark.parametrize("mass_kda", [5.5, 47.0])
def test_slices_that_meet_a_voxel_count_its_electrons(mass_kda: float) -> None:
    """A cube that holds the molecule just so, 1 / side a voxel: patterns of 1 e/Å² in it, and the
    part of a shell's voxels that one of them meets, mates counted."""
    side_A = (1e3 * mass_kda * A3_PER_DALTON) ** (1 / 3)
    q = torch.tensor([0.25, 0.5], dtype=torch.float64)
    pixel = side_A**2 * protein_intensity(q, Optics(200e3, side_A, 0.0), mass_kda)
    pixels, voxels = 2 * math.pi * q * side_A**2, 4 * math.pi * q**2 * side_A**3
    counted = 1000 * pixel * 2 * pixels / voxels
    told = electrons_per_voxel(torch.full_like(q, 1000.0), q, 200e3)
    assert told.tolist() == pytest.approx(counted.tolist())


def test_patterns_for_a_resolution_make_its_fsc_and_a_climb() -> None:
    electrons = torch.tensor([electrons_for(0.8)])
    assert float(expected_fsc(electrons)) == pytest.approx(0.8)
    specimen = SpecimenSettings(damage="grant_grigorieff")
    exposure = Exposure(Optics(200e3, 80.0, 0.0), 47.0, specimen, DetectorSettings())
    q = torch.tensor([1 / 1.3, 1 / CLIMBS_AT_A], dtype=torch.float64)
    for resolution_A, ring in ((1.3, 0), (3.0, 1)):
        count = patterns_needed(exposure, resolution_A, 3.6)["likelihood"]
        electrons = electrons_per_voxel(count * exposure.effective_e_per_A2(q, 3.6), q, 200e3)
        least = electrons_for(0.5) if ring == 0 else CLIMBS_FROM
        assert float(electrons[ring]) == pytest.approx(least)
