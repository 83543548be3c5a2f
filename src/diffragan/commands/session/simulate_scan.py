"""diffragan simulate-scan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffragan.terminal import (
    Config,
    Overwrite,
    Preset,
    Seed,
    Set,
    note,
    progress_bars,
    read_settings,
)


def simulate_scan(
    structures: Annotated[
        list[Path], typer.Argument(help="prepared structures (.cif), or folders of them")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="folder to write")],
    scan_shape: Annotated[
        str | None, typer.Option(help="rows,columns of the scan; 64,64 unless said otherwise")
    ] = None,
    dose: Annotated[float | None, typer.Option(min=0.01, help="of a pattern, e/Å²")] = None,
    image_dose: Annotated[
        float | None, typer.Option(min=0.01, help="of the overview, e/Å²")
    ] = None,
    beam_diameter_A: Annotated[
        float | None, typer.Option("--beam-diameter-A", min=20, help="of the beam, Å")
    ] = None,
    step_A: Annotated[
        float | None, typer.Option("--step-A", min=1, help="between beam positions, Å")
    ] = None,
    molecules: Annotated[
        int | None, typer.Option(min=0, help="on the square, of all kinds together")
    ] = None,
    preset: Preset = "default",
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="processes; one per core unless said otherwise")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Simulate a session: a raster scan over a grid square of molecules, and its overview image.

    Molecules of one or several kinds lie anywhere, some in heaps, among ice crystals, beside a
    carbon film. Leaves what instruments write, scan.h5 (NeXus, with data files) and overview.mrc,
    and what they do not tell in DIR/truth. Damage, ice and the detector's faults are settings
    (`--preset experiment`, `--set specimen.ice_nm=10`); the square's are under `session`. An
    interrupted run is continued by the same command.

    Examples:

        diffragan simulate-scan 1DUR.cif 1UBQ.cif --dose 1000 --image-dose 500 --out session

        diffragan simulate-scan 1UBQ.cif --preset experiment --scan-shape 32,32 --out real
    """
    from diffragan import api
    from diffragan.terminal import two_numbers

    shape = two_numbers(scan_shape)
    settings = read_settings(
        preset,
        config,
        set_,
        seed=seed,
        pattern__dose_e_per_A2=dose,
        image__dose_e_per_A2=image_dose,
        session__rows=None if shape is None else shape[0],
        session__columns=None if shape is None else shape[1],
        session__beam_diameter_A=beam_diameter_A,
        session__step_A=step_A,
        session__molecules=molecules,
    )
    with progress_bars() as progress:
        found = api.simulate_scan(
            structures,
            out,
            settings=settings,
            workers=workers,
            overwrite=overwrite,
            progress=progress,
            warn=note,
        )
    n = settings.session.rows * settings.session.columns
    typer.echo(f"{found / 'scan.h5'}: {n} patterns; {found / 'overview.mrc'}; truth in truth/")
