"""diffragan view."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffragan.terminal import note


def view(
    path: Annotated[
        Path, typer.Argument(help="store, map (.mrc), or folder of reconstruct, atoms or scan")
    ],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="of this machine; 0 for any that is free")
    ] = 0,
    browser: Annotated[
        bool,
        typer.Option("--browser/--no-browser", help="open the page, or print its address only"),
    ] = True,
    open_: Annotated[
        str, typer.Option("--open", metavar="VIEW", help="where to begin, e.g. 'pairs/12?sort=-r'")
    ] = "",
    picture: Annotated[
        str,
        typer.Option(metavar="NAME", help="write one picture instead, e.g. pair/12/pattern or fsc"),
    ] = "",
    out: Annotated[Path | None, typer.Option(help="the PNG that --picture writes")] = None,
) -> None:
    """Look through pairs, results, maps and scans in the browser.

    The page is served on this machine alone, under an address that holds a secret token, until
    Ctrl-C; nothing is written and nothing is loaded from the network.

    Examples:

        diffragan view phased.zarr

        diffragan view map --no-browser --port 8800

        diffragan view phased.zarr --picture pair/12/phased --out phased_12.png
    """
    from diffragan.errors import DiffraganError
    from diffragan.view.opened import open_path

    if bool(picture) != (out is not None):
        raise DiffraganError("--picture and --out go together: what to draw, and where to.")
    opened = open_path(path)
    if out is not None:
        from diffragan.files.atomic import write_atomically
        from diffragan.view.shown import png_of

        write_atomically(out, png_of(opened, picture, figure=True))
        typer.echo(f"{out}: {picture} of {path}")
        return

    from diffragan.view.running import serve

    def ready(address: str) -> None:
        typer.echo(address)
        note("Ctrl-C ends it.")
        if browser:
            import webbrowser

            webbrowser.open(address)

    serve(opened, port, ready=ready, fragment=open_)
    note("diffragan: closed.")
