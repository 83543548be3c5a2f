"""What a generator of maps is worth: by condition, by its own trust, and where image and pattern
are of different molecules.

    python -m benchmarks.network_study STORE.zarr --limit 31 --out study.json
    python -m benchmarks.network_study STORE.zarr --mismatched 500 --out mismatched.json

STORE is a simulation store, imaged anew for each condition; another voltage takes a store that was
simulated at it. `--mismatched` shows `hybrid` all pairs as they are and so many with each pattern
beside the image of a pair of another structure. A run that was interrupted goes on from what OUT
holds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.engine.items import choose_items
from diffragan.files.atomic import write_atomically
from diffragan.fourier import correlation as metrics
from diffragan.fourier.correlation import SOLVED_BAND_A
from diffragan.pairs.open import open_pairs
from diffragan.pairs.pairs import Pairs
from diffragan.phasing.method import Context, PairBatch
from diffragan.phasing.methods import METHODS
from diffragan.phasing.methods.network import drawn_phases
from diffragan.phasing.run import load_context, make_pair_batch
from diffragan.settings import load_settings

RESOLUTIONS_A = (8.0, 6.0, 5.0, 4.0, 3.0, 2.0)
CPU = torch.device("cpu")
WEIGHTS_KDA = (0.0, 10.0, 20.0, 40.0, float("inf"))
TRUST_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MOVED_A = 3.0
AS_TRAINED = "image.defocus_A=-1000"  # unless a condition has its own


@dataclass(frozen=True)
class Condition:
    """How pairs are taken, and what phasing is told instead of it, as --set has them."""

    name: str
    taken: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    moved_A: float = 0.0


CONDITIONS = (
    Condition("as trained: -1000 Å, SNR 0.8, no counts"),
    Condition("-500 Å", ("image.defocus_A=-500",)),
    Condition("-2000 Å", ("image.defocus_A=-2000",)),
    Condition("-3000 Å", ("image.defocus_A=-3000",)),
    Condition("+1000 Å", ("image.defocus_A=1000",)),
    Condition("SNR 0.1", ("image.snr=0.1",)),
    Condition("SNR 0.3", ("image.snr=0.3",)),
    Condition("SNR 3", ("image.snr=3",)),
    Condition("pattern of 10⁶ e/Å²", ("pattern.dose_e_per_A2=1e6",)),
    Condition("pattern of 10⁵ e/Å²", ("pattern.dose_e_per_A2=1e5",)),
    Condition("pattern of 10⁴ e/Å²", ("pattern.dose_e_per_A2=1e4",)),
    Condition("pattern of 10³ e/Å²", ("pattern.dose_e_per_A2=1e3",)),
    Condition("defocus told as -1100 Å", (), ("image.defocus_A=-1100",)),
    Condition("molecule moved by 3 Å", moved_A=MOVED_A),
    Condition("beam stop of 3 pixels", ("pattern.beam_mask_px=3.5",)),
)


def taken_pairs(store: Path, condition: Condition, phase: Sequence[str]) -> Pairs:
    """The store's pairs under a condition."""
    settings = load_settings(overrides=[AS_TRAINED, *condition.taken, *phase])
    return open_pairs(store, settings=settings)


def batches(
    pairs: Pairs, items: NDArray[np.int64], condition: Condition
) -> list[tuple[PairBatch, Tensor]]:
    """Batches of four, with the true waves."""
    out = []
    step = round(condition.moved_A / (pairs.box_A / pairs.m))
    for low in range(0, len(items), 4):
        some = items[low : low + 4]
        batch = make_pair_batch(pairs, some, pairs.settings, CPU)
        if condition.told:
            told = load_settings(overrides=condition.told).image
            batch = replace(batch, settings=batch.settings.model_copy(update={"image": told}))
        true = pairs.truth_wave(some)
        assert true is not None
        truth = torch.from_numpy(true)
        if step:
            batch = replace(batch, image=batch.image.roll(step, -1))
            truth = truth.roll(step, -1)
        out.append((batch, truth))
    return out


