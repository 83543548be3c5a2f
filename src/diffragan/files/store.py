"""The stores: zarr groups that carry their settings, their version and where they came from.

A store is written under the name `X.zarr.part` and gets its own name when it is whole. An
interrupted run finds the `.part`, sees which items are done, and goes on from there.

Every array is chunked one item a chunk; large stores shard `SHARD_ITEMS` items a file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from diffragan import __version__
from diffragan.errors import DiffraganError
from diffragan.optics import Optics

FORMAT = 1


SHARD_ITEMS = 16


SHARD_FROM_ITEMS = 4096


Kind = Literal["simulation", "measurement", "result"]


Selection = slice | Sequence[int] | NDArray[np.integer[Any]]


@dataclass(frozen=True)
class StructureInfo:
    """What a store remembers of a molecule."""

    stem: str
    sha256: str = ""
    mass_kda: float = 0.0
    diameter_A: float = 0.0
    sequence: str = ""


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store; `shape` is that of a single item, () for a number."""

    shape: tuple[int, ...]
    dtype: str
    unit: str
    per_item: bool = True


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


def unfinished(path: Path) -> Path:
    """Where a store lies until it is whole."""
    return path.with_name(path.name + ".part")


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
            if _read_header(path) != self.header:
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
            if _read_header(self.part) != self.header:
                raise DiffraganError(
                    f"{self.part} is an unfinished run with other settings or inputs; remove it, "
                    "choose another --out, or pass --overwrite."
                )
            self.group = zarr.open_group(self.part, mode="r+")
        else:
            self.group = self._create(arrays)
        self.done = np.asarray(_array(self.group, "done")[:], dtype=bool)

    def _create(self, arrays: Mapping[str, ArraySpec]) -> zarr.Group:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.part.with_name(self.part.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        group = zarr.open_group(fresh, mode="w")
        for name, spec in arrays.items():
            if spec.per_item:
                shape, chunk = (self.n, *spec.shape), (1, *spec.shape)
                shards = (self.block, *spec.shape) if self.block > 1 else None
                if not spec.shape:
                    chunk, shards = (self.n,), None
            else:
                shape, chunk, shards = spec.shape, spec.shape, None
            array = group.create_array(
                name, shape=shape, chunks=chunk, shards=shards, dtype=spec.dtype
            )
            array.attrs["unit"] = spec.unit
        group.create_array("done", shape=(self.n,), chunks=(self.n,), dtype="bool")
        group.attrs["diffragan"] = self.header
        fresh.replace(self.part)
        return zarr.open_group(self.part, mode="r+")

    def pending(self) -> list[NDArray[np.int64]]:
        """Blocks of items still to be written, in order."""
        blocks = [np.arange(i, min(i + self.block, self.n)) for i in range(0, self.n, self.block)]
        return [block for block in blocks if not self.done[block].all()]

    def put(self, name: str, values: NDArray[Any]) -> None:
        """Write a whole array at once."""
        _array(self.group, name)[...] = values

    def write(self, items: Sequence[int] | NDArray[np.int64], **arrays: NDArray[Any]) -> None:
        """Write consecutive items (a run of whole blocks); they count once all are on disk."""
        span = slice(int(items[0]), int(items[-1]) + 1)
        for name, values in arrays.items():
            _array(self.group, name)[span] = values
        self.done[span] = True
        _array(self.group, "done")[:] = self.done

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


class Store:
    """What all stores share: the header's fields, and arrays read by item."""

    kind: Kind

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = _read_header(path)
        found = self.header["kind"]
        if found != self.kind:
            raise DiffraganError(f"{path} is a {found} store; a {self.kind} store is wanted here.")
        self.group = _open_group(path)
        self.n = int(self.header["n"])
        self.settings: dict[str, Any] = self.header["settings"]
        self.structures = tuple(StructureInfo(**s) for s in self.header.get("structures", []))

    @cached_property
    def optics(self) -> Optics:
        """Energy, box and object plane of the store's waves."""
        return Optics(**self.header["optics"])

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
        """Whether the store holds this array."""
        return name in self.group

    def read(self, name: str, items: Selection | None = None) -> NDArray[Any]:
        """An array, or some of its items, in memory.

        Raises:
            DiffraganError: the array is missing or its file is damaged.
        """
        if name not in self.group:
            raise DiffraganError(f"The store {self.path} has no array '{name}'; write it anew.")
        array = _array(self.group, name)
        try:
            if items is None:
                return np.asarray(array[...])
            if isinstance(items, slice):
                return np.asarray(array[items])
            chosen = np.asarray(items, dtype=np.int64)
            if chosen.ndim == 1 and len(chosen) and (np.diff(chosen) == 1).all():
                return np.asarray(array[int(chosen[0]) : int(chosen[-1]) + 1])
            return np.asarray(array.oindex[chosen])
        except (OSError, RuntimeError, ValueError) as error:
            raise DiffraganError(
                f"The array '{name}' of {self.path} can't be read ({error}); the file is damaged, "
                "write the store anew."
            ) from None

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
    def n_px(self) -> int:
        """Side of the exit waves in pixels."""
        return int(_array(self.group, "exit_wave").shape[-1])

    def exit_wave(self, items: Selection) -> NDArray[np.complex64]:
        """(k, y, x) complex64 exit waves, mean intensity about 1."""
        return self.read("exit_wave", items)


class ResultStore(Store):
    """Phased waves and projections, with what is known of their worth."""

    kind: Kind = "result"

    @property
    def method(self) -> str:
        """The method that phased them."""
        return str(self.header["method"])

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
        found = self.header.get("weights")
        return None if found is None else str(found["sha256"])

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
    kind: Kind = _read_header(Path(path))["kind"]
    return kind


def info_to_json(structures: Sequence[StructureInfo]) -> list[dict[str, Any]]:
    """Structures as a store's header keeps them."""
    return [asdict(s) for s in structures]


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _open_group(path: Path) -> zarr.Group:
    if path.name.endswith(".zip"):
        return zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")
    return zarr.open_group(path, mode="r")


def _read_header(path: Path) -> dict[str, Any]:
    """The store's header, refused in a plain sentence where this release can't read it."""
    if not path.exists():
        part = unfinished(path)
        if part.exists():
            raise DiffraganError(
                f"{path} is not finished (only {part.name} is there); run the command that "
                "writes it again, and it goes on where it stopped."
            )
        raise DiffraganError(f"There is no store {path}; check the name.")
    try:
        header = _open_group(path).attrs["diffragan"]
        assert isinstance(header, dict)
        kind, version = header["kind"], header["format"]
    except (OSError, KeyError, ValueError, AssertionError, FileNotFoundError):
        raise DiffraganError(
            f"{path} is not a diffragan store; give one that `diffragan simulate`, `image` or "
            "`phase` wrote."
        ) from None
    if version != FORMAT or kind not in ("simulation", "measurement", "result"):
        raise DiffraganError(
            f"{path} has format {version} (kind '{kind}'), and this release reads format "
            f"{FORMAT}; use the release that wrote it ({header.get('version')})."
        )
    return dict(header)
