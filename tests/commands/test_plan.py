"""`plan`: the effective dose's laws, and what the command says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import diffragan as dg
from diffragan.cli import app
from diffragan.errors import DiffraganError
from diffragan.microscope.effective_dose import Exposure
from diffragan.optics import Optics
from diffragan.settings import DetectorSettings, SpecimenSettings

Q2 = torch.tensor([0.5], dtype=torch.float64)


def exposure(mass_kda: float = 5.5, box_A: float = 42.0, **specimen: object) -> Exposure:
    optics = Optics(200e3, box_A, 0.0)
    return Exposure(optics, mass_kda, SpecimenSettings.model_validate(specimen), DetectorSettings())


def test_an_ideal_pattern_is_worth_its_exposure() -> None:
    assert float(exposure().effective_e_per_A2(Q2, 20.0)) == pytest.approx(20)


def test_damage_counts_squared() -> None:
    """20 e/Å² on a molecule that fades are worth 0.4 at 2 Å, and the best exposure is 1.26 critical
    ones."""
    damaged = exposure(damage="grant_grigorieff")
    fade = float(damaged.coherent(Q2, 20.0))
    worth = float(damaged.effective_e_per_A2(Q2, 20.0))
    assert worth == pytest.approx(20 * fade**2)
    assert worth == pytest.approx(0.4, abs=0.05)
    critical = 0.80 * (0.24499 * 2**1.6649 + 2.8141)
    assert damaged.best_exposure_e_per_A2(2.0) == pytest.approx(1.256 * critical, rel=0.01)


def test_ice_divides_by_what_it_adds() -> None:
    """As much ice as molecule halves a pattern; twice the molecule, half as much beside it; and
    the field that a pattern is cut to has no part in it."""
    thin = exposure(ice_nm=5.0, beam_diameter_A=80.0)
    beside = float(thin.beside(Q2))
    passed = math.exp(-5 / 285)
    assert float(thin.effective_e_per_A2(Q2, 20.0)) == pytest.approx(20 * passed / (1 + beside))
    heavy = exposure(mass_kda=11.0, ice_nm=5.0, beam_diameter_A=80.0)
    assert float(heavy.beside(Q2)) == pytest.approx(beside / 2)
    elsewhere = exposure(box_A=90.0, ice_nm=5.0, beam_diameter_A=80.0)
    assert float(elsewhere.beside(Q2)) == pytest.approx(beside)
    wide = exposure(ice_nm=5.0, beam_diameter_A=160.0)
    assert float(wide.beside(Q2)) == pytest.approx(4 * beside)


def test_plan_in_words_and_files(tmp_path: Path) -> None:
    out = tmp_path / "plan"
    told = CliRunner().invoke(
        app, ["plan", "--mass-kda", "47", "--ice-nm", "10", "--out", str(out)]
    )
    assert told.exit_code == 0, told.output
    record = json.loads((out / "plan.json").read_text("utf-8"))
    assert record["image_defocus_A"] == -3000
    assert f"{record['worth_e_per_A2']:.2g} e/Å2 on an undamaged" in told.output.replace("\n", " ")
    total = record["patterns"]["projections"] * record["worth_e_per_A2"]
    assert total == pytest.approx(5e4)
    assert (out / "plan.png").stat().st_size > 10_000
    assert record["helps"]["no ice"] > record["helps"]["ice half as thick"] > 1
    with pytest.raises(DiffraganError, match="holds a plan"):
        dg.plan(47, 10, out=out)


def test_a_beam_covers_the_molecule() -> None:
    with pytest.raises(DiffraganError, match="narrower than a molecule of 47 kDa"):
        dg.plan(47, 10, beam_diameter_A=40)
    (gain,) = (
        g for name, g in dg.plan(47, 10, beam_diameter_A=160).helps.items() if "71 Å" in name
    )
    assert gain > 3


def test_plan_says_what_helps_most() -> None:
    """Without ice and with a filter nothing is left to change but the molecules."""
    ideal = dg.plan(47, 0.0)
    assert not ideal.helps
    settings = dg.load_settings(overrides=("specimen.energy_filter=false", "detector.dqe=0.5"))
    poor = dg.plan(47, 20.0, settings=settings)
    assert poor.helps["a perfect detector"] == pytest.approx(2, rel=0.02)
    assert list(poor.helps.values()) == sorted(poor.helps.values(), reverse=True)
    assert "What would help" in poor.summary


def test_a_carbon_film_costs_what_it_scatters() -> None:
    """Twice the film, twice what is beside the molecule; and that graphene would help is said."""
    film = "specimen.support=carbon", "pattern.dose_e_per_A2=4"
    thin, thick = (
        dg.plan(47, 0.0, settings=dg.load_settings(overrides=(*film, f"specimen.carbon_nm={nm}")))
        for nm in (2, 4)
    )
    assert thick.beside == pytest.approx(2 * thin.beside)
    assert thick.worth_e_per_A2 < thin.worth_e_per_A2 < dg.plan(47, 0.0).worth_e_per_A2
    assert any("graphene" in name for name in thick.helps)


def test_a_plan_for_more_than_the_law_was_fitted_to_says_so() -> None:
    """47 kDa were; of 94 kDa one run was made, which took more."""
    assert "up to 50 kDa; one of 94 kDa took some 3 times" in dg.plan(94, 0.0).summary
    assert "kDa took" not in dg.plan(47, 0.0).summary


def test_a_plan_beyond_what_was_tried_says_so() -> None:
    """A small molecule in thick ice; not a large one in thin ice."""
    assert "Not to be relied on" in dg.plan(5.5, 60.0).summary
    assert "likelihood_passes=120" in dg.plan(5.5, 10.0).summary
    assert "Not to be relied on" not in dg.plan(47, 5.0).summary
