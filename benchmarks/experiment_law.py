"""The law of the experiment: how far a map gets, against what its patterns are worth.

    python -m benchmarks.experiment_law run dur.zarr --exposures 2,4,8,20 --times 0.7,1.5 \
        --out law.jsonl
    python -m benchmarks.experiment_law run dur.zarr --exposures 3.6 --ice 10,20 --beams 80,150 \
        --set specimen.energy_filter=false --times 1.5 --out law.jsonl
    python -m benchmarks.experiment_law fit law.jsonl --check others.jsonl

STOREs are simulation stores of one molecule each. A run sums the exposures of several molecules in
one orientation (`specimen.molecules`), so many that all patterns together are worth `--times` 1.5 x
10⁴ e/Å²
at 2 Å by the law of the effective dose; images of 18 e/Å², after the
pattern. Orientations are given. A line of JSON a run; runs that the file holds are left out, so
that an interrupted sweep goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.many_views_law import read_lines
from diffragan.files.store import open_simulation
from diffragan.microscope.effective_dose import MUCH_BESIDE, Exposure
from diffragan.microscope.planning.law import electrons_per_voxel, expected_fsc
from diffragan.optics import Optics
from diffragan.settings import Settings, load_settings

RESOLUTIONS_A = (10.0, 7.0, 5.0, 4.0, 3.5, 3.0, 2.5, 2.2, 2.0, 1.8, 1.6, 1.4, 1.3)
FITTED_PER_A = (0.24, 0.78)  # from where images no longer rule to where the pattern ends
CLIMBED_A = 2.5  # a run whose map is right to here has left its images
PASSES, PASSES_BESIDE = 40, 120  # of the likelihood; where much lies beside the molecule
AT_2_A_E_PER_A2 = 1.5e4  # of effective dose in all patterns, that `--times` multiplies
Row = dict[str, Any]


@dataclass(frozen=True)
class Condition:
    """One run; two with the same fields are the same. `times` is of `AT_2_A_E_PER_A2`."""

    store: str
    views: int
    exposure_e_per_A2: float
    times: float
    ice_nm: float
    beam_A: float
    overrides: tuple[str, ...]
    seed: int

    @property
    def options(self) -> list[str]:
        """Of the simulation, as key=value."""
        told = [
            f"pattern.dose_e_per_A2={self.exposure_e_per_A2:g}",
            "image.dose_e_per_A2=18",
            "specimen.damage=grant_grigorieff",
        ]
        if self.ice_nm:
            told += [
                f"specimen.ice_nm={self.ice_nm:g}",
                f"specimen.beam_diameter_A={self.beam_A:g}",
            ]
        return [*told, *self.overrides]

    @property
    def settings(self) -> Settings:
        """Of the simulation."""
        return load_settings(overrides=self.options)

    @property
    def exposure(self) -> Exposure:
        """What its patterns are worth."""
        store = open_simulation(Path(self.store))
        settings = self.settings
        mass = store.structures[0].mass_kda
        optics = Optics(settings.energy_ev, store.optics.box_A, 0.0)
        return Exposure(optics, mass, settings.specimen, settings.detector)


def worth(exposure: Exposure, each_e_per_A2: float) -> dict[float, float]:
    """Effective dose of a pattern by resolution, e/Å²."""
    q = 1 / torch.tensor(RESOLUTIONS_A, dtype=torch.float64)
    values = exposure.effective_e_per_A2(q, each_e_per_A2)
    return dict(zip(RESOLUTIONS_A, values.tolist(), strict=True))


def run_condition(condition: Condition) -> Row:
    """Patterns made and phased, and what came of them."""
    exposure = condition.exposure
    each = worth(exposure, condition.exposure_e_per_A2)
    least = condition.times * AT_2_A_E_PER_A2 / each[2.0]
    molecules = max(1, round(least / condition.views))
    beside = float(exposure.beside(torch.tensor([0.5], dtype=torch.float64)))
    passes = PASSES_BESIDE if beside > MUCH_BESIDE else PASSES
    with tempfile.TemporaryDirectory(prefix="experiment-law-") as name:
        folder = Path(name)
        pairs, phased = str(folder / "pairs.zarr"), str(folder / "map")
        told = [*condition.options, f"specimen.molecules={molecules}"]
        made = command(
            ["image", condition.store, "--out", pairs, "--truth", "--limit", str(condition.views)],
            told,
            condition.seed,
        )
        way = ["many_views.climb_by=likelihood", f"many_views.likelihood_passes={passes}"]
        solved = command(["reconstruct", pairs, "--out", phased], way, condition.seed)
        metrics = json.loads((folder / "map" / "metrics.json").read_text("utf-8"))
        with (folder / "map" / "fsc.csv").open(encoding="utf-8") as file:
            rings = list(csv.DictReader(file))
    return {
        "molecule": metrics["molecule"],
        "mass_kda": metrics["mass_kda"],
        "box_A": metrics["box_A"],
        "molecules": molecules,
        "patterns": molecules * metrics["n_views"],
        "beside": beside,
        "passes": passes,
        "worth_e_per_A2": {f"{d:g}": each[d] for d in RESOLUTIONS_A},
        "q": [float(ring["q_per_A"]) for ring in rings],
        "fsc": [float(ring["truth"]) for ring in rings],
        "told": {
            name: [float(ring[name]) if ring.get(name) else None for ring in rings]
            for name in ("half", "other", "free", "expected")
        },
        "truth_A": metrics["truth_fsc_0p5_A"],
        "claimed_A": metrics["resolution_A"],
        "converged": metrics["converged"],
        "cpu_s": {"image": made, "reconstruct": solved},
    }


def command(words: list[str], options: list[str], seed: int) -> float:
    """CPU seconds of a command with settings."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = [word for option in options for word in ("--set", option)]
    done = subprocess.run(
        [sys.executable, "-m", "diffragan", *words, *told, "--seed", str(seed)],
        capture_output=True,
        text=True,
    )
    # 3: a map that did not converge, which is a row as any other.
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)


