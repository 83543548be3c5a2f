"""Whether one molecule's image, or its pattern, can tell how the molecule lies.

    python -m benchmarks.orientation_limit dur.zarr aup.zarr --ice 0,5,10 --json limit.jsonl

STOREs are simulation stores of one molecule each. Pattern and then image are taken of each
molecule by the settings of the preset `experiment`, at other thicknesses of ice. Then every image
is held against the projections of the *true* map, at its true orientation and at a grid of others,
over all shifts: how often does the true one fit best? A run, which has to find the map too, can do
no better. Beside it stands by how much log likelihood image and pattern tell the true orientation
(`microscope/planning/orientation_information.py`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.many_views import spread, use_threads
from diffragan.files.store import open_simulation
from diffragan.microscope.effective_dose import Exposure
from diffragan.microscope.planning.orientation_information import (
    FINEST_A,
    image_information,
    pattern_information,
)
from diffragan.optics import Optics
from diffragan.pairs.imaged import ImagedPairs
from diffragan.reconstruction.maps.load_views import load_views
from diffragan.reconstruction.maps.merge_waves import merge_waves
from diffragan.reconstruction.orientations.matching.elsewhere import orientation_grid
from diffragan.reconstruction.orientations.matching.match_images import (
    Model,
    Stage,
    compare,
    image_search,
)
from diffragan.rotations import angle_deg
from diffragan.settings import load_settings

RIGHT_DEG = 12.0  # from the truth
TURNS = 2  # the first tells what ice leaves unexplained, the second weighs by it
Row = dict[str, Any]


def run(args: argparse.Namespace, store: Path, ice_nm: float, dose: float, defocus_A: float) -> Row:
    """How often the truth fits best, and what image and pattern tell."""
    options = [
        f"specimen.ice_nm={ice_nm:g}",
        f"image.dose_e_per_A2={dose:g}",
        f"image.defocus_A={defocus_A:g}",
        *args.set,
    ]
    settings = load_settings("experiment", overrides=options, values={"seed": args.seed})
    pairs = ImagedPairs(open_simulation(store), settings)
    assert pairs.rotation is not None
    items = spread(pairs.n, min(args.views, pairs.n))
    mass_kda = pairs.structures[0].mass_kda
    end_A = FINEST_A
    with tempfile.TemporaryDirectory(prefix="orientation-limit-") as name:
        views = load_views(pairs, items, pairs.rotation[items], Path(name))
        search = image_search(views, mass_kda, resolution_A=end_A, shift_reach_A=args.shift_A)
        limited = search.views
        everyone = spread(pairs.n, min(args.merged, pairs.n))
        turn = torch.from_numpy(pairs.rotation[everyone]).float()

        def true_waves(chosen: NDArray[np.int64]) -> NDArray[np.complex64]:
            wave = pairs.truth_wave(chosen)
            assert wave is not None
            return wave

        true = merge_waves(true_waves, everyone, turn, limited.curved, limited.n)
        grid = torch.cat((limited.rotations, orientation_grid(args.grid, args.seed, limited)))
        stage = Stage(end_A, 1, args.grid, 1.5)
        model = Model(true, torch.zeros_like(search.expected))
        for _ in range(TURNS):
            matches = compare(search, torch.arange(len(items)), model, stage, grid)
            model = Model(true, matches.unexplained)
        angle = angle_deg(matches.rotations, limited.rotations)
    each = settings.pattern.dose_e_per_A2
    assert each is not None
    optics = Optics(pairs.optics.energy_ev, pairs.box_A, 0.0)
    exposure = Exposure(optics, mass_kda, settings.specimen, settings.detector)
    right = float((angle < RIGHT_DEG).double().mean())
    return {
        "store": store.stem,
        "mass_kda": mass_kda,
        "ice_nm": ice_nm,
        "dose_e_per_A2": dose,
        "defocus_A": defocus_A,
        "resolution_A": end_A,
        "views": len(items),
        "right": right,
        "image_tells": image_information(exposure, settings.image, dose, each),
        "pattern_tells": pattern_information(exposure, each),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("--ice", default="0,10", help="nm")
    parser.add_argument("--doses", default="18", help="of the image, e/Å²")
    parser.add_argument("--defocus", default="-1000,-3000", help="Å")
    parser.add_argument("--views", type=int, default=100)
    parser.add_argument("--merged", type=int, default=300, help="true waves in the true map")
    parser.add_argument("--grid", type=int, default=15_000, help="other orientations")
    parser.add_argument("--shift-A", type=float, default=3.0, help="reach of the molecule's place")
    parser.add_argument("--set", action="append", default=[], help="key=value over the settings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True, help="JSON lines, appended to")
    args = parser.parse_args()
    use_threads(1)
    numbers = [
        [float(x) for x in words.split(",")] for words in (args.ice, args.doses, args.defocus)
    ]
    for store, ice, dose, defocus in product(args.stores, *numbers):
        row = run(args, store, ice, dose, defocus)
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(
            f"{row['store']} {row['mass_kda']:.1f} kDa, ice {ice:g} nm, {dose:g} e/Å2, "
            f"{defocus:g} Å: {row['right']:.0%} right, image tells {row['image_tells']:.1f}, "
            f"pattern {row['pattern_tells']:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
