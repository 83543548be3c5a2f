"""Maps by RELION from true waves and from phased ones: the paper's Figure 8.

    python -m benchmarks.relion_figure8 truth 1AUP.zarr true.zarr --views 400
    python -m benchmarks.relion_figure8 compare true phased --model 1AUP.cif --out figure8.png
    python -m benchmarks.relion_figure8 spoil phased.zarr spoilt.zarr --part 0.1

`truth` writes the true waves of a simulation as if a method had phased them; `compare` reads
folders of `diffragan reconstruct --engine relion` and prints a table, with the density at the
model's atoms by their distance from the centre, and draws sections beside each other; `spoil` puts
waves of other views in the place of some, which are marked as not solved.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.evaluation.known_model import KnownModel, read_model
from diffragan.evaluation.map_model import compare_map
from diffragan.files.mrc import read_map
from diffragan.files.store import open_results
from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.fourier.volumes import low_pass, uncentred
from diffragan.pairs.open import open_pairs
from diffragan.phasing.run import result_header
from diffragan.reconstruction.choose_views import mergeable
from diffragan.reconstruction.maps.mask import grown

_BLOCK = 32
_SHELLS = 3  # of the model's atoms by distance, as many in each


def true_waves(source: Path, out: Path, views: int) -> None:
    """A result store of the true waves of a simulation, spread evenly over it."""
    pairs = open_pairs(source)
    if pairs.rotation is None:
        raise DiffraganError(f"{source} tells no orientations; give a simulation.")
    count = min(views, pairs.n)
    items = (np.arange(count) * pairs.n) // count
    specs = {
        "wave": ArraySpec((pairs.m, pairs.m), "complex64", "unit plane wave"),
        "item": ArraySpec((), "int64", "index"),
        "structure": ArraySpec((), "int32", "index"),
        "rotation": ArraySpec((3, 3), "float64", "1"),
        "pattern_mask": ArraySpec((pairs.m, pairs.m), "bool", "true where measured", False),
    }
    header = result_header("truth", pairs, pairs.settings, invents=False)
    writer = StoreWriter(out, "result", count, specs, header)
    writer.put("pattern_mask", pairs.pattern_mask)
    for start in range(0, count, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, count))
        wave = pairs.truth_wave(items[rows])
        assert wave is not None
        structure = pairs.structure_index[items[rows]].astype(np.int32)
        rotation = pairs.rotation[items[rows]]
        writer.write(rows, wave=wave, item=items[rows], structure=structure, rotation=rotation)
    writer.finish()


def spoil(source: Path, out: Path, part: float, seed: int) -> None:
    """A copy of results with some waves replaced by those of other views and not solved."""
    results = open_results(source)
    rng = np.random.default_rng(seed)
    bad = rng.permutation(results.n)[: round(part * results.n)]
    rows = np.arange(results.n)
    rows[bad] = np.roll(bad, 1)
    solved = np.ones(results.n, bool) if results.solved is None else results.solved.copy()
    solved[bad] = False
    arrays: dict[str, NDArray[Any]] = {"solved": solved, "item": results.items}
    arrays["structure"] = results.structure_index.astype(np.int32)
    arrays["rotation"] = mergeable(results)
    side = results.read("pattern_mask").shape[-1]
    specs = {k: ArraySpec(a.shape[1:], str(a.dtype), "1") for k, a in arrays.items()}
    specs["wave"] = ArraySpec((side, side), "complex64", "unit plane wave")
    specs["pattern_mask"] = ArraySpec((side, side), "bool", "true where measured", False)
    kept = ("method", "invents", "optics", "structures", "settings", "input", "weights")
    header = {name: results.header.get(name) for name in kept}
    writer = StoreWriter(out, "result", results.n, specs, header)
    writer.put("pattern_mask", results.read("pattern_mask"))
    for k in range(results.n):
        one = {name: array[k : k + 1] for name, array in arrays.items()}
        wave = results.wave(rows[k : k + 1])
        assert wave is not None
        writer.write(np.array([k]), wave=wave, **one)
    writer.finish()


def density_by_distance(folder: Path, model: KnownModel) -> tuple[list[float], NDArray[Any]]:
    """Mean density at the model's heavy atoms in thirds by their distance from the centre, in
    units of the innermost third's, and the map laid as the model is: its middle section."""
    volume, voxel_A = read_map(folder / "map.mrc")
    centred = uncentred(torch.from_numpy(volume))
    box_A = voxel_A * len(volume)
    finest_A = float(json.loads((folder / "metrics.json").read_text("utf-8"))["fsc_0p143_A"])
    match = compare_map(centred, grown(centred != 0, 1.0), box_A, finest_A, model)
    smooth = low_pass(centred, box_A, 1.0).numpy()
    places = match.fit(model.places_A[model.heavy])
    x, y, z = np.rint(places / voxel_A).astype(int).T % len(volume)
    density = smooth[z, y, x]
    order = np.argsort(np.linalg.norm(places, axis=1))
    means = [float(density[part].mean()) for part in np.array_split(order, _SHELLS)]
    return [mean / means[0] for mean in means], volume[len(volume) // 2]


def compare(folders: list[Path], model: Path, out: Path) -> None:
    """A line of a table for each folder, and a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    known = read_model(model)
    figure = Figure(figsize=(3.2 * len(folders), 3.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(folders)))
    for folder, axis in zip(folders, axes, strict=True):
        metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
        thirds, section = density_by_distance(folder, known)
        row = {
            "folder": folder.name,
            "method": metrics["method"],
            "views": metrics["n_views"],
            "half_0p143_A": metrics["fsc_0p143_A"],
            "postprocess_A": metrics.get("postprocess_A"),
            "truth_0p5_A": metrics["truth_fsc_0p5_A"],
            "model_0p5_A": metrics.get("model", {}).get("fsc_0p5_A"),
            "residues": metrics.get("model", {}).get("residue_correlation_median"),
            "orientation_error_deg": metrics.get("orientation_error_deg"),
            "density_by_thirds": [round(x, 3) for x in thirds],
            "seconds": metrics["seconds"],
        }
        print(json.dumps(row), flush=True)
        axis.imshow(section, cmap="gray", origin="lower", vmin=0)
        axis.set(title=folder.name, xticks=[], yticks=[])
    FigureCanvasAgg(figure)
    figure.savefig(out, dpi=110)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    jobs = parser.add_subparsers(dest="job", required=True)
    job = jobs.add_parser("truth")
    job.add_argument("source", type=Path)
    job.add_argument("out", type=Path)
    job.add_argument("--views", type=int, default=400)
    job = jobs.add_parser("spoil")
    job.add_argument("source", type=Path)
    job.add_argument("out", type=Path)
    job.add_argument("--part", type=float, default=0.1)
    job.add_argument("--seed", type=int, default=0)
    job = jobs.add_parser("compare")
    job.add_argument("folders", type=Path, nargs="+")
    job.add_argument("--model", type=Path, required=True)
    job.add_argument("--out", type=Path, default=Path("figure8.png"))
    args = parser.parse_args()
    try:
        if args.job == "truth":
            true_waves(args.source, args.out, args.views)
        elif args.job == "spoil":
            spoil(args.source, args.out, args.part, args.seed)
        else:
            compare(args.folders, args.model, args.out)
    except DiffraganError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