def conditions(args: argparse.Namespace) -> Iterator[Condition]:
    """Every run that the options ask for."""
    numbers = [
        [float(word) for word in words.split(",")]
        for words in (args.exposures, args.times, args.ice, args.beams)
    ]
    for store, exposure, times, ice, beam in product(args.stores, *numbers):
        yield Condition(
            str(store), args.views, exposure, times, ice, beam, tuple(args.set), args.seed
        )


def run(args: argparse.Namespace) -> None:
    """`run`: the runs that the file does not hold yet."""
    have = {json.dumps(row["condition"], sort_keys=True) for row in read_lines(args.out)}
    for condition in conditions(args):
        told = asdict(condition) | {"store": Path(condition.store).stem}
        if json.dumps(told, sort_keys=True, default=list) in have:
            continue
        row = {"condition": told, **run_condition(condition)}
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        shown = np.interp([1 / 4, 1 / 3, 1 / 2], row["q"], row["fsc"])
        print(
            f"{row['molecule']} {condition.exposure_e_per_A2:g} e/Å2, ice {condition.ice_nm:g} nm,"
            f" beam {condition.beam_A:g} Å, {row['patterns']:,} patterns: FSC at 4, 3, 2 Å "
            f"{shown.round(2)}, right to {row['truth_A']:.2f} Å, claims {row['claimed_A']:.2f} Å, "
            f"{sum(row['cpu_s'].values()):.0f} CPU s",
            flush=True,
        )


