"""All phasing methods and their baselines on the same pairs, in one table.

    python benchmarks/phasing.py STORE.zarr --limit 50 --starts 4 --iterations 1500 --json out.json

STORE is a simulation store, imaged on the way, or any input with its truth. FRC is of the wave in
the measured band, smoothed over ± 5 % in q. Only the row of random starts is aligned to the truth,
over shift and twin, since nothing there could tell where the object is. The row marked as an upper
bound is told the true outline and the exact phases to 5 Å; no other row is told anything.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffragan.engine.items import choose_items
from diffragan.errors import DiffraganError
from diffragan.fourier import correlation as metrics
from diffragan.fourier.grids import frequency_grid
from diffragan.optics import aberration, transfer_function
from diffragan.pairs.open import open_pairs
from diffragan.pairs.pairs import Pairs
from diffragan.phasing import support
from diffragan.phasing.method import PairBatch, Phased, phased_wave
from diffragan.phasing.methods import METHODS, raar
from diffragan.phasing.proposals import Proposal
from diffragan.phasing.run import load_context, make_pair_batch
from diffragan.phasing.starts import align, random_starts
from diffragan.settings import load_settings

RESOLUTIONS_A = (8.0, 6.0, 5.0, 4.0, 3.0, 2.5, 2.0, 1.6, 1.4)
KNOWN_TO_A = 5.0


@dataclass(frozen=True)
class Row:
    """One method of the table; `truth` is (b, m, m), for the rows that are marked."""

    name: str
    run: Callable[[PairBatch, Tensor], Phased]


def gerchberg_saxton(batch: PairBatch, truth: Tensor, iterations: int = 200) -> Phased:
    """Between the two measured planes: pattern and image amplitudes in turn, no support.

    Gerchberg & Saxton (1972). The image knows the wave behind the aperture; frequencies outside
    it pass unchanged, so they keep the phases they began with, here random ones.
    """
    optics, image = batch.optics, batch.settings.image
    m = batch.pattern.shape[-1]
    q2 = frequency_grid(m, optics.box_A, batch.image.device)
    chi = aberration(
        q2, optics.energy_ev, image.defocus_A - optics.centre_to_exit_A, image.cs_mm
    ).to(torch.float32)
    opened = transfer_function(q2, optics.energy_ev, aperture_mrad=image.aperture_mrad).abs() > 0
    lens = torch.polar(torch.ones_like(chi), -chi)
    mask = torch.fft.ifftshift(batch.pattern_mask)
    start = random_starts(
        batch.amplitude,
        torch.ones_like(batch.amplitude, dtype=torch.complex64),
        torch.zeros_like(batch.amplitude),
        batch.seeds,
        1,
        "complex",
    )[:, 0]
    spectrum = torch.fft.fft2(start, norm="forward")
    spectrum[..., 0, 0] = batch.direct_beam
    size = batch.image.clamp_min(0).sqrt()
    for _ in range(iterations):
        inside = torch.fft.ifft2(spectrum * lens * opened, norm="forward")
        matched = torch.fft.fft2(size * torch.sgn(inside), norm="forward") * lens.conj()
        spectrum = torch.where(opened, matched, spectrum)
        beam = spectrum[..., 0, 0]
        spectrum = batch.amplitude * torch.sgn(spectrum) * mask
        spectrum[..., 0, 0] = batch.direct_beam * torch.sgn(beam)
    spectrum = spectrum * torch.sgn(spectrum[..., :1, :1]).conj()
    return phased_wave(torch.fft.ifft2(spectrum, norm="forward"), batch)


def random_phases(batch: PairBatch, truth: Tensor) -> Phased:
    """The same solver without the image: random starts, a disc of the molecule's size."""
    none = torch.zeros_like(batch.amplitude)
    proposal = Proposal(torch.ones_like(none, dtype=torch.complex64), none)
    phase = batch.settings.phase.model_copy(update={"support": "radius"})
    blind = replace(batch, settings=batch.settings.model_copy(update={"phase": phase}))
    refined = raar.refine_phases(blind, proposal)
    true = torch.fft.fft2(truth, norm="forward") / 1j
    true[..., 0, 0] = 0
    spectrum, _ = align(refined.spectrum, torch.sgn(true), true.abs() ** 2)
    return _phased(1j * spectrum, refined, batch)


