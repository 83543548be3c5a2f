"""How fast many views are phased together: one data step, its parts, and the floor under them.

    python benchmarks/many_views.py UBQ70.zarr AUP80.zarr --views 300,1078 --threads 1,2

STOREs are simulation stores of one molecule each, imaged on the way. Seconds to a solution, against
doses and views, are what benchmarks/many_views_law.py tells.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.fourier.interpolation import window_voxels
from diffragan.fourier.loops import PAD, WIDTH
from diffragan.fourier.slices import Inserter, extract
from diffragan.fourier.volumes import volume_spectrum
from diffragan.pairs.open import open_pairs
from diffragan.reconstruction.maps.data_step import DataStep
from diffragan.reconstruction.maps.image_map import ring_power
from diffragan.reconstruction.maps.load_views import load_views
from diffragan.reconstruction.maps.views import BLOCK, Views

CORES = numba.get_num_threads()


def spread(n: int, count: int) -> NDArray[np.int64]:
    """`count` of n items, evenly over their run."""
    return np.arange(count, dtype=np.int64) * n // count


def use_threads(count: int) -> None:
    """So many threads for both; Numba first, since its start sets the number that torch sees."""
    numba.set_num_threads(min(count, CORES))
    torch.set_num_threads(count)


@numba.njit(parallel=True, fastmath=True)  # type: ignore[misc,unused-ignore]
def _gather(padded: Any, first: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Sums of the WIDTH³ voxels from flat places on: what an extraction can't do without."""
    row, plane = padded.shape[2], padded.shape[1] * padded.shape[2]
    flat = padded.reshape(-1)
    for v in numba.prange(out.shape[0]):
        for k in range(out.shape[1]):
            total = np.complex64(0)
            for c in range(WIDTH):
                for b in range(WIDTH):
                    at = (first[v, k] + c * plane + b * row) % (flat.shape[0] - WIDTH)
                    for a in range(WIDTH):
                        total += flat[at + a]
            out[v, k] = total


def _parts(views: Views, curved: bool) -> dict[str, Callable[[], object]]:
    """An iteration's data step, its parts, and the floor under them."""
    geometry, n = views.curved if curved else views.flat, views.n
    step = DataStep(views, geometry, ring_power(views), 0.3)
    generator = torch.Generator().manual_seed(0)
    x = 1e-3 * torch.randn((n, n, n), generator=generator)
    half, values = (
        volume_spectrum(x),
        extract(volume_spectrum(x), views.rotations[:BLOCK], geometry.points),
    )
    padded = torch.zeros((n, n, n // 2 + 1 + 2 * PAD), dtype=torch.complex64)
    at = [
        next(window_voxels(views.rotations[b], geometry.points, n)[1])[0].int()
        for b in views.blocks()
    ]
    out = torch.empty_like(values)

    def take() -> None:
        for block in views.blocks():
            extract(half, views.rotations[block], geometry.points)

    def put() -> None:
        target = Inserter(n, x.device)
        for block in views.blocks():
            turn = views.rotations[block]
            target.add(values[: len(turn)], turn, geometry.points)
        target.spectrum()

    def transforms() -> None:
        for _ in range(2):
            spectrum = torch.fft.rfftn(x, norm="forward")
            torch.fft.irfftn(spectrum, s=(n, n, n), norm="forward")

    def gather() -> None:
        for places in at:
            _gather(padded.numpy(), places.numpy(), out.numpy()[: len(places)])

    named = {"extract": take, "insert": put, "FFTs": transforms, "gather": gather}
    return {"step": lambda: step(x), **named}


def speed(args: argparse.Namespace) -> None:
    """Seconds of one data step, of its parts, and the floor."""
    rows: list[dict[str, Any]] = []
    print("store  views threads slices   step extract insert   FFTs   rest  floor (gathers + FFTs)")
    for store in args.stores:
        pairs = open_pairs(store)
        assert pairs.rotation is not None
        with tempfile.TemporaryDirectory(prefix="many-views-") as folder:
            for count in sorted({min(int(v), pairs.n) for v in args.views.split(",")}):
                items = spread(pairs.n, count)
                views = load_views(pairs, items, pairs.rotation[items], Path(folder) / str(count))
                views = views.padded(args.padding)
                for curved, threads in product((False, True), map(int, args.threads.split(","))):
                    use_threads(threads)
                    seconds = _median_seconds(_parts(views, curved), args.rounds)
                    known = seconds["extract"] + seconds["insert"] + seconds["FFTs"]
                    seconds["rest"] = seconds["step"] - known
                    seconds["floor"] = 2 * seconds["gather"] + seconds["FFTs"]
                    kind = "curved" if curved else "flat"
                    row = {"store": store.stem, "views": count, "threads": threads}
                    rows.append({**row, "slices": kind, "n": views.n, "seconds": seconds})
                    shown = ("step", "extract", "insert", "FFTs", "rest", "floor")
                    print(
                        f"{store.stem:6s} {count:5d} {threads:7d} {kind:6s} "
                        + " ".join(f"{seconds[k]:6.3f}" for k in shown),
                        flush=True,
                    )
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _median_seconds(parts: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of every part, in turn, after one round to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds + 1):
        for name, part in parts.items():
            began = time.perf_counter()
            part()
            taken[name].append(time.perf_counter() - began)
    return {name: float(np.median(seconds[1:])) for name, seconds in taken.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("--views", default="100,300,1000")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--padding", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    try:
        speed(args)
    except DiffraganError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
