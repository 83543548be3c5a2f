"""Views of several molecules sorted: who comes where, how many classes, and how the views lie.

    python -m benchmarks.classes closed.zarr open.zarr ubq70.zarr --views 500,500,111 --dose 200
    python -m benchmarks.classes qmt.zarr dur46.zarr --views 150,150 --classes 2 --from-nothing

Takes so many views of each store, in their order, sorts them as `reconstruct --classes` does, and
prints a line a class: views of each store in it; 0 are those that were thrown out. With
orientations found from nothing also their error, to which only views that are sorted right count.
Nothing is phased.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.many_views import use_threads
from diffragan.pairs.open import open_all
from diffragan.progress import no_progress
from diffragan.reconstruction.choose_views import ViewSelection
from diffragan.reconstruction.classes.run import pooled
from diffragan.reconstruction.classes.sort_pairs import sort_pairs
from diffragan.reconstruction.classes.sorted_views import SortedViews, sorted_right
from diffragan.rotations import apart_deg
from diffragan.settings import Settings, load_settings


def settings_of(args: argparse.Namespace) -> Settings:
    """As the command would have them."""
    values = {
        "seed": args.seed,
        "pattern.dose_e_per_A2": args.dose,
        "classes.number": args.classes or "auto",
        "classes.starts": args.starts,
        "many_views.orientations": "find" if args.from_nothing else "given",
    }
    return load_settings(values={k: v for k, v in values.items() if v is not None})


def show(found: SortedViews, truth: torch.Tensor, true: torch.Tensor) -> None:
    """Lines of what came where."""
    kinds = int(truth.max()) + 1
    for k in range(found.classes + 1):
        own = found.number == k
        line = f"class {k}: {[int((own & (truth == t)).sum()) for t in range(kinds)]}"
        most = int(torch.bincount(truth[own], minlength=kinds).argmax())
        right = own & (truth == most)
        if k and bool(right.any()):
            error = apart_deg(found.rotations[right], true[right])
            line += f"; error {float(error.median()):.2f}° in the median, "
            line += f"{float((error < 5).float().mean()):.1%} within 5°"
        print(line)
    for t in range(kinds):
        fit = found.fit[truth == t].double().sort().values
        low, middle, high = (float(fit[round(part * (len(fit) - 1))]) for part in (0, 0.5, 1))
        print(f"store {t + 1}: patterns fit by {low:.2f} to {high:.2f}, {middle:.2f} in the median")
    print(f"sorted right {sorted_right(found.number.numpy(), truth.numpy()):.1%}")
    print(f"log-likelihood by number of classes: {[round(mean, 1) for mean in found.means]}")
    print(*found.warnings, sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("--views", required=True, help="of each store, commas between")
    parser.add_argument("--dose", type=float, help="e/Å² a pattern; none: no noise")
    parser.add_argument("--classes", type=int, help="none: as many as the views bear")
    parser.add_argument("--from-nothing", action="store_true", help="find the orientations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--starts", type=int, default=2, help="of sorting")
    args = parser.parse_args()
    use_threads(1)
    settings = settings_of(args)
    pairs = open_all(args.stores, settings=settings, several=True)
    assert pairs.rotation is not None
    first = np.concatenate(([0], np.cumsum([part.n for part in pairs.parts])))
    counts = [int(word) for word in args.views.split(",")]
    items = np.concatenate([s + np.arange(c) for s, c in zip(first, counts, strict=False)])
    truth = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    pool, rotations = pooled(pairs), pairs.rotation[items]
    selection = ViewSelection(
        items,
        None if args.from_nothing else rotations,
        np.zeros((len(items), 2)),
        "pool",
        pool.structures[0].mass_kda or None,
        (),
    )
    began = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        cpu = torch.device("cpu")
        found = sort_pairs(pool, selection, settings, Path(scratch), cpu, no_progress)
    show(found, truth, torch.from_numpy(rotations).float())
    print(f"{time.process_time() - began:.0f} s of one thread, reading included")


if __name__ == "__main__":
    main()
