"""A store is written by one run at a time, survives kills, and is repaired where it is damaged."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from diffragan.errors import DiffraganError
from diffragan.files.integrity.lock import Lock, locked
from diffragan.files.store_writer import ArraySpec, StoreWriter
from stores_alike import differing, files_of

N = 12
SPECS = {
    "wave": ArraySpec((4, 4), "float32", "1"),
    "number": ArraySpec((), "float64", "1"),
    "mask": ArraySpec((4, 4), "bool", "1", per_item=False),
}


def write(
    out: Path, *, repair: bool = False, stop_at: int | None = None, pause_s: float = 0
) -> list[int]:
    """A small store of known content; the items that had to be written."""
    written = []
    with StoreWriter(out, "result", N, SPECS, {"settings": {}}, repair=repair) as writer:
        if writer.complete:
            return []
        if writer.fresh:
            writer.put("mask", np.eye(4, dtype=bool))
        for block in writer.pending():
            k = int(block[0])
            if k == stop_at:
                raise KeyboardInterrupt
            rng = np.random.default_rng(k)
            writer.write(block, wave=rng.normal(size=(1, 4, 4)), number=np.array([k + 1.0]))
            written.append(k)
            time.sleep(pause_s)
        writer.finish()
    return written


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The store, whole."""
    out = tmp_path / "whole.zarr"
    assert write(out) == list(range(N))
    return out


def chunk(store: Path, name: str, place: str) -> Path:
    """The file of a chunk."""
    return store / name / "c" / place


def flip(file: Path) -> None:
    """One bit in the middle of a file, changed."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def cut(file: Path) -> None:
    """Half of a file, gone."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped": lambda s: flip(chunk(s, "wave", "3/0/0")),
    "cut off": lambda s: cut(chunk(s, "wave", "3/0/0")),
    "empty": lambda s: chunk(s, "wave", "3/0/0").write_bytes(b""),
    "gone": lambda s: chunk(s, "wave", "3/0/0").unlink(),
    "numbers": lambda s: flip(chunk(s, "number", "0")),
    "shared": lambda s: flip(chunk(s, "mask", "0/0")),
    "done": lambda s: flip(chunk(s, "done", "0")),
    "description": lambda s: cut(s / "wave" / "zarr.json"),
    "folder": lambda s: shutil.rmtree(s / "wave"),
}
TO_DO = {"numbers": N, "shared": 0, "done": 0, "description": N, "folder": N}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("unfinished", [False, True], ids=["whole", "unfinished"])
def test_damage_is_found_and_done_again(
    store: Path, tmp_path: Path, damage: str, unfinished: bool
) -> None:
    """What can still be read is not done again, and the end is the store as it was."""
    out = tmp_path / "damaged.zarr"
    lies = out.with_name("damaged.zarr.part") if unfinished else out
    shutil.copytree(store, lies)
    DAMAGE[damage](lies)
    assert len(write(out, repair=True)) == TO_DO.get(damage, 1)
    assert differing(store, out) == []
    assert write(out, repair=True) == []
    assert differing(store, out) == []


def test_damage_in_a_shard_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large stores keep several items a file; the block of those that are hit is done again."""
    monkeypatch.setattr("diffragan.files.store_writer.SHARD_FROM_ITEMS", 1)
    monkeypatch.setattr("diffragan.files.store_writer.SHARD_ITEMS", 4)
    for name, damage in (("flip", flip), ("cut", cut), ("gone", Path.unlink)):
        out = tmp_path / f"{name}.zarr"
        writer = StoreWriter(out, "result", N, SPECS, {"settings": {}})
        with writer:
            writer.put("mask", np.eye(4, dtype=bool))
            for block in writer.pending():
                size = len(block)
                writer.write(block, wave=np.ones((size, 4, 4)), number=np.ones(size))
            writer.finish()
        before = files_of(out)
        damage(chunk(out, "wave", "1/0/0"))
        with StoreWriter(out, "result", N, SPECS, {"settings": {}}, repair=True) as again:
            [block] = again.pending()
            assert block.tolist() == [4, 5, 6, 7]
            again.put("mask", np.eye(4, dtype=bool))
            again.write(block, wave=np.ones((4, 4, 4)), number=np.ones(4))
            again.finish()
        assert files_of(out) == before, name


def test_a_whole_store_is_left_alone(store: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if "wave" in str(path)}
    assert write(store) == write(store, repair=True) == []
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_two_runs_refuse_each_other(tmp_path: Path) -> None:
    """The second says who is there; after the first they follow one another."""
    out = tmp_path / "s.zarr"
    with StoreWriter(out, "result", N, SPECS, {"settings": {}}) as first:
        with pytest.raises(DiffraganError, match=r"Another run is writing .*s\.zarr \(process \d+"):
            write(out)
        assert not first.done.any()
    assert len(write(out)) == N
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


def test_an_error_lets_others_in(tmp_path: Path) -> None:
    """The run that failed is at its end, though somebody still holds its traceback."""
    out = tmp_path / "s.zarr"
    with pytest.raises(KeyboardInterrupt) as caught:
        write(out, stop_at=5)
    assert len(write(out)) == N - 5
    assert caught.value is not None
    with pytest.raises(DiffraganError, match="other settings"):
        StoreWriter(out, "result", N + 1, SPECS, {"settings": {}})
    assert write(out) == []


HOLD = """
import sys, time
from collections.abc import Callable
from pathlib import Path
from diffragan.files.integrity.lock import Lock
lock = Lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_dead_run_keeps_nobody_out(tmp_path: Path) -> None:
    """Its lock goes with it, whatever file it leaves; while it lives it is obeyed."""
    out = tmp_path / "out"
    other = subprocess.Popen([sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(DiffraganError, match=f"process {other.pid} on "):
        Lock(out)
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()
    assert (tmp_path / ".out.lock").exists()
    with locked(out):
        pass
    assert not (tmp_path / ".out.lock").exists()


# Each line starts a run in a process of its own, without the seconds of a new interpreter.
RUNS = """
import os, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_integrity import write
for line in sys.stdin:
    child = os.fork()
    if not child:
        write(Path(sys.argv[1]), pause_s=0.02)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def chunks(store: Path) -> int:
    """How many chunks of waves there are, half-written ones too."""
    return sum(1 for _ in (store / "wave").glob("c/*/0/*"))


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_ten_kills_change_nothing(store: Path, tmp_path: Path) -> None:
    """At random moments of the run, each time continued: the same bytes in the end."""
    out = tmp_path / "killed.zarr"
    part = out.with_name("killed.zarr.part")
    here = Path(__file__).parent
    words = [sys.executable, "-c", RUNS, *map(str, (out, here, here.parent))]
    chance = random.Random(1)
    kills = 0
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as runs:
        assert runs.stdin is not None
        assert runs.stdout is not None
        while kills < 10:
            shutil.rmtree(out, ignore_errors=True)
            before = chunks(part)
            print(file=runs.stdin, flush=True)
            child = int(runs.stdout.readline())
            until = time.monotonic() + 60
            while chunks(part) <= before and not out.exists():
                assert time.monotonic() < until, "the run writes nothing"
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.05))
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            ended = int(runs.stdout.readline())
            assert ended in (0, signal.SIGKILL)
            kills += ended == signal.SIGKILL
    if not out.exists():
        write(out)
    assert differing(store, out) == []
