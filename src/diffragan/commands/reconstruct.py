"""diffragan reconstruct."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffragan.commands.common import (
    Config,
    Device,
    Overwrite,
    Preset,
    Seed,
    Set,
    note,
    read_settings,
    staged_progress,
)

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from diffragan.settings import Settings

NOT_CONVERGED = 3


def reconstruct(
    stores: Annotated[
        list[Path],
        typer.Argument(
            metavar="STORE...",
            help="stores or files of pairs of one molecule; for `merge` one store of results",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="folder to write")],
    method: Annotated[
        str, typer.Option(help="many-views: pairs into a map; merge: phased waves into one")
    ] = "many-views",
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
    start: Annotated[
        Path | None,
        typer.Option(help="result store of the same pairs whose phases make the start"),
    ] = None,
    structure: Annotated[
        str | None, typer.Option(help="the molecule, where the store holds several")
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
    phased waves of a result store, whatever phased them, into one map.

    Several inputs, such as sessions of several days, count as one: their pairs
    follow each other in the order given.

    Writes DIR/map.mrc, half1.mrc, half2.mrc, mask.mrc, fsc.csv, fsc.star,
    phased.zarr, projections.mrcs and .star, metrics.json, report.html.

    Examples:

        diffragan reconstruct 1UBQ.zarr --out map

        diffragan reconstruct pairs.zarr --out map --orientations angles.star --mass-kda 17

        diffragan reconstruct monday.zarr tuesday.zarr --out map

        diffragan reconstruct phased.zarr --method merge --out merged
    """
    from rich.console import Console

    from diffragan.devices import pick_device
    from diffragan.errors import DiffraganError

    if method not in ("many-views", "merge"):
        raise DiffraganError(f"There is no method '{method}'; choose many-views or merge.")
    if find_orientations and (orientations is not None or refine_orientations):
        raise DiffraganError(
            "--find-orientations needs none; leave out --orientations and --refine-orientations."
        )
    console = Console(width=max(Console().width, 100))
    command = shlex.join(["diffragan", *sys.argv[1:]])
    if method == "merge":
        from diffragan.reconstruction.merge_results import merge_results

        if len(stores) > 1:
            raise DiffraganError(
                f"--method merge takes one result store, not {len(stores)}; give the pairs that "
                "they came from together to --method many-views."
            )
        if orientations is not None or refine_orientations or find_orientations:
            raise DiffraganError(
                "--method merge takes the orientations of its result store; leave out "
                "--orientations, --refine-orientations and --find-orientations."
            )
        found = merge_results(stores[0], out, command=command, mass_kda=mass_kda)
        console.print(
            f"Half maps of {found['n_views']} views agree to {found['fsc_0p143_A']:.2f} Å."
        )
        console.print(f"Report: {out / 'report.html'}", soft_wrap=True)
        return
    mode = "find" if find_orientations else ("refine" if refine_orientations else None)
    settings = read_settings(
        preset,
        config,
        set_,
        seed=seed,
        many_views__iterations=iterations,
        many_views__orientations=mode,
        many_views__mass_kda=mass_kda,
    )
    metrics = run(
        stores,
        out,
        settings,
        console,
        command=command,
        images=image or (),
        box_A=box_A,
        orientations=orientations,
        start=start,
        structure=structure,
        limit=views,
        device=pick_device(device),
        overwrite=overwrite,
    )
    if not metrics["converged"]:
        raise typer.Exit(NOT_CONVERGED)


def run(
    stores: Sequence[Path],
    out: Path,
    settings: Settings,
    console: Console,
    *,
    command: str,
    images: Sequence[Path] = (),
    box_A: float | None = None,
    orientations: Path | None = None,
    start: Path | None = None,
    structure: str | None = None,
    limit: int | None = None,
    phased: Path | None = None,
    device: torch.device | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Reconstruct pairs of one or more inputs by many-views into a folder; the dictionary of its
    metrics.json.

    Args:
        phased: where the result store goes, in the folder if not given.
        device: where the solve runs, the CPU if not given.

    Raises:
        DiffraganError: input that will not do; `out` holds another run.
    """
    import json
    import shutil

    import torch

    from diffragan.errors import DiffraganError
    from diffragan.fourier.volumes import CPU
    from diffragan.pairs.open import open_all
    from diffragan.reconstruction.checkpoint import clear
    from diffragan.reconstruction.choose_views import choose_views
    from diffragan.reconstruction.outputs import write_result
    from diffragan.reconstruction.run import solve_views

    finished = out / "metrics.json"
    if finished.exists() and not overwrite:
        raise DiffraganError(
            f"{out} holds a finished reconstruction; choose another --out, or pass --overwrite."
        )
    if phased is not None and phased.suffix != ".zarr":
        raise DiffraganError(f"A store's name ends in .zarr, which '{phased}' does not.")
    if phased is not None and phased.exists() and not overwrite:
        raise DiffraganError(f"{phased} exists; choose another --out, or pass --overwrite.")
    if overwrite and out.exists():
        for name in ("metrics.json", ".run"):
            target = out / name
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    find = settings.many_views.orientations == "find"
    if find and orientations is not None:
        raise DiffraganError(
            f"Orientations are to be found, so {orientations} has no use; leave out --orientations "
            "or many_views.orientations=find."
        )
    pairs = open_all(stores, settings=settings, images=images, box_A=box_A)
    settings = pairs.settings.model_copy(update={"many_views": settings.many_views})
    chosen = choose_views(
        pairs,
        structure=structure,
        limit=limit,
        orientations=orientations,
        find=find,
        mass_kda=settings.many_views.mass_kda,
    )
    for warning in chosen.warnings:
        note(f"diffragan: {warning}")
    out.mkdir(parents=True, exist_ok=True)
    with staged_progress() as tell:
        try:
            found = solve_views(
                pairs,
                chosen,
                out,
                settings,
                start_waves=start,
                device=device or CPU,
                tell=tell,
            )
        except torch.OutOfMemoryError:
            raise DiffraganError(
                f"{device} has too little memory for this; go on with --device cpu, which takes up "
                "what was finished."
            ) from None
        metrics = write_result(
            out, found, pairs, settings, command=command, phased=phased, tell=tell
        )
    for warning in found.chosen.warnings[len(chosen.warnings) :]:
        note(f"diffragan: {warning}")
    clear(out)
    console.print(summary(json.loads(finished.read_text("utf-8"))), soft_wrap=True)
    console.print(f"Report: {out / 'report.html'}", soft_wrap=True)
    return metrics


def summary(metrics: dict[str, Any]) -> str:
    """The result in words."""
    lines = [metrics["verdict"]]
    if metrics["converged"]:
        lines.append(
            f"{metrics['views_used']} of {metrics['n_views']} views, R {metrics['r_factor']:.3f}, "
            f"{metrics['rounds']} iterations, {metrics['seconds']:.0f} s."
        )
    else:
        lines[0] = "NOT CONVERGED. " + lines[0]
    if metrics["truth_fsc_0p5_A"] is not None:
        wave = metrics["views"]["frc_0p5_A"]
        lines.append(
            f"With the truth: the map's FSC falls to 0.5 at {metrics['truth_fsc_0p5_A']:.2f} Å, "
            f"the phased waves' mean FRC at {wave:.2f} Å."
        )
    lines.append(f"Hand: {metrics['hand']}.")
    return "\n".join(lines)