def judged(
    method: str,
    given: list[tuple[PairBatch, Tensor]],
    pairs: Pairs,
    mass_kda: NDArray[np.float64],
    context: Context,
) -> dict[str, Any]:
    """Mean FRC of a method's waves, and how many it solves, over all pairs and by weight (b,)."""
    mask = torch.from_numpy(pairs.pattern_mask)
    curves, said, seconds = [], [], 0.0
    for batch, truth in given:
        began = time.perf_counter()
        phased = METHODS[method](batch, context)
        seconds += time.perf_counter() - began
        assert phased.wave is not None
        found, true = metrics.centred_fourier(phased.wave), metrics.centred_fourier(truth)
        curves.append(metrics.frc_fourier(found, true, mask.expand_as(found)))
        if phased.solved is not None:
            said.append(phased.solved)
    curve, q = torch.cat(curves), metrics.ring_q(pairs.m, pairs.box_A)
    flags = torch.cat(said) if said else None
    return {
        "method": method,
        **summary(curve, flags, q),
        "seconds_per_image": round(seconds / len(curve), 3),
        "by_weight": by_weight(curve, flags, q, mass_kda),
    }


def summary(curve: Tensor, said: Tensor | None, q: Tensor) -> dict[str, Any]:
    """Mean FRC of curves (b, rings), and how many are solved, and said to be."""
    smooth = metrics.smooth_curve(curve.mean(0), q)
    solved = metrics.solved(curve, q)
    return {
        "n": len(curve),
        "frc": {f"{d:g}": round(float(np.interp(1 / d, q, smooth)), 3) for d in RESOLUTIONS_A},
        "solved": int(solved.sum()),
        "said": None if said is None else int(said.sum()),
        "said_and_solved": None if said is None else int((said & solved).sum()),
    }


