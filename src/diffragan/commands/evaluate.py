"""`diffragan evaluate`: how right phased results are, as numbers, figures and a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffragan.commands.common import progress_bar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console
    from rich.table import Table

    from diffragan.files.store import ResultStore
    from diffragan.pairs.pairs import Pairs


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

    # Wide enough for the table where there is no terminal to ask.
    run(results, out, input_path or (), Console(width=max(Console().width, 100)), stability)


def run(
    results_path: Path,
    out: Path,
    input_paths: Sequence[Path],
    console: Console,
    stability_items: int = 0,
) -> dict[str, Any]:
    """Evaluates one result store and returns the dictionary of metrics.json.

    Raises:
        DiffraganError: no such results; their input is missing, changed or of other size.
    """
    import shlex

    from diffragan.evaluation.scores import score, summarise
    from diffragan.files.store import open_results
    from diffragan.report.pair_page import write_report

    results = open_results(results_path)
    truth = open_input(results, input_paths)
    with progress_bar("results compared", results.n) as progress:
        scores = score(results, truth, progress=progress)
    metrics = summarise(results, scores)
    if stability_items:
        metrics["stability"] = phased_again(results, truth, stability_items)
    words = ["diffragan", "evaluate", str(results_path), "--out", str(out)]
    for path in input_paths:
        words += ["--input", str(path)]
    words += ["--stability", str(stability_items)] if stability_items else []
    page = write_report(out, results, truth, scores, metrics, command=shlex.join(words))
    console.print(metrics_table(metrics))
    console.print(f"Report: {page}", soft_wrap=True)
    return metrics


def open_input(results: ResultStore, input_paths: Sequence[Path] = ()) -> Pairs:
    """The pairs that were phased, imaged as they were then.

    Args:
        results: knows the paths and hashes of its inputs.
        input_paths: used instead of those paths, whatever their hashes; one for each.

    Raises:
        DiffraganError: the input is missing or changed, and no other was given.
    """
    from diffragan.errors import DiffraganError
    from diffragan.pairs.joined import parts_of
    from diffragan.pairs.open import open_all
    from diffragan.settings import settings_from_dict

    entries = results.inputs
    settings = settings_from_dict(results.settings)
    if input_paths:
        if len(input_paths) != len(entries):
            raise DiffraganError(
                f"{results.path} was phased from {len(entries)} inputs and {len(input_paths)} are "
                "given; pass --input once for each, in the same order."
            )
        given = open_all(input_paths, settings=settings, box_A=results.box_A)
        if len(entries) > 1:
            hashes = [part.sha256 for part in parts_of(given)]
            known = [str(entry["sha256"]) for entry in entries]
            if hashes != known and sorted(hashes) == sorted(known):
                raise DiffraganError(
                    f"{results.path} was phased from these inputs in another order: "
                    f"{', '.join(str(entry['path']) for entry in entries)}; pass --input so."
                )
        return given
    paths = [Path(entry["path"]) for entry in entries]
    for path in paths:
        if not path.exists():
            raise DiffraganError(
                f"The input of {results.path}, {path}, is not there any more; "
                "pass it with --input where it is now."
            )
    images = [Path(entry["image"]) for entry in entries if entry.get("image")]
    pairs = open_all(paths, settings=settings, images=images, box_A=results.box_A)
    for entry, part in zip(entries, parts_of(pairs), strict=True):
        if entry.get("sha256") not in (None, part.sha256):
            raise DiffraganError(
                f"The input {part.path} has changed since {results.path} was phased from it; pass "
                "--input with the one that was phased, or phase it again."
            )
    return pairs


def phased_again(results: ResultStore, pairs: Pairs, count: int) -> dict[str, Any]:
    """How far the results of `count` pairs move when the pairs are slightly changed.

    Raises:
        DiffraganError: the weights of the first phasing are gone or changed.
    """
    import torch

    from diffragan.errors import DiffraganError
    from diffragan.phasing.run import choose_items, load_context
    from diffragan.phasing.stability import stability
    from diffragan.settings import settings_from_dict

    if results.method == "many-views":
        raise DiffraganError(
            "many-views phases all views together, so single pairs can't be phased again; leave "
            "out --stability (its two half sets say how far to trust it)."
        )
    record = results.header.get("weights") or {}
    path = Path(record["path"]) if record.get("path") else None
    context, found = load_context(results.method, path, torch.device("cpu"))
    if found and found["sha256"] != results.weights_sha256:
        raise DiffraganError(
            f"The weights that {results.path} was phased with have changed since, so the pairs "
            "can't be phased again alike; leave out --stability, or phase them anew."
        )
    items = results.items[choose_items(results.n, count)]
    return stability(pairs, items, settings_from_dict(results.settings), context)


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """The numbers that a user asks first, a row per structure."""
    from rich import box
    from rich.table import Table

    of = metrics["frc_of"]
    title = f"{metrics['method']}: " + (f"FRC of the {of}" if of else "no truth, so no FRC")
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("structure", no_wrap=True)
    for name in ("n", "0.5 at, Å", "image", "diffr.", "extrap.", "solved", "SSIM", "R"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = dict(metrics["structures"])
    if len(rows) != 1:
        rows["all"] = metrics
    for stem, block in rows.items():
        bands = [_number(value) for value in block["band_mean_frc"].values()]
        table.add_row(
            stem,
            str(block["n"]),
            _number(block["frc_0p5_A"]),
            *bands,
            _number(block["solved_fraction"], ".0%"),
            _number(block["ssim_mean"]),
            _number(block["r_factor_median"], ".3f"),
        )
    return table


def _number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form)
