"""Many views phased together: how far, and what an experiment must spend.

    python -m benchmarks.many_views_law run UBQ70.zarr --out law.jsonl --doses none,200 --views 300
    python -m benchmarks.many_views_law plot law.jsonl --out law.png

STOREs are simulation stores of one molecule each, imaged on the way. `run` runs the method over
doses and numbers of views and appends one line of JSON a run; runs that are in the file already
are left out, so an interrupted sweep goes on. Nothing is told the truth: it is looked at when a run
has ended.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from benchmarks.law_figure import draw_law
from benchmarks.many_views import spread, use_threads
from diffragan.errors import DiffraganError
from diffragan.fourier import correlation as metrics
from diffragan.fourier.slices import extract
from diffragan.fourier.volumes import volume_spectrum
from diffragan.optics import q_from_angle
from diffragan.pairs.open import open_pairs
from diffragan.pairs.pairs import Pairs
from diffragan.reconstruction import many_views
from diffragan.reconstruction.maps.load_views import load_views
from diffragan.reconstruction.maps.merge_waves import merge_waves, slices_of_waves
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.phased_map import PhasedMap
from diffragan.reconstruction.start_from_waves import begin_from_waves
from diffragan.settings import Settings, load_settings

RESOLUTIONS_A = (5.0, 4.0, 3.0, 2.5, 2.0, 1.6, 1.4, 1.3)
DOSES = "none,1e5,1e4,1e3,200,50,20"
JUDGED = 64  # views whose waves are compared with the truth
Row = dict[str, Any]
CONVERGED = 0.8  # of the images' resolution: a run that ends coarser has not left its start


@dataclass(frozen=True)
class Case:
    """One run; two runs with the same case are the same run. Doses in e/Å², None: no noise."""

    store: str
    views: int
    pattern_dose: float | None
    image_dose: float | None = None
    mass_kda: float | None = None
    mass_factor: float = 1.0
    rotation_error_deg: float = 0.0
    shift_error_A: float = 0.0
    stray: float = 0.0
    stray_store: str | None = None
    overrides: tuple[str, ...] = ()
    seed: int = 0
    start: str | None = None  # phased waves that the maps begin from

    def settings(self) -> Settings:
        """The run's settings: the overrides, then doses and seed."""
        values = {
            "seed": self.seed,
            "pattern.dose_e_per_A2": self.pattern_dose,
            "image.dose_e_per_A2": self.image_dose,
        }
        return load_settings(overrides=self.overrides, values=values)

    @property
    def key(self) -> str:
        """What tells it from other runs."""
        told = asdict(self)
        if self.start is None:
            del told["start"]  # as in files that know of none
        return json.dumps(told, sort_keys=True)


def turned(rotations: NDArray[np.float64], rms_deg: float, seed: int) -> NDArray[np.float64]:
    """Orientations turned about random axes by angles of so many degrees rms."""
    vector = np.random.default_rng([seed, 1]).normal(size=(len(rotations), 3))
    vector *= np.deg2rad(rms_deg) / np.sqrt(3)
    result: NDArray[np.float64] = Rotation.from_rotvec(vector).as_matrix() @ rotations
    return result


