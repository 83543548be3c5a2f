"""Stores: whole or not there, refused in plain words, read by item."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from diffragan.errors import DiffraganError
from diffragan.files import store_writer as store_module
from diffragan.files.store import file_sha256, open_results, open_simulation, store_kind
from diffragan.files.store_writer import ArraySpec, StoreWriter

OPTICS = {"energy_ev": 200e3, "box_A": 70.0, "centre_to_exit_A": 35.0}
HEADER: dict[str, Any] = {"optics": OPTICS, "settings": {}, "structures": []}
SPECS = {"exit_wave": ArraySpec((4, 4), "complex64", "1"), "rotation": ArraySpec((3, 3), "f8", "1")}


def values(n: int) -> np.ndarray[Any, np.dtype[np.complex64]]:
    return (np.arange(n * 16).reshape(n, 4, 4) * (1 + 2j)).astype(np.complex64)


def write(path: Path, n: int = 5, **header: Any) -> Path:
    writer = StoreWriter(path, "simulation", n, SPECS, HEADER | header)
    for block in writer.pending():
        writer.write(block, exit_wave=values(n)[block])
    writer.finish()
    return path


def test_items_come_back(tmp_path: Path) -> None:
    store = open_simulation(write(tmp_path / "a.zarr"))
    np.testing.assert_array_equal(store.exit_wave(slice(0, 5)), values(5))
    np.testing.assert_array_equal(store.exit_wave([3, 0]), values(5)[[3, 0]])
    np.testing.assert_array_equal(store.exit_wave([1, 2]), values(5)[1:3])
    assert store.group["exit_wave"].attrs["unit"] == "1"
    assert store_kind(tmp_path / "a.zarr") == "simulation"


def test_large_stores_are_sharded_and_resume_by_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SHARD_FROM_ITEMS", 20)
    path = tmp_path / "big.zarr"
    writer = StoreWriter(path, "simulation", 37, SPECS, HEADER)
    blocks = writer.pending()
    assert [len(b) for b in blocks] == [16, 16, 5]
    writer.write(blocks[0], exit_wave=values(37)[blocks[0]])
    writer.close()
    again = StoreWriter(path, "simulation", 37, SPECS, HEADER)
    assert [int(b[0]) for b in again.pending()] == [16, 32]
    for block in again.pending():
        again.write(block, exit_wave=values(37)[block])
    again.finish()
    np.testing.assert_array_equal(open_simulation(path).exit_wave(slice(0, 37)), values(37))
    assert len(list((path / "exit_wave" / "c").glob("*"))) == 3


def test_a_zipped_store_reads_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr")
    packed = tmp_path / "a.zarr.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(path.rglob("*")):
            archive.write(file, file.relative_to(path))
    store = open_simulation(packed)
    np.testing.assert_array_equal(store.exit_wave([4]), values(5)[4:])
    store.close()


def test_a_failed_replacement_leaves_the_old_store(tmp_path: Path) -> None:
    """Nothing of the good store is touched until the new one is whole."""
    path = write(tmp_path / "a.zarr")
    before = file_sha256(path)
    writer = StoreWriter(path, "simulation", 5, SPECS, HEADER | {"x": 1}, overwrite=True)
    writer.write([0], exit_wave=values(5)[:1])
    with pytest.raises(ValueError, match="not written"):
        writer.finish()
    assert file_sha256(path) == before


def test_a_full_disk_keeps_what_was_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.zarr"
    writer = StoreWriter(path, "simulation", 5, SPECS, HEADER)
    writer.write([0, 1], exit_wave=values(5)[:2])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(zarr.storage.LocalStore, "set", full)
        with pytest.raises(OSError, match="No space"):
            writer.write([2], exit_wave=values(5)[2:3])
    writer.close()
    again = StoreWriter(path, "simulation", 5, SPECS, HEADER)
    assert [int(b[0]) for b in again.pending()] == [2, 3, 4]


def change_header(path: Path, **changes: Any) -> None:
    file = path / "zarr.json"
    tree = json.loads(file.read_text())
    tree["attributes"]["diffragan"].update(changes)
    file.write_text(json.dumps(tree))


def test_other_kinds_and_versions_are_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr")
    with pytest.raises(DiffraganError, match="is a simulation store; a result store is wanted"):
        open_results(path)
    change_header(path, format=99)
    with pytest.raises(DiffraganError, match="format 99"):
        open_simulation(path)
    with pytest.raises(DiffraganError, match="no store"):
        open_simulation(tmp_path / "none.zarr")
    (tmp_path / "text.zarr").write_text("hello")
    with pytest.raises(DiffraganError, match="is not a diffragan store"):
        open_simulation(tmp_path / "text.zarr")
    zarr.open_group(tmp_path / "foreign.zarr", mode="w")
    with pytest.raises(DiffraganError, match="is not a diffragan store"):
        open_simulation(tmp_path / "foreign.zarr")
    with pytest.raises(DiffraganError, match=r"ends in \.zarr"):
        write(tmp_path / "a.h5")


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr")
    chunk = path / "exit_wave" / "c" / "2" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:7])
    store = open_simulation(path)
    store.exit_wave([1])
    with pytest.raises(DiffraganError, match=r"'exit_wave'.*damaged"):
        store.exit_wave([2])


def test_missing_arrays_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr")
    shutil.rmtree(path / "exit_wave")
    with pytest.raises(DiffraganError, match="no array 'exit_wave'"):
        open_simulation(path).exit_wave([0])