def upper_bound(batch: PairBatch, truth: Tensor) -> Phased:
    """The solver with the true support and exact phases to 5 Å."""
    spectrum = torch.fft.fft2(truth, norm="forward")
    spectrum[..., 0, 0] = 0
    density = torch.fft.ifft2(spectrum / 1j, norm="forward").real
    outline = support.support_from_density(density, batch.optics.box_A, 0.05, 1.5)
    q = frequency_grid(truth.shape[-1], batch.optics.box_A, truth.device).sqrt()
    known = (q <= 1 / KNOWN_TO_A) & torch.fft.ifftshift(batch.pattern_mask)
    trust = known.to(batch.amplitude).expand_as(batch.amplitude)
    proposal = Proposal(torch.sgn(spectrum).to(torch.complex64), trust)
    refined = raar.refine_phases(batch, proposal, fixed_support=outline)
    return _phased(1j * refined.spectrum, refined, batch)


def _phased(spectrum: Tensor, refined: raar.Phases, batch: PairBatch) -> Phased:
    spectrum[..., 0, 0] = batch.direct_beam.to(spectrum)
    wave = torch.fft.ifft2(spectrum, norm="forward")
    r = refined.start_r.min(1).values
    phased = phased_wave(wave, batch, trust=refined.trust, r_factor=r)
    return replace(phased, start_r=refined.start_r, solved=refined.solved)


def rows(weights: Path | None) -> list[Row]:
    """The table's rows, in its order; networks by these weights, or the bundled ones."""

    def known(name: str) -> Callable[[PairBatch, Tensor], Phased]:
        given = weights if METHODS[name].needs_weights else None
        # Read when the row is first run, so that a row that is left out needs no weights.
        context = cache(lambda: load_context(name, given))
        return lambda batch, truth: METHODS[name](batch, context())

    return [
        Row("image only", known("image")),
        Row("Gerchberg-Saxton, two planes", gerchberg_saxton),
        Row("random starts (aligned to truth)", random_phases),
        Row("network", known("network")),
        Row("raar", known("raar")),
        Row("hybrid", known("hybrid")),
        Row("upper bound (told support, 5 Å)", upper_bound),
    ]


def measure(row: Row, pairs: Pairs, items: np.ndarray[Any, Any], size: int) -> dict[str, Any]:
    """One row's figures over the items."""
    curves, r, said, seconds = [], [], [], 0.0
    mask = torch.from_numpy(pairs.pattern_mask)
    trust, cosine = [], []
    for low in range(0, len(items), size):
        some = items[low : low + size]
        batch = make_pair_batch(pairs, some, pairs.settings, torch.device("cpu"))
        true = pairs.truth_wave(some)
        if true is None:
            raise DiffraganError(f"{pairs.path} has no truth to compare with.")
        truth = torch.from_numpy(true)
        began = time.perf_counter()
        phased = row.run(batch, truth)
        seconds += time.perf_counter() - began
        assert phased.wave is not None
        found_q, true_q = metrics.centred_fourier(phased.wave), metrics.centred_fourier(truth)
        curves.append(metrics.frc_fourier(found_q, true_q, mask.expand_as(found_q)))
        if phased.r_factor is not None:
            r.append(phased.r_factor)
        if phased.solved is not None:
            said.append(phased.solved)
        if phased.trust is not None:
            trust.append(phased.trust)
            cosine.append(ring_cosine(found_q, true_q, mask))
    curve = torch.cat(curves)
    q = metrics.ring_q(pairs.m, pairs.box_A)
    reach = int(pairs.box_A * float(metrics.ring_q(pairs.m, pairs.box_A).max()))
    used = slice(0, reach)
    smooth = metrics.smooth_curve(curve.mean(0), q)
    solved = metrics.solved(curve, q)
    result: dict[str, Any] = {
        "method": row.name,
        "n": len(items),
        "frc": {f"{d:g}": float(np.interp(1 / d, q, smooth)) for d in RESOLUTIONS_A},
        "frc_0p5_A": metrics.resolution_at(curve.mean(0)[used], q[used]),
        "solved_fraction": float(solved.double().mean()),
        "r_factor_median": float(torch.cat(r).median()) if r else None,
        "seconds_per_image": seconds / len(items),
    }
    if said:
        flags = torch.cat(said)
        both = int((flags & solved).sum())
        result["flag"] = {
            "said": int(flags.sum()),
            "solved": int(solved.sum()),
            "both": both,
            "precision": both / max(int(flags.sum()), 1),
            "recall": both / max(int(solved.sum()), 1),
        }
        t, c = torch.cat(trust), torch.cat(cosine)
        near = (t > 0.75) & (t < 0.85) & torch.isfinite(c)
        result["cosine_where_trust_is_0p8"] = float(c[near].mean()) if bool(near.any()) else None
        result["rings_where_trust_is_0p8"] = int(near.sum())
    return result


