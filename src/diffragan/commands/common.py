"""What the commands share: options, settings, devices, progress."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

if TYPE_CHECKING:
    from diffragan.progress import Progress
    from diffragan.settings import Settings


class Report(Protocol):
    """Told how many items are done, and perhaps a word on how it goes."""

    def __call__(self, done: int, word: str = "", /) -> None: ...


Preset = Annotated[str, typer.Option(help="preset: default or published")]
Config = Annotated[Path | None, typer.Option(help="TOML file laid over the preset")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="key=value over both, e.g. image.snr=2")
]
Seed = Annotated[int | None, typer.Option(min=0, help="of everything random")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace an existing output")]


def read_settings(
    preset: str, config: Path | None, set_: Sequence[str] | None, **values: Any
) -> Settings:
    """Settings from the shared options; `values` use `__` for the dot of a key."""
    from diffragan.settings import load_settings

    dotted = {key.replace("__", "."): value for key, value in values.items()}
    return load_settings(preset, file=config, overrides=set_ or (), values=dotted)


@contextmanager
def progress_bar(label: str, total: int | None) -> Iterator[Report]:
    """A bar with the time left on standard error; silent when that is no terminal.

    Yields a function that is told how many items are done, and may be told a word beside it.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(label, total=total)

        def report(done: int, word: str = "") -> None:
            bar.update(task, completed=done, description=f"{label} {word}".rstrip())

        yield report


@contextmanager
def staged_progress() -> Iterator[Progress]:
    """Bars for a run of several stages, a new one for each; silent when there is no terminal.

    Yields a function that is told the stage, how much of it is done, of how much (None where
    nobody knows), and a word on how it goes.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[word]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, count="", word="")
            count = f"{done}" if total is None else f"{done}/{total}"
            bar.update(tasks[stage], completed=done, count=count, word=word)

        yield tell


def note(message: str) -> None:
    """A line for the user that is not part of the output."""
    typer.echo(message, err=True)
