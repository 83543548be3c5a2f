"""What phasing by projection algorithms depends on: one sweep at a time, a table and a figure.

    python benchmarks/phasing_study.py STUDY.zarr --limit 8 --out study.json --figure study.png

Every point is `raar` with the default settings but for one; FRC is of the wave, mean over images.
A run that was interrupted goes on from its JSON file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.phasing import Row, measure
from diffragan.engine.items import choose_items
from diffragan.files.atomic import write_atomically
from diffragan.pairs.open import open_pairs
from diffragan.phasing.method import Context
from diffragan.phasing.methods import METHODS
from diffragan.settings import load_settings

SWEEPS: dict[str, tuple[str, list[str]]] = {
    "dose on the pattern (e/Å²)": (
        "pattern.dose_e_per_A2",
        ["20", "200", "1e3", "1e4", "1e5", "1e6", "1e7"],
    ),
    "image SNR": ("image.snr", ["0.1", "0.3", "0.8", "3"]),
    "defocus (Å)": ("image.defocus_A", ["-500", "-1000", "-2000", "-3000"]),
    "iterations": ("phase.iterations", ["75", "150", "300", "600", "1200"]),
    "starts": ("phase.starts", ["1", "2", "4", "8"]),
    "beta (RRR)": ("phase.beta", ["0.3", "0.5", "0.7", "0.9"]),
    "support threshold": ("phase.shrink_fraction", ["0.03", "0.06", "0.1", "0.15"]),
}
RESOLUTIONS_A = ("4", "2", "1.6")


def run_point(store: Path, limit: int, pair: str) -> dict[str, Any]:
    """The figures of one point, with 4 starts x 600 unless `pair` says otherwise."""
    base = ["phase.starts=4", "phase.iterations=600", "phase.force=true"]
    settings = load_settings(overrides=[*base, pair], values={"phase.method": "raar"})
    pairs = open_pairs(store, settings=settings)
    row = Row(pair, lambda batch, truth: METHODS["raar"](batch, Context()))
    return measure(row, pairs, choose_items(pairs.n, limit), 4)


def draw(points_of: dict[str, dict[str, Any]], path: Path) -> None:
    """One panel a sweep: FRC at three resolutions and the part of the images solved."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.5), layout="constrained")
    panels = figure.subplots(2, 4, sharey=True).flat
    for axis, (name, (key, values)) in zip(panels, SWEEPS.items(), strict=False):
        points = [(float(v), points_of[f"{key}={v}"]) for v in values if f"{key}={v}" in points_of]
        x = [abs(value) for value, _ in points]
        for d, colour in zip(RESOLUTIONS_A, ("#0072b2", "#009e73", "#d55e00"), strict=True):
            axis.plot(x, [p["frc"][d] for _, p in points], "o-", color=colour, label=f"{d} Å")
        axis.plot(x, [p["solved_fraction"] for _, p in points], "k:", label="solved")
        if max(x, default=1) / max(min(x, default=1), 1e-9) > 5:
            axis.set_xscale("log")
            axis.minorticks_off()
        axis.set_xticks(x, [f"{value:g}".replace("e+0", "e") for value in x])
        axis.set_xlabel(name.replace("defocus", "underfocus"))
        axis.set_ylim(-0.1, 1.05)
        axis.grid(alpha=0.3)
    first, *_, last = figure.axes
    first.set_ylabel("mean FRC, part solved")
    last.set_axis_off()
    last.legend(*first.get_legend_handles_labels(), loc="center", frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("store", type=Path)
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figure", type=Path, required=True)
    args = parser.parse_args()
    points_of: dict[str, dict[str, Any]] = (
        json.loads(args.out.read_text()) if args.out.exists() else {}
    )
    for key, values in SWEEPS.values():
        for value in values:
            pair = f"{key}={value}"
            if pair not in points_of:
                points_of[pair] = run_point(args.store, args.limit, pair)
                write_atomically(args.out, json.dumps(points_of, indent=2).encode())
            point = points_of[pair]
            frc = " ".join(f"{d} Å {point['frc'][d]:5.2f}" for d in RESOLUTIONS_A)
            print(f"{pair:36s} {frc}  solved {point['solved_fraction']:.2f}", flush=True)
    draw(points_of, args.figure)


if __name__ == "__main__":
    main()
