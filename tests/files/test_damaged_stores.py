"""Damaged stores: whatever happened to a file, readers get the same values or a plain sentence."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffragan.errors import DiffraganError
from diffragan.files import store_writer
from diffragan.files.store import Store, open_results, open_simulation, store_kind
from diffragan.files.store_header import listed_arrays
from diffragan.pairs.imaged import ImagedPairs
from diffragan.pairs.open import open_pairs
from diffragan.pairs.write import write_pairs
from quick_runs import run
from weak_objects import settings, write_store

KINDS = ("simulation", "measurement", "result")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three views, their pairs with the truth beside them, and these phased by the image alone."""
    folder = tmp_path_factory.mktemp("whole")
    found = {kind: folder / f"{kind}.zarr" for kind in KINDS}
    write_store(found["simulation"], stems=("a",), per=3)
    simulation = open_simulation(found["simulation"])
    write_pairs(ImagedPairs(simulation, settings()), found["measurement"], truth=True)
    code, text = run("phase", found["measurement"], "--out", found["result"], "--method", "image")
    assert code == 0, text
    return found


def content(path: Path) -> Iterator[Any]:
    """All that the package reads from a store."""
    store: Store
    if store_kind(path) == "result":
        store = open_results(path)
        names = [name for name in listed_arrays(store.group) if name != "done"]
        yield from (store.read(name) for name in names)
        yield store.rotation
        yield store.structure_index
    else:
        pairs = open_pairs(path, settings=settings())
        every = slice(0, pairs.n)
        yield from (pairs.pattern(every), pairs.image(every), pairs.image_dose(every))
        yield from (pairs.exit_wave(every), pairs.pattern_mask)
        yield from (pairs.rotation, pairs.structure_index, [s.stem for s in pairs.structures])


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    """One bit in the middle, as a failing disk or wire would."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 8]) + data[middle + 1 :]


def noise(data: bytes) -> bytes:
    return np.random.default_rng(len(data)).bytes(len(data))


WAYS: dict[str, Callable[[bytes], bytes | None]] = {
    "cut": cut,
    "emptied": lambda data: b"",
    "zeroed": lambda data: bytes(len(data)),
    "noise": noise,
    "deleted": lambda data: None,
    "not unicode": lambda data: b"\xff\xfe" + data,
    "a list": lambda data: b"[]",
    "an empty object": lambda data: b"{}",
    "a number": lambda data: b"3",
    "a group": lambda data: b'{"zarr_format": 3, "node_type": "group", "attributes": {}}',
}


def damage(file: Path, way: Callable[[bytes], bytes | None]) -> None:
    changed = way(file.read_bytes())
    if changed is None:
        file.unlink()
    else:
        file.write_bytes(changed)


def same(one: list[Any], two: list[Any]) -> bool:
    return len(one) == len(two) and all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        for a, b in zip(one, two, strict=True)
    )


def check(path: Path, whole: list[Any], what: str) -> bool:
    """Same values, or one sentence that names the store; tells whether it was refused."""
    try:
        found = list(content(path))
    except DiffraganError as error:
        message = str(error)
        assert path.name in message, (what, message)
        assert "\n" not in message, (what, message)
        assert message.endswith("."), (what, message)
        return True
    assert same(found, whole), f"{what}: other values, and nothing said"
    return False


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_damage_is_taken_for_data(
    kind: str, way: str, stores: dict[str, Path], tmp_path: Path
) -> None:
    """Every file of a store in turn; only `done`, which a finished store doesn't need, may pass."""
    whole = list(content(stores[kind]))
    names = [p.relative_to(stores[kind]) for p in sorted(stores[kind].rglob("*")) if p.is_file()]
    path = tmp_path / f"{kind}.zarr"
    for name in names:
        shutil.copytree(stores[kind], path)
        damage(path / name, WAYS[way])
        refused = check(path, whole, f"{name} {way}")
        assert refused or name.parts[0] == "done", f"{name} {way}: read as if nothing were wrong"
        shutil.rmtree(path)


