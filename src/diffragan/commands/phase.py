"""diffragan phase."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffragan.commands.common import (
    NOT_CONVERGED,
    Config,
    Device,
    Overwrite,
    Preset,
    Seed,
    Set,
    note,
    progress_bar,
    progress_bars,
    read_settings,
    show_reconstruction,
)

if TYPE_CHECKING:
    from diffragan.settings import Settings


def phase(
    pairs: Annotated[
        Path, typer.Argument(help="store or file of pairs, or the patterns when --image is given")
    ],
    out: Annotated[Path, typer.Option(help="result store to write, P.zarr")],
    method: Annotated[
        str | None,
        typer.Option(help="image, published, raar, hybrid or many-views; `image` if not said"),
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
        int | None, typer.Option(min=1, help="starts per pair (raar, hybrid)")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="iterations per start (raar, hybrid)")
    ] = None,
    time_budget: Annotated[
        float | None, typer.Option(min=0, help="seconds per pair, at most (raar, hybrid)")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="go on where the data can't determine the object")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="so many pairs, spread evenly over the input")
    ] = None,
    preset: Preset = "default",
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
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
    from diffragan.devices import pick_device
    from diffragan.pairs.open import open_pairs
    from diffragan.phasing.run import choose_items, phase_pairs

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
    if settings.phase.method == "many-views":
        _many_views(pairs, out, settings, image, box_A, limit, device, overwrite)
        return
    chosen = pick_device(device)
    found = open_pairs(pairs, settings=settings, image=image, box_A=box_A)
    total = len(choose_items(found.n, limit))
    with progress_bar("pairs phased", total) as progress:
        phase_pairs(
            found,
            out,
            found.settings,
            weights=weights,
            limit=limit,
            device=chosen,
            overwrite=overwrite,
            progress=progress,
        )
    typer.echo(f"{out}: {total} pairs phased by '{found.settings.phase.method}'")


def _many_views(
    pairs: Path,
    out: Path,
    settings: Settings,
    image: Path | None,
    box_A: float | None,
    limit: int | None,
    device: str,
    overwrite: bool,
) -> None:
    """The run of `diffragan reconstruct`, its phased views at `out`."""
    import shlex
    import sys

    from diffragan import api

    with progress_bars() as progress:
        found = api.reconstruct(
            pairs,
            out.with_name(f"{out.name.removesuffix('.zarr')}_map"),
            limit=limit,
            image=() if image is None else image,
            box_A=box_A,
            phased=out,
            settings=settings,
            device=device,
            overwrite=overwrite,
            command=shlex.join(["diffragan", *sys.argv[1:]]),
            progress=progress,
            warn=lambda text: note(f"diffragan: {text}"),
        )
    show_reconstruction(found)
    typer.echo(f"{out}: {found.metrics['n_views']} pairs phased by 'many-views'")
    if not found.converged:
        raise typer.Exit(NOT_CONVERGED)
