"""What the commands share: options, settings, progress, words."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from diffragan.engine.workers import Workers
    from diffragan.progress import Progress
    from diffragan.reconstruction.run import Reconstruction
    from diffragan.settings import Settings


NOT_CONVERGED = 3  # exit code of a run that ended without a result to trust


Preset = Annotated[
    str,
    typer.Option(
        help="preset: default, published, published-tuned, network, experiment, "
        "counting-detector or integrating-detector; several with commas"
    ),
]
Config = Annotated[Path | None, typer.Option(help="TOML file laid over the preset")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="key=value over both, e.g. image.snr=2")
]
Seed = Annotated[int | None, typer.Option(min=0, help="of everything random")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace an existing output")]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="processes of this machine; as many as pay if not said"),
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="of a running Dask cluster, tcp://host:8786 or its scheduler file"),
]
Items = Annotated[
    str | None, typer.Option(help="a:b, only these items, counted from 0, to before b")
]
Repair = Annotated[
    bool, typer.Option("--repair", help="do again what is damaged in an output that is there")
]


def workers_of(count: int | None, scheduler: str | None) -> Workers:
    """Who does the work, as `--workers` and `--scheduler` say.

    Raises:
        DiffraganError: both are given.
    """
    from diffragan.engine.workers import Workers
    from diffragan.errors import DiffraganError

    if count is not None and scheduler is not None:
        raise DiffraganError(
            "--scheduler names a cluster, whose workers do the work; leave out --workers."
        )
    return Workers(count, scheduler, lambda sentence: note(f"diffragan: {sentence}"))


def read_settings(
    preset: str, config: Path | None, set_: Sequence[str] | None, **values: Any
) -> Settings:
    """Settings from the shared options; `values` use `__` for the dot of a key."""
    from diffragan.settings import load_settings

    dotted = {key.replace("__", "."): value for key, value in values.items()}
    return load_settings(preset, file=config, overrides=set_ or (), values=dotted)


def two_numbers(words: str | None) -> tuple[int, int] | None:
    """ROWS,COLUMNS as two numbers.

    Raises:
        DiffraganError: they are no two whole numbers above 0.
    """
    from diffragan.errors import DiffraganError

    if words is None:
        return None
    parts = words.replace("x", ",").split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() and int(part) for part in parts):
        raise DiffraganError(f"'{words}' is no shape of a scan; write rows,columns: 64,64.")
    return int(parts[0]), int(parts[1])


def set_keys(set_: Sequence[str] | None) -> list[str]:
    """The dotted keys that `--set` gives."""
    return [pair.partition("=")[0].strip() for pair in set_ or ()]


def given_options(context: typer.Context) -> dict[str, str]:
    """The options that the command line gives, by the words for them: their parameters' names."""
    return {
        option.opts[0]: str(option.name)
        for option in context.command.params
        if option.param_type_name == "option"
        and (source := context.get_parameter_source(str(option.name)))
        and source.name == "COMMANDLINE"
    }


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars on standard error, one for each stage, with the time left where a total is known;
    silent when that is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars
    from rich.text import Text

    class TimeLeft(TimeRemainingColumn):
        """The time left, for a stage that knows its total."""

        def render(self, task: Task) -> Text:
            return Text("left ").append(super().render(task)) if task.total else Text()

    class Extent(BarColumn):
        """A bar, for a stage that knows its total."""

        def render(self, task: Task) -> Any:
            return super().render(task) if task.total else Text()

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        Extent(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        TimeLeft(),
        TextColumn("{task.fields[word]}"),
    )
    console = Console(stderr=True)
    with Bars(*columns, console=console, disable=not sys.stderr.isatty()) as bars:
        tasks: dict[str, Any] = {}

        def progress(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, count="", word="")
            count = f"{done}" if total is None else f"{done}/{total}"
            bars.update(tasks[stage], completed=done, total=total, count=count, word=word)

        yield progress


def note(message: str) -> None:
    """A line for the user that is not part of the output."""
    typer.echo(message, err=True)


def show_reconstruction(result: Reconstruction) -> None:
    """A reconstruction in words on standard output, and where its page lies."""
    console = wide_console()
    console.print(result.summary, soft_wrap=True)
    console.print(f"Report: {result.report}", soft_wrap=True)


def wide_console() -> Console:
    """Standard output, wide enough for a table where there is no terminal to ask."""
    from rich.console import Console

    return Console(width=max(Console().width, 100))
