"""diffragan export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffragan.terminal import Overwrite, progress_bars


def export(
    results: Annotated[Path, typer.Argument(help="result store, as `phase` writes it")],
    out: Annotated[Path, typer.Option(help="folder to write")],
    part: Annotated[
        list[str] | None,
        typer.Option(help="wave, projection (more than once for both); all unless said"),
    ] = None,
    format_: Annotated[
        list[str] | None,
        typer.Option("--format", help="mrc, tiff, star (more than once); all unless said"),
    ] = None,
    wave_as: Annotated[
        str, typer.Option("--as", help="waves as amplitude-phase or real-imaginary")
    ] = "amplitude-phase",
    overwrite: Overwrite = False,
) -> None:
    """Write phased waves and projections as MRC and TIFF stacks, and as RELION particles.

    Stacks hold the store's numbers as float32, with the pixel size in their headers. The particles
    (`particles.star`, `.mrcs`) are normalised, protein bright, with angles where they are known.
    `export.json` says what each file holds; `items.csv` has a row per item with its verdict.

    Examples:

        diffragan export phased.zarr --out exported

        diffragan export phased.zarr --out waves --part wave --as real-imaginary --format tiff
    """
    from diffragan import api

    with progress_bars() as progress:
        folder = api.export(
            results,
            out,
            parts=part or (),
            formats=format_ or ("mrc", "tiff", "star"),
            wave_as=wave_as,
            overwrite=overwrite,
            progress=progress,
        )
    names = sorted(path.name for path in folder.iterdir())
    typer.echo(f"{folder}: {', '.join(names)}")
