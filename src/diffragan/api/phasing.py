"""One pair at a time: phases, what they are worth, files for other programs; and the network."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffragan.api.measurement import open_pairs
from diffragan.api.sources import Source, as_paths
from diffragan.errors import DiffraganError
from diffragan.progress import Progress, Warn, no_progress
from diffragan.settings import Settings, load_settings

if TYPE_CHECKING:
    from diffragan.engine.workers import Workers
    from diffragan.evaluation.evaluation import Evaluation
    from diffragan.files.store import ResultStore
    from diffragan.pairs.pairs import Pairs
    from diffragan.training.leg import TrainResult


def phase(  # long: what it may be told, as the command lists it
    pairs: Pairs | Source,
    out: Path | str,
    *,
    method: str | None = None,
    weights: Path | str | None = None,
    limit: int | None = None,
    items: str | None = None,
    settings: Settings | None = None,
    device: str = "auto",
    overwrite: bool = False,
    repair: bool = False,
    workers: Workers | int | None = None,
    command: str = "diffragan.phase",
    progress: Progress = no_progress,
    warn: Warn = warnings.warn,
) -> ResultStore:
    """Phases of pairs, into a result store; an interrupted run is continued by the same call.

    Args:
        pairs: pairs, or their stores and files.
        out: store to write, .zarr. A joint method (many-views) puts its map beside it.
        method: a name in `diffragan.phasing.methods.METHODS`; none: that of the settings.
        weights: of a network, for a method that has one; none: the bundled ones.
        limit: so many pairs, spread evenly over the input.
        items: those of a range `a:b` alone, for runs that are spread over several stores.
        settings: how to phase, and how a simulation is imaged; none: those of the pairs.
        repair: do again what the store holds and can't be read any more.
        workers: processes of this machine, or a cluster; None for as many as pay.
        command: what the page of a joint method says it was made by.
        warn: told in a sentence what makes results doubtful.

    Raises:
        DiffraganError: input that will not do, a method that does not fit it or does not take
            weights, or a store at `out` that was made otherwise.
    """
    from diffragan.devices import pick_device
    from diffragan.engine.items import choose_items, parse_range
    from diffragan.engine.workers import as_workers
    from diffragan.files.store import open_results
    from diffragan.inspection.doubts import pair_doubts
    from diffragan.pairs.open import replace_run
    from diffragan.pairs.pairs import Pairs
    from diffragan.phasing.methods import METHODS
    from diffragan.phasing.run import load_context, phase_pairs, with_method
    from diffragan.phasing.trust import r_warning

    given = pairs if isinstance(pairs, Pairs) else open_pairs(pairs, settings=settings)
    chosen = given.settings if settings is None else replace_run(given.settings, settings)
    chosen = with_method(chosen, method or chosen.phase.method)
    record = METHODS[chosen.phase.method]
    context = load_context(
        chosen.phase.method, None if weights is None else Path(weights), pick_device(device)
    )
    if record.joint:
        _refuse_with_joint(method=chosen.phase.method, items=items, repair=repair)
        from diffragan.files.integrity.lock import locked
        from diffragan.reconstruction.run import map_beside

        many_views = (settings or given.settings).many_views
        with locked(map_beside(Path(out))):
            record.phase_together(
                given,
                Path(out),
                chosen.model_copy(update={"many_views": many_views}),
                limit=limit,
                device=device,
                overwrite=overwrite,
                command=command,
                progress=progress,
                warn=warn,
            )
    else:
        span = None if items is None else parse_range(items)
        for sentence in pair_doubts(given, choose_items(given.n, limit, span)):
            warn(sentence)
        phase_pairs(
            given,
            Path(out),
            chosen,
            context,
            limit=limit,
            items=span,
            overwrite=overwrite,
            repair=repair,
            workers=as_workers(workers),
            progress=progress,
        )
    results = open_results(Path(out))
    doubt = None if results.r_factor is None else r_warning(results.r_factor, results.items)
    if doubt is not None:
        warn(doubt)
    return results


def _refuse_with_joint(method: str, items: str | None, repair: bool) -> None:
    """A joint method needs all views and makes its map anew."""
    if items is not None or repair:
        what = "--items" if items is not None else "--repair"
        raise DiffraganError(
            f"{method} phases all views together, so {what} has no meaning for it; leave it out."
        )


def evaluate(
    results: Path | str | ResultStore,
    out: Path | str | None = None,
    *,
    input: Pairs | Source = (),
    stability: int = 0,
    workers: Workers | int | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """How right phased results are: FRC, SSIM, phase errors, as the dictionary of metrics.json.

    Args:
        results: a result store of `phase`.
        out: folder for report.html, metrics.json, frc.csv, items.csv and figures; None writes
            nothing.
        input: the pairs that were phased, with their truth (default: as the results recall). Of
            results from several inputs once for each, in the same order.
        stability: phase so many pairs again, slightly changed, and say how far the results move.
        workers: processes of this machine, or a cluster; None for as many as pay.

    Raises:
        DiffraganError: no such results; their input is missing, changed or of other size.
    """
    import shlex
    from dataclasses import replace

    from diffragan.engine.workers import as_workers
    from diffragan.evaluation.evaluation import Evaluation
    from diffragan.evaluation.metrics import metrics_of
    from diffragan.evaluation.scores import score
    from diffragan.files.store import ResultStore, open_results
    from diffragan.inspection.doubts import pair_doubts
    from diffragan.pairs.of_results import pairs_of_results
    from diffragan.pairs.pairs import Pairs
    from diffragan.phasing.stability import stability_of_results
    from diffragan.phasing.trust import r_warning

    store = results if isinstance(results, ResultStore) else open_results(Path(results))
    given = [] if isinstance(input, Pairs) else as_paths(input)
    pairs = input if isinstance(input, Pairs) else pairs_of_results(store, given)
    scores = score(store, pairs, workers=as_workers(workers), progress=progress)
    metrics = metrics_of(store, scores)
    doubt = None if store.r_factor is None else r_warning(store.r_factor, store.items)
    doubts = pair_doubts(pairs, store.items)
    metrics["warnings"] = doubts + ([] if doubt is None else [doubt])
    if stability:
        metrics["stability"] = stability_of_results(store, pairs, stability)
    evaluation = Evaluation(store, pairs, scores, metrics)
    if out is None:
        return evaluation
    from diffragan.report.pair_page import write_report

    words = ["diffragan", "evaluate", str(store.path), "--out", str(out)]
    for path in given:
        words += ["--input", str(path)]
    words += ["--stability", str(stability)] if stability else []
    page = write_report(Path(out), evaluation, command=shlex.join(words))
    return replace(evaluation, page=page)


def export(
    results: ResultStore | Path | str,
    out: Path | str,
    *,
    parts: Sequence[str] = (),
    formats: Sequence[str] = ("mrc", "tiff", "star"),
    wave_as: str = "amplitude-phase",
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """A folder of phased waves and projections for other programs, and what each file holds.

    Args:
        results: a result store of `phase` or `reconstruct`.
        out: folder to write.
        parts: `wave`, `projection`; none named: those that the results have.
        formats: `mrc` and `tiff` hold the store's numbers as float32 stacks; `star` is particles
            for RELION, normalised, protein bright, with angles where they are known.
        wave_as: `amplitude-phase` or `real-imaginary`.

    Raises:
        DiffraganError: no result store, a part that it lacks, or a folder that is there.
    """
    from diffragan.files.export import export_results
    from diffragan.files.store import ResultStore, open_results

    store = results if isinstance(results, ResultStore) else open_results(Path(results))
    return export_results(
        store,
        Path(out),
        parts=parts,
        formats=formats,
        wave_as=wave_as,
        overwrite=overwrite,
        progress=progress,
    )


def train(
    sources: Source,
    out: Path | str,
    *,
    settings: Settings | None = None,
    device: str = "auto",
    max_minutes: float | None = None,
    tensorboard: bool = False,
    progress: Progress = no_progress,
) -> TrainResult:
    """Train a conditional GAN, or go on with the run that `out` holds.

    Args:
        sources: for the published generator simulation stores; for one of maps prepared
            structures, or folders of them.
        out: folder of the run: best.safetensors, last.safetensors, checkpoint.pt, log.jsonl.
        settings: the preset `published` if not given; `network` is for a generator of maps.
        max_minutes: end after this time, with a checkpoint.

    Raises:
        DiffraganError: sources that can't be used together, a loss that is not finite, or a run in
            `out` with other settings or data.
    """
    from diffragan.devices import pick_device

    settings = settings or load_settings("published")
    if settings.network.generator == "maps":
        from diffragan.training.on_maps.loop import train_on_maps
        from diffragan.training.on_maps.molecules import read_molecules

        return train_on_maps(
            read_molecules(as_paths(sources), settings, progress),
            Path(out),
            settings,
            device=pick_device(device),
            max_minutes=max_minutes,
            tensorboard=tensorboard,
            progress=progress,
        )
    from diffragan.training.data import open_exit_waves
    from diffragan.training.loop import train as run

    return run(
        open_exit_waves(as_paths(sources)),
        Path(out),
        settings,
        device=pick_device(device),
        max_minutes=max_minutes,
        tensorboard=tensorboard,
        progress=progress,
    )