def views_of(case: Case, pairs: Pairs, folder: Path) -> tuple[Views, NDArray[np.bool_], Tensor]:
    """The views of a case, which of them show another molecule, and how far (v, 2), x and y, each
    image was moved without its view being told, Å."""
    if pairs.rotation is None:
        raise DiffraganError(f"{pairs.path} holds no orientations.")
    items = spread(pairs.n, case.views)
    rotations = turned(pairs.rotation[items], case.rotation_error_deg, case.seed)
    views = load_views(pairs, items, rotations, folder / "views")
    wrong = np.zeros(len(items), dtype=bool)
    if case.stray > 0 and case.stray_store is not None:
        other = open_pairs(Path(case.stray_store), settings=case.settings())
        if other.m != pairs.m or other.box_A != pairs.box_A:
            raise DiffraganError(f"{other.path} and {pairs.path} differ in box or pixels.")
        count = round(case.stray * len(items))
        rng = np.random.default_rng([case.seed, 2])
        wrong[rng.choice(len(items), count, replace=False)] = True
        drawn = spread(other.n, count)
        strays = load_views(other, drawn, rotations[wrong], folder / "strays")
        at = torch.from_numpy(np.flatnonzero(wrong))
        views.measured[at], views.contrast[at] = strays.measured, strays.contrast
        views.image_noise[at] = strays.image_noise
    drawn_shift = np.random.default_rng([case.seed, 3]).normal(size=(len(items), 2))
    shift = torch.from_numpy(drawn_shift * case.shift_error_A / np.sqrt(2)).float()
    moved = replace(views, shifts_A=-shift)
    for block in views.blocks():
        views.contrast[block] *= moved.image_phase_ramp(block)
    return views, wrong, shift


def wave_frc(combined: PhasedMap, pairs: Pairs, wrong: NDArray[np.bool_], shift: Tensor) -> Tensor:
    """(rings,) mean FRC of phased waves with the truth, ring r at r / box.

    A phased wave has the measured amplitudes and the phases of the map's slice; with counts it is
    the slice itself, which is less noisy.
    """
    views, geometry = combined.views, combined.project.geometry
    good = np.flatnonzero(~wrong)
    chosen = good[spread(len(good), min(JUDGED, len(good)))]
    rings = (views.curved.radius + 0.5).long().repeat(2)
    curves = []
    half = volume_spectrum(combined.map)
    for start in range(0, len(chosen), 16):
        some = torch.from_numpy(chosen[start : start + 16])
        true_waves = pairs.truth_wave(views.items[some.numpy()])
        if true_waves is None:
            raise DiffraganError(f"{pairs.path} has no truth to compare with.")
        truth = slices_of_waves(torch.from_numpy(true_waves), views.curved)
        values = extract(half, views.rotations[some], geometry.points)
        values = values if geometry.curved else torch.cat((values, values), 1)
        values = values * views.curved.valid.reshape(-1)
        if views.electrons is None:
            values = torch.sgn(values) * views.measured[some].reshape(len(some), -1)
        away = (views.shifts_A[some] - shift[some]) / views.volume_box_A
        cycles = away @ views.curved.points[:, :2].T
        values = values * torch.polar(torch.ones_like(cycles), -2 * torch.pi * cycles)
        curves.append(ring_correlation(values, truth, rings))
    return torch.cat(curves).mean(0)


def ring_correlation(a: Tensor, b: Tensor, rings: Tensor) -> Tensor:
    """(b, rings) real part of the complex correlation of (b, k) values by ring."""
    sums = torch.zeros(3, len(a), int(rings.max()) + 1, dtype=torch.float64)
    terms = ((a * b.conj()).real, a.abs() ** 2, b.abs() ** 2)
    for total, term in zip(sums, terms, strict=True):
        total.index_add_(1, rings, term.double())
    return sums[0] / (sums[1] * sums[2]).sqrt().clamp_min(1e-30)


def truth_fsc(combined: PhasedMap, pairs: Pairs, wrong: NDArray[np.bool_]) -> Tensor:
    """(shells,) FSC of the map with the true waves of its views merged, both in the map's mask."""
    views = combined.views
    items = views.items[~wrong]

    def waves(chosen: NDArray[np.int64]) -> NDArray[np.complex64]:
        wave = pairs.truth_wave(chosen)
        assert wave is not None
        return wave

    assert pairs.rotation is not None
    turn = torch.from_numpy(pairs.rotation[items]).float()
    true = merge_waves(waves, items, turn, views.curved, views.n)
    return metrics.fsc(combined.map * combined.mask, true * combined.mask)


