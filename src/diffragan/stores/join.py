"""Stores of the ranges of one run, joined into the store of the whole run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from diffragan.engine.items import first_item
from diffragan.errors import DiffraganError
from diffragan.files.store import MeasurementStore, ResultStore, SimulationStore, Store, store_kind
from diffragan.files.store_header import array_of, listed_arrays
from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.progress import Progress, no_progress


def join_stores(
    parts: Sequence[Path],
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """One store of the items of several, in the order of their run; the bytes of a run in one go.

    An interrupted call is continued by the same call.

    Args:
        parts: stores of adjacent ranges of one run, in any order. out: store to write, .zarr.

    Raises:
        DiffraganError: parts of different runs, a gap or an overlap between them, or a part that
            can't be read.
    """
    stores = sorted((open_store(path) for path in parts), key=_range)
    for one, two in pairwise(stores):
        if _of_run(one) != _of_run(two):
            raise DiffraganError(
                f"{one.path} and {two.path} are of different runs; join the ranges of one."
            )
        if _range(one)[1] != _range(two)[0]:
            raise DiffraganError(
                f"{one.path} holds the items {_words(one)} and {two.path} {_words(two)}; give "
                "every range once."
            )
    specs = {name: _spec(stores[0], name) for name in listed_arrays(stores[0].group)}
    specs.pop("done", None)
    n = sum(store.n for store in stores)
    first = _range(stores[0])[0]
    header = _of_run(stores[0]) | ({"first_item": first} if first else {})
    kind = header.pop("kind")
    with StoreWriter(out, kind, n, specs, header, overwrite=overwrite) as writer:
        if writer.complete:
            return out
        _put_whole(writer, stores, specs)
        starts = np.cumsum([0, *(store.n for store in stores)])
        copied = [name for name, spec in specs.items() if spec.per_item and spec.shape]
        for block in writer.pending():
            owner = np.searchsorted(starts, block, side="right") - 1
            arrays = {
                name: np.concatenate(
                    [stores[k].read(name, block[owner == k] - starts[k]) for k in np.unique(owner)]
                )
                for name in copied
            }
            writer.write(block, **arrays)
            progress("items", int(block[-1]) + 1, n)
        writer.finish()
    return out


def _put_whole(writer: StoreWriter, stores: Sequence[Store], specs: dict[str, ArraySpec]) -> None:
    """Arrays of one number an item, and those that all items share."""
    for name, spec in specs.items():
        if not spec.per_item:
            values = [store.read(name) for store in stores]
            if any(not np.array_equal(values[0], other) for other in values[1:]):
                raise DiffraganError(f"The stores differ in the array '{name}'; join one run's.")
            writer.put(name, values[0])
        elif not spec.shape:
            writer.put(name, np.concatenate([store.read(name) for store in stores]))


def open_store(path: Path) -> SimulationStore | MeasurementStore | ResultStore:
    """A finished store of any kind; errors as `open_simulation`."""
    kind = store_kind(path)
    if kind == "simulation":
        return SimulationStore(path)
    return MeasurementStore(path) if kind == "measurement" else ResultStore(path)


def _range(store: Store) -> tuple[int, int]:
    """The first item of the run that a store holds, and the first that comes after it."""
    first = first_item(store.header)
    return first, first + store.n


def _words(store: Store) -> str:
    return ":".join(map(str, _range(store)))


def _of_run(store: Store) -> dict[str, Any]:
    """What the header tells of the whole run."""
    apart = ("n", "first_item", "format", "version")
    return {name: value for name, value in store.header.items() if name not in apart}


def _spec(store: Store, name: str) -> ArraySpec:
    array = array_of(store.group, name, store.path)
    per_item = name != "pattern_mask"
    unit = str(array.attrs.get("unit", ""))
    shape = tuple(int(side) for side in (array.shape[1:] if per_item else array.shape))
    return ArraySpec(shape, str(array.dtype), unit, per_item)
