"""diffragan image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffragan.terminal import (
    Config,
    Items,
    Overwrite,
    Preset,
    Repair,
    Scheduler,
    Seed,
    Set,
    WorkersOption,
    progress_bars,
    read_settings,
    workers_of,
)


def image(
    store: Annotated[Path, typer.Argument(help="simulation store")],
    out: Annotated[Path, typer.Option(help="measurement store to write, M.zarr")],
    truth: Annotated[
        bool, typer.Option("--truth", help="keep exit waves and orientations beside the pairs")
    ] = False,
    orientations: Annotated[
        bool, typer.Option("--orientations", help="keep the orientations, as if they were known")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="only so many items, spread evenly over the store")
    ] = None,
    preset: Preset = "default",
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    items: Items = None,
    workers: WorkersOption = None,
    scheduler: Scheduler = None,
    overwrite: Overwrite = False,
    repair: Repair = False,
) -> None:
    """Image a simulation: write the patterns and images an instrument would give.

    Defocus, aperture, doses and the rest are settings (`--set image.dose_e_per_A2=50`); images may
    scatter in defocus (`--set image.defocus_spread_A=300`) and be astigmatic. The noise of an item
    depends on the seed and the item's number alone.

    Examples:

        diffragan image 1UBQ.zarr --out pairs.zarr

        diffragan image 1UBQ.zarr --out pairs.zarr --orientations

        diffragan image 1UBQ.zarr --out noisy.zarr --truth --set pattern.dose_e_per_A2=200
    """
    from diffragan import api

    settings = read_settings(preset, config, set_, seed=seed)
    with progress_bars() as progress:
        pairs = api.make_pairs(
            store,
            out,
            n=limit,
            items=items,
            workers=workers_of(workers, scheduler),
            truth=truth,
            orientations=orientations,
            settings=settings,
            overwrite=overwrite,
            repair=repair,
            progress=progress,
        )
    typer.echo(f"{out}: {pairs.n} pairs{', with the truth' if truth else ''}")
