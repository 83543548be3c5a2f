"""diffragan phase."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffragan.phasing.methods import METHODS
from diffragan.terminal import (
    NOT_CONVERGED,
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
    given_options,
    note,
    progress_bars,
    read_settings,
    set_keys,
    show_reconstruction,
    workers_of,
)

if TYPE_CHECKING:
    from diffragan.files.store import ResultStore


# Options that a method may take or not, and what the library calls one of them.
_METHODS_OWN = ("weights", "starts", "iterations", "time_budget", "force")
_LIBRARY_NAMES = {"time_budget": "time_budget_s"}


def phase(
    context: typer.Context,
    pairs: Annotated[
        Path, typer.Argument(help="store or file of pairs, or the patterns when --image is given")
    ],
    out: Annotated[Path, typer.Option(help="result store to write, P.zarr")],
    method: Annotated[
        str | None,
        typer.Option(help=f"{METHODS.describe()}; image if not said", show_default=False),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="weights of the network; the bundled ones otherwise")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="the images, where they are in a file of their own")
    ] = None,
    box_A: Annotated[
        float | None, typer.Option("--box-A", min=1, help="side of the field of array files, Å")
    ] = None,
    starts: Annotated[
        int | None, typer.Option(min=1, help="starts per pair, of a method that iterates")
    ] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="iterations per start")] = None,
    time_budget: Annotated[
        float | None, typer.Option(min=0, help="at most so many seconds per pair")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="go on where the data can't determine the object")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="so many pairs, spread evenly over the input")
    ] = None,
    items: Items = None,
    workers: WorkersOption = None,
    scheduler: Scheduler = None,
    preset: Preset = "default",
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    repair: Repair = False,
) -> None:
    """Phase pairs of diffraction pattern and image.

    Takes a measurement store, a simulation store (imaged on the way), or array files: .npz, .h5,
    .mrcs, .star. The result store holds the phased projections, the waves where the method gives
    them, and where everything came from. An interrupted run is continued by the same command.

    many-views phases all pairs of one molecule together, in 3D: it is the run of `diffragan
    reconstruct`, whose map and page go to a folder beside the store, P_map.

    Examples:

        diffragan phase pairs.zarr --out phased.zarr --method image

        diffragan phase 1UBQ.zarr --out phased.zarr --method raar --starts 8 --limit 50

        diffragan phase 1UBQ.zarr --out phased.zarr --method many-views

        diffragan phase patterns.mrcs --image images.mrcs --box-A 105 --out phased.zarr
    """
    import shlex
    import sys

    from diffragan import api
    from diffragan.phasing.registry import check_options

    settings = read_settings(
        preset,
        config,
        set_,
        seed=seed,
        phase__method=method,
        phase__starts=starts,
        phase__iterations=iterations,
        phase__time_budget_s=time_budget,
        phase__force=force or None,
    )
    given = {
        word: _LIBRARY_NAMES.get(name, name)
        for word, name in given_options(context).items()
        if name in _METHODS_OWN
    }
    for key in set_keys(set_):
        section, _, name = key.partition(".")
        if section in ("phase", "many_views"):
            given[f"--set {key}"] = name if section == "phase" else section
    check_options(settings.phase.method, given, METHODS)
    with progress_bars() as progress:
        results = api.phase(
            api.open_pairs(pairs, image=image or (), box_A=box_A, settings=settings),
            out,
            weights=weights,
            limit=limit,
            items=items,
            workers=workers_of(workers, scheduler),
            settings=settings,
            device=device,
            overwrite=overwrite,
            repair=repair,
            command=shlex.join(["diffragan", *sys.argv[1:]]),
            progress=progress,
            warn=lambda text: note(f"diffragan: {text}"),
        )
    converged = _show_map(results)
    used = _weights(results)
    if used is not None:
        note(used)
    typer.echo(f"{out}: {results.n} pairs phased by '{results.method}'{_verdict(results)}")
    if not converged:
        raise typer.Exit(NOT_CONVERGED)


def _show_map(results: ResultStore) -> bool:
    """The map that a joint method made on the way, in words; whether its run converged."""
    if not METHODS[results.method].joint:
        return True
    from diffragan.reconstruction.run import finished_map

    reconstruction = finished_map(results.path)
    if reconstruction is None:
        return True
    show_reconstruction(reconstruction)
    return reconstruction.converged


def _weights(results: ResultStore) -> str | None:
    """Which weights a network ran with, where the method has one."""
    record = results.header.get("weights")
    if record is None:
        return None
    name = record["path"] or f"{METHODS[results.method].bundled}, which the package brings"
    return (
        f"Weights: {name} (sha256 {record['sha256'][:12]}), {record['steps']} steps on "
        f"{len(record['trained_on'])} structures."
    )


def _verdict(results: ResultStore) -> str:
    """How many results the method itself calls solved, where it judges."""
    if results.solved is None:
        return ""
    return f"; {int(results.solved.sum())} of {results.n} judged solved, without a truth"
