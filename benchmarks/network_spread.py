"""What the draws of a generator of maps are worth, and whether they are spread as they are wrong.

    python -m benchmarks.network_spread STORE.zarr --weights run/best.safetensors --draws 8

STORE is a simulation store, imaged on the way. FRC of the object with the truth, to the finest
resolution that the generator draws; of one draw, and of the mean of all. Draws that are samples of
what the truth may be lie as far from each other as from it. The spread, the root of (1 + 1 / K)
times the variance of K draws over the squared error of their mean, is then 1 in every ring; it is 0
where noise moves nothing. `--by-trust` takes samples of phases by the network's trust
(`phase.sample`) in place of draws of its noise.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffragan.engine.items import choose_items
from diffragan.fourier import correlation as metrics
from diffragan.fourier.grids import resized_spectrum
from diffragan.pairs.open import open_pairs
from diffragan.pairs.pairs import Pairs
from diffragan.phasing.method import Context, PairBatch
from diffragan.phasing.methods.network import drawn_phases
from diffragan.phasing.modulus import friedel_mate
from diffragan.phasing.proposals import Proposal, maps_evidence, sampled
from diffragan.phasing.run import load_context, make_pair_batch
from diffragan.settings import load_settings
from diffragan.training.on_maps.losses import by_ring, ring_correlation

RESOLUTIONS_A = (8.0, 6.0, 5.0, 4.0, 3.0)
BANDS_A = (10.0, 7.0, 5.0, 4.0, 3.0, 2.5)
CPU = torch.device("cpu")


def drawn_and_true(
    pairs: Pairs, item: int, context: Context, draws: int, *, by_trust: bool
) -> tuple[Tensor, Tensor, int]:
    """Spectra (draws, n, n) of a pair's object, (1, n, n) of the true one where it was measured,
    and n."""
    weights = context.weights
    assert weights is not None
    finest = weights.metadata.settings.network.maps_finest_A
    batch = make_pair_batch(pairs, np.array([item]), pairs.settings, CPU)
    evidence = [maps_evidence(batch, finest, 0 if by_trust else k) for k in range(draws)]
    n = evidence[0].amplitude.shape[-1]
    if by_trust:
        best = drawn_phases(batch, context)
        drawn = torch.cat([real_object(sampled_spectrum(best, batch, k), n) for k in range(draws)])
    else:
        with torch.inference_mode():
            drawn = torch.cat([weights.generator(one)[-1] for one in evidence])
    wave = pairs.truth_wave(np.array([item]))
    assert wave is not None
    true = real_object(torch.fft.fft2(torch.from_numpy(wave), norm="forward"), n)
    inside = evidence[0].amplitude > 0
    return drawn * inside, true * inside, n


def sampled_spectrum(best: Proposal, batch: PairBatch, sample: int) -> Tensor:
    """The spectrum (1, m, m) of a pair's wave with phases of one sample."""
    one = sampled(best, batch.seeds, sample)
    return batch.amplitude * one.trust * one.phase


def real_object(spectrum: Tensor, n: int) -> Tensor:
    """Spectrum (b, n, n) of a wave's object, its mates averaged; wave = beam + i object."""
    thing = spectrum / 1j
    return resized_spectrum(0.5 * (thing + friedel_mate(thing).conj()), n)


def measured(
    pairs: Pairs, limit: int | None, context: Context, draws: int, *, by_trust: bool
) -> dict[str, Any]:
    """FRC and spread over the pairs of a store."""
    one, mean, sums = [], [], []
    n = 0
    for item in choose_items(pairs.n, limit):
        drawn, true, n = drawn_and_true(pairs, int(item), context, draws, by_trust=by_trust)
        middle = drawn.mean(0, keepdim=True)
        one.append(ring_correlation(drawn[:1], true))
        mean.append(ring_correlation(middle, true))
        variance = (drawn - middle).abs().square().sum(0, keepdim=True) / max(1, draws - 1)
        error = (middle - true).abs().square()
        power = by_ring(true.abs().square())  # every pair counts alike
        sums.append(torch.stack([by_ring(variance), by_ring(error)]) / power.clamp_min(1e-20))
    spread, error = torch.cat(sums, 1).mean(1)
    q = torch.arange(1, n // 2) / pairs.box_A
    expected = (1 + 1 / draws) * spread
    return {
        "n": len(one),
        "draws": draws,
        "frc_one": at_resolutions(one, q),
        "frc_mean": at_resolutions(mean, q),
        "error_of_power": by_band(error, torch.ones_like(error), q),
        "spread": {k: round(v**0.5, 3) for k, v in by_band(expected, error, q).items()},
    }


def at_resolutions(curves: list[Tensor], q: Tensor) -> dict[str, float]:
    """The mean curve, from ring 1 on, at some resolutions and over all rings."""
    curve = torch.cat(curves).mean(0)
    whole = torch.cat([torch.ones(1), curve])  # ring 0
    smooth = metrics.smooth_curve(whole, torch.cat([torch.zeros(1), q]))[1:]
    found = {f"{d:g}": round(float(np.interp(1 / d, q, smooth)), 3) for d in RESOLUTIONS_A}
    return {**found, "all": round(float(curve.mean()), 3)}


def by_band(values: Tensor, weight: Tensor, q: Tensor) -> dict[str, float]:
    """Sums of values over sums of weights, both (rings,), by band."""
    found = {}
    for low, high in pairwise(BANDS_A):
        k = (q >= 1 / low) & (q < 1 / high)
        found[f"{low:g}-{high:g}"] = round(float(values[k].sum() / weight[k].sum()), 4)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("store", type=Path)
    parser.add_argument("--weights", default="", help="by comma; none: the bundled ones")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--by-trust", action="store_true", help="samples of phases")
    parser.add_argument("--set", action="append", default=[], help="key=value, as diffragan phase")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pairs = open_pairs(args.store, settings=load_settings(overrides=args.set))
    found = {}
    for name in args.weights.split(","):
        context = load_context("network", Path(name) if name else None)
        row = found[name or "bundled"] = measured(
            pairs, args.limit, context, args.draws, by_trust=args.by_trust
        )
        print(name or "bundled", json.dumps(row), flush=True)
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
