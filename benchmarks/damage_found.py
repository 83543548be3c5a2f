"""What a run makes of damage that it is told rightly, not, or by half, and of what it finds itself.

    python -m benchmarks.damage_found pairs.zarr --out runs --passes 40

The pairs, which have the truth, are solved four times (`reconstruct`, climb_by=likelihood): told of
the damage as it was, of none, of half as much, and of none but to find it
(many_views.refine_views=damage). For each: FSC with the truth, the map's amplitude on the truth's
(slope, which damage that is not told of brings down outward), the B that was found, and by what
B the patterns' coherent part still falls.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from benchmarks.view_errors import AT_A, NEAR, truth_of
from diffragan.files.mrc import read_map
from diffragan.fourier.correlation import fsc
from diffragan.fourier.volumes import frequency_radius, uncentred
from diffragan.pairs.open import open_pairs
from diffragan.pairs.pairs import Pairs
from diffragan.reconstruction.choose_views import choose_views
from diffragan.reconstruction.maps.load_views import load_views
from diffragan.reconstruction.outputs import Destination
from diffragan.reconstruction.run import ReconstructionOptions, reconstruct
from diffragan.settings import Settings, load_settings

CASES = ("rightly", "none", "half", "none, refined", "half, refined")


def told(settings: Settings, case: str) -> Settings:
    """A store's settings with its damage told otherwise: none, or by half the B for each e/Å²."""
    specimen = settings.specimen
    if case.startswith("none"):
        specimen = specimen.model_copy(update={"damage": None})
    elif case.startswith("half"):
        half = {"damage_b_A2_per_e": 0.5 * specimen.damage_b_A2_per_e}
        specimen = specimen.model_copy(update=half)
    return settings.model_copy(update={"specimen": specimen})


def truth_map(pairs: Pairs, scratch: Path, padding: float) -> torch.Tensor:
    """The map that the true waves make."""
    chosen = choose_views(pairs)
    assert chosen.rotations is not None
    views = load_views(pairs, chosen.items, chosen.rotations, scratch).padded(padding)
    return truth_of(pairs, views, torch.from_numpy(chosen.rotations).float())


def row(folder: Path, truth: torch.Tensor) -> str:
    """FSC with the truth, and the slope of the map on it, around `AT_A`."""
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    read, voxel_A = read_map(folder / "map.mrc")
    volume = uncentred(torch.from_numpy(read))
    truth = truth * (volume != 0)
    shells = fsc(volume, truth)
    n = volume.shape[-1]
    one, two = (torch.fft.rfftn(v, norm="forward") for v in (volume, truth))
    shell = (frequency_radius(n) + 0.5).long().flatten()
    sums = torch.zeros(2, int(shell.max()) + 1)
    for line, value in zip(sums, ((one * two.conj()).real, two.abs() ** 2), strict=True):
        line.index_add_(0, shell, value.flatten())
    slope = sums[0] / sums[1].clamp_min(1e-30)
    out = []
    for curve in (shells, slope[: len(shells)]):
        q = torch.arange(len(curve)) / (n * voxel_A)
        near = [(q * a - 1).abs() < NEAR for a in AT_A]
        out.append(" ".join(f"{float(curve[at].mean()):.2f}" for at in near))
    found = metrics.get("damage_found_b_A2")
    left, claim = metrics["fades_further_by_b_A2"], metrics["resolution_A"]
    return (
        f"FSC {out[0]} | map/truth {out[1]} | claimed {claim:.2f} A | B found {found}, left {left}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--passes", type=int, default=40)
    parser.add_argument("--cases", default=";".join(CASES), help="with semicolons between them")
    args = parser.parse_args()
    torch.set_num_threads(1)
    truth = None
    for case in args.cases.split(";"):
        began = time.process_time()
        values = {
            "many_views.climb_by": "likelihood",
            "many_views.likelihood_passes": args.passes,
            "many_views.background": True,
            "many_views.refine_views": ["damage"] if "refined" in case else [],
        }
        settings = load_settings(values=values)
        pairs = open_pairs(args.store, settings=settings)
        pairs.settings = told(pairs.settings, case)
        folder = args.out / case.replace(", ", "_")
        options = ReconstructionOptions(settings=settings)
        found = reconstruct(pairs, Destination(folder, overwrite=True), options)
        if truth is None:
            truth = truth_map(pairs, args.out / "scratch", found.metrics["padding"])
        seconds = time.process_time() - began
        print(f"{args.store.stem}, told {case}: {row(folder, truth)} | {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
