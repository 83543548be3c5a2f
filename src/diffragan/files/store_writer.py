"""Stores written item by item.

A store is written under the name `X.zarr.part` and gets its own name when it is whole. An
interrupted run finds the `.part`, sees which items are done, and goes on from there.

Every array is chunked one item a chunk; large stores shard `SHARD_ITEMS` items a file. Chunks carry
a checksum and are written even where they are zero, so that a changed or missing one is noticed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from diffragan import __version__
from diffragan.errors import DiffraganError
from diffragan.files.store_header import (
    FORMAT,
    Kind,
    array_of,
    described,
    read_header,
    reason_of,
    unfinished,
)
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


class StoreWriter:
    """Writes a store item by item, resumes an interrupted one, and names it when it is whole.

    `attributes` (plain JSON) identify the run: an unfinished store with the same attributes is
    continued, one with others is refused.
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
    ) -> None:
        if path.suffix != ".zarr":
            raise DiffraganError(f"A store's name ends in .zarr, which '{path}' does not.")
        self.path, self.n = path, n
        self.part = unfinished(path)
        self.block = SHARD_ITEMS if n >= SHARD_FROM_ITEMS else 1
        header = {"kind": kind, "format": FORMAT, "version": __version__, "n": n, **attributes}
        self.header: dict[str, Any] = json.loads(json.dumps(header))
        self.complete = False
        if path.exists() and not overwrite:
            if not self._is_this_run(path):
                raise DiffraganError(
                    f"{path} exists and came from other settings or inputs; choose another "
                    "--out, or pass --overwrite."
                )
            self.complete = True
            self.done = np.ones(n, dtype=bool)
            return
        if self.part.exists() and overwrite:
            shutil.rmtree(self.part)
        if self.part.exists():
            if not self._is_this_run(self.part):
                raise DiffraganError(
                    f"{self.part} is an unfinished run with other settings or inputs; remove it, "
                    "choose another --out, or pass --overwrite."
                )
            self.group = zarr.open_group(self.part, mode="r+")
        else:
            self.group = self._create(arrays)
        try:
            self.done = np.asarray(self._array("done")[:], dtype=bool)
        except (DiffraganError, ValueError, RuntimeError) as error:
            raise DiffraganError(
                f"The unfinished run {self.part} is damaged (array 'done': {reason_of(error)}); "
                "remove it, or pass --overwrite."
            ) from None

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
        for name, spec in {**arrays, "done": ArraySpec((), "bool", "items written")}.items():
            if spec.per_item:
                shape, chunk = (self.n, *spec.shape), (1, *spec.shape)
                shards = (self.block, *spec.shape) if self.block > 1 else None
                if not spec.shape:
                    chunk, shards = (self.n,), None
            else:
                shape, chunk, shards = spec.shape, spec.shape, None
            array = group.create_array(
                name,
                shape=shape,
                chunks=chunk,
                shards=shards,
                dtype=spec.dtype,
                compressors=(ZstdCodec(), Crc32cCodec()),
                attributes={"unit": spec.unit},
            )
            listed[name] = described(array)
        group.attrs.update({"diffragan": self.header, "arrays": listed})
        fresh.replace(self.part)
        return zarr.open_group(self.part, mode="r+")

    def _array(self, name: str) -> zarr.Array[Any]:
        # Whether chunks of zeros are written is no part of an array's description.
        with zarr.config.set({"array.write_empty_chunks": True}):
            return array_of(self.group, name, self.part)

    def pending(self) -> list[NDArray[np.int64]]:
        """Blocks of items still to be written, in order."""
        blocks = [np.arange(i, min(i + self.block, self.n)) for i in range(0, self.n, self.block)]
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
        """Give the store its name. Refuses to name one with items missing."""
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
