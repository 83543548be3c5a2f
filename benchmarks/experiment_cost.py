"""What damage, ice and the rest cost: patterns made in a second, and seconds of a solve's pass.

    python -m benchmarks.experiment_cost dur.zarr

STORE is a simulation store of one molecule. Conditions are measured in turn, several rounds, in CPU
seconds of one thread: the pairs of 64 exit waves made in the fast way, and one pass of the
likelihood over 300 such views. The table has the least of the rounds, and the pass beside that of
the first condition.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.many_views import spread, use_threads
from diffragan.files.store import open_simulation
from diffragan.microscope.imaging import measure
from diffragan.pairs.imaged import ImagedPairs
from diffragan.reconstruction import many_views
from diffragan.reconstruction.many_views import HalfMaps
from diffragan.reconstruction.maps.load_views import load_views, with_background
from diffragan.settings import load_settings

COUNTED = ("pattern.dose_e_per_A2=3.6", "image.dose_e_per_A2=18")
DAMAGED = (*COUNTED, "specimen.damage=grant_grigorieff")
ICY = (*DAMAGED, "specimen.ice_nm=10", "specimen.beam_diameter_A=80")
CONDITIONS = {
    "counts": ("default", COUNTED),
    "and damage": ("default", DAMAGED),
    "and 10 nm of ice": (
        "default",
        (*DAMAGED, "specimen.ice_nm=10", "specimen.beam_diameter_A=80"),
    ),
    "preset experiment": ("experiment", ()),
    "preset experiment, sums of 6,700": ("experiment", ("specimen.molecules=6700",)),
}
TOGETHER = 64


def cpu_seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def one_pass(halves: HalfMaps) -> None:
    """Of both half sets over their views."""
    for half in halves.halves:
        half.climb(0.0)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("store", type=Path)
    parser.add_argument("--views", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    use_threads(1)
    store = open_simulation(args.store)
    assert store.rotation is not None
    waves = torch.from_numpy(store.exit_wave(np.arange(min(TOGETHER, store.n))))
    items = spread(store.n, min(args.views, store.n))
    makes: dict[str, Callable[[], object]] = {}
    passes: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory(prefix="experiment-cost-") as scratch:
        for number, (name, (preset, options)) in enumerate(CONDITIONS.items()):
            by = (*options, "many_views.climb_by=likelihood")
            settings = load_settings(preset, overrides=by)
            pairs = ImagedPairs(store, settings)
            mass = store.structures[0].mass_kda
            views = load_views(pairs, items, store.rotation[items], Path(scratch) / str(number))
            if settings.specimen.ice_nm or settings.specimen.damage:
                views = with_background(views, mass)
            halves = many_views.start(views, settings.many_views, mass, 0)
            seeds = list(range(len(waves)))
            makes[name] = partial(measure, waves, store.optics, settings, seeds)
            passes[name] = partial(one_pass, halves)
        made: dict[str, list[float]] = {name: [] for name in CONDITIONS}
        climbed: dict[str, list[float]] = {name: [] for name in CONDITIONS}
        for _ in range(args.rounds):
            for name in CONDITIONS:
                made[name].append(cpu_seconds(makes[name]))
                climbed[name].append(cpu_seconds(passes[name]))
    print("| | pairs a second | CPU s a pass over the views | beside counts alone |")
    print("|---|---|---|---|")
    first = min(climbed["counts"])
    for name in CONDITIONS:
        rate = len(waves) / min(made[name])
        print(
            f"| {name} | {rate:.0f} | {min(climbed[name]):.2f} | {min(climbed[name]) / first:.2f} |"
        )


if __name__ == "__main__":
    main()
