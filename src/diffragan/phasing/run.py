"""From pairs to a result store: batched, resumable, nothing of the truth in sight."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.store_header import info_to_json, unfinished
from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.microscope.noise import item_seed
from diffragan.pairs.pairs import Pairs
from diffragan.phasing.method import Context, Method, PairBatch, Phased
from diffragan.phasing.methods import METHODS
from diffragan.phasing.registry import check_options
from diffragan.progress import Progress, no_progress
from diffragan.settings import Settings

METHOD_NOISE = 2

STAGE = "pairs phased"


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


def choose_items(n: int, limit: int | None) -> NDArray[np.int64]:
    """All items, or `limit` of them spread evenly over the store."""
    if limit is None or limit >= n:
        return np.arange(n)
    return (np.arange(limit) * n) // limit


def phase_pairs(
    pairs: Pairs,
    out: Path,
    settings: Settings,
    context: Context | None = None,
    *,
    limit: int | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """Phase pairs one by one, by `settings.phase.method`, into a result store.

    An interrupted run keeps what is finished and is continued by the same call. The result holds
    where it came from: input path and hash, settings, weights.

    Args:
        context: from `load_context`; none: bundled weights where there is a network, on the CPU.
        limit: so many pairs, spread evenly over the input.
        progress: told the number of pairs done, and R where the method has one.

    Raises:
        DiffraganError: the method does not fit the input, or `out` was made otherwise.
    """
    settings = with_method(settings, settings.phase.method)
    method = METHODS[settings.phase.method]
    context = context or load_context(settings.phase.method)
    items = choose_items(pairs.n, limit)

    def phase(places: NDArray[np.int64]) -> tuple[Phased, dict[str, NDArray[Any]]]:
        began = time.perf_counter()
        batch = make_pair_batch(pairs, items[places], settings, context.device)
        phased = method(batch, context)
        seconds = (time.perf_counter() - began) / len(places)
        return phased, result_arrays(phased) | {"seconds": np.full(len(places), seconds)}

    # The first pair tells the shapes, so that a method need not declare them; its result is kept.
    fresh = overwrite or not (out.exists() or unfinished(out).exists())
    first = phase(np.arange(1)) if fresh else None
    header = result_header(settings.phase.method, pairs, settings, weights_record(context))
    specs = {} if first is None else result_specs(first[0], pairs)
    writer = StoreWriter(out, "result", len(items), specs, header, overwrite=overwrite)
    if writer.complete:
        return out
    if not writer.done.any():
        _write_origin(writer, pairs, items)
    if first is not None:
        writer.write([0], **first[1])
    pending = writer.pending()
    size = max(settings.phase.batch_size // writer.block, 1)
    for start in range(0, len(pending), size):
        places = np.concatenate(pending[start : start + size])
        phased, arrays = phase(places)
        _write_places(writer, places, arrays)
        progress(STAGE, int(writer.done.sum()), len(items), _running_r(phased))
    writer.finish()
    return out


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


def _write_places(
    writer: StoreWriter, places: NDArray[np.int64], arrays: dict[str, NDArray[Any]]
) -> None:
    """Write results to their places; after an interrupt the open ones may not be one run, and each
    is then written alone."""
    if int(places[-1] - places[0]) + 1 == len(places):
        writer.write(places, **arrays)
        return
    for k, place in enumerate(places):
        writer.write([int(place)], **{name: a[k : k + 1] for name, a in arrays.items()})


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


def _running_r(phased: Phased) -> str:
    return "" if phased.r_factor is None else f"(R {float(phased.r_factor.median()):.3f})"


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
