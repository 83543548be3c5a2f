"""From pairs to a result store: batched, resumable, nothing of the truth in sight."""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.engine.items import choose_items, range_in_header
from diffragan.engine.pace import Pace
from diffragan.engine.tasks import run_tasks
from diffragan.engine.workers import HERE, Workers, one_thread
from diffragan.errors import DiffraganError
from diffragan.files.store import file_sha256
from diffragan.files.store_header import info_to_json, unfinished
from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.microscope.alone import films_beside, molecule_alone
from diffragan.microscope.imaging import counted_electrons
from diffragan.microscope.noise import item_seed
from diffragan.pairs.open import mean_pattern
from diffragan.pairs.pairs import Pairs
from diffragan.phasing.method import Context, Method, PairBatch, Phased
from diffragan.phasing.methods import METHODS
from diffragan.phasing.registry import check_options
from diffragan.phasing.solvers import SOLVERS, Solver
from diffragan.progress import Progress, no_progress
from diffragan.settings import Settings

METHOD_NOISE = 2

STAGE = "pairs phased"

_SHARED_BY = 16  # workers that a run of few pairs has batches for


def make_pair_batch(
    pairs: Pairs, items: NDArray[np.int64], settings: Settings, device: torch.device
) -> PairBatch:
    """The pairs of some items, on the device."""
    defocus = pairs.defocus
    return PairBatch(
        pattern=torch.from_numpy(pairs.pattern(items)).to(device),
        pattern_mask=torch.from_numpy(pairs.pattern_mask).to(device),
        image=torch.from_numpy(pairs.image(items)).to(device),
        image_dose_e_per_A2=torch.from_numpy(pairs.image_dose(items)).to(device),
        optics=pairs.optics,
        settings=settings,
        seeds=[item_seed(settings.seed, int(i), METHOD_NOISE) for i in items],
        defocus_terms_A=(
            None if defocus is None else torch.from_numpy(defocus[items].terms_A).to(device)
        ),
    )


def of_molecule(batch: PairBatch, pairs: Pairs, items: NDArray[np.int64]) -> PairBatch:
    """The same pairs, their patterns those of the molecules alone; unchanged in vacuum.

    Raises:
        DiffraganError: ice that neither a molecular weight nor empty positions tell.
    """
    settings, phase = batch.settings, batch.settings.phase
    films, source = films_beside(settings.specimen), phase.background_from
    electrons = counted_electrons(batch.optics, settings)
    if electrons is None or not (films or settings.specimen.damage or source):
        return batch
    masses = [phase.mass_kda or pairs.structures[k].mass_kda for k in pairs.structure_index[items]]
    weighed = all(masses)
    if films and source is None and not weighed:
        raise DiffraganError(
            "One pattern through ice or a support does not tell what is the molecule's; give its "
            "weight (--set phase.mass_kda=...), or patterns of positions without a molecule "
            "(--set phase.background_from=...)."
        )
    empty = None
    if source is not None:
        mean = mean_pattern(Path(source), electrons)
        if mean.shape != batch.pattern.shape[-2:]:
            raise DiffraganError(
                f"The patterns of empty positions in {source} are {mean.shape[0]} pixels a side, "
                f"the pairs' {pairs.m}; give some of the same detector and camera length."
            )
        empty = torch.from_numpy(mean).to(batch.pattern.device)
    alone = molecule_alone(
        batch.pattern,
        batch.pattern_mask,
        batch.image_dose_e_per_A2,
        batch.optics,
        settings,
        torch.tensor(masses, dtype=torch.float64, device=batch.pattern.device) if weighed else None,
        empty,
    )
    return replace(batch, pattern=alone.amplitude**2, alone=alone)


def load_context(
    name: str, weights: Path | None = None, device: torch.device | str = "cpu"
) -> Context:
    """What a method needs besides pairs.

    Args:
        weights: of the network; none: the bundled ones, where the method has a network.

    Raises:
        DiffraganError: no such method, weights given to a method that has none, or weights that
            don't fit.
    """
    device = torch.device(device)
    method = METHODS[name]
    if not method.needs_weights:
        check_options(name, {} if weights is None else {"weights": "weights"}, METHODS)
        return Context(device=device)
    from diffragan.networks.weights import load_weights

    loaded = load_weights(weights or bundled_weights(method.bundled), device)
    kind = loaded.metadata.settings.network.generator
    if not _runs(method, kind):
        others = [other for other in METHODS if _runs(METHODS[other], kind)]
        raise DiffraganError(
            f"The weights {weights} are of the generator '{kind}', which the method '{name}' does "
            f"not run, as {' and '.join(others)} would; give others, or leave --weights out."
        )
    return Context(loaded, weights, device)


