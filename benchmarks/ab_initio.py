"""Orientations from nothing, by images or by lines: how sure of them, how exact, how fast.

    python -m benchmarks.ab_initio UBQ70.zarr --views 100,300 --seeds 0,1 --shift-error 3
    python -m benchmarks.ab_initio AUP80.zarr --find-by lines --dose 200

STOREs are simulation stores, imaged on the way; images are moved by random shifts that nothing is
told. The truth is looked at when a search has ended.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.many_views import use_threads
from benchmarks.many_views_law import Case, views_of
from diffragan.errors import DiffraganError
from diffragan.pairs.open import open_pairs
from diffragan.reconstruction.orientations.finders import FINDERS
from diffragan.reconstruction.orientations.from_images import SearchPlan, find_from_images
from diffragan.reconstruction.orientations.from_lines import find_from_lines
from diffragan.reconstruction.orientations.from_relion import find_from_relion
from diffragan.rotations import apart_deg
from diffragan.settings import load_settings


def one(store: Path, views: int, seed: int, args: argparse.Namespace) -> dict[str, object]:
    """One search and how far its orientations lie from the truth."""
    case = Case(str(store), views, args.dose, shift_error_A=args.shift_error, seed=seed)
    pairs = open_pairs(store, settings=case.settings())
    with tempfile.TemporaryDirectory(prefix="ab-initio-") as folder:
        known, _, _ = views_of(case, pairs, Path(folder))
        blank = torch.eye(3).repeat(len(known), 1, 1)
        views_blank = replace(known, rotations=blank, shifts_A=torch.zeros_like(known.shifts_A))
        began, spent = time.perf_counter(), cpu_seconds()
        if args.find_by == "lines":
            result = find_from_lines(views_blank, seed=seed)
        elif args.find_by == "relion":
            settings = load_settings(
                values={"many_views.find_starts": args.starts, "seed": seed},
                overrides=args.set,
            )
            result = find_from_relion(views_blank, settings, Path(folder))
        else:
            plan = SearchPlan(starts=args.starts, sample=args.sample)
            mass_kda = pairs.structures[0].mass_kda or None
            result = find_from_images(views_blank, mass_kda, seed=seed, plan=plan)
        angle = apart_deg(result.views.rotations, known.rotations)
    return {
        "store": store.stem,
        "views": views,
        "seed": seed,
        "dose": args.dose,
        "find_by": args.find_by,
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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("--views", default="300")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--shift-error", type=float, default=3.0, help="Å rms, of the images")
    parser.add_argument("--dose", type=float, default=None, help="e/Å² on the pattern")
    parser.add_argument("--find-by", choices=sorted(FINDERS), default="images")
    parser.add_argument("--starts", type=int, default=12)
    parser.add_argument("--sample", type=int, default=500, help="views that a start uses")
    parser.add_argument("--set", action="append", default=[], help="settings of RELION's search")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, default=None, help="JSON lines, appended to")
    args = parser.parse_args()
    use_threads(args.threads)
    try:
        for store in args.stores:
            for views in map(int, args.views.split(",")):
                for seed in map(int, args.seeds.split(",")):
                    row = one(store, views, seed, args)
                    print(json.dumps(row), flush=True)
                    if args.json is not None:
                        with args.json.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(row) + "\n")
    except DiffraganError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
