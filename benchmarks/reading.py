"""How fast waves are read at random from a large store, cold and warm, and what memory that takes.

    python benchmarks/reading.py work --items 40000 --reads 2000

Makes a store of that many waves of 256 x 256, 16 a file: 64 of them are noise of their own, and
the other files are hard links to theirs, so that the store is large for whoever reads it and small
on the disk. Before a cold round the system is told to forget the files. Reads are of single waves
in the order in which training draws them, through its loader without its cache.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path

import numpy as np
import psutil

from diffragan.files.store_header import to_half
from diffragan.files.store_writer import SHARD_ITEMS, ArraySpec, StoreWriter
from diffragan.settings import load_settings
from diffragan.training.data import epoch_order, open_exit_waves

PX, OWN = 256, 64


def make_store(path: Path, items: int, stored_as: str) -> Path:
    """A simulation store whose files are few, each many times."""
    if path.exists():
        return path
    half = stored_as == "float16"
    header = {
        "optics": {"energy_ev": 200e3, "box_A": 70.0, "centre_to_exit_A": 36.5},
        "structures": [{"stem": "noise"}],
        "settings": load_settings().model_dump(mode="json"),
    }
    waves = ArraySpec((2, PX, PX) if half else (PX, PX), stored_as, "unit plane wave")
    specs = {"exit_wave": waves, "structure": ArraySpec((), "int32", "index")}
    if half:
        specs["mean_wave"] = ArraySpec((), "complex64", "unit plane wave")
    with StoreWriter(path, "simulation", items, specs, header) as writer:
        writer.put("structure", np.zeros(items, np.int32))
        if half:
            writer.put("mean_wave", np.ones(items, np.complex64))
        rng = np.random.default_rng(0)
        for block in writer.pending()[: OWN // SHARD_ITEMS]:
            drawn = rng.normal(scale=0.1, size=(len(block), PX, PX, 2)).astype(np.float32)
            wave = 1 + drawn.view(np.complex64)[..., 0]
            writer.write(block, exit_wave=to_half(wave)[0] if half else wave)
        folder = writer.part / "exit_wave" / "c"
        own, below = OWN // SHARD_ITEMS, "0/0/0" if half else "0/0"
        for number in range(own, -(-items // SHARD_ITEMS)):
            file = folder / str(number) / below
            file.parent.mkdir(parents=True)
            os.link(folder / str(number % own) / below, file)
        writer.done[:] = True
        writer.put("done", writer.done)
        writer.finish()
    return path


def forget(path: Path) -> None:
    """Have the system forget what it keeps of these files."""
    for file in path.rglob("*"):
        if file.is_file():
            number = os.open(file, os.O_RDONLY)
            os.fsync(number)
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(number)


def measure(path: Path, reads: int, seed: int) -> dict[str, float]:
    """CPU and wall seconds a wave, the first wave's and the rest's, and memory before and after."""
    began = time.perf_counter()
    data = open_exit_waves([path], cache_bytes=0)
    order = epoch_order(np.arange(data.n), seed, 0, 1)[:reads, 0]
    data.load(order[:1])
    first = time.perf_counter() - began
    process = psutil.Process()
    rss = [process.memory_info().rss]
    wall, cpu = time.perf_counter(), time.process_time()
    for place in range(1, reads):
        data.load(order[place : place + 1])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rss.append(process.memory_info().rss)
    return {
        "opened_and_first_s": first,
        "wall_ms": 1e3 * wall / (reads - 1),
        "cpu_ms": 1e3 * cpu / (reads - 1),
        "memory_MiB_before": rss[0] / 2**20,
        "memory_MiB_after": rss[1] / 2**20,
        "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("work", type=Path)
    parser.add_argument("--items", type=int, default=40_000)
    parser.add_argument("--reads", type=int, default=2000)
    arguments = parser.parse_args()
    for stored_as in ("complex64", "float16"):
        path = make_store(
            arguments.work / f"{stored_as}_{arguments.items}.zarr", arguments.items, stored_as
        )
        size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
        for state in ("cold", "warm"):
            if state == "cold":
                forget(path)
            found = measure(path, arguments.reads, seed=0)
            told = {name: round(value, 2) for name, value in found.items()}
            print(json.dumps({"store": path.name, "GB": round(size / 1e9, 1), state: told}))


if __name__ == "__main__":
    main()
