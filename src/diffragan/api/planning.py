"""Before a session at the microscope."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from diffragan.errors import DiffraganError
from diffragan.settings import Settings, load_settings

if TYPE_CHECKING:
    from diffragan.microscope.planning.plan import Plan


def plan(  # long: what it may be told, as the command lists it
    mass_kda: float,
    ice_nm: float,
    *,
    beam_diameter_A: float = 80.0,
    resolution_A: float = 2.0,
    exposure_e_per_A2: float | None = None,
    patterns_per_s: float = 100.0,
    settings: Settings | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
) -> Plan:
    """What an experiment needs: exposures, patterns, hours, and what would help.

    Args:
        mass_kda: of the molecule.
        ice_nm: thickness of the ice around it.
        beam_diameter_A: of the beam that makes a pattern.
        resolution_A: that is wanted.
        exposure_e_per_A2: of a pattern; none: the best.
        patterns_per_s: that the instrument takes.
        settings: further choices of specimen and detector, and the beam's energy; damage is that of
            Grant and Grigorieff unless they say otherwise.
        out: folder for plan.json and plan.png; none: nothing is written.

    Raises:
        DiffraganError: a beam narrower than the molecule; or `out` holds a plan, and `overwrite`
            is not set.
    """
    from diffragan.files.atomic import write_atomically
    from diffragan.microscope.effective_dose import Exposure
    from diffragan.microscope.planning.plan import globular_diameter_A, plan_experiment
    from diffragan.optics import Optics

    across_A = globular_diameter_A(mass_kda)
    if beam_diameter_A < across_A:
        raise DiffraganError(
            f"A beam of {beam_diameter_A:g} Å is narrower than a molecule of {mass_kda:g} kDa, "
            f"which is {across_A:.0f} Å across at least; widen it (--beam-A)."
        )
    chosen = settings or load_settings()
    told = {"ice_nm": ice_nm, "beam_diameter_A": beam_diameter_A}
    specimen = chosen.specimen.model_copy(
        update={**told, "damage": chosen.specimen.damage or "grant_grigorieff"}
    )
    exposure = Exposure(
        Optics(chosen.energy_ev, beam_diameter_A, 0.0), mass_kda, specimen, chosen.detector
    )
    result = plan_experiment(
        exposure, resolution_A, chosen.image, exposure_e_per_A2, patterns_per_s
    )
    if out is not None:
        from diffragan.report.html import png
        from diffragan.report.plan_figure import plan_figure

        folder = Path(out)
        if (folder / "plan.json").exists() and not overwrite:
            raise DiffraganError(f"{folder} holds a plan; choose another --out or --overwrite.")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "plan.png", png(plan_figure(exposure, result)))
        record = {
            "mass_kda": mass_kda,
            **asdict(result),
            "hours": {way: result.hours(way) for way in result.patterns},
            "specimen": specimen.model_dump(),
            "detector": chosen.detector.model_dump(),
            "energy_ev": chosen.energy_ev,
        }
        write_atomically(folder / "plan.json", (json.dumps(record, indent=2) + "\n").encode())
    return result
