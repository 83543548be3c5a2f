"""Stores written item by item.

A store is written under the name `X.zarr.part` and gets its own name when it is whole. An
interrupted run finds the `.part`, sees which items are done, and goes on from there.

Every array is chunked one item a chunk; large stores shard `SHARD_ITEMS` items a file. Chunks
carry a checksum and are written even where they are zero, so that a changed or missing one is
noticed, and repaired where that is asked for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from diffragan import __version__
from diffragan.errors import DiffraganError
from diffragan.files.integrity.damage import damaged_items, remove_damaged
from diffragan.files.integrity.lock import Lock
from diffragan.files.store_header import (
    FORMAT,
    Kind,
    array_of,
    described,
    read_header,
    reason_of,
    unfinished,
)
from diffragan.optics import DEFOCUS_ARRAYS
from diffragan.settings.old_keys import present_keys

SHARD_ITEMS = 16


SHARD_FROM_ITEMS = 4096


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store; `shape` is that of a single item, () for a number."""

    shape: tuple[int, ...]
    dtype: str
    unit: str
    per_item: bool = True


def defocus_specs() -> dict[str, ArraySpec]:
    """The arrays of a defocus for each image (`optics.Defocus`)."""
    units = ("angstrom", "angstrom", "degree")
    return {
        name: ArraySpec((), "float64", unit)
        for name, unit in zip(DEFOCUS_ARRAYS, units, strict=True)
    }


_DONE = ArraySpec((), "bool", "items written")


