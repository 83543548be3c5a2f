"""`diffragan prepare`: PDB entries or files into clean structures, with a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffragan.commands.common import Config, Preset, Set, progress_bar, read_settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from diffragan.molecules.prepare import PreparationReport
    from diffragan.settings import PrepareSettings

_COORDINATE_ENDINGS = (".pdb", ".ent", ".cif", ".mmcif")
# The name of the joint report: no structure may be called so.
_REPORT_STEM = "prepare"


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
    hetero atoms; adds missing heavy atoms and hydrogens, but no missing
    residues.

    Writes DIR/NAME.cif, DIR/NAME.json with every change, and
    DIR/prepare.json with all reports. What is done is not done again.

    Examples:

        diffragan prepare 1UBQ 1AUP --out structures

        diffragan prepare entry.cif.gz --chain B --ph 6.5 --out structures

        diffragan prepare train/*.pdb --test test/ --out structures
    """
    settings = read_settings(preset, config, set_, prepare__chain=chain, prepare__ph=ph)
    run(sources, out, settings.prepare, test or [], max_identity)


def run(
    sources: list[str],
    out: Path,
    settings: PrepareSettings,
    test: Iterable[str],
    max_identity: float,
) -> None:
    """Prepares every source in turn; those finished before an error stay, with their report.

    Raises:
        DiffraganError: as `prepare_structure`; two sources of one name; relatives across the
            split.
    """
    from rich.console import Console

    from diffragan.molecules.prepare import prepare_structure, write_reports

    _require_own_names(sources)
    _require_unrelated(sources, settings, test, max_identity)
    reports: list[PreparationReport] = []
    try:
        with progress_bar("prepare", len(sources)) as done:
            for source in sources:
                reports.append(prepare_structure(source, out, settings))
                done(len(reports))
    finally:
        if reports:
            write_reports(reports, out / f"{_REPORT_STEM}.json")
            console = Console()
            console.print(report_table(reports))
            console.print(changes_table(reports))


def _require_own_names(sources: list[str]) -> None:
    from diffragan.errors import DiffraganError
    from diffragan.molecules.fetch import source_stem

    by_stem: dict[str, str] = {}
    for source in sources:
        # Some file systems take 1abc and 1ABC for the same name.
        stem = source_stem(source).casefold()
        if stem == _REPORT_STEM:
            raise DiffraganError(
                f"The structure {source} would overwrite the report {_REPORT_STEM}.json; "
                "rename the file."
            )
        if stem in by_stem:
            raise DiffraganError(
                f"{by_stem[stem]} and {source} would both be written as {source_stem(source)}; "
                "rename one, or prepare them into two folders."
            )
        by_stem[stem] = source


def _require_unrelated(
    sources: list[str], settings: PrepareSettings, test: Iterable[str], max_identity: float
) -> None:
    from diffragan.molecules.fetch import source_stem
    from diffragan.molecules.prepare import read_sequence
    from diffragan.molecules.relatives import require_unrelated

    test_sources = [source for entry in test for source in _in_folder(entry)]
    if not test_sources:
        return
    # The chain asked for is one of the sources; test files have their own.
    for_test = settings.model_copy(update={"chain": None})
    train_sequences = {source_stem(source): read_sequence(source, settings) for source in sources}
    test_sequences: dict[str, str] = {}
    for source in test_sources:
        stem = source_stem(source)
        test_sequences[source if stem in test_sequences else stem] = read_sequence(source, for_test)
    require_unrelated(train_sequences, test_sequences, max_identity)


def _in_folder(entry: str) -> list[str]:
    """The coordinate files of a folder, or the entry itself."""
    from diffragan.errors import DiffraganError

    folder = Path(entry)
    if not folder.is_dir():
        return [entry]
    files = sorted(
        str(file)
        for file in folder.iterdir()
        if file.name.lower().removesuffix(".gz").endswith(_COORDINATE_ENDINGS)
    )
    if not files:
        raise DiffraganError(f"The folder {folder} holds no PDB or mmCIF files to test against.")
    return files


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