def ring_cosine(phased: Tensor, true: Tensor, mask: Tensor) -> Tensor:
    """(b, rings) mean cosine of the phase error over valid pixels; NaN in an empty ring."""
    cosine = (torch.sgn(phased) * torch.sgn(true).conj()).real[:, mask]
    rings = metrics.ring_index(mask.shape[-1])[mask]
    n = mask.shape[-1] // 2 + 1
    keep = rings < n
    sums = cosine.new_zeros(len(cosine), n).index_add_(-1, rings[keep], cosine[:, keep])
    return sums / torch.bincount(rings[keep], minlength=n)


def line(result: dict[str, Any]) -> str:
    """A row of the printed table."""
    frc = " ".join(f"{value:5.2f}" for value in result["frc"].values())
    r = result["r_factor_median"]
    return (
        f"{result['method']:33s} {frc}  {result['frc_0p5_A']:6.2f} "
        f"{result['solved_fraction']:6.2f} {'     -' if r is None else f'{r:6.4f}'} "
        f"{result['seconds_per_image']:6.2f}"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("store", type=Path)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--weights", type=Path, default=None, help="of networks; none: bundled")
    parser.add_argument("--rows", default="", help="those whose names start so, by comma")
    parser.add_argument("--set", action="append", default=[], help="key=value, as diffragan phase")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    values = {"phase.starts": args.starts, "phase.iterations": args.iterations}
    settings = load_settings(overrides=args.set, values={"phase.method": "raar", **values})
    pairs = open_pairs(args.store, settings=settings)
    items = choose_items(pairs.n, args.limit)
    resolutions = " ".join(f"{d:5g}" for d in RESOLUTIONS_A)
    print(f"{args.store.name}: {len(items)} pairs, box {pairs.box_A:.1f} Å, {pairs.m} px")
    print(f"{'FRC at (Å)':33s} {resolutions}  FRC.5Å solved      R  s/image", flush=True)
    results = []
    for row in rows(args.weights):
        if row.name.startswith(tuple(args.rows.split(","))):
            results.append(measure(row, pairs, items, args.batch))
            print(line(results[-1]), flush=True)
    for result in results:
        if "flag" in result:
            print(
                f"{result['method']}: flag {result['flag']}, cosine where trust is 0.75 to 0.85: "
                f"{result['cosine_where_trust_is_0p8']} ({result['rings_where_trust_is_0p8']} "
                "rings)"
            )
    if args.json is not None:
        report = {
            "store": args.store.name,
            "box_A": pairs.box_A,
            "settings": settings.model_dump(mode="json"),
            "rows": results,
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