class StoreWriter:
    """Writes a store item by item, resumes an interrupted one, and names it when it is whole.

    `attributes` (plain JSON) identify the run: an unfinished store with the same attributes is
    continued, one with others is refused. Until `close`, no other run writes the store; use it in
    a `with` block.

    done: (n,) bool, the items that are written. fresh: whether arrays that are written by `put`
    must be. With `repair`, items of the store that can't be read any more are not done.

    Raises:
        DiffraganError: a store of another run, a damaged one, or one that another run is writing.
    """

    def __init__(
        self,
        path: Path,
        kind: Kind,
        n: int,
        arrays: Mapping[str, ArraySpec],
        attributes: Mapping[str, Any],
        *,
        overwrite: bool = False,
        repair: bool = False,
    ) -> None:
        if path.suffix != ".zarr":
            raise DiffraganError(f"A store's name ends in .zarr, which '{path}' does not.")
        self.path, self.n, self.fresh = path, n, False
        self.part = unfinished(path)
        self.block = SHARD_ITEMS if n >= SHARD_FROM_ITEMS else 1
        header = {"kind": kind, "format": FORMAT, "version": __version__, "n": n, **attributes}
        self.header: dict[str, Any] = json.loads(json.dumps(header))
        self.complete = False
        self._lock = Lock(path)
        try:
            self._open(arrays, overwrite=overwrite, repair=repair)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other runs write the store."""
        self._lock.release()

    def _open(self, arrays: Mapping[str, ArraySpec], *, overwrite: bool, repair: bool) -> None:
        if self.path.exists() and not overwrite:
            if not self._is_this_run(self.path):
                raise DiffraganError(
                    f"{self.path} exists and came from other settings or inputs; choose another "
                    "--out, or pass --overwrite."
                )
            if not repair:
                self.complete = True
                self.done = np.ones(self.n, dtype=bool)
                return
            shutil.rmtree(self.part, ignore_errors=True)
            self.path.replace(self.part)
        if self.part.exists() and overwrite:
            shutil.rmtree(self.part)
        if self.part.exists():
            if not self._is_this_run(self.part):
                raise DiffraganError(
                    f"{self.part} is an unfinished run with other settings or inputs; remove it, "
                    "choose another --out, or pass --overwrite."
                )
            # What a killed process was writing when it was.
            for half_written in self.part.rglob("*.partial"):
                half_written.unlink()
            self.group = zarr.open_group(self.part, mode="r+")
        else:
            self.group = self._create(arrays)
        if repair:
            self._find_damage(arrays)
        try:
            self.done = np.asarray(self._array("done")[:], dtype=bool)
        except (DiffraganError, ValueError, RuntimeError) as error:
            raise DiffraganError(
                f"The unfinished run {self.part} is damaged (array 'done': {reason_of(error)}); "
                "pass --repair to find what is whole, or --overwrite."
            ) from None
        self.fresh = repair or not self.done.any()

    def _find_damage(self, arrays: Mapping[str, ArraySpec]) -> None:
        """Set `done` to what can still be read; arrays whose description is gone start anew."""
        damaged = np.zeros(self.n, dtype=bool)
        for name, spec in arrays.items():
            try:
                array = self._array(name)
            except DiffraganError:
                shutil.rmtree(self.part / name, ignore_errors=True)
                self._create_array(self.group, name, spec)
                damaged |= spec.per_item
                continue
            if spec.per_item:
                here = damaged_items(array, self.part / name)
                remove_damaged(array, self.part / name, here)
                damaged |= here
        try:
            done = np.asarray(self._array("done")[:], dtype=bool)
        except (DiffraganError, ValueError, RuntimeError):  # then what can be read was written
            done = np.ones(self.n, dtype=bool)
            shutil.rmtree(self.part / "done", ignore_errors=True)
            self._create_array(self.group, "done", _DONE)
        self._array("done")[:] = done & ~damaged

    def _is_this_run(self, path: Path) -> bool:
        header = read_header(path)
        header["settings"] = present_keys(header.get("settings", {}))
        return header == {"settings": {}} | self.header

    def _create(self, arrays: Mapping[str, ArraySpec]) -> zarr.Group:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.part.with_name(self.part.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        group = zarr.open_group(fresh, mode="w")
        listed: dict[str, list[Any]] = {}
        for name, spec in {**arrays, "done": _DONE}.items():
            listed[name] = described(self._create_array(group, name, spec))
        group.attrs.update({"diffragan": self.header, "arrays": listed})
        fresh.replace(self.part)
        return zarr.open_group(self.part, mode="r+")

    def _create_array(self, group: zarr.Group, name: str, spec: ArraySpec) -> zarr.Array[Any]:
        shape, chunk, shards = spec.shape, spec.shape, None
        if spec.per_item and spec.shape:
            shape, chunk = (self.n, *spec.shape), (1, *spec.shape)
            shards = (self.block, *spec.shape) if self.block > 1 else None
        elif spec.per_item:
            shape = chunk = (self.n,)
        return group.create_array(
            name,
            shape=shape,
            chunks=chunk,
            shards=shards,
            dtype=spec.dtype,
            compressors=(ZstdCodec(), Crc32cCodec()),
            attributes={"unit": spec.unit},
        )

    def _array(self, name: str) -> zarr.Array[Any]:
        # Whether chunks of zeros are written is no part of an array's description.
        with zarr.config.set({"array.write_empty_chunks": True}):
            return array_of(self.group, name, self.part)

    def pending(self, size: int = 1) -> list[NDArray[np.int64]]:
        """Blocks with items still to be written, in order: of about `size` items, of whole shards,
        and the same ones whatever is written already."""
        step = max(size // self.block, 1) * self.block
        blocks = [np.arange(i, min(i + step, self.n)) for i in range(0, self.n, step)]
        return [block for block in blocks if not self.done[block].all()]

    def put(self, name: str, values: NDArray[Any]) -> None:
        """Write a whole array at once."""
        self._array(name)[...] = values

    def write(self, items: Sequence[int] | NDArray[np.int64], **arrays: NDArray[Any]) -> None:
        """Write consecutive items (a run of whole blocks); they count once all are on disk."""
        span = slice(int(items[0]), int(items[-1]) + 1)
        for name, values in arrays.items():
            self._array(name)[span] = values
        self.done[span] = True
        self._array("done")[:] = self.done

    def finish(self) -> None:
        """Give the store its name and let others in. Refuses to name one with items missing."""
        if self.complete:
            return
        if not self.done.all():
            raise ValueError(f"{int((~self.done).sum())} items of {self.part} are not written")
        if self.path.exists():
            old = self.path.with_name(self.path.name + ".old")
            self.path.replace(old)
            self.part.replace(self.path)
            shutil.rmtree(old)
        else:
            self.part.replace(self.path)
        self.complete = True
        self.close()
