"""Orientations from nothing: how often right, how sure, how exact, and for how many CPU minutes.

    python -m benchmarks.ab_initio AUP80.zarr UBQ60.zarr --defocus=-1000,-3000 --views 300,600 \
        --seeds 0,1,2 --json searches.jsonl
    python -m benchmarks.ab_initio AUP80.zarr --find-by lines --dose 200
    python -m benchmarks.ab_initio --table searches.jsonl

STOREs are simulation stores, imaged on the way; images are moved by random shifts that nothing is
told. The truth is looked at when a search has ended. A line of JSON a search, then a table with a
row for each protein, defocus, SNR and number of views. Searches that the file of --json holds are
not run again.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.many_views import use_threads
from benchmarks.many_views_law import Case, read_lines, views_of
from diffragan.errors import DiffraganError
from diffragan.files.store import Selection, SimulationStore
from diffragan.pairs.imaged import ImagedPairs
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.finders import FINDERS, images_or_lines
from diffragan.reconstruction.orientations.from_images import SearchPlan
from diffragan.reconstruction.orientations.from_lines import find_from_lines
from diffragan.reconstruction.orientations.from_relion import find_from_relion
from diffragan.reconstruction.orientations.search_result import OrientationSearchResult
from diffragan.rotations import apart_deg
from diffragan.settings import load_settings

RIGHT_DEG = 3.0  # median error below which a search is right
UNEVEN_DEG = 60.0  # views from further than this from one axis are few
Row = dict[str, Any]


@dataclass(frozen=True)
class Search:
    """One search; two with the same fields are the same.

    margin_A: vacuum that is added around the exit wave. dose: of the pattern, e/Å². uneven: part
    of the views that lie along one axis beyond their share. spread_A: standard deviation of the
    images' defoci.
    """

    store: str
    defocus_A: float
    snr: float
    views: int
    seed: int
    dose: float | None
    shift_error_A: float
    margin_A: float
    find_by: str
    uneven: float
    spread_A: float = 0.0

    @property
    def case(self) -> Case:
        """As the other benchmarks of many views have it."""
        return Case(
            self.store,
            self.views,
            self.dose,
            shift_error_A=self.shift_error_A,
            overrides=(
                f"image.defocus_A={self.defocus_A}",
                f"image.defocus_spread_A={self.spread_A}",
                f"image.snr={self.snr}",
            ),
            seed=self.seed,
        )


class Field(SimulationStore):
    """A simulation store in a wider field, its waves with vacuum around them, and perhaps of some
    of its items.

    The atoms' potential ends a few ångströms from them, so that this is the wave of the wider field
    but for what the narrow one let in again from its other side.
    """

    def __init__(self, path: Path, margin_A: float) -> None:
        super().__init__(path)
        pixel_A = self.box_A / self.n_px
        self.margin_px = round(margin_A / pixel_A)
        side_A = self.box_A + 2 * self.margin_px * pixel_A
        self.optics = replace(self.optics, box_A=side_A)
        self.chosen = np.arange(self.n)

    def take(self, items: NDArray[np.int64]) -> None:
        """Hold these items alone."""
        assert self.rotation is not None
        rotation, index = self.rotation[items], self.structure_index[items]
        self.chosen, self.n = items, len(items)
        self.rotation, self.structure_index = rotation, index

    def exit_wave(self, items: Selection) -> NDArray[np.complex64]:
        """(k, y, x) complex64."""
        width = (self.margin_px, self.margin_px)
        waves = super().exit_wave(self.chosen[items])
        return np.pad(waves, ((0, 0), width, width), constant_values=1)


def pairs_of(search: Search) -> ImagedPairs:
    """The pairs of a search, imaged on the way."""
    store = Field(Path(search.store), search.margin_A)
    if search.uneven > 0:
        store.take(uneven(store, search))
    return ImagedPairs(store, search.case.settings())


def uneven(store: SimulationStore, search: Search) -> NDArray[np.int64]:
    """Items of which the part `uneven` is drawn from views along one axis of the molecule."""
    assert store.rotation is not None
    rng = np.random.default_rng([search.seed, 4])
    along = np.abs(store.rotation[:, 2, 2]) > np.cos(np.deg2rad(UNEVEN_DEG / 2))
    axis, rest = (rng.permutation(np.flatnonzero(side)) for side in (along, ~along))
    count = round(search.uneven * search.views)
    if count > len(axis) or search.views - count > len(rest):
        raise DiffraganError(
            f"{search.store} holds {len(axis)} views along the axis and {len(rest)} others, too "
            f"few for {search.views} with --uneven {search.uneven:g}."
        )
    return np.sort(np.concatenate((axis[:count], rest[: search.views - count])))


def find(
    search: Search, views: Views, mass_kda: float | None, args: argparse.Namespace, folder: Path
) -> OrientationSearchResult:
    """Orientations by the finder that is asked for."""
    if search.find_by == "lines":
        return find_from_lines(views, seed=search.seed)
    if search.find_by == "relion":
        values = {"many_views.find_starts": args.starts, "seed": search.seed}
        return find_from_relion(views, load_settings(values=values, overrides=args.set), folder)
    plan = SearchPlan(starts=args.starts, sample=args.sample)
    return images_or_lines(views, mass_kda, seed=search.seed, plan=plan)


def run(search: Search, args: argparse.Namespace) -> Row:
    """One search and how far its orientations lie from the truth."""
    pairs = pairs_of(search)
    with tempfile.TemporaryDirectory(prefix="ab-initio-") as folder:
        known, _, _ = views_of(search.case, pairs, Path(folder))
        blank = torch.eye(3).repeat(len(known), 1, 1)
        views = replace(known, rotations=blank, shifts_A=torch.zeros_like(known.shifts_A))
        began, spent = time.perf_counter(), cpu_seconds()
        mass_kda = pairs.structures[0].mass_kda or None
        result = find(search, views, mass_kda, args, Path(folder))
        angle: Tensor = apart_deg(result.views.rotations, known.rotations)
    return {
        "search": vars(search),
        "mass_kda": mass_kda,
        "box_A": round(pairs.box_A, 1),
        "starts": [round(x, 3) for x in result.starts],
        "agree_deg": result.agree_deg,
        "sure": result.sure,
        "median_deg": float(angle.median()),
        "within_5_deg": float((angle < 5).float().mean()),
        "seconds": time.perf_counter() - began,
        "cpu_seconds": cpu_seconds() - spent,
    }


def cpu_seconds() -> float:
    """Of this process and of the programs that it has run to their end."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def table(rows: list[Row]) -> Iterator[str]:
    """Lines of a table: a row for each set of searches that differ in their seed alone."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        same = {k: v for k, v in row["search"].items() if k != "seed"}
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(row)
    yield (
        "| store | kDa | field, Å | by | defocus, Å | SNR | e/Å² | views | uneven | right | sure | "
        "sure and wrong | error, median (worst) | starts | CPU minutes |"
    )
    yield "|" + "---|" * 15
    for group in groups.values():
        s, first = group[0]["search"], group[0]
        right = [row["median_deg"] < RIGHT_DEG for row in group]
        wrong = sum(row["sure"] and not good for row, good in zip(group, right, strict=True))
        errors = sorted(row["median_deg"] for row in group)
        cells = (
            Path(s["store"]).stem, f"{first['mass_kda']:.1f}", f"{first['box_A']:g}", s["find_by"],
            f"{s['defocus_A']:g} ± {s.get('spread_A', 0):g}", f"{s['snr']:g}",
            s["dose"] or "no noise", s["views"],
            f"{s['uneven']:g}" if s["uneven"] else "no", f"{sum(right)} of {len(group)}",
            sum(row["sure"] for row in group), wrong,
            f"{errors[len(errors) // 2]:.2f}° ({errors[-1]:.2f}°)",
            f"{np.mean([len(row['starts']) for row in group]):.1f}",
            f"{np.mean([row['cpu_seconds'] for row in group]) / 60:.2f}",
        )  # fmt: skip
        yield "| " + " | ".join(map(str, cells)) + " |"


def searches(args: argparse.Namespace) -> Iterator[Search]:
    """Every search that the options ask for, seeds outermost so that each round is a whole one."""
    numbers = (
        [float(word) for word in text.split(",")] for text in (args.defocus, args.snr, args.views)
    )
    seeds = [int(word) for word in args.seeds.split(",")]
    for seed, store, defocus_A, snr, views in product(seeds, args.stores, *numbers):
        yield Search(
            str(store), defocus_A, snr, int(views), seed, args.dose, args.shift_error,
            args.margin, args.find_by, args.uneven, args.spread,
        )  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("stores", type=Path, nargs="*")
    parser.add_argument("--defocus", default="-1000", help="Å, several with commas")
    parser.add_argument("--spread", type=float, default=0.0, help="of the defoci, Å")
    parser.add_argument("--snr", default="0.8", help="of the images, several with commas")
    parser.add_argument("--views", default="300", help="several with commas")
    parser.add_argument("--seeds", default="0", help="several with commas")
    parser.add_argument("--shift-error", type=float, default=3.0, help="Å rms, of the images")
    parser.add_argument("--margin", type=float, default=0.0, help="Å of vacuum on each side")
    parser.add_argument("--dose", type=float, default=None, help="e/Å² on the pattern")
    parser.add_argument("--uneven", type=float, default=0.0, help="part of views along one axis")
    parser.add_argument("--find-by", choices=sorted(FINDERS), default="images")
    parser.add_argument("--starts", type=int, default=12)
    parser.add_argument("--sample", type=int, default=500, help="views that a start uses")
    parser.add_argument("--set", action="append", default=[], help="settings of RELION's search")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, default=None, help="JSON lines, appended to")
    parser.add_argument("--table", type=Path, default=None, help="the table of such a file, no run")
    args = parser.parse_args()
    if args.table is not None:
        print("\n".join(table(read_lines(args.table))))
        return
    use_threads(args.threads)
    rows = [] if args.json is None else read_lines(args.json)
    try:
        for search in searches(args):
            if any(row["search"] == vars(search) for row in rows):
                continue
            rows.append(run(search, args))
            print(json.dumps(rows[-1]), flush=True)
            if args.json is not None:
                with args.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    except DiffraganError as error:
        raise SystemExit(str(error)) from None
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
