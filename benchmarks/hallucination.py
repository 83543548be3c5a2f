"""What each method draws where pattern and image belong to different molecules, patch by patch.

    python -m benchmarks.hallucination STORE.zarr --limit 31 --out hallucination.json

STORE is a simulation store, or any input with its truth. Each pair is shown whole, with the pattern
of another structure, and with the image of another. The FRC of patches of 20 Å of the projection is
taken with the image's molecule and with the pattern's, in patches where either has a tenth of
its strongest patch's power, the mean over 10 to 5 Å and over 5 to 3 Å. A method that invents draws
what neither has.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.projections import CPU, others, row_of
from diffragan.engine.items import choose_items
from diffragan.fourier.correlation import patch_frc, ring_q
from diffragan.fourier.grids import resample
from diffragan.pairs.open import open_pairs
from diffragan.pairs.pairs import Pairs
from diffragan.phasing.method import PairBatch
from diffragan.phasing.run import make_pair_batch
from diffragan.settings import load_settings

PATCH_A = 20.0
BANDS_A = ((10.0, 5.0), (5.0, 3.0))
SHOWN = ("both of one", "another pattern", "another image")
_LEAST_POWER = 0.1  # of the strongest patch's, where a patch counts


def shown_as(shown: str, batch: PairBatch, other: PairBatch) -> PairBatch:
    """The pair, or one with the pattern or the image of another."""
    if shown == "another pattern":
        return replace(batch, pattern=other.pattern)
    if shown == "another image":
        dose = other.image_dose_e_per_A2
        return replace(batch, image=other.image, image_dose_e_per_A2=dose)
    return batch


def patches_like(drawn: Tensor, truth: Tensor, box_A: float) -> NDArray[np.float64]:
    """(patches, bands) mean FRC of the patches of two projections (n, n) that hold the molecule."""
    n = truth.shape[-1]
    side = 2 * round(PATCH_A / box_A * n / 2)
    q = ring_q(side, side * box_A / n)
    curve = patch_frc(drawn, truth, side).flatten(0, 1)
    cut = (truth - truth.mean()).unfold(0, side, side // 2).unfold(1, side, side // 2)
    power = (cut**2).sum((-2, -1)).flatten()
    here = power > _LEAST_POWER * power.max()
    bands = [(q >= 1 / coarse) & (q <= 1 / fine) for coarse, fine in BANDS_A]
    return np.stack([curve[here][:, band].mean(-1).numpy() for band in bands], -1)


def row(name: str, shown: str, pairs: Pairs, items: NDArray[np.int64]) -> dict[str, Any]:
    """Means over all patches, by whose molecule they are held against, and the part above 0.5."""
    run, foreign = row_of(name), others(pairs, items)
    likes: dict[str, list[NDArray[np.float64]]] = {"image's": [], "pattern's": []}
    for item, other in zip(items, foreign, strict=True):
        one, two = np.array([item]), np.array([other])
        batch = make_pair_batch(pairs, one, pairs.settings, CPU)
        changed = make_pair_batch(pairs, two, pairs.settings, CPU)
        drawn = resample(run(shown_as(shown, batch, changed))[0], pairs.m)
        whose = {
            "image's": two if shown == "another image" else one,
            "pattern's": two if shown == "another pattern" else one,
        }
        for key, of in whose.items():
            truth = pairs.truth_projection(of)
            assert truth is not None
            target = resample(torch.from_numpy(truth)[0], pairs.m).to(drawn)
            likes[key].append(patches_like(drawn, target, pairs.box_A))
    told: dict[str, Any] = {"method": name, "shown": shown, "pairs": len(items)}
    for key, values in likes.items():
        patches = np.concatenate(values)
        told[key] = {
            "patches": len(patches),
            "frc": patches.mean(0, dtype=float).round(3).tolist(),
            "above_0.5": (patches > 0.5).mean(0).round(3).tolist(),
        }
    return told


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("store", type=Path)
    parser.add_argument("--rows", default="image,published,network,hybrid")
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--set", action="append", default=[], help="key=value, as diffragan phase")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pairs = open_pairs(args.store, settings=load_settings(overrides=args.set))
    items = choose_items(pairs.n, args.limit)
    rows = []
    for name in args.rows.split(","):
        for shown in SHOWN:
            rows.append(row(name, shown, pairs, items))
            print(rows[-1], flush=True)
            args.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
