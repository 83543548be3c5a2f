"""The public face: one call for each step of the chain, the same that the commands make.

Everything takes paths or what an earlier call returned. Settings come from `load_settings`, or as
dotted keys: `phase(pairs, "phased.zarr", method="raar", settings=load_settings(...))`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffragan.progress import Progress, no_progress
from diffragan.settings import Settings, load_settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from diffragan.evaluation.evaluation import Evaluation
    from diffragan.files.store import ResultStore, SimulationStore
    from diffragan.molecules.preparation_report import PreparationReport
    from diffragan.pairs.pairs import Pairs
    from diffragan.reconstruction.run import Reconstruction
    from diffragan.training.loop import TrainResult

__all__ = [
    "evaluate",
    "export",
    "load_settings",
    "make_pairs",
    "open_pairs",
    "phase",
    "prepare",
    "reconstruct",
    "simulate",
    "train",
]


def open_pairs(
    source: Path | str | Sequence[Path | str] | NDArray[Any],
    *,
    image: Path | str | Sequence[Path | str] | NDArray[Any] = (),
    box_A: float | None = None,
    settings: Settings | None = None,
) -> Pairs:
    """Pairs of pattern and image from a store or file, from several as one, or from arrays.

    Args:
        source: .zarr, .npy, .npz, .mrc, .mrcs, .star, .h5, or several of them; or patterns
            (n, m, m), zero frequency at [m // 2, m // 2].
        image: the images, where they lie in files of their own, one for each source; or images
            (n, m, m).
        box_A: side of the field in Å, where no file tells it.
        settings: how a simulation is imaged, or how measured arrays were taken.

    Raises:
        DiffraganError: a file that is missing, damaged or of another kind, or arrays that don't
            fit each other.
    """
    import numpy as np

    from diffragan.pairs.open import open_all, open_arrays

    if isinstance(source, np.ndarray) or isinstance(image, np.ndarray):
        return open_arrays(source, image, settings=settings, box_A=box_A)
    return open_all(_paths(source), settings=settings, images=_paths(image), box_A=box_A)


def prepare(
    sources: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    test: Path | str | Sequence[Path | str] = (),
    max_identity: float = 0.35,
    settings: Settings | None = None,
    progress: Progress = no_progress,
) -> list[PreparationReport]:
    """One clean protein chain with hydrogens of each source, as mmCIF, with every change reported.

    Args:
        sources: PDB IDs, which are fetched, or PDB and mmCIF files, plain or gzipped.
        out: folder for NAME.cif, NAME.json and prepare.json; what is done is not done again.
        test: structures kept for testing, files or folders of them.
        max_identity: largest sequence identity (0 to 1) that a source may have to one of them.

    Raises:
        DiffraganError: a source that can't be found, read or completed, that holds no protein, or
            that is related to a test structure.
    """
    from diffragan.molecules.prepare import prepare_structures

    return prepare_structures(
        _words(sources),
        Path(out),
        (settings or load_settings()).prepare,
        test=_words(test),
        max_identity=max_identity,
        progress=progress,
    )


def simulate(  # long: what it may be told, as the command lists it
    structures: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    settings: Settings | None = None,
    workers: int | None = None,
    write_rotated: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
    warn: Callable[[str], None] = warnings.warn,
) -> SimulationStore:
    """Exit waves of prepared structures (.cif, or folders of them) into a simulation store.

    The orientations are also written beside it, as RELION angles (OUT.orientations.star).

    Args:
        structures: what `prepare` wrote.
        workers: processes; one per core if not given.
        write_rotated: also save every rotated structure (.cif) in OUT.rotated.
        warn: told in a sentence which molecules cross the edge of the box.

    Raises:
        DiffraganError: a structure that is missing, not prepared or larger than its box.
    """
    from diffragan.files.star import write_relion_angles
    from diffragan.files.store import open_simulation
    from diffragan.microscope.simulate import simulate as run
    from diffragan.molecules.structure import (
        load_structure,
        prepared_files,
        write_rotated_structures,
    )
    from diffragan.rotations import quasi_uniform

    chosen = settings or load_settings()
    files = prepared_files(_paths(structures))
    store = run(
        [load_structure(file) for file in files],
        Path(out),
        chosen,
        overwrite=overwrite,
        workers=workers,
        progress=progress,
        warn=warn,
    )
    rotations = quasi_uniform(chosen.simulate.orientations, chosen.seed)
    write_relion_angles(store.with_suffix(".orientations.star"), rotations)
    for number, file in enumerate(files if write_rotated else (), 1):
        write_rotated_structures(file, rotations, store.with_suffix(".rotated"))
        progress("rotated structures", number * len(rotations), len(files) * len(rotations))
    return open_simulation(store)


def make_pairs(
    simulation: Path | str,
    out: Path | str,
    *,
    n: int | None = None,
    truth: bool = False,
    orientations: bool = False,
    settings: Settings | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Pairs:
    """Patterns and images of a simulation store, as an instrument would give them.

    Args:
        n: only the first so many.
        truth: keep exit waves and orientations beside them.
        orientations: keep these alone.

    Raises:
        DiffraganError: no simulation store, or `out` was made otherwise.
    """
    from diffragan.files.store import open_simulation
    from diffragan.pairs.imaged import ImagedPairs
    from diffragan.pairs.write import write_pairs

    chosen = settings or load_settings()
    written = write_pairs(
        ImagedPairs(open_simulation(Path(simulation)), chosen),
        Path(out),
        n=n,
        truth=truth,
        orientations=orientations,
        overwrite=overwrite,
        progress=progress,
    )
    return open_pairs(written, settings=chosen)


def train(
    simulations: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    settings: Settings | None = None,
    device: str = "auto",
    max_minutes: float | None = None,
    tensorboard: bool = False,
    progress: Progress = no_progress,
) -> TrainResult:
    """Train the conditional GAN on simulated exit waves, or go on with the run that `out` holds.

    Args:
        simulations: simulation stores to learn from.
        out: folder of the run: best.safetensors, last.safetensors, checkpoint.pt, log.jsonl.
        settings: the preset `published` if not given.
        max_minutes: end after this time, with a checkpoint.

    Raises:
        DiffraganError: stores that can't be used together, a loss that is not finite, or a run in
            `out` with other settings or data.
    """
    from diffragan.devices import pick_device
    from diffragan.training.data import open_exit_waves
    from diffragan.training.loop import train as run

    return run(
        open_exit_waves(_paths(simulations)),
        Path(out),
        settings or load_settings("published"),
        device=pick_device(device),
        max_minutes=max_minutes,
        tensorboard=tensorboard,
        progress=progress,
    )


def phase(  # long: what it may be told, as the command lists it
    pairs: Pairs | Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    method: str | None = None,
    weights: Path | str | None = None,
    limit: int | None = None,
    settings: Settings | None = None,
    device: str = "auto",
    overwrite: bool = False,
    command: str = "diffragan.phase",
    progress: Progress = no_progress,
    warn: Callable[[str], None] = warnings.warn,
) -> ResultStore:
    """Phases of pairs, into a result store; an interrupted run is continued by the same call.

    Args:
        pairs: pairs, or their stores and files.
        out: store to write, .zarr. A joint method (many-views) puts its map beside it.
        method: a name in `diffragan.phasing.methods.METHODS`; none: that of the settings.
        weights: of a network, for a method that has one; none: the bundled ones.
        limit: so many pairs, spread evenly over the input.
        settings: how to phase, and how a simulation is imaged; none: those of the pairs.
        command: what the page of a joint method says it was made by.
        warn: told in a sentence what makes results doubtful.

    Raises:
        DiffraganError: input that will not do, a method that does not fit it or does not take
            weights, or a store at `out` that was made otherwise.
    """
    from diffragan.devices import pick_device
    from diffragan.files.store import open_results
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
        many_views = (settings or given.settings).many_views
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
        phase_pairs(
            given, Path(out), chosen, context, limit=limit, overwrite=overwrite, progress=progress
        )
    results = open_results(Path(out))
    doubt = None if results.r_factor is None else r_warning(results.r_factor, results.items)
    if doubt is not None:
        warn(doubt)
    return results


def evaluate(
    results: Path | str | ResultStore,
    out: Path | str | None = None,
    *,
    input: Pairs | Path | str | Sequence[Path | str] = (),
    stability: int = 0,
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

    Raises:
        DiffraganError: no such results; their input is missing, changed or of other size.
    """
    import shlex
    from dataclasses import replace

    from diffragan.evaluation.evaluation import Evaluation
    from diffragan.evaluation.metrics import metrics_of
    from diffragan.evaluation.scores import score
    from diffragan.files.store import ResultStore, open_results
    from diffragan.pairs.of_results import pairs_of_results
    from diffragan.pairs.pairs import Pairs
    from diffragan.phasing.stability import stability_of_results
    from diffragan.phasing.trust import r_warning

    store = results if isinstance(results, ResultStore) else open_results(Path(results))
    given = [] if isinstance(input, Pairs) else _paths(input)
    pairs = input if isinstance(input, Pairs) else pairs_of_results(store, given)
    scores = score(store, pairs, progress=progress)
    metrics = metrics_of(store, scores)
    doubt = None if store.r_factor is None else r_warning(store.r_factor, store.items)
    metrics["warnings"] = [] if doubt is None else [doubt]
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


def reconstruct(  # long: what it may be told, as the command lists it
    pairs: Pairs | Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    method: str = "many-views",
    orientations: Path | str | None = None,
    start: Path | str | None = None,
    structure: str | None = None,
    limit: int | None = None,
    mass_kda: float | None = None,
    image: Path | str | Sequence[Path | str] = (),
    box_A: float | None = None,
    phased: Path | str | None = None,
    settings: Settings | None = None,
    device: str = "auto",
    overwrite: bool = False,
    command: str = "diffragan.reconstruct",
    progress: Progress = no_progress,
    warn: Callable[[str], None] = warnings.warn,
) -> Reconstruction:
    """Many views of one molecule into a 3D map, in a folder; an interrupted run goes on.

    Args:
        pairs: pairs, or their stores and files, which count as one; for the method `merge` one
            result store, whose phased waves are put into one map.
        out: folder to write. phased: where the result store goes, OUT/phased.zarr if not given.
        orientations: RELION .star with the angles of every pair, in order; none: the pairs' own.
        start: result store of the same pairs, whose phased waves make the start.
        structure: the molecule, where there are several. limit: so many views, spread evenly.
        mass_kda: molecular weight; none: the pairs' own, or told from the map.
        image, box_A: as `open_pairs`.
        command: what the page says it was made by.
        warn: told in a sentence what makes the result doubtful.

    Raises:
        DiffraganError: input that will not do, an option that the method does not take, or
            another reconstruction in `out`.
    """
    from diffragan.reconstruction import run

    source = _paths(pairs) if isinstance(pairs, Path | str | Sequence) else pairs
    options = run.ReconstructionOptions(
        image=tuple(_paths(image)),
        box_A=box_A,
        mass_kda=mass_kda,
        orientations=None if orientations is None else Path(orientations),
        start=None if start is None else Path(start),
        structure=structure,
        limit=limit,
        phased=None if phased is None else Path(phased),
        settings=settings,
        device=device,
    )
    where = run.Destination(Path(out), overwrite, command)
    return run.reconstruct(source, where, options, method=method, progress=progress, warn=warn)


def _words(source: Path | str | Sequence[Path | str]) -> list[str]:
    return [str(word) for word in ([source] if isinstance(source, Path | str) else source)]


def _paths(source: Path | str | Sequence[Path | str]) -> list[Path]:
    found = [source] if isinstance(source, Path | str) else source
    return [Path(path) for path in found]
