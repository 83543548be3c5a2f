"""Views of several molecules sorted, orientations known: who comes where, and how many classes.

    python -m benchmarks.classes closed.zarr open.zarr ubq70.zarr --views 500,500,111 --dose 200

Takes so many views of each store, in their order, and prints a line a class: views of each store in
it; 0 are those that were thrown out. Nothing is phased.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from diffragan.pairs.open import open_all
from diffragan.reconstruction.classes.run import pooled
from diffragan.reconstruction.maps.load_views import load_views
from diffragan.reconstruction.sorting.sort import SortPlan, how_many, sort_views
from diffragan.settings import load_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("--views", required=True, help="of each store, commas between")
    parser.add_argument("--dose", type=float, help="e/Å² a pattern; none: no noise")
    parser.add_argument("--classes", type=int, help="none: as many as the views bear")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--starts", type=int, default=2)
    args = parser.parse_args()
    over = [] if args.dose is None else [f"pattern.dose_e_per_A2={args.dose}"]
    pairs = open_all(args.stores, settings=load_settings(overrides=over), several=True)
    pool = pooled(pairs)
    starts = np.concatenate(([0], np.cumsum([part.n for part in pairs.parts])))
    counts = [int(word) for word in args.views.split(",")]
    items = np.concatenate([s + np.arange(c) for s, c in zip(starts, counts, strict=False)])
    truth = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    assert pairs.rotation is not None
    plan = SortPlan(pool.structures[0].mass_kda or None, starts=args.starts, seed=args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        views = load_views(pairs, items, pairs.rotation[items], Path(scratch)).limited(5.0)
        began = time.process_time()
        if args.classes is None:
            sorting, means = how_many(views, 5, plan)
        else:
            sorting, means = sort_views(views, args.classes, plan), []
    for k in range(-1, sorting.classes):
        row = [int(((sorting.of == k) & (truth == t)).sum()) for t in range(len(counts))]
        print(f"class {k + 1}: {row}")
    print(f"log-likelihood by number of classes: {[round(mean, 1) for mean in means]}")
    print(f"least probability {float(sorting.probability.max(1).values.min()):.3f}")
    print(f"{time.process_time() - began:.0f} s of one thread")


if __name__ == "__main__":
    main()
