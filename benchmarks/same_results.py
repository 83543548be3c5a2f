"""Whether two versions of the package give the same results, bit for bit on one thread.

Runs the demo, and one `raar`, one `published` and one `many-views` run of the bundled data with a
fixed seed, once for each source tree, and compares every array, map and number that they leave,
apart from times, paths, versions and settings (whose names may change).

    git worktree add ../before 9c41a6e
    python benchmarks/same_results.py ../before/src src --out ../same
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SEED = "7"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# Keys whose values tell of the machine, the place or the release, not of the result.
OTHER_KEYS = {
    "provenance", "settings", "version", "seconds", "seconds_per_image", "peak_memory_mb",
    "command", "written",
}  # fmt: skip
TIMED_ARRAYS = {"seconds"}
_TINY = 1e-300


def run_tree(source: Path, out: Path) -> None:
    """The runs to compare, by the package in `source`, into a folder; finished ones are kept."""
    data = source / "diffragan" / "data"
    pairs, views = str(data / "example.zarr.zip"), str(data / "views.zarr.zip")
    seeded = ["--seed", SEED, "--device", "cpu"]
    shorter = ["--views", "100", "--set", "many_views.iterations=30"]
    runs = {
        # The first many-views run compiles the loops; only runs after it are compared.
        "warm": ["reconstruct", views, "--views", "20", "--iterations", "2"],
        "demo": ["demo"],
        "raar.zarr": ["phase", pairs, "--method", "raar", *seeded],
        "published.zarr": ["phase", pairs, "--method", "published", *seeded],
        "map": ["reconstruct", views, *shorter, *seeded],
    }
    out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | ONE_THREAD | {"PYTHONPATH": str(source.resolve())}
    for name, words in runs.items():
        done = out / f"{name}.done"
        if done.exists():
            continue
        command = [sys.executable, "-m", "diffragan", *words, "--out", str(out / name)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        if ended.returncode not in (0, 3):  # 3: a short run that did not converge
            raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stderr}")
        done.write_text(ended.stdout, "utf-8")


def results_of(folder: Path) -> Iterator[tuple[str, Any]]:
    """Every array, map and number below a folder, by name."""
    import mrcfile
    import zarr

    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.startswith("warm") or ".zarr/" in name:
            continue
        if path.suffix == ".zarr":
            group = zarr.open_group(path, mode="r")
            for key in sorted(set(group.array_keys()) - TIMED_ARRAYS):
                yield f"{name}:{key}", np.asarray(group[key])
        elif path.suffix in (".mrc", ".mrcs"):
            with mrcfile.open(path, permissive=True) as file:
                yield name, np.array(file.data)
        elif path.name == "metrics.json":
            for key, value in _leaves(json.loads(path.read_text("utf-8")), ""):
                yield f"{name}:{key}", value


def _leaves(tree: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key not in OTHER_KEYS:
                yield from _leaves(value, f"{prefix}.{key}")
    elif isinstance(tree, list) and tree and all(isinstance(x, int | float) for x in tree):
        yield prefix, np.array(tree, dtype=float)
    else:
        yield prefix, tree


def difference(before: Any, after: Any) -> float:
    """0 where the two are the same to the bit; else the largest difference, in parts of the
    larger norm, and infinity where they can't be compared."""
    if isinstance(before, np.ndarray) and isinstance(after, np.ndarray):
        if before.shape != after.shape or before.dtype != after.dtype:
            return math.inf
        if before.tobytes() == after.tobytes():
            return 0.0
        if before.dtype == bool:
            return float((before != after).mean())
        largest = np.nanmax(np.abs(before)) if before.size else 0.0
        return float(np.nanmax(np.abs(after - before)) / (largest + _TINY))
    if isinstance(before, float) and isinstance(after, float):
        return abs(after - before) / (abs(before) + _TINY)
    return 0.0 if before == after else math.inf


def main() -> None:
    """Run both trees and print what differs; exit code 1 if anything does by more than allowed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("before", type=Path, help="source folder of the one version")
    parser.add_argument("after", type=Path, help="source folder of the other")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs of both")
    parser.add_argument("--allow", type=float, default=0.0, help="largest relative difference")
    chosen = parser.parse_args()
    results = []
    for name, source in (("before", chosen.before), ("after", chosen.after)):
        run_tree(source, chosen.out / name)
        results.append(dict(results_of(chosen.out / name)))
    before, after = results
    worst, same = 0.0, 0
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            print(f"only {'before' if name in before else 'after'}: {name}")
            continue
        apart = difference(before[name], after[name])
        same += apart == 0
        worst = max(worst, apart)
        if apart > 0:
            print(f"{apart:9.2e}  {name}")
    print(
        f"{same} of {len(before)} results are the same to the bit; largest difference {worst:.2e}"
    )
    sys.exit(worst > chosen.allow)


if __name__ == "__main__":
    main()