def odds_of(rows: list[Row]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logarithms (k,) of electrons a voxel and of the FSC's odds, of all rings that are fitted."""
    electrons, odds = [], []
    for row in rows:
        told = row["condition"]
        condition = Condition(**{**told, "overrides": tuple(told["overrides"])})
        settings = condition.settings
        optics = Optics(settings.energy_ev, row["box_A"], 0.0)
        exposure = Exposure(optics, row["mass_kda"], settings.specimen, settings.detector)
        q = torch.tensor(row["q"], dtype=torch.float64)
        band = (q > FITTED_PER_A[0]) & (q < FITTED_PER_A[1])
        each = exposure.effective_e_per_A2(q[band], condition.exposure_e_per_A2)
        total = electrons_per_voxel(row["patterns"] * each, q[band], settings.energy_ev)
        fsc = np.clip(np.array(row["fsc"])[band.numpy()], 0.02, 0.99)
        electrons.append(total.log().numpy())
        odds.append(np.log(fsc / (1 - fsc)))
    return np.concatenate(electrons), np.concatenate(odds)


def fit(args: argparse.Namespace) -> None:
    """`fit`: the law's two numbers by least squares of log odds, how far off it is, and what it
    says of runs that had no part in it."""
    rows = read_lines(args.law)
    electrons, odds = odds_of(rows)
    power, level = np.polyfit(electrons, odds, 1)
    off = float((odds - power * electrons - level).std() / power)
    print(f"odds {np.exp(level):.3f}, power {power:.3f}, from {len(rows)} runs")
    print(f"off by a factor of {np.exp(off):.2f} in patterns, a ring at a time")
    for name, own in (("fit", rows), ("check", read_lines(args.check) if args.check else [])):
        for row in own:
            told, found = odds_of([row])
            away = float((found - power * told - level).mean() / power)
            c = row["condition"]
            print(
                f"{name}: {row['molecule']} {c['exposure_e_per_A2']:g} e/Å2, ice {c['ice_nm']:g} "
                f"nm, beam {c['beam_A']:g} Å, {row['patterns']:,} {c['overrides']}: as if of "
                f"{np.exp(away):.2f} times as many; claims {row['claimed_A'] / row['truth_A']:.2f} "
                "of the truth"
            )


def plot(args: argparse.Namespace) -> None:
    """`plot`: FSC against electrons a voxel, a line for each run, and the law."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 4.8), layout="constrained")
    axis = figure.subplots()
    axis.set_prop_cycle(color=[colormaps["tab20"](k) for k in range(20)])
    for row in (row for path in args.files for row in read_lines(path)):
        electrons, odds = odds_of([row])
        c = row["condition"]
        ice = f", {c['ice_nm']:g} nm of ice" if c["ice_nm"] else ""
        begun = row["truth_A"] < CLIMBED_A
        name = f"{row['molecule']}, {c['exposure_e_per_A2']:g} e/Å²{ice}, {row['patterns']:,.0f}"
        axis.plot(
            np.exp(electrons),
            1 / (1 + np.exp(-odds)),
            "-o" if begun else ":",
            markersize=3,
            linewidth=0.9,
            label=name if begun else f"{name}, did not climb",
        )
    told = torch.logspace(-0.7, 2.3, 60)
    axis.plot(told, expected_fsc(told), color="black", linewidth=2, label="the law")
    axis.set(xscale="log", ylim=(0, 1), ylabel="FSC with the truth")
    axis.set_xlabel("electrons of the molecule a voxel, rings from 4 to 1.3 Å")
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(args.out, dpi=120)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(required=True)
    sweep = commands.add_parser("run", help="runs, a line of JSON each")
    sweep.set_defaults(run=run)
    sweep.add_argument("stores", type=Path, nargs="+")
    sweep.add_argument("--out", type=Path, required=True, help="JSON lines, appended to")
    sweep.add_argument("--views", type=int, default=300, help="orientations")
    sweep.add_argument("--exposures", default="3.6", help="of a pattern, e/Å²")
    sweep.add_argument("--times", default="1", help="worth in all over 1.5e4 e/Å², at 2 Å")
    sweep.add_argument("--ice", default="0", help="nm")
    sweep.add_argument("--beams", default="80", help="diameter, Å, where there is ice")
    sweep.add_argument("--set", action="append", default=[], help="key=value over the settings")
    sweep.add_argument("--seed", type=int, default=0)
    fitted = commands.add_parser("fit", help="the formula, and how far off it is")
    fitted.set_defaults(run=fit)
    fitted.add_argument("law", type=Path, help="of `run`")
    fitted.add_argument("--check", type=Path, help="of runs that have no part in the fit")
    drawn = commands.add_parser("plot", help="FSC against electrons a voxel")
    drawn.set_defaults(run=plot)
    drawn.add_argument("files", type=Path, nargs="+", help="of `run`")
    drawn.add_argument("--out", type=Path, required=True, help=".png")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