def by_weight(
    curve: Tensor, said: Tensor | None, q: Tensor, mass_kda: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """The summary by weight of the molecules (b,), where there are some."""
    rows = []
    for low, high in pairwise(WEIGHTS_KDA):
        k = torch.from_numpy((mass_kda >= low) & (mass_kda < high))
        if bool(k.any()):
            part = summary(curve[k], None if said is None else said[k], q)
            rows.append({"from_kda": low, "to_kda": min(high, 1e3), **part})
    return rows


def trust_table(given: list[tuple[PairBatch, Tensor]], context: Context) -> list[dict[str, float]]:
    """Trust against the cosine of the phase error, frequencies weighted by their intensity."""
    said, right, weight = [], [], []
    for batch, truth in given:
        drawn = drawn_phases(batch, context)
        some = drawn.trust > 0
        true = torch.sgn(torch.fft.fft2(truth))
        said.append(drawn.trust[some])
        right.append((drawn.phase * true.conj()).real[some])
        weight.append((batch.amplitude**2)[some])
    t, c, w = (torch.cat(x) for x in (said, right, weight))
    rows = []
    for low, high in pairwise(TRUST_EDGES):
        k = (t >= low) & (t < high)
        total = w[k].sum().clamp_min(1e-30)
        rows.append(
            {
                "from": low,
                "to": high,
                "frequencies": int(k.sum()),
                "said": round(float((w * t)[k].sum() / total), 3),
                "cosine": round(float((w * c)[k].sum() / total), 3),
            }
        )
    return rows


def mismatched(
    pairs: Pairs,
    chosen: list[tuple[int, int]],
    context: Context,
    result: dict[str, Any],
    out: Path,
) -> None:
    """What `hybrid` says of patterns with images, (pattern of, image of) each: a row of `result`
    each, with R, the trust that the verdict rests on, and what is true. `out` keeps them.
    """
    mask = torch.from_numpy(pairs.pattern_mask)
    q = metrics.ring_q(pairs.m, pairs.box_A)
    band = (q >= 1 / SOLVED_BAND_A[0]) & (q <= 1 / SOLVED_BAND_A[1])
    rows: list[dict[str, Any]] = result.setdefault("rows", [])
    for item, image_of in chosen[len(rows) :]:
        one = np.array([item])
        batch = make_pair_batch(pairs, one, pairs.settings, CPU)
        other = make_pair_batch(pairs, np.array([image_of]), pairs.settings, CPU)
        dose = other.image_dose_e_per_A2
        phased = METHODS["hybrid"](
            replace(batch, image=other.image, image_dose_e_per_A2=dose), context
        )
        wave = pairs.truth_wave(one)
        assert wave is not None
        assert phased.wave is not None
        assert phased.trust is not None
        assert phased.solved is not None
        assert phased.r_factor is not None
        found = metrics.centred_fourier(phased.wave)
        true = metrics.centred_fourier(torch.from_numpy(wave))
        curve = metrics.frc_fourier(found, true, mask.expand_as(found))
        rows.append(
            {
                "item": item,
                "image_of": image_of,
                "said": bool(phased.solved[0]),
                "solved": bool(metrics.solved(curve, q)[0]),
                "frc": round(float(curve[0, band].mean()), 4),
                "trust": round(float(phased.trust[0, band].mean()), 4),
                "r": round(float(phased.r_factor[0]), 5),
            }
        )
        if len(rows) % 10 == 0 or len(rows) == len(chosen):
            write_json(out, result | counts(rows))
            print(f"{len(rows)} of {len(chosen)}: {counts(rows)}", flush=True)


def pairings(pairs: Pairs, limit: int | None, count: int) -> list[tuple[int, int]]:
    """`limit` pairs as they are and `count` patterns with the image of another structure, drawn
    by a fixed seed, spread among each other so that a part of a run tells of both."""
    rng, structure = np.random.default_rng(0), pairs.structure_index
    items = [int(item) for item in choose_items(pairs.n, limit)]
    own = [((item, item), (k + 0.5) / len(items)) for k, item in enumerate(items)]
    foreign = []
    for k in range(count):
        item = k % pairs.n
        other = int(rng.choice(np.flatnonzero(structure != structure[item])))
        foreign.append(((item, other), (k + 0.5) / count))
    return [pair for pair, _ in sorted([*own, *foreign], key=lambda one: one[1])]


def counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    """What the rows of `mismatched` add up to."""
    own = [row for row in rows if row["image_of"] == row["item"]]
    foreign = [row for row in rows if row["image_of"] != row["item"]]
    return {
        "matched": len(own),
        "solved": sum(row["solved"] for row in own),
        "said": sum(row["said"] for row in own),
        "solved_and_said": sum(row["solved"] and row["said"] for row in own),
        "mismatched": len(foreign),
        "mismatched_said": sum(row["said"] for row in foreign),
    }


def begun(out: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What OUT holds of a run of the same `about`; else a new run's beginning."""
    if not out.exists():
        return dict(about)
    tree: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    if {key: tree.get(key) for key in about} != about:
        raise SystemExit(f"{out} holds another run; move it away, or choose another --out.")
    return tree


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """A JSON file, whole or not at all."""
    write_atomically(path, (json.dumps(tree, indent=2) + "\n").encode())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("store", type=Path)
    parser.add_argument("--weights", type=Path, default=None, help="none: the bundled ones")
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--methods", default="network,hybrid")
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--conditions", default="", help="those whose names start so, by comma")
    parser.add_argument(
        "--mismatched", type=int, default=0, help="so many pairs, beside LIMIT matched"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    phase = [f"phase.iterations={args.iterations}", f"phase.starts={args.starts}"]
    phase += ["phase.force=true"]
    context = load_context("network", args.weights)
    about = {"store": args.store.name, "iterations": args.iterations, "starts": args.starts}
    result = begun(args.out, about | {"limit": args.limit, "mismatched_asked": args.mismatched})
    if args.mismatched:
        pairs = taken_pairs(args.store, CONDITIONS[0], phase)
        chosen = pairings(pairs, args.limit, args.mismatched)
        mismatched(pairs, chosen, context, result, args.out)
    else:
        done = result.setdefault("conditions", {})
        for condition in CONDITIONS:
            asked = condition.name.startswith(tuple(args.conditions.split(",")))
            if not asked or condition.name in done:
                continue
            pairs = taken_pairs(args.store, condition, phase)
            items = choose_items(pairs.n, args.limit)
            given = batches(pairs, items, condition)
            mass = np.array([pairs.structures[pairs.structure_index[i]].mass_kda for i in items])
            rows = [judged(name, given, pairs, mass, context) for name in args.methods.split(",")]
            done[condition.name] = rows
            for row in rows:
                frc = " ".join(f"{value:5.2f}" for value in row["frc"].values())
                print(
                    f"{condition.name:42s} {row['method']:8s} {frc}  {row['solved']} solved, "
                    f"{row['said']} said, {row['said_and_solved']} both, "
                    f"{row['seconds_per_image']} s",
                    flush=True,
                )
            if condition is CONDITIONS[0]:
                result["trust"] = trust_table(given, context)
                print(result["trust"])
            write_json(args.out, result)


if __name__ == "__main__":
    main()