def _runs(method: Method, generator: str) -> bool:
    return method.needs_weights and generator in method.generators


def same_context(path: Path | None, sha256: str, device: str) -> Context:
    """The context of a network in another process.

    Args:
        path: of the weights; None for the bundled ones. sha256: of their bytes.

    Raises:
        DiffraganError: this process finds others there.
    """
    from diffragan.networks.weights import load_weights

    where = torch.device(device if device == "cpu" or torch.cuda.is_available() else "cpu")
    bundled = bundled_weights("").glob("*.safetensors")
    for candidate in bundled if path is None else [path]:
        if candidate.is_file() and file_sha256(candidate) == sha256:
            return Context(load_weights(candidate, where), path, where)
    raise DiffraganError(
        f"A worker does not find the run's weights ({path or 'those in the package'}); give all "
        "workers the same files and the same release."
    )


def weights_record(context: Context) -> dict[str, Any] | None:
    """How a result store records the weights; None where there are none."""
    if context.weights is None:
        return None
    meta, path = context.weights.metadata, context.weights_path
    return {
        "path": str(path.resolve()) if path else None,
        "sha256": context.weights.sha256,
        "steps": meta.steps,
        "trained_on": [s.stem for s in meta.trained_on],
    }


def bundled_weights(name: str) -> Path:
    """Weights in the package, by the file's name."""
    from importlib import resources

    return Path(str(resources.files("diffragan").joinpath("data", name)))


@dataclass(frozen=True)
class _Phasing:
    """What all batches of a run share; what was registered at run time goes along, since another
    process would not know it by name."""

    pairs: Pairs
    settings: Settings
    context: Context
    method: Method
    solver: Solver | None


def _phase_batch(run: _Phasing, items: NDArray[np.int64]) -> tuple[Phased, dict[str, NDArray[Any]]]:
    """The phases of some items, and the arrays that a store keeps of them."""
    if run.solver is not None:
        SOLVERS.setdefault(run.settings.phase.solver, run.solver)
    began = time.perf_counter()
    batch = make_pair_batch(run.pairs, items, run.settings, run.context.device)
    batch = of_molecule(batch, run.pairs, items)
    phased = run.method(batch, run.context)
    seconds = (time.perf_counter() - began) / len(items)
    return phased, result_arrays(phased) | {"seconds": np.full(len(items), seconds)}