@pytest.mark.parametrize("kind", KINDS)
def test_one_wrong_bit_is_found(kind: str, stores: dict[str, Path], tmp_path: Path) -> None:
    """In every chunk: that is what checksums are for."""
    whole = list(content(stores[kind]))
    path = tmp_path / f"{kind}.zarr"
    for file in sorted(stores[kind].rglob("c/**/*")):
        name = file.relative_to(stores[kind])
        if file.is_dir() or name.parts[0] == "done":
            continue
        shutil.copytree(stores[kind], path)
        damage(path / name, flipped)
        assert check(path, whole, f"{name} flipped"), name
        shutil.rmtree(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_zipped_store_is_refused(
    kind: str, stores: dict[str, Path], tmp_path: Path
) -> None:
    """As it is when a download breaks off or a bit turns."""
    path = tmp_path / f"{kind}.zarr.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(stores[kind].rglob("*")):
            archive.write(file, file.relative_to(stores[kind]))
    whole, data = list(content(path)), path.read_bytes()
    for way in ("cut", "emptied", "zeroed", "noise"):
        damage(path, WAYS[way])
        assert check(path, whole, way)
        path.write_bytes(data)
    rng = np.random.default_rng(0)
    for place in rng.integers(len(data), size=60):
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(changed))
        check(path, whole, f"bit at byte {place}")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("measurement", "rotation/zarr.json"),
        ("measurement", "structure/zarr.json"),
        ("measurement", "pattern_mask/zarr.json"),
        ("measurement", "exit_wave/c/1/0/0"),
        ("simulation", "exit_wave/zarr.json"),
        ("result", "wave/zarr.json"),
    ],
)
@pytest.mark.parametrize("way", ["not unicode", "a list", "zeroed"])
def test_commands_end_in_a_sentence(
    kind: str, name: str, way: str, stores: dict[str, Path], tmp_path: Path
) -> None:
    """Exit code 2 and no traceback, from `phase` as from `evaluate`."""
    path = tmp_path / f"{kind}.zarr"
    shutil.copytree(stores[kind], path)
    damage(path / name, WAYS[way])
    if kind == "result":
        code, text = run("evaluate", path, "--out", tmp_path / "report")
    else:
        code, text = run("phase", path, "--out", tmp_path / "p.zarr", "--method", "image")
        if code == 0:  # phasing looks at neither orientations nor truth
            shutil.rmtree(tmp_path / "p.zarr")
            shutil.copytree(stores["result"], tmp_path / "p.zarr")
            words = ("--input", path, "--out", tmp_path / "report")
            code, text = run("evaluate", tmp_path / "p.zarr", *words)
    assert code == 2, text
    assert path.name in text
    assert "Traceback" not in text


def test_the_message_names_array_item_and_file(stores: dict[str, Path], tmp_path: Path) -> None:
    """So that one chunk can be copied again, and not the whole store."""
    path = tmp_path / "m.zarr"
    shutil.copytree(stores["measurement"], path)
    damage(path / "exit_wave" / "c" / "1" / "0" / "0", WAYS["zeroed"])
    damage(path / "image" / "c" / "2" / "0" / "0", WAYS["deleted"])
    pairs = open_pairs(path)
    pairs.exit_wave([0, 2])
    with pytest.raises(DiffraganError, match=r"Item 1 of the array 'exit_wave'.*c/1/0/0.*checksum"):
        pairs.exit_wave(slice(0, 3))
    with pytest.raises(DiffraganError, match=r"Item 2 of the array 'image'.*c/2/0/0.*missing"):
        pairs.image([1, 2])


def test_damage_inside_a_shard_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items of large stores share a file, and each has its checksum there."""
    monkeypatch.setattr(store_writer, "SHARD_FROM_ITEMS", 20)
    path = write_store(tmp_path / "big.zarr", stems=("a", "b", "c"), per=7)
    file = path / "exit_wave" / "c" / "0" / "0" / "0"
    data = file.read_bytes()
    file.write_bytes(data[:60] + bytes(8) + data[68:])
    store = open_simulation(path)
    store.exit_wave([16, 20])
    with pytest.raises(DiffraganError, match=r"Item 0 of the array 'exit_wave'.*checksum"):
        store.exit_wave(slice(0, 16))
    for way in ("cut", "emptied", "zeroed", "deleted"):
        file.write_bytes(data)
        damage(file, WAYS[way])
        with pytest.raises(DiffraganError, match="'exit_wave'"):
            open_simulation(path).exit_wave(slice(0, 16))


def test_zeros_that_were_measured_are_read(tmp_path: Path) -> None:
    """A chunk of zeros is written, so that its absence means damage and its presence does not."""
    writer = store_writer.StoreWriter(
        tmp_path / "zeros.zarr",
        "measurement",
        2,
        {"pattern": store_writer.ArraySpec((4, 4), "float32", "1")},
        {"optics": {"energy_ev": 2e5, "box_A": 70.0, "centre_to_exit_A": 0.0}, "settings": {}},
    )
    writer.write([0, 1], pattern=np.zeros((2, 4, 4), np.float32))
    writer.finish()
    assert (tmp_path / "zeros.zarr" / "pattern" / "c" / "1" / "0" / "0").is_file()


def test_an_unfinished_run_that_is_damaged_is_refused(tmp_path: Path) -> None:
    """Going on from it could skip items that were never written."""
    path = tmp_path / "x.zarr"
    parts: tuple[Any, ...] = (
        {"pattern": store_writer.ArraySpec((4, 4), "f4", "1")},
        {"settings": {}},
    )
    store_writer.StoreWriter(path, "measurement", 2, *parts).close()
    damage(tmp_path / "x.zarr.part" / "done" / "zarr.json", WAYS["cut"])
    with pytest.raises(DiffraganError, match=r"x\.zarr\.part is damaged.*--overwrite"):
        store_writer.StoreWriter(path, "measurement", 2, *parts)
