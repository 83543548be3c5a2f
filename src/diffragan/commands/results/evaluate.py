"""`diffragan evaluate`: how right phased results are, as numbers, figures and a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffragan.terminal import Scheduler, WorkersOption, note, progress_bars, workers_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table


def evaluate(
    results: Annotated[
        Path, typer.Argument(metavar="P.zarr", help="Result store of `diffragan phase`.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder to write to; made if missing.")
    ],
    input_path: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            metavar="X",
            help="The pairs that were phased, with their truth (default: as the results recall). "
            "Of results from several inputs once for each, in the same order.",
            show_default=False,
        ),
    ] = None,
    stability: Annotated[
        int,
        typer.Option(
            "--stability",
            min=0,
            metavar="N",
            help="Also phase N pairs again, slightly changed, and say how far the results move.",
        ),
    ] = 0,
    workers: WorkersOption = None,
    scheduler: Scheduler = None,
) -> None:
    """Compare phased results with the truth: FRC, SSIM, phase errors.

    The truth comes from the input that the results were phased from; its
    path and hash are in the result store. Without a truth, only the figures
    that need none are made.

    With --stability, some pairs are shifted, turned or given other noise,
    phased again, and compared with the first results, which needs no truth.

    Writes DIR/report.html, metrics.json, frc.csv, items.csv, figures/*.png.

    Examples:

        diffragan evaluate phased.zarr --out report

        diffragan evaluate phased.zarr --out report --input moved/pairs.zarr

        diffragan evaluate phased.zarr --out report --stability 8
    """
    from rich.console import Console

    from diffragan import api

    with progress_bars() as progress:
        evaluation = api.evaluate(
            results,
            out,
            input=input_path or (),
            stability=stability,
            workers=workers_of(workers, scheduler),
            progress=progress,
        )
    # Wide enough for the table where there is no terminal to ask.
    console = Console(width=max(Console().width, 100))
    console.print(metrics_table(evaluation))
    for warning in evaluation["warnings"]:
        note(f"diffragan: {warning}")
    console.print(f"Report: {evaluation.page}", soft_wrap=True)


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """The numbers that a user asks first, a row per structure."""
    from rich import box
    from rich.table import Table

    from diffragan.evaluation.tables import solved_column
    from diffragan.report.html import number_text, percent_text

    of = metrics["frc_of"]
    title = f"{metrics['method']}: " + (f"FRC of the {of}" if of else "no truth, so no FRC")
    solved, solved_key = solved_column(metrics)
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("structure", no_wrap=True)
    correlations = ("0.5 at, Å", "image", "diffr.", "extrap.") if of else ()
    likeness = ("SSIM",) if of else ()
    for name in ("n", *correlations, solved, *likeness, "R"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = dict(metrics["structures"])
    if len(rows) != 1:
        rows["all"] = metrics
    for stem, block in rows.items():
        frc = (block["frc_0p5_A"], *block["band_mean_frc"].values()) if of else ()
        table.add_row(
            stem,
            str(block["n"]),
            *map(number_text, frc),
            percent_text(block[solved_key]),
            *(number_text(block["ssim_mean"]) for _ in likeness),
            number_text(block["r_factor_median"], ".3f"),
        )
    return table
