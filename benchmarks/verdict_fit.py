"""The calibration of `hybrid`'s trust, fitted to pairs whose true phases are known.

    python -m benchmarks.verdict_fit run held.zarr --out runs.jsonl
    python -m benchmarks.verdict_fit fit runs.jsonl

`run` phases a store's pairs under every condition; a line of JSON a pair, with what the starts tell
of each ring and the mean cosine of its phase errors. A run that was interrupted goes on. `fit`
gives the seven numbers, by least squares over all rings, and judges each protein by a fit without
it, beside the calibration in use. The store's proteins should be those that the network was
validated on: it knows those it was trained on, and others are for testing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares

from benchmarks.many_views_law import read_lines
from benchmarks.phasing import ring_cosine
from diffragan.engine.items import choose_items
from diffragan.fourier import correlation as metrics
from diffragan.pairs.open import open_pairs
from diffragan.phasing import trust
from diffragan.phasing.methods import METHODS
from diffragan.phasing.run import load_context, make_pair_batch
from diffragan.phasing.trust import told_by_ring
from diffragan.settings import load_settings

CONDITIONS = (
    "",
    "image.snr=3",
    "image.snr=0.3",
    "image.snr=0.1",
    "image.defocus_A=-2000",
    "pattern.dose_e_per_A2=1e6",
    "pattern.dose_e_per_A2=1e5",
    "pattern.dose_e_per_A2=1e4",
    "phase.iterations=150",
)
ALWAYS = ("image.defocus_A=-1000", "phase.force=true")
Array = NDArray[np.float64]
Row = dict[str, Any]


def phased_row(store: Path, condition: str, item: int) -> Row:
    """What one pair's starts tell by ring, and what is true."""
    settings = load_settings(overrides=[*ALWAYS, *filter(None, [condition])])
    pairs = open_pairs(store, settings=settings)
    one = np.array([item])
    batch = make_pair_batch(pairs, one, settings, torch.device("cpu"))
    truth = pairs.truth_wave(one)
    assert truth is not None
    told: list[trust.ToldByRing] = []

    def kept(*given: Any) -> trust.ToldByRing:
        told.append(told_by_ring(*given))
        return told[-1]

    with patch.object(trust, "told_by_ring", kept):
        phased = METHODS["hybrid"](batch, load_context("hybrid", None))
    assert phased.wave is not None
    mask, q = torch.from_numpy(pairs.pattern_mask), metrics.ring_q(pairs.m, pairs.box_A)
    found, true = (metrics.centred_fourier(wave) for wave in (phased.wave, torch.from_numpy(truth)))
    curve = metrics.frc_fourier(found, true, mask.expand_as(found))
    mean = torch.fft.fftshift(1j * told[0].mean, dim=(-2, -1))
    return {
        "condition": condition,
        "item": item,
        "structure": int(pairs.structure_index[item]),
        "solved": bool(metrics.solved(curve, q)[0]),
        "q": q.tolist(),
        "features": told[0].features[0, : len(q)].tolist(),
        "factor": told[0].factor[0, : len(q)].tolist(),
        "cosine": ring_cosine(mean, true, mask)[0].tolist(),
    }


def run(args: argparse.Namespace) -> None:
    """`run`: the pairs that the file does not hold yet."""
    torch.set_num_threads(1)
    have = {(row["condition"], row["item"]) for row in read_lines(args.out)}
    n = open_pairs(args.store, settings=load_settings()).n
    for condition in CONDITIONS:
        for item in choose_items(n, args.limit).tolist():
            if (condition, item) in have:
                continue
            row = phased_row(args.store, condition, item)
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        print(condition or "noise-free patterns, SNR 0.8, -1000 Å", flush=True)


def rings(rows: list[Row]) -> tuple[Array, Array, Array]:
    """Features (k, 7), factors and cosines (k,) of all rings that hold something."""
    features, factor, cosine = (
        np.concatenate([np.array(row[key], dtype=float) for row in rows])
        for key in ("features", "factor", "cosine")
    )
    known = np.isfinite(cosine) & (factor > 0)
    known &= np.concatenate([np.array(row["q"]) for row in rows]) > 0
    return features[known], factor[known], cosine[known]


def fitted(rows: list[Row]) -> Array:
    """(7,) the calibration of least squared error over all rings of these pairs."""
    features, factor, cosine = rings(rows)

    def wrong(calibration: Array) -> Array:
        off: Array = factor / (1 + np.exp(-features @ calibration)) - cosine
        return off

    found: Array = least_squares(wrong, np.array(trust.CALIBRATION_DRAWN)).x
    return found


def said(row: Row, calibration: Array) -> bool:
    """Whether a pair is called solved, as `trust.verdict` does."""
    q = np.array(row["q"])
    coarse, fine = metrics.SOLVED_BAND_A
    band = (q >= 1 / coarse) & (q <= 1 / fine)
    told = np.array(row["factor"]) / (1 + np.exp(-np.array(row["features"]) @ calibration))
    return bool(told[band].mean() >= 0.5)


def fit(args: argparse.Namespace) -> None:
    """`fit`: the calibration, and how it judges proteins that it has not seen."""
    rows = read_lines(args.runs)
    proteins = sorted({row["structure"] for row in rows})
    without = {p: fitted([row for row in rows if row["structure"] != p]) for p in proteins}
    in_use = np.array(trust.CALIBRATION_DRAWN)
    print("pairs, solved; in use: said, right; each protein left out of the fit: said, right")
    for condition in CONDITIONS:
        some = [row for row in rows if row["condition"] == condition]
        solved = np.array([row["solved"] for row in some], dtype=bool)
        line = f"{condition or 'SNR 0.8, no counts':28s} {len(some):4d} {solved.sum():4d}"
        for flags in (
            np.array([said(row, in_use) for row in some], dtype=bool),
            np.array([said(row, without[row["structure"]]) for row in some], dtype=bool),
        ):
            line += f"  {flags.sum():4d} {(flags & solved).sum():4d}"
        print(line)
    print("fit to all:", ", ".join(f"{value:.4f}" for value in fitted(rows)))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(required=True)
    phased = commands.add_parser("run", help="phases the pairs, a line of JSON each")
    phased.set_defaults(run=run)
    phased.add_argument("store", type=Path)
    phased.add_argument("--out", type=Path, required=True, help="JSON lines, appended to")
    phased.add_argument("--limit", type=int, default=None)
    judged = commands.add_parser("fit", help="the calibration, and what it would have said")
    judged.set_defaults(run=fit)
    judged.add_argument("runs", type=Path, help="of `run`")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
