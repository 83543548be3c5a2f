"""The command line: one command per function, heavy imports inside them."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

import typer

from diffragan.commands.demo import demo
from diffragan.commands.pairs.image import image
from diffragan.commands.pairs.inspect import inspect
from diffragan.commands.pairs.join import join
from diffragan.commands.pairs.plan import plan
from diffragan.commands.pairs.prepare import prepare
from diffragan.commands.pairs.simulate import simulate
from diffragan.commands.results.evaluate import evaluate
from diffragan.commands.results.export import export
from diffragan.commands.results.view import view
from diffragan.commands.session.scan import scan
from diffragan.commands.session.simulate_scan import simulate_scan
from diffragan.commands.solve.atoms import atoms
from diffragan.commands.solve.phase import phase
from diffragan.commands.solve.reconstruct import reconstruct
from diffragan.commands.solve.train import train
from diffragan.errors import DiffraganError

app = typer.Typer(
    name="diffragan",
    help="Phase recovery for single-molecule electron diffraction.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    demo, plan, prepare, simulate, image, inspect, train, phase, evaluate, reconstruct, atoms,
    export, join, view, simulate_scan, scan,
):  # fmt: skip
    app.command()(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        from diffragan import __version__

        typer.echo(f"diffragan {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show it, end")
    ] = False,
) -> None:
    """Phase recovery for single-molecule electron diffraction."""


def main() -> None:
    """Run the command line; bad input ends with exit code 2 and one plain sentence."""
    # Threads that spin while they wait make two cores crawl beside another process.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        app()
    except DiffraganError as error:
        typer.echo(f"diffragan: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("diffragan: interrupted; what was finished is kept.", err=True)
        sys.exit(130)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            where = f" ({error.filename})" if error.filename else ""
            typer.echo(
                f"diffragan: can't write{where}: {error.strerror}; make room or choose another "
                "--out, and run again.",
                err=True,
            )
            sys.exit(2)
        raise
