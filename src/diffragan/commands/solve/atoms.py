"""diffragan atoms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffragan.terminal import (
    NOT_CONVERGED,
    Config,
    Overwrite,
    Preset,
    Seed,
    Set,
    note,
    progress_bars,
    read_settings,
)


def atoms(
    reconstruction: Annotated[
        Path, typer.Argument(metavar="DIR", help="folder of `diffragan reconstruct`")
    ],
    out: Annotated[Path, typer.Option(metavar="OUT", help="folder to write")],
    model: Annotated[
        Path | None,
        typer.Option(help="a known structure (.cif, .pdb) to judge by, in any frame"),
    ] = None,
    mass_kda: Annotated[
        float | None,
        typer.Option("--mass-kda", min=0.1, help="molecular weight; the reconstruction's"),
    ] = None,
    sequence: Annotated[
        Path | None, typer.Option(metavar="FASTA", help="the protein's, to build a model.cif")
    ] = None,
    input_path: Annotated[
        list[Path] | None,
        typer.Option("--input", help="the pairs, where they have moved; once for each"),
    ] = None,
    preset: Preset = "default",
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    overwrite: Overwrite = False,
) -> None:
    """Build atoms into a map and refine them against the patterns.

    Atoms are found in the map of all views and in both half maps, each
    refined against its own patterns alone. An atom that both half sets put
    within 0.3 Å of the same place is confirmed. Past the measured band
    (1.254 Å) nothing was measured: what atoms show there is a model's.

    With --sequence the chain is docked to it and named: OUT/model.cif, its
    geometry made ideal, B the confidence of each residue (0 to 100). What
    the map does not show is a gap. A sequence that docks no better than
    shuffled ones is refused: exit code 2, all but the model is written.

    Writes OUT/atoms.cif, atoms.csv, residues.csv, extended.mrc, waves.zarr,
    history.csv, settings.toml, metrics.json, report.html. Ends with exit
    code 3 where the map does not show atoms. An interrupted run is continued
    by the same command.

    Examples:

        diffragan atoms map --out atoms

        diffragan atoms map --out atoms --model 1DUR.cif

        diffragan atoms map --out atoms --sequence 1DUR.fasta
    """
    from diffragan import api

    with progress_bars() as progress:
        built = api.build_atoms(
            reconstruction,
            out,
            model=model,
            mass_kda=mass_kda,
            sequence=sequence,
            input=input_path or (),
            settings=read_settings(preset, config, set_, seed=seed),
            overwrite=overwrite,
            progress=progress,
        )
    for warning in built.metrics["warnings"]:
        note(f"diffragan: {warning}")
    typer.echo(built.summary)
    typer.echo(f"Report: {out / 'report.html'}")
    if built.refusal:
        note(f"diffragan: {built.refusal}")
        raise typer.Exit(2)
    if not built.solved:
        raise typer.Exit(NOT_CONVERGED)
