"""diffragan join."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffragan.terminal import Overwrite, progress_bars


def join(
    parts: Annotated[
        list[Path], typer.Argument(help="stores that were written with --items, in any order")
    ],
    out: Annotated[Path, typer.Option(help="store of the whole run to write, X.zarr")],
    overwrite: Overwrite = False,
) -> None:
    """Join the stores of several ranges of one run into the store of the whole run.

    `simulate`, `image` and `phase` write a range of their items with --items a:b, for machines
    that share nothing but a folder. Joined, they are the bytes of a run in one go.

    Examples:

        diffragan join part-*.zarr --out 1UBQ.zarr
    """
    from diffragan import api

    with progress_bars() as progress:
        store = api.join_stores(parts, out, overwrite=overwrite, progress=progress)
    typer.echo(f"{out}: {store.n} items of {len(parts)} stores")
