"""diffragan reconstruct."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from diffragan.terminal import (
    NOT_CONVERGED,
    Config,
    Device,
    Overwrite,
    Preset,
    Seed,
    Set,
    given_options,
    note,
    progress_bars,
    read_settings,
    set_keys,
    show_reconstruction,
)

# Options that the library takes by another name: settings are one thing to it.
_LIBRARY_NAMES = {"views": "limit"} | dict.fromkeys(
    (
        *("preset", "config", "set_", "seed", "iterations", "classes"),
        *("refine_orientations", "find_orientations", "symmetry"),
    ),
    "settings",
)


def reconstruct(
    context: typer.Context,
    stores: Annotated[
        list[Path],
        typer.Argument(
            metavar="STORE...",
            help="stores or files of pairs of one molecule; for `merge` and RELION phased results",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="folder to write")],
    method: Annotated[
        str, typer.Option(help="many-views: pairs into a map; merge: phased waves into one")
    ] = "many-views",
    engine: Annotated[
        str, typer.Option(help="fourier: this package; relion: phased results by RELION's programs")
    ] = "fourier",
    export_only: Annotated[
        bool, typer.Option("--export-only", help="of engine relion: write its files, run nothing")
    ] = False,
    image: Annotated[
        list[Path] | None,
        typer.Option(help="the images, where they are in a file of their own; once per input"),
    ] = None,
    box_A: Annotated[
        float | None, typer.Option("--box-A", min=1, help="side of the field of array files, Å")
    ] = None,
    mass_kda: Annotated[
        float | None,
        typer.Option(
            "--mass-kda", min=0.1, help="molecular weight; the store's, or told from the map"
        ),
    ] = None,
    orientations: Annotated[
        Path | None, typer.Option(help="RELION .star with the angles of every pair, in order")
    ] = None,
    refine_orientations: Annotated[
        bool, typer.Option("--refine-orientations", help="correct the given ones on the way")
    ] = False,
    find_orientations: Annotated[
        bool, typer.Option("--find-orientations", help="find them from nothing")
    ] = False,
    symmetry: Annotated[
        str | None,
        typer.Option(metavar="GROUP", help="of the molecule, as RELION names it: Cn, Dn, T, O, I"),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(help="result store of the same pairs whose phases make the start"),
    ] = None,
    structure: Annotated[
        str | None, typer.Option(help="the molecule, where the store holds several")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="K", help="sort the views into K molecules or conformations; auto; motion"
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="a known structure (.cif, .pdb) to hold the map against, in any frame"),
    ] = None,
    views: Annotated[
        int | None, typer.Option(min=1, help="so many views, spread evenly over the input")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="at each resolution, at most")
    ] = None,
    preset: Preset = "default",
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Turn many views of one molecule into a 3D map.

    `many-views` phases all patterns together, in 3D, from their images' map
    and the molecular weight alone, in two half sets that never meet. It stops
    by itself; a run that did not converge says so and ends with exit code 3.
    An interrupted run is continued by the same command. `merge` puts the
    phased waves of a result store, whatever phased them, into one map, and
    `--engine relion` has RELION do that: at the orientations that the store
    tells, refined from these (--refine-orientations), or from nothing
    (--find-orientations). `--set relion.size_px=64` and its like say how.

    Several inputs, such as sessions of several days, count as one: their pairs
    follow each other in the order given. With --classes they may show several
    molecules, or one in several conformations: the views are sorted into K
    classes, or as many as they bear (auto), those of none are thrown out, and
    every class is phased in a folder of its own, DIR/class1 and so on, which
    `atoms` takes. `--classes motion` puts views in order along one motion and
    makes maps along it (DIR/frames, motion.gif).

    Writes DIR/map.mrc, half1.mrc, half2.mrc, mask.mrc, fsc.csv, fsc.star,
    phased.zarr, projections.mrcs and .star, metrics.json, report.html; with
    --model also fitted_model.cif and model.csv (correlation by residue).

    Examples:

        diffragan reconstruct 1UBQ.zarr --out map

        diffragan reconstruct pairs.zarr --out map --orientations angles.star --mass-kda 17

        diffragan reconstruct monday.zarr tuesday.zarr --out map

        diffragan reconstruct mixed.zarr --out sorted --classes 2 --find-orientations

        diffragan reconstruct phased.zarr --method merge --out merged

        diffragan reconstruct phased.zarr --engine relion --out by-relion

        torchrun --nproc-per-node 2 -m diffragan reconstruct pairs.zarr --out map
    """
    from diffragan import api
    from diffragan.engine.processes import is_first, leave_processes
    from diffragan.errors import DiffraganError
    from diffragan.phasing.registry import check_options
    from diffragan.reconstruction.run import METHODS

    given = {
        word: _LIBRARY_NAMES.get(name, name)
        for word, name in given_options(context).items()
        if name not in ("out", "method", "engine", "export_only", "overwrite")
    }
    sections = ("phase", "many_views", "relion", "classes")
    given |= {
        f"--set {key}": section
        for key in set_keys(set_)
        if (section := key.partition(".")[0]) in sections
    }
    method = api.reconstruction.method_of(method, engine)
    if classes is not None:
        sort = api.reconstruction.with_classes(None, classes)
        method = api.reconstruction.way_to_classes(method, sort)
    check_options(method, given, METHODS)
    if export_only and engine != "relion":
        raise DiffraganError("--export-only writes files for RELION; add --engine relion.")
    if find_orientations and (orientations is not None or refine_orientations):
        raise DiffraganError(
            "--find-orientations needs none; leave out --orientations and --refine-orientations."
        )
    mode = "find" if find_orientations else ("refine" if refine_orientations else None)
    settings = read_settings(
        preset,
        config,
        set_,
        seed=seed,
        many_views__iterations=iterations,
        **{
            f"{'relion' if method == 'relion' else 'many_views'}__{name}": value
            for name, value in (("orientations", mode), ("symmetry", symmetry))
        },
    )
    if export_only:
        for store in stores:
            star = api.relion_particles(store, out, limit=views, settings=settings, warn=_warn)
            typer.echo(f"Particles for RELION: {star}")
        return
    with progress_bars() as progress:
        result = api.reconstruct(
            stores,
            out,
            method="many-views" if classes is not None else method,
            classes=classes,
            orientations=orientations,
            start=start,
            structure=structure,
            limit=views,
            mass_kda=mass_kda,
            image=image or (),
            box_A=box_A,
            model=model,
            settings=settings if "settings" in METHODS[method].takes else None,
            device=device,
            overwrite=overwrite,
            command=shlex.join(["diffragan", *sys.argv[1:]]),
            progress=progress,
            engine=engine,
            warn=_warn,
        )
    leave_processes()
    if is_first():
        show_reconstruction(result)
    if not result.converged:
        raise typer.Exit(NOT_CONVERGED)


def _warn(text: str) -> None:
    note(f"diffragan: {text}")
