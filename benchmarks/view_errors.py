"""What errors of single views cost, and what is won by finding them: one half set of a store that
has the truth climbs by the likelihood, and its FSC with the truth is told.

    python -m benchmarks.view_errors pairs.zarr --passes 40
    python -m benchmarks.view_errors pairs.zarr --passes 40 --refine centre,scale
    python -m benchmarks.view_errors pairs.zarr --refine orientation --rotation-error 2.5

Half of the views alone, so that a row takes a tenth of what `reconstruct` does.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.fourier.correlation import fsc
from diffragan.fourier.volumes import best_shift, moved
from diffragan.pairs.open import open_all
from diffragan.pairs.pairs import Pairs
from diffragan.reconstruction.choose_views import choose_views
from diffragan.reconstruction.many_views import map_plan
from diffragan.reconstruction.maps.load_views import load_views, with_background
from diffragan.reconstruction.maps.merge_waves import merge_waves
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.phased_map import PhasedMap
from diffragan.rotations import misorientation_deg, turned
from diffragan.settings import ManyViewsSettings, load_settings

AT_A = (5.0, 4.0, 3.0, 2.5, 2.1, 1.6)
NEAR = 0.05  # rings this close to a resolution are averaged


def views_of(pairs: Pairs, off_deg: float, seed: int) -> tuple[Views, Tensor, float | None]:
    """The views, turned by so many degrees rms; their true orientations; and the weight."""
    chosen = choose_views(pairs)
    assert chosen.rotations is not None
    true = torch.from_numpy(chosen.rotations).float()
    drawn = np.random.default_rng(seed).standard_normal((len(true), 3))
    told = turned(true, torch.from_numpy(np.radians(off_deg) / np.sqrt(3) * drawn))
    with tempfile.TemporaryDirectory() as scratch:
        views = load_views(pairs, chosen.items, told.double().numpy(), Path(scratch))
    specimen = pairs.settings.specimen
    if chosen.mass_kda is not None and (specimen.ice_nm or specimen.damage or specimen.support):
        views = with_background(views, chosen.mass_kda)
    return views, true, chosen.mass_kda


def truth_of(pairs: Pairs, views: Views, true: Tensor) -> Tensor:
    """The map that the true waves make."""

    def waves(items: NDArray[np.int64]) -> NDArray[np.complex64]:
        found = pairs.truth_wave(items)
        assert found is not None
        return found

    return merge_waves(waves, views.items, true, views.flat, views.n)


def climbed(half: Views, settings: ManyViewsSettings, mass_kda: float | None) -> PhasedMap:
    """A half set's map at the end of its climb."""
    result = PhasedMap.begin(map_plan(0, settings, mass_kda, 0), half, None)
    for k in range(settings.likelihood_passes):
        result.climb(k / settings.likelihood_passes)
        if settings.refine_views and (k + 1) % settings.refine_views_every == 0:
            result.refine_views()
    return result


def curve(result: PhasedMap, truth: Tensor) -> list[str]:
    """FSC with the truth around `AT_A`."""
    placed = moved(result.map, best_shift(result.map, torch.fft.rfftn(truth)))
    shells = fsc(placed, truth * result.mask)
    q = torch.arange(len(shells)) / result.views.volume_box_A
    edge = float(result.views.flat.radius.max()) / result.views.optics.box_A
    rows = []
    for resolution_A in AT_A:
        near = (q * resolution_A - 1).abs() < NEAR
        rows.append(f"{float(shells[near].mean()):.2f}" if edge * resolution_A > 1 else "-")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path, nargs="+")
    parser.add_argument("--passes", type=int, default=40)
    parser.add_argument("--refine", default="", help="as many_views.refine_views")
    parser.add_argument("--rotation-error", type=float, default=0.0, help="degrees rms")
    parser.add_argument("--seed", type=int, default=0, help="of that error")
    args = parser.parse_args()
    what = [word for word in args.refine.split(",") if word]
    values = {
        "many_views.climb_by": "likelihood",
        "many_views.likelihood_passes": args.passes,
        "many_views.refine_views": what,
        "many_views.orientations": "refine" if "orientation" in what else "given",
    }
    torch.set_num_threads(1)
    settings = load_settings(values=values)
    for store in args.store:
        began = time.process_time()
        pairs = open_all([store], settings=settings)
        views, true, mass_kda = views_of(pairs, args.rotation_error, args.seed)
        half = views.every_second(0)
        result = climbed(half, settings.many_views, mass_kda)
        off = misorientation_deg(result.full.rotations, true[0::2]).median()
        errors = result.full.errors
        told = {} if errors is None else {k: round(x, 4) for k, x in errors.summary().items()}
        row = " ".join(curve(result, truth_of(pairs, views, true)))
        seconds = time.process_time() - began
        print(f"{store.stem} {args.refine or '-'}: {row}; {off:.2f} deg, {seconds:.0f} s, {told}")


if __name__ == "__main__":
    main()
