"""Finished stores, read by item: exit waves, pairs, and phased results with their origin."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.integrity.damage import chunk_file, is_readable
from diffragan.files.store_header import (
    Kind,
    StructureInfo,
    array_of,
    from_half,
    listed_arrays,
    open_group,
    read_header,
    reason_of,
)
from diffragan.optics import DEFOCUS_ARRAYS, Defocus, Optics

Selection = slice | Sequence[int] | NDArray[np.integer[Any]]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files in the order of their names."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        if file != path:
            digest.update(file.relative_to(path).as_posix().encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


class Store:
    """What all stores share: the header's fields, and arrays read by item.

    optics: energy, box and object plane of the store's waves.

    Raises:
        DiffraganError: no finished store of this kind, or a damaged one.
    """

    kind: Kind

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = read_header(path)
        kind = self.header["kind"]
        if kind != self.kind:
            raise DiffraganError(f"{path} is a {kind} store; a {self.kind} store is wanted here.")
        self.group = open_group(path)
        try:
            self.n = int(self.header["n"])
            self.settings: dict[str, Any] = dict(self.header["settings"])
            self.structures = tuple(StructureInfo(**s) for s in self.header.get("structures", []))
            self.optics = Optics(**self.header["optics"])
        except (KeyError, TypeError, ValueError) as error:
            raise DiffraganError(
                f"The header of {path} is damaged ({reason_of(error)}); copy the store again, or "
                "write it anew."
            ) from None

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the same path."""
        return type(self), (self.path.resolve(),)

    def __repr__(self) -> str:
        names = ", ".join(info.stem for info in self.structures[:3])
        more = "" if len(self.structures) <= 3 else f" and {len(self.structures) - 3} more"
        of = f" of {names}{more}" if names else ""
        return f"<{type(self).__name__} {self.path}: {self._content}{of}, {self.box_A:g} Å>"

    @property
    def _content(self) -> str:
        """What the store holds, in words."""
        return f"{self.n} items"

    @property
    def box_A(self) -> float:
        """Side of the square field, Å."""
        return self.optics.box_A

    @property
    def energy_ev(self) -> float:
        """Beam energy, eV."""
        return self.optics.energy_ev

    @property
    def centre_to_exit_A(self) -> float:
        """From the molecule's centre plane downstream to the exit wave's plane, Å."""
        return self.optics.centre_to_exit_A

    def close(self) -> None:
        """Let go of a zipped store's file; other stores hold none open."""
        self.group.store.close()

    def has(self, name: str) -> bool:
        """Whether the store holds this array, or should hold it."""
        listed = listed_arrays(self.group)
        if listed:
            return name in listed
        try:
            return name in self.group
        except Exception:  # it is there and damaged, as reading it will tell
            return True

    def read(self, name: str, items: Selection | None = None) -> NDArray[Any]:
        """An array, or some of its items, in memory.

        Raises:
            DiffraganError: the array is missing, or a file that it takes is missing or damaged.
        """
        array = array_of(self.group, name, self.path)
        per_item = not array.shape or array.shape[0] == self.n
        try:
            values = _values(array, items)
        except Exception as error:  # zarr, its codecs and zipfile have a word each for damage
            if per_item and isinstance(error, IndexError):
                raise  # the caller's
            raise self._damaged(array, name, items, reason_of(error)) from None
        self._check_present(array, name, items)
        return values

    def _damaged(
        self, array: zarr.Array[Any], name: str, items: Selection | None, reason: str
    ) -> DiffraganError:
        """In words, which of the items asked for is damaged."""
        numbers = _numbers(array, items)
        item = next((int(k) for k in numbers if not is_readable(array, int(k))), int(numbers[0]))
        return DiffraganError(
            f"{self._part(array, name, item)} is damaged ({reason}); copy the store again, or "
            "have the command that wrote it repair it (--repair)."
        )

    def _check_present(self, array: zarr.Array[Any], name: str, items: Selection | None) -> None:
        """Refuses missing files, which Zarr reads as zeros. Arrays of earlier versions have no
        checksums, and their chunks of zeros were not written."""
        if "crc32c" not in str(array.metadata.to_dict()["codecs"]):
            return
        size = (array.shards or array.chunks)[0]
        numbers = _numbers(array, items)
        for item in numbers[np.unique(numbers // size, return_index=True)[1]]:
            if not self._bytes(f"{name}/{chunk_file(array, item)}"):
                raise DiffraganError(
                    f"{self._part(array, name, item)} is missing or empty; copy the store again, "
                    "or have the command that wrote it repair it (--repair)."
                )

    def _part(self, array: zarr.Array[Any], name: str, item: int) -> str:
        """A part of an array as a message calls it."""
        one = array.chunks[0] == 1 and array.shape[0] == self.n
        what = f"Item {item} of the array '{name}'" if one else f"The array '{name}'"
        return f"{what} in {self.path} (file {name}/{chunk_file(array, item)})"

    def _bytes(self, file: str) -> int:
        """Bytes of a file in the store, 0 where there is none."""
        if self.path.is_dir():
            path = self.path / file
            return path.stat().st_size if path.is_file() else 0
        return self._zipped.get(file, 0)

    @cached_property
    def _zipped(self) -> dict[str, int]:
        with zipfile.ZipFile(self.path) as archive:
            return {info.filename: info.file_size for info in archive.infolist()}

    @cached_property
    def structure_index(self) -> NDArray[np.int64]:
        """(n,) index of each item's molecule in `structures`."""
        if not self.has("structure"):
            return np.zeros(self.n, dtype=np.int64)
        return self.read("structure").astype(np.int64)

    @cached_property
    def rotation(self) -> NDArray[np.float64] | None:
        """(n, 3, 3) orientations, r' = R r, or None where they are not known."""
        return self.read("rotation").astype(np.float64) if self.has("rotation") else None


class SimulationStore(Store):
    """Exit waves of simulated molecules."""

    kind: Kind = "simulation"

    @property
    def _content(self) -> str:
        return f"{self.n} exit waves"

    @property
    def n_px(self) -> int:
        """Side of the exit waves in pixels."""
        return int(array_of(self.group, "exit_wave", self.path).shape[-1])

    def exit_wave(self, items: Selection) -> NDArray[np.complex64]:
        """(k, y, x) complex64 exit waves, mean intensity about 1."""
        values = self.read("exit_wave", items)
        return values if values.dtype == np.complex64 else from_half(values, self._means(items))

    def _means(self, items: Selection) -> NDArray[np.complex64]:
        return np.atleast_1d(self.read("mean_wave", items))


class MeasurementStore(Store):
    """Patterns and images, as an instrument gives them, perhaps with the truth beside them."""

    kind: Kind = "measurement"

    @property
    def _content(self) -> str:
        return f"{self.n} pairs"

    @cached_property
    def defocus(self) -> Defocus | None:
        """Of each image, or None where all have the settings' and no astigmatism."""
        if not self.has("defocus_u_A"):
            return None
        return Defocus(*(self.read(name).astype(np.float64) for name in DEFOCUS_ARRAYS))


class ResultStore(Store):
    """Phased waves and projections, with what is known of their worth."""

    kind: Kind = "result"

    @property
    def _content(self) -> str:
        return f"{self.n} pairs phased by {self.method}"

    @property
    def method(self) -> str:
        """The method that phased them."""
        return str(self.header["method"])

    @property
    def invents(self) -> bool:
        """Whether that method may show detail that no measurement determines, as a network does."""
        recorded = self.header.get("invents")
        return self.method in ("published", "hybrid") if recorded is None else bool(recorded)

    @property
    def input_path(self) -> Path:
        """Where the pairs came from; of several inputs, the first."""
        return Path(self.header["input"]["path"])

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """`path`, `image` and `sha256` of every input, in order."""
        entry: dict[str, Any] = self.header.get("input") or {}
        return list(entry.get("parts") or [entry])

    @property
    def weights_sha256(self) -> str | None:
        """Hash of the weights used, None where the method has none."""
        weights = self.header.get("weights")
        return None if weights is None else str(weights["sha256"])

    @cached_property
    def items(self) -> NDArray[np.int64]:
        """(n,) index of each result in the input."""
        return self.read("item").astype(np.int64)

    def wave(self, items: Selection) -> NDArray[np.complex64] | None:
        """(k, m, m) wave at the molecule's centre plane; None for a projection-only method."""
        return self.read("wave", items) if self.has("wave") else None

    def projection(self, items: Selection) -> NDArray[np.float32]:
        """(k, y, x) projection, mean about 1."""
        return self.read("projection", items)

    @cached_property
    def r_factor(self) -> NDArray[np.float64] | None:
        """(n,) amplitude R-factor of the constrained model; None where there is no model."""
        return self.read("r_factor").astype(np.float64) if self.has("r_factor") else None

    @cached_property
    def trust(self) -> NDArray[np.float32] | None:
        """(n, rings) trust in the phases by ring, ring k at q = k/L."""
        return self.read("trust") if self.has("trust") else None

    @cached_property
    def start_r(self) -> NDArray[np.float64] | None:
        """(n, starts) R of every start; None for a method that makes no starts."""
        return self.read("start_r").astype(np.float64) if self.has("start_r") else None

    @cached_property
    def solved(self) -> NDArray[np.bool_] | None:
        """(n,) whether a result counts as solved, judged without a truth; None if not judged."""
        return self.read("solved").astype(bool) if self.has("solved") else None

    @cached_property
    def seconds_per_image(self) -> float | None:
        """Mean seconds the phasing took per image."""
        return float(self.read("seconds").mean()) if self.has("seconds") else None


def open_simulation(path: Path) -> SimulationStore:
    """A finished simulation store.

    Raises:
        DiffraganError: not a finished simulation store of a version this release reads.
    """
    return SimulationStore(Path(path))


def open_results(path: Path) -> ResultStore:
    """A finished result store; errors as `open_simulation`."""
    return ResultStore(Path(path))


def store_kind(path: Path) -> Kind:
    """The kind of store at a path; errors as `open_simulation`."""
    kind: Kind = read_header(Path(path))["kind"]
    return kind


def _values(array: zarr.Array[Any], items: Selection | None) -> NDArray[Any]:
    if items is None:
        return np.asarray(array[...])
    if isinstance(items, slice):
        return np.asarray(array[items])
    chosen = np.asarray(items, dtype=np.int64)
    if chosen.ndim == 1 and len(chosen) and (np.diff(chosen) == 1).all():
        return np.asarray(array[int(chosen[0]) : int(chosen[-1]) + 1])
    return np.asarray(array.oindex[chosen])


def _numbers(array: zarr.Array[Any], items: Selection | None) -> NDArray[np.int64]:
    """The items asked for, counted from 0."""
    every = np.arange(array.shape[0])
    chosen: NDArray[np.int64] = every[slice(None) if items is None else items]
    return np.atleast_1d(chosen)
