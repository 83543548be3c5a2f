"""Methods and weights side by side, by their projections: FRC, SSIM, seconds an image.

    python -m benchmarks.projections STORE.zarr --rows image,published,network,hybrid --limit 60
    python -m benchmarks.projections STORE.zarr --rows image,run_a/best.safetensors --swapped

STORE is a simulation store, imaged on the way, or any input with its truth. A row is a method, or a
weight file of the published generator. FRC is of projections with their targets, as in the paper,
smoothed over ± 5 % in q, the mean over pairs. `--swapped` runs every row twice again: with patterns
of other structures, and with images of other structures; a generator that reads its pattern
falls with the first, and what it falls to tells what it reads.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.engine.items import choose_items
from diffragan.evaluation.similarity import ssim
from diffragan.fourier import correlation as metrics
from diffragan.fourier.grids import resample
from diffragan.pairs.open import open_pairs
from diffragan.pairs.pairs import Pairs
from diffragan.phasing.method import PairBatch
from diffragan.phasing.methods import METHODS
from diffragan.phasing.run import load_context, make_pair_batch
from diffragan.settings import load_settings

RESOLUTIONS_A = (8.0, 6.0, 5.0, 4.0, 3.0)
CPU = torch.device("cpu")

Run = Callable[[PairBatch], Tensor]


def row_of(name: str) -> Run:
    """Projections (b, y, x) of a batch, by a method's name or by weights of the published one."""
    path = Path(name) if name.endswith(".safetensors") else None
    method = "published" if path else name
    context = cache(lambda: load_context(method, path))
    return lambda batch: METHODS[method](batch, context()).projection


def others(pairs: Pairs, items: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each item one of another structure, drawn by a fixed seed."""
    rng, structure = np.random.default_rng(0), pairs.structure_index
    return np.array([rng.choice(np.flatnonzero(structure != structure[i])) for i in items])


def measured(
    run: Run, pairs: Pairs, items: NDArray[np.int64], swapped: str, size: int
) -> dict[str, Any]:
    """A row's figures; `swapped` is the part that comes of another structure, or nothing."""
    curves, likeness, seconds = [], [], 0.0
    foreign = others(pairs, items) if swapped else items
    for low in range(0, len(items), size):
        some = items[low : low + size]
        batch = make_pair_batch(pairs, some, pairs.settings, CPU)
        other = make_pair_batch(pairs, foreign[low : low + size], pairs.settings, CPU)
        if swapped == "pattern":
            batch = replace(batch, pattern=other.pattern)
        elif swapped == "image":
            dose = other.image_dose_e_per_A2
            batch = replace(batch, image=other.image, image_dose_e_per_A2=dose)
        truth = pairs.truth_projection(some)
        assert truth is not None
        began = time.perf_counter()
        projection = run(batch)
        seconds += time.perf_counter() - began
        target = resample(torch.from_numpy(truth), projection.shape[-1])
        curves.append(metrics.frc(projection, target))
        likeness.append(ssim(projection, target)[0])
    curve = torch.cat(curves)
    q = metrics.ring_q(2 * (curve.shape[-1] - 1), pairs.box_A)
    mean = curve.mean(0)
    smooth = metrics.smooth_curve(mean, q)
    bands = metrics.band_means(mean, q)
    return {
        "n": len(items),
        "frc": {f"{d:g}": round(float(np.interp(1 / d, q, smooth)), 3) for d in RESOLUTIONS_A},
        "bands": {k: round(float(v), 3) for k, v in bands.items() if v is not None},
        "ssim": round(float(torch.cat(likeness).mean()), 3),
        "seconds_per_image": round(seconds / len(items), 3),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("store", type=Path)
    parser.add_argument("--rows", default="image,published", help="methods or weights, by comma")
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--swapped", action="store_true")
    parser.add_argument("--set", action="append", default=[], help="key=value, as diffragan phase")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pairs = open_pairs(args.store, settings=load_settings(overrides=args.set))
    items = choose_items(pairs.n, args.limit)
    print(f"{args.store.name}: {len(items)} pairs", flush=True)
    found: dict[str, Any] = {}
    for name in args.rows.split(","):
        run = row_of(name)
        for swapped in ("", "pattern", "image") if args.swapped else ("",):
            label = f"{name}, another {swapped}" if swapped else name
            row = found[label] = measured(run, pairs, items, swapped, args.batch)
            frc = " ".join(f"{value:6.3f}" for value in row["frc"].values())
            bands = " ".join(f"{key} {value:.3f}" for key, value in row["bands"].items())
            print(
                f"{label[-60:]:60s} {frc}  {bands}  SSIM {row['ssim']:.3f} "
                f"{row['seconds_per_image']:.2f} s",
                flush=True,
            )
    if args.out is not None:
        report = {"store": args.store.name, "n": len(items), "rows": found}
        args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