def run_case(case: Case, *, with_map: bool, on_check: Callable[[Row], None] | None) -> Row:
    """One run and what came of it."""
    pairs = open_pairs(Path(case.store), settings=case.settings())
    settings = pairs.settings.many_views
    known = pairs.structures[int(pairs.structure_index[0])].mass_kda or None
    mass = case.mass_kda or settings.mass_kda or known
    mass = None if mass is None else mass * case.mass_factor
    with tempfile.TemporaryDirectory(prefix="many-views-") as folder:
        began = time.perf_counter()
        views, wrong, shift = views_of(case, pairs, Path(folder))
        loaded = time.perf_counter()
        solve = many_views.start(views, settings, mass, case.seed)
        if case.start is not None:
            begin_from_waves(solve, Path(case.start), pairs)
        while not solve.done:
            checks = len(solve.history)
            solve.step()
            if on_check and len(solve.history) > checks:
                on_check(solve.history[-1])
        combined = many_views.combined(solve, views)
        solved = time.perf_counter()
        assert solve.measure is not None
        curve = wave_frc(combined, pairs, wrong, shift)
        q = torch.arange(len(curve), dtype=torch.float64) / pairs.box_A
        smooth = metrics.smooth_curve(curve, q).numpy()
        image_A = 1 / q_from_angle(pairs.settings.image.aperture_mrad, pairs.optics.energy_ev)
        resolution_A, ring, free = solve.measure.resolution_A, solve.measure.q, solve.measure.free
        determined = ~free.isnan()
        low = (combined.views.weights < 0.5).numpy()
        result: Row = {
            "resolution_A": resolution_A,
            "fsc_A": solve.measure.fsc_resolution_A,
            "free_A": metrics.resolution_at(free[determined], ring[determined], 0.143)
            if determined.any()
            else None,
            "truth_A": metrics.resolution_at(curve[1:], q[1:]),
            "frc": {
                f"{d:g}": float(np.interp(1 / d, q.numpy(), smooth))
                for d in RESOLUTIONS_A
                if 1 / d <= float(q[-1]) + 0.5 / pairs.box_A
            },
            "curves": {
                "q": [round(v, 5) for v in ring.tolist()],
                "fsc": [round(v, 3) for v in solve.measure.fsc.tolist()],
                "free": [None if v != v else round(v, 3) for v in free.tolist()],
                "truth": [round(v, 3) for v in curve[1:].tolist()],
            },
            "r_factor": combined.r_factor,
            "converged": not solve.exhausted and resolution_A < CONVERGED * image_A,
            "exhausted": solve.exhausted,
            "iterations": solve.iteration,
            "seconds": solved - loaded,
            "seconds_loading": loaded - began,
            "box_A": pairs.box_A,
            "n": combined.views.n,
            "padding": combined.views.flat.padding,
            "mask_part": float(combined.mask.float().mean()),
            "mass_kda": mass,
            "lost_strays": int((low & wrong).sum()),
            "lost_others": int((low & ~wrong).sum()),
            "strays": int(wrong.sum()),
            "threads": torch.get_num_threads(),
            "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        if with_map:
            shells = truth_fsc(combined, pairs, wrong)
            shell_q = torch.arange(len(shells), dtype=torch.float64) / combined.views.volume_box_A
            inside = (shell_q > 0) & (shell_q <= q[-1])
            result["truth_fsc_A"] = metrics.resolution_at(shells[inside], shell_q[inside])
    return result


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """Every run that the options of `run` ask for, stores outermost and doses innermost."""
    doses = [None if word == "none" else float(word) for word in args.doses.split(",")]
    if args.total_dose and None in doses:
        raise DiffraganError("--total-dose shares a dose out; leave 'none' out of --doses.")
    counts = [int(float(word)) for word in args.views.split(",")]
    for store, views, dose in product(args.stores, counts, doses):
        share = dose / 2 if args.total_dose and dose is not None else None
        yield Case(
            store=str(store),
            views=views,
            pattern_dose=share or dose,
            image_dose=share,
            mass_kda=args.mass_kda,
            mass_factor=args.mass_factor,
            rotation_error_deg=args.rotation_error,
            shift_error_A=args.shift_error,
            stray=args.stray,
            stray_store=None if args.stray_store is None else str(args.stray_store),
            overrides=tuple(args.set),
            seed=args.seed,
            start=None if args.start is None else str(args.start),
        )


def read_lines(path: Path) -> list[Row]:
    """The runs of a file, none if it is missing."""
    text = path.read_text("utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def law(args: argparse.Namespace) -> None:
    """`run`: the runs that the file does not hold yet."""
    if (args.stray > 0) != (args.stray_store is not None):
        raise DiffraganError("--stray and --stray-store go together.")
    use_threads(args.threads)
    have = {json.dumps(row["case"], sort_keys=True) for row in read_lines(args.out)}
    for case in cases(args):
        if case.key in have:
            continue
        total = open_pairs(Path(case.store)).n
        name = f"{Path(case.store).stem} {case.views} views, {case.pattern_dose or 'no noise'}"
        if case.views > total:
            print(f"{name}: left out, the store has {total}", flush=True)
            continue
        try:
            row = run_case(
                case, with_map=args.truth_map, on_check=print_row if args.verbose else None
            )
        except DiffraganError as error:
            row = {"error": str(error)}
        line = json.dumps({"case": json.loads(case.key), **row})
        with args.out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(f"{name}: {summary(row)}", flush=True)


def print_row(row: Row) -> None:
    """Prints a check of a run."""
    where = f"{row['iteration']:4d} {row['phase']:6s} to {row['limit_A'] or 'edge'}"
    print(f"  {where}: R {row['r_factor']:.3f}, {row['resolution_A']:.2f} Å", flush=True)


def summary(row: Row) -> str:
    """A run in one line."""
    if "error" in row:
        return str(row["error"])
    frc = " ".join(f"{value:.2f}" for value in row["frc"].values())
    return (
        f"{row['resolution_A']:.2f} Å (truth {row['truth_A']:.2f}), R {row['r_factor']:.3f}, "
        f"{row['iterations']} iterations, {row['seconds']:.0f} s"
        f"{'' if row['converged'] else ', not converged'} | {frc}"
    )


def plot(args: argparse.Namespace) -> None:
    """`plot`: the law as a figure, of the runs that came to an end."""
    rows = [row for path in args.files for row in read_lines(path) if "error" not in row]
    draw_law(rows, args.out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(required=True)
    sweep = commands.add_parser("run", help="resolution against dose and number of views")
    sweep.set_defaults(run=law)
    sweep.add_argument("stores", type=Path, nargs="+")
    sweep.add_argument("--out", type=Path, required=True, help="JSON lines, appended to")
    sweep.add_argument("--doses", default=DOSES, help="e/Å² on the pattern; none: no noise")
    sweep.add_argument("--views", default="100,300,1000,3000")
    sweep.add_argument("--total-dose", action="store_true", help="a dose is halved between the two")
    sweep.add_argument("--set", action="append", default=[], help="key=value over the settings")
    sweep.add_argument("--stray", type=float, default=0.0, help="part of the views from elsewhere")
    sweep.add_argument("--stray-store", type=Path, default=None)
    sweep.add_argument("--mass-kda", type=float, default=None)
    sweep.add_argument("--mass-factor", type=float, default=1.0, help="how wrong the weight is")
    sweep.add_argument("--rotation-error", type=float, default=0.0, help="degrees rms")
    sweep.add_argument("--shift-error", type=float, default=0.0, help="Å rms, of the images")
    sweep.add_argument("--truth-map", action="store_true", help="FSC with the true waves merged")
    sweep.add_argument("--seed", type=int, default=0)
    sweep.add_argument("--start", type=Path, default=None, help="results of `diffragan phase`")
    sweep.add_argument("--threads", type=int, default=torch.get_num_threads())
    sweep.add_argument("--verbose", action="store_true")
    drawn = commands.add_parser("plot", help="the law as a figure")
    drawn.set_defaults(run=plot)
    drawn.add_argument("files", type=Path, nargs="+", help="of `run`")
    drawn.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        args.run(args)
    except DiffraganError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
