"""From pairs to a result store: batched, resumable, nothing of the truth in sight."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.store_header import info_to_json, unfinished
from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.microscope.imaging import item_seed
from diffragan.pairs.pairs import Pairs
from diffragan.phasing import methods  # noqa: F401  (registers every method)
from diffragan.phasing.method import METHODS, NEEDS_WEIGHTS, Context, PairBatch, Phased
from diffragan.settings import Settings

METHOD_NOISE = 2


BUNDLED_WEIGHTS = "published.safetensors"


def make_pair_batch(
    pairs: Pairs, items: NDArray[np.int64], settings: Settings, device: torch.device
) -> PairBatch:
    """The pairs of some items, on the device."""
    return PairBatch(
        pattern=torch.from_numpy(pairs.pattern(items)).to(device),
        pattern_mask=torch.from_numpy(pairs.pattern_mask).to(device),
        image=torch.from_numpy(pairs.image(items)).to(device),
        image_dose_e_per_A2=torch.from_numpy(pairs.image_dose(items)).to(device),
        optics=pairs.optics,
        settings=settings,
        seeds=[item_seed(settings.seed, int(i), METHOD_NOISE) for i in items],
    )


def load_context(
    name: str, weights: Path | None, device: torch.device
) -> tuple[Context, dict[str, Any] | None]:
    """What the method needs besides pairs, and how the result store records it.

    Raises:
        DiffraganError: no such method, weights given to a method that has none, or weights that
            don't fit.
    """
    if name not in METHODS:
        raise DiffraganError(f"There is no method '{name}'; choose from {', '.join(METHODS)}.")
    if name not in NEEDS_WEIGHTS:
        if weights is not None:
            raise DiffraganError(f"The method '{name}' uses no weights; leave out --weights.")
        return Context(), None
    from diffragan.networks.weights import load_weights

    loaded = load_weights(weights or bundled_weights(), device)
    meta = loaded.metadata
    record = {
        "path": str(weights.resolve()) if weights else None,
        "sha256": loaded.sha256,
        "steps": meta.steps,
        "trained_on": [s.stem for s in meta.trained_on],
    }
    return Context(loaded), record


def bundled_weights() -> Path:
    """The weights in the package."""
    from importlib import resources

    return Path(str(resources.files("diffragan").joinpath("data", BUNDLED_WEIGHTS)))


def choose_items(n: int, limit: int | None) -> NDArray[np.int64]:
    """All items, or `limit` of them spread evenly over the store."""
    if limit is None or limit >= n:
        return np.arange(n)
    return (np.arange(limit) * n) // limit


def phase_pairs(
    pairs: Pairs,
    out: Path,
    settings: Settings,
    *,
    weights: Path | None = None,
    limit: int | None = None,
    device: torch.device | str = "cpu",
    overwrite: bool = False,
    progress: Callable[[int, str], None] | None = None,
) -> Path:
    """Phase pairs by `settings.phase.method` into a result store.

    An interrupted run keeps what is finished and is continued by the same call. The result holds
    where it came from: input path and hash, settings, weights. `progress` is told the number of
    pairs done and the running R, where the method has one.

    Raises:
        DiffraganError: the method does not fit the input, or `out` was made otherwise.
    """
    device = torch.device(device)
    name = settings.phase.method
    context, record = load_context(name, weights, device)
    items = choose_items(pairs.n, limit)
    header = result_header(name, pairs, settings, record)
    # The first pair tells the shapes, so that a method need not declare them; its result is kept.
    fresh = overwrite or not (out.exists() or unfinished(out).exists())
    began = time.perf_counter()
    first = (
        METHODS[name](make_pair_batch(pairs, items[:1], settings, device), context)
        if fresh
        else None
    )
    specs = {} if first is None else result_specs(first, pairs)
    writer = StoreWriter(out, "result", len(items), specs, header, overwrite=overwrite)
    if writer.complete:
        return out
    if not writer.done.any():
        writer.put("item", items)
        writer.put("structure", pairs.structure_index[items].astype(np.int32))
        if pairs.rotation is not None:
            writer.put("rotation", pairs.rotation[items])
    if first is not None:
        writer.write([0], **result_arrays(first), seconds=np.array([time.perf_counter() - began]))
    pending = writer.pending()
    size = max(settings.phase.batch_size // writer.block, 1)
    for start in range(0, len(pending), size):
        places = np.concatenate(pending[start : start + size])
        began = time.perf_counter()
        batch = make_pair_batch(pairs, items[places], settings, device)
        phased = METHODS[name](batch, context)
        seconds = (time.perf_counter() - began) / len(places)
        arrays = result_arrays(phased) | {"seconds": np.full(len(places), seconds)}
        # After an interrupt the open items may not be one run; each is then written alone.
        if int(places[-1] - places[0]) + 1 == len(places):
            writer.write(places, **arrays)
        else:
            for k, place in enumerate(places):
                writer.write([int(place)], **{n: a[k : k + 1] for n, a in arrays.items()})
        if progress:
            progress(int(writer.done.sum()), _running_r(phased))
    writer.finish()
    return out


def result_header(
    method: str, pairs: Pairs, settings: Settings, weights: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Where a result store's content comes from: method, input, settings, weights."""
    return {
        "method": method,
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
    specs["seconds"] = ArraySpec((), "float64", "s")
    if pairs.rotation is not None:
        specs["rotation"] = ArraySpec((3, 3), "float64", "1")
    return specs


def result_arrays(phased: Phased) -> dict[str, NDArray[Any]]:
    """What a method gave, as a result store's arrays."""
    found = {
        "projection": phased.projection,
        "wave": phased.wave,
        "r_factor": phased.r_factor,
        "trust": phased.trust,
        "start_r": phased.start_r,
        "solved": phased.solved,
    }
    return {name: array.cpu().numpy() for name, array in found.items() if array is not None}
