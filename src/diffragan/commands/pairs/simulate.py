"""diffragan simulate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffragan.terminal import (
    Config,
    Device,
    Items,
    Overwrite,
    Preset,
    Repair,
    Scheduler,
    Seed,
    Set,
    WorkersOption,
    note,
    progress_bars,
    read_settings,
    workers_of,
)


def simulate(
    structures: Annotated[
        list[Path], typer.Argument(help="prepared structures (.cif), or folders of them")
    ],
    out: Annotated[Path, typer.Option(help="simulation store to write, X.zarr")],
    orientations: Annotated[
        int | None, typer.Option(min=1, help="per structure; 1078 unless said otherwise")
    ] = None,
    box_A: Annotated[
        float | None,
        typer.Option("--box-A", min=1, help="side of the field; twice the largest diameter"),
    ] = None,
    preset: Preset = "default",
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    items: Items = None,
    workers: WorkersOption = None,
    scheduler: Scheduler = None,
    device: Device = "auto",
    write_rotated: Annotated[
        bool, typer.Option("--write-rotated", help="also save every rotated structure (.cif)")
    ] = False,
    overwrite: Overwrite = False,
    repair: Repair = False,
) -> None:
    """Simulate exit waves of structures by multislice.

    The store holds one complex exit wave per structure and orientation; patterns, images and
    projections of any kind are computed from it later. The orientations are also written as
    RELION angles beside the store. An interrupted run is continued by the same command.

    Examples:

        diffragan simulate prepared/1UBQ.cif --out 1UBQ.zarr

        diffragan simulate prepared/ --out train.zarr --orientations 24 --box-A 70

        diffragan simulate prepared/ --out train.zarr --set simulate.engine=torch

        diffragan simulate prepared/ --out train.zarr --scheduler tcp://node1:8786
    """
    from diffragan import api

    settings = read_settings(
        preset,
        config,
        set_,
        seed=seed,
        simulate__orientations=orientations,
        simulate__box_A=box_A,
    )
    with progress_bars() as progress:
        store = api.simulate(
            structures,
            out,
            settings=settings,
            items=items,
            workers=workers_of(workers, scheduler),
            device=device,
            write_rotated=write_rotated,
            overwrite=overwrite,
            repair=repair,
            progress=progress,
            warn=note,
        )
    typer.echo(f"{out}: {store.n} exit waves of {len(store.structures)} structures")