def _stored_batch(run: _Phasing, items: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """As `_phase_batch`, what a store keeps alone."""
    return _phase_batch(run, items)[1]


def batch_of(n: int, settings: Settings, device: torch.device) -> int:
    """Pairs a batch of a run of `n`: on CPUs fewer than `phase.batch_size` where there are few, so
    that several workers have some."""
    most = settings.phase.batch_size
    return most if device.type != "cpu" else min(most, max(1, math.ceil(n / _SHARED_BY)))


def phase_pairs(  # long: what it may be told, as the command lists it
    pairs: Pairs,
    out: Path,
    settings: Settings,
    context: Context | None = None,
    *,
    limit: int | None = None,
    items: slice | None = None,
    overwrite: bool = False,
    repair: bool = False,
    workers: Workers = HERE,
    progress: Progress = no_progress,
) -> Path:
    """Phase pairs one by one, by `settings.phase.method`, into a result store.

    An interrupted run keeps what is finished and is continued by the same call. The result holds
    where it came from: input path and hash, settings, weights.

    Args:
        context: from `load_context`; none: bundled weights where there is a network, on the CPU.
        limit: so many pairs, spread evenly over the input, or over the range `items`.
        repair: do again what the store holds and can't be read any more.
        workers: who does it; arrays in memory are phased in this process.
        progress: told the number of pairs done, and R where the method has one.

    Raises:
        DiffraganError: the method does not fit the input, or `out` was made otherwise.
    """
    settings = with_method(settings, settings.phase.method)
    method = METHODS[settings.phase.method]
    context = context or load_context(settings.phase.method)
    chosen = choose_items(pairs.n, limit, items)
    size = batch_of(pairs.n if limit is None else limit, settings, context.device)
    run = _Phasing(pairs, settings, context, method, SOLVERS.get(settings.phase.solver))

    # The first batch tells the shapes, so that a method need not declare them; its result is kept.
    fresh = overwrite or repair or not (out.exists() or unfinished(out).exists())
    first = None
    if fresh:
        with one_thread():
            first = _phase_batch(run, chosen[:size])
    header = result_header(settings.phase.method, pairs, settings, weights_record(context))
    if limit is None:
        header |= range_in_header(chosen)
    specs = {} if first is None else result_specs(first[0], pairs)
    with StoreWriter(
        out, "result", len(chosen), specs, header, overwrite=overwrite, repair=repair
    ) as writer:
        if writer.complete:
            return out
        if writer.fresh:
            _write_origin(writer, pairs, chosen)
        if first is not None and writer.block <= size:
            places = np.arange(size // writer.block * writer.block)[: len(chosen)]
            writer.write(
                places, **{name: values[: len(places)] for name, values in first[1].items()}
            )
        pace = Pace(progress, STAGE, writer.n, int(writer.done.sum()))
        blocks = writer.pending(size)
        tasks = [chosen[block] for block in blocks]
        by = workers if _may_travel(pairs, context, workers) else HERE
        with closing(run_tasks(_stored_batch, run, tasks, by)) as finished:
            for done in finished:
                writer.write(blocks[done.number], **done.result)
                pace.add(len(blocks[done.number]), done.workers, _running_r(done.result))
        writer.finish()
    return out


def _may_travel(pairs: Pairs, context: Context, workers: Workers) -> bool:
    """Whether other processes can do the work: not on arrays in memory, and not on one GPU that
    they would share, unless a cluster is asked for."""
    if not pairs.reopens:
        return False
    return context.device.type == "cpu" or workers.scheduler is not None or bool(workers.count)


def with_method(settings: Settings, name: str) -> Settings:
    """The settings with a method, under the registry's own name where this is an alias."""
    phase = settings.phase.model_copy(update={"method": METHODS.canonical(name)})
    return settings.model_copy(update={"phase": phase})


def _write_origin(writer: StoreWriter, pairs: Pairs, items: NDArray[np.int64]) -> None:
    """Which pair of the input each result is of, and what is known of it."""
    writer.put("item", items)
    writer.put("structure", pairs.structure_index[items].astype(np.int32))
    writer.put("pattern_mask", pairs.pattern_mask)
    if pairs.rotation is not None:
        writer.put("rotation", pairs.rotation[items])


def result_header(
    method: str,
    pairs: Pairs,
    settings: Settings,
    weights: dict[str, Any] | None = None,
    invents: bool | None = None,
) -> dict[str, Any]:
    """Where a result store's content comes from: method, input, settings, weights.

    Args:
        invents: whether it shows what no measurement determines, for what is no method of the
            registry.
    """
    return {
        "method": method,
        "invents": METHODS[method].invents if invents is None else invents,
        "optics": vars(pairs.optics),
        "structures": info_to_json(pairs.structures),
        "settings": settings.model_dump(mode="json"),
        "input": pairs.source,
        "weights": weights,
    }


def _running_r(arrays: dict[str, NDArray[Any]]) -> str:
    return f"(R {float(np.median(arrays['r_factor'])):.3f})" if "r_factor" in arrays else ""


def result_specs(first: Phased, pairs: Pairs) -> dict[str, ArraySpec]:
    """The arrays of a result store whose items look like these."""
    units = {
        "projection": "mean intensity",
        "wave": "unit plane wave",
        "r_factor": "1",
        "trust": "expected cosine of the phase error",
        "start_r": "1",
        "solved": "true where judged solved",
    }
    specs = {
        name: ArraySpec(array.shape[1:], str(array.dtype), units[name])
        for name, array in result_arrays(first).items()
    }
    specs["item"] = ArraySpec((), "int64", "index in the input")
    specs["structure"] = ArraySpec((), "int32", "index")
    specs["pattern_mask"] = ArraySpec((pairs.m, pairs.m), "bool", "true where measured", False)
    specs["seconds"] = ArraySpec((), "float64", "s")
    if pairs.rotation is not None:
        specs["rotation"] = ArraySpec((3, 3), "float64", "1")
    return specs


def result_arrays(phased: Phased) -> dict[str, NDArray[Any]]:
    """What a method gave, as a result store's arrays."""
    tensors = {
        "projection": phased.projection,
        "wave": phased.wave,
        "r_factor": phased.r_factor,
        "trust": phased.trust,
        "start_r": phased.start_r,
        "solved": phased.solved,
    }
    return {name: array.cpu().numpy() for name, array in tensors.items() if array is not None}
