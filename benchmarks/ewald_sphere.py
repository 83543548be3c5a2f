"""What the Ewald sphere's curvature is worth: the best that flat and curved slices can do.

    python -m benchmarks.ewald_sphere UBQ70.zarr AUP80.zarr --views 300

The true waves of simulation stores are merged into a map on flat slices and on the sphere, and the
map's slices are compared with them. Nothing is phased, so what is lost is lost to the geometry, to
interpolation, and to scattering beyond the first Born approximation.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.many_views import spread, use_threads
from benchmarks.many_views_law import RESOLUTIONS_A, ring_correlation
from diffragan.errors import DiffraganError
from diffragan.fourier import correlation as metrics
from diffragan.fourier.slices import extract
from diffragan.fourier.volumes import volume_spectrum
from diffragan.pairs.open import open_pairs
from diffragan.reconstruction.maps.load_views import load_views
from diffragan.reconstruction.maps.merge_waves import merge_waves, slices_of_waves

JUDGED = 32


def best(store: Path, count: int, padding: float) -> list[dict[str, object]]:
    """Mean FRC of waves with the slices of their own merged map, flat and curved."""
    pairs = open_pairs(store)
    if pairs.rotation is None or not pairs.has_truth:
        raise DiffraganError(f"{store} holds no true waves with orientations.")
    items = spread(pairs.n, min(count, pairs.n))
    turn = torch.from_numpy(pairs.rotation[items]).float()

    def waves(chosen: NDArray[np.int64]) -> NDArray[np.complex64]:
        wave = pairs.truth_wave(chosen)
        assert wave is not None
        return wave

    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="ewald-") as folder:
        views = load_views(pairs, items, pairs.rotation[items], Path(folder)).padded(padding)
    few = spread(len(items), min(JUDGED, len(items)))
    truth = slices_of_waves(torch.from_numpy(waves(items[few])), views.curved)
    rings = (views.curved.radius + 0.5).long().repeat(2)
    for curved in (False, True):
        geometry = views.curved if curved else views.flat
        half = volume_spectrum(merge_waves(waves, items, turn, geometry, views.n))
        values = extract(half, turn[few], geometry.points)
        values = values if curved else torch.cat((values, values), 1)
        curve = ring_correlation(values * views.curved.valid.reshape(-1), truth, rings).mean(0)
        q = torch.arange(len(curve), dtype=torch.float64) / pairs.box_A
        smooth = metrics.smooth_curve(curve, q).numpy()
        frc = {
            f"{d:g}": round(float(np.interp(1 / d, q.numpy(), smooth)), 3) for d in RESOLUTIONS_A
        }
        rows.append({"store": store.stem, "views": len(items), "curved": curved, "frc": frc})
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("--views", type=int, default=300)
    parser.add_argument("--padding", type=float, default=1.25)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    use_threads(args.threads)
    try:
        for store in args.stores:
            for row in best(store, args.views, args.padding):
                print(json.dumps(row), flush=True)
    except DiffraganError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
