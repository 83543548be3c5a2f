"""Patterns a second of a scan's one pass, by the clock and by CPU time, and of reading alone.

python -m benchmarks.scan_speed session/scan.h5
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from diffragan.inspection.frames import open_frames
from diffragan.inspection.patterns import inspect_patterns
from diffragan.progress import no_progress
from diffragan.scan.hits.rings import measure_rings
from diffragan.settings import load_settings


def timed(name: str, n: int, work: Callable[[], object]) -> None:
    """Do it, and say how many patterns a second that is."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    print(f"{name}: {n / clock:,.0f} a second, {n / cpu:,.0f} a second of CPU time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path, nargs="+", help="files of the scan's patterns")
    parser.add_argument("--block", type=int, default=256, help="frames read at a time")
    chosen = parser.parse_args()
    frames = open_frames(chosen.scan, "pattern", None)
    found = inspect_patterns(frames, load_settings(), no_progress)
    n, block = len(frames), chosen.block
    print(f"{n} patterns of {frames.stack.shape[1]} x {frames.stack.shape[2]}")

    def read() -> None:
        for first in range(0, n, block):
            np.asarray(frames.stack[np.arange(first, min(first + block, n))])

    with tempfile.TemporaryDirectory() as folder:
        for name in ("first pass, its loops compiled", "a pass"):
            kept = Path(folder) / f"{name}.npz"
            timed(name, n, lambda: measure_rings(frames, found, block, kept, no_progress))  # noqa: B023
    timed("reading alone", n, read)


if __name__ == "__main__":
    main()
