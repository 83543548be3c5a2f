"""diffragan simulate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffragan.commands.common import (
    Config,
    Overwrite,
    Preset,
    Seed,
    Set,
    note,
    progress_bar,
    read_settings,
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
    workers: Annotated[
        int | None, typer.Option(min=1, help="processes; one per core unless said otherwise")
    ] = None,
    write_rotated: Annotated[
        bool, typer.Option("--write-rotated", help="also save every rotated structure (.cif)")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Simulate exit waves of structures by abTEM multislice.

    The store holds one complex exit wave per structure and orientation; patterns, images and
    projections of any kind are computed from it later. The orientations are also written as
    RELION angles beside the store. An interrupted run is continued by the same command.

    Examples:

        diffragan simulate prepared/1UBQ.cif --out 1UBQ.zarr

        diffragan simulate prepared/ --out train.zarr --orientations 24 --box-A 70
    """
    from diffragan.files.star import write_relion_angles
    from diffragan.microscope.simulate import simulate as run
    from diffragan.molecules.structure import load_structure, write_rotated_structures
    from diffragan.rotations import quasi_uniform

    settings = read_settings(
        preset,
        config,
        set_,
        seed=seed,
        simulate__orientations=orientations,
        simulate__box_A=box_A,
    )
    files = [f for path in structures for f in _structure_files(path)]
    loaded = [load_structure(f) for f in files]
    total = len(loaded) * settings.simulate.orientations
    with progress_bar("exit waves", total) as progress:
        run(
            loaded,
            out,
            settings,
            overwrite=overwrite,
            workers=workers,
            progress=progress,
            warn=note,
        )
    rotations = quasi_uniform(settings.simulate.orientations, settings.seed)
    write_relion_angles(out.with_suffix(".orientations.star"), rotations)
    if write_rotated:
        folder = out.with_suffix(".rotated")
        with progress_bar("rotated structures", total) as progress:
            for k, file in enumerate(files):
                write_rotated_structures(file, rotations, folder)
                progress((k + 1) * len(rotations))
    typer.echo(f"{out}: {total} exit waves of {len(loaded)} structures")


def _structure_files(path: Path) -> list[Path]:
    from diffragan.errors import DiffraganError

    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.cif"))
    if not found:
        raise DiffraganError(
            f"The folder {path} holds no .cif file; run `diffragan prepare ... --out {path}` first."
        )
    return found
