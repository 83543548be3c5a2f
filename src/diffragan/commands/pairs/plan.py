"""diffragan plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffragan.terminal import Overwrite, Set, read_settings, wide_console


def plan(
    mass_kda: Annotated[float, typer.Option("--mass-kda", min=1, max=1e4, help="of the molecule")],
    ice_nm: Annotated[float, typer.Option("--ice-nm", min=0, max=500, help="thickness of the ice")],
    beam_a: Annotated[float, typer.Option("--beam-A", min=20, max=1e4, help="diameter")] = 80.0,
    resolution_a: Annotated[
        float, typer.Option("--resolution-A", min=1.3, max=4.0, help="that is wanted")
    ] = 2.0,
    exposure: Annotated[
        float | None,
        typer.Option("--exposure", min=0.05, help="of a pattern, e/Å²; the best unless said"),
    ] = None,
    patterns_per_s: Annotated[
        float, typer.Option("--patterns-per-s", min=1e-3, help="that the instrument takes")
    ] = 100.0,
    out: Annotated[Path | None, typer.Option(help="folder for plan.json and plan.png")] = None,
    set_: Set = None,
    overwrite: Overwrite = False,
) -> None:
    """Tell what an experiment needs: exposures, patterns, hours.

    Damage is that of Grant and Grigorieff; further choices of the specimen and the detector are
    settings (`--set specimen.energy_filter=false`). The numbers follow from the effective dose and
    from the electrons that a voxel of Fourier space holds, a law that was fitted to simulations
    (docs/experiment.md), and are good to a factor of two at best. Whether one molecule's
    orientation can be told from its image is said beside them.

    Examples:

        diffragan plan --mass-kda 47 --ice-nm 10

        diffragan plan --mass-kda 17 --ice-nm 20 --beam-A 120 --resolution-A 3 --out plan
    """
    from diffragan import api

    settings = read_settings("default", None, set_)
    told = api.plan(
        mass_kda,
        ice_nm,
        beam_diameter_A=beam_a,
        resolution_A=resolution_a,
        exposure_e_per_A2=exposure,
        patterns_per_s=patterns_per_s,
        settings=settings,
        out=out,
        overwrite=overwrite,
    )
    wide_console().print(told.summary, soft_wrap=True)
