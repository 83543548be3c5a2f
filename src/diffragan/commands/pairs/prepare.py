"""`diffragan prepare`: PDB entries or files into clean structures, with a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffragan.terminal import Config, Preset, Set, progress_bars, read_settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from diffragan.molecules.preparation_report import PreparationReport


def prepare(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="ID-or-FILE...",
            help="PDB IDs, or PDB or mmCIF files, plain or gzipped.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder to write to; made if missing.")
    ],
    chain: Annotated[
        str | None,
        typer.Option(help="Chain to keep (default: A, or the first protein chain)."),
    ] = None,
    ph: Annotated[
        float | None, typer.Option(help="pH at which hydrogens are added (default: 7).")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="Keep the chain's ligands and metals, its waters, or both: "
            "ligands, waters or ligands,waters (default: neither).",
        ),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID-or-FILE-or-DIR",
            help="Structures kept for testing: refuse sources related to them. Repeatable.",
        ),
    ] = None,
    max_identity: Annotated[
        float,
        typer.Option(min=0, max=1, help="Largest sequence identity to a --test structure."),
    ] = 0.35,
    preset: Preset = "default",
    config: Config = None,
    set_: Set = None,
) -> None:
    """Clean structures: one protein chain each, complete with hydrogens, as mmCIF.

    Takes the first model and one chain; resolves alternative locations;
    turns nonstandard residues into standard ones; leaves out waters and
    hetero atoms unless --keep names them; adds missing heavy atoms and hydrogens, but no missing
    residues.

    Writes DIR/NAME.cif, DIR/NAME.json with every change, and
    DIR/prepare.json with all reports. What is done is not done again.

    Examples:

        diffragan prepare 1UBQ 1AUP --out structures

        diffragan prepare entry.cif.gz --chain B --ph 6.5 --out structures

        diffragan prepare entry.pdb --keep ligands,waters --out structures

        diffragan prepare train/*.pdb --test test/ --out structures
    """
    from rich.console import Console

    from diffragan import api

    kept = None if keep is None else [word.strip() for word in keep.split(",")]
    settings = read_settings(
        preset, config, set_, prepare__chain=chain, prepare__ph=ph, prepare__keep=kept
    )
    with progress_bars() as progress:
        reports = api.prepare(
            sources,
            out,
            test=test or (),
            max_identity=max_identity,
            settings=settings,
            progress=progress,
        )
    console = Console()
    console.print(report_table(reports))
    console.print(changes_table(reports))


def report_table(reports: Iterable[PreparationReport]) -> Table:
    """What was written, one row per structure."""
    from rich.table import Table

    table = Table(title="Prepared structures", title_justify="left")
    table.add_column("Structure", overflow="fold")
    for heading in ("Chain", "Residues", "Atoms", "H", "kDa", "Radius, Å"):
        table.add_column(heading, justify="right")
    table.add_column("State")
    for report in reports:
        table.add_row(
            report.stem,
            report.chain,
            str(report.residues),
            str(report.atoms),
            str(report.hydrogens),
            f"{report.mass_kda:.2f}",
            f"{report.radius_A:.1f}",
            "unchanged" if report.unchanged else "written",
        )
    return table


def changes_table(reports: Iterable[PreparationReport]) -> Table:
    """Every change of every structure; equal changes share an entry that lists the places."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Changes", title_justify="left")
    table.add_column("Structure", overflow="fold")
    table.add_column("Change")
    table.add_column("What: where", overflow="fold")
    for report in reports:
        places: dict[str, dict[str, list[str]]] = {}
        for change in report.changes:
            places.setdefault(change.kind, {}).setdefault(change.detail, []).append(change.where)
        stem = report.stem
        for kind, details in places.items():
            items = []
            for what, where in details.items():
                # The chain as a whole goes without saying.
                named = ", ".join(place for place in where if place not in ("", report.chain))
                items.append(f"{what}: {named}" if named else what)
            table.add_row(stem, kind, escape("; ".join(items)))
            stem = ""
        table.add_section()
    return table
