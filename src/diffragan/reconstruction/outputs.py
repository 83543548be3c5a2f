"""What a reconstruction leaves in its folder: maps, curves, phased views, numbers, a page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan import __version__
from diffragan.evaluation.metrics import metrics_of
from diffragan.evaluation.scores import score
from diffragan.files.atomic import write_atomically
from diffragan.files.csv import write_history
from diffragan.files.mrc import write_map
from diffragan.files.star import write_fsc, write_projections
from diffragan.files.store import ResultStore, open_results
from diffragan.fourier.correlation import fsc, resolution_at
from diffragan.fourier.slices import Slices
from diffragan.fourier.volumes import best_shift, centred, moved
from diffragan.pairs.pairs import Pairs
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.maps.mask import grown
from diffragan.reconstruction.maps.merge_waves import merge_waves
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.phased_views import METHOD, write_phased
from diffragan.reconstruction.solve import Solution
from diffragan.report.map_page import write_map_report
from diffragan.report.map_report import MapReport
from diffragan.settings import Settings, settings_to_toml

PHASED = "phased.zarr"


FINISHED = "metrics.json"  # written last but for the page: with it a folder is finished


_TRUTH_VIEWS = 1078


def write_result(
    out: Path,
    store: Path,
    solution: Solution,
    pairs: Pairs,
    settings: Settings,
    *,
    command: str,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write everything; the dictionary of metrics.json comes back.

    Args:
        store: where the result store goes.
    """
    solve, whole, measure = solution.half_maps, solution.combined, solution.half_maps.measure
    assert measure is not None
    voxel, views = whole.views.voxel_A, whole.views
    mass_kda = solution.selection.mass_kda
    label = f"diffragan {__version__} {solution.selection.molecule}"
    write_map(out / "map.mrc", centred(whole.map), voxel, f"{label}, all views")
    for half in solve.halves:
        write_map(out / f"half{half.name}.mrc", centred(half.map), voxel, f"{label}, half set")
    write_map(out / "mask.mrc", centred(whole.mask).float(), voxel, f"{label}, mask")
    write_phased(
        store,
        pairs,
        whole,
        measure.trust,
        settings,
        converged=solution.converged,
        seconds=solution.seconds,
        progress=progress,
    )
    results = open_results(store)
    write_stack(out, results, pairs, views.shifts_A.numpy(), settings)
    refined = settings.many_views.orientations != "given"
    truth = truth_curve(
        pairs, views.items, views.rotations, views.flat, views, whole.map, refined=refined
    )
    curves = {"half": measure.fsc, "free": measure.free, "expected": measure.expected}
    if truth is not None:
        curves["truth"] = truth
    write_fsc(out, measure.q, curves)
    write_history(out / "history.csv", solve.history)
    metrics = {
        "method": METHOD,
        "version": __version__,
        "molecule": solution.selection.molecule,
        "mass_kda": mass_kda,
        "mass_da": None if mass_kda is None else 1e3 * mass_kda,
        "converged": solution.converged,
        "verdict": solution.verdict,
        "resolution_A": measure.resolution_A,
        "fsc_0p143_A": measure.fsc_resolution_A,
        "truth_fsc_0p5_A": None if truth is None else resolution_at(truth, measure.q, 0.5),
        "measured_to_A": float(1 / measure.q[-1]),
        "rounds": solve.iteration,
        "n_views": len(views),
        "views_used": int((views.weights >= 0.5).sum()),
        "r_factor": whole.r_factor,
        "hand": solution.hand,
        "box_A": views.optics.box_A,
        "voxel_A": voxel,
        "padding": views.flat.padding,
        "dose_e_per_A2": settings.pattern.dose_e_per_A2,
        "seconds": solution.seconds,
        "device": solution.device,
        "peak_memory_mb": peak_memory_mb(),
        "warnings": list(solution.selection.warnings),
        "views": metrics_of(results, score(results, pairs, progress=progress)),
    }
    write_atomically(out / FINISHED, (json.dumps(metrics, indent=1) + "\n").encode())
    toml = settings_to_toml(settings)
    write_atomically(out / "settings.toml", toml.encode())
    report = MapReport(
        map=centred(whole.map),
        voxel_A=voxel,
        mask=centred(whole.mask),
        q=measure.q,
        fsc_half=measure.fsc,
        fsc_truth=truth,
        history=solve.history,
        rotations=views.rotations.numpy(),
        weights=views.weights.numpy(),
        metrics=metrics,
        settings_toml=toml,
        others={"free": measure.free, "expected": measure.expected},
    )
    write_map_report(out, report, command)
    return metrics


def write_stack(
    out: Path,
    results: ResultStore,
    pairs: Pairs,
    shifts_A: NDArray[Any],
    settings: Settings,
) -> None:
    """OUT/projections.mrcs and .star: the phased projections for RELION and its kin."""
    n, px = results.n, results.projection([0]).shape[-1]
    rotation = results.rotation
    assert rotation is not None

    def batches() -> Iterator[NDArray[np.float32]]:
        for start in range(0, n, 16):
            # Potential makes a defocused projection dark here; RELION wants protein bright.
            yield 1 - results.projection(slice(start, min(start + 16, n)))

    write_projections(
        out / "projections.mrcs",
        batches(),
        n,
        pairs.box_A / px,
        rotation,
        settings.energy_ev,
        shifts_A=-shifts_A[:, ::-1],
        extra={"rlnRandomSubset": np.arange(n) % 2 + 1},
    )


def truth_curve(
    pairs: Pairs,
    items: NDArray[np.int64],
    rotations: Tensor,
    geometry: Slices,
    views: Views,
    volume: Tensor,
    *,
    refined: bool,
) -> Tensor | None:
    """(rings - 1,) FSC of a map with the map that the true waves make, None without a truth.

    The true waves are merged at the orientations of the map's views. A map whose orientations
    were refined or found may be turned and moved as a whole, so it is laid on the truth first.
    """
    if not pairs.has_truth:
        return None

    def waves(chosen: NDArray[np.int64]) -> NDArray[np.complex64]:
        found = pairs.truth_wave(chosen)
        assert found is not None
        return found

    every = max(1, len(items) // _TRUTH_VIEWS)
    true = merge_waves(waves, items[::every], rotations[::every], geometry, views.n)
    if refined:
        volume = moved(volume, best_shift(volume, torch.fft.rfftn(true)))
    shells = fsc(volume, true * (grown(volume != 0, 1.0)))
    at = torch.arange(len(shells), dtype=torch.float64) / views.volume_box_A
    last = int((geometry.radius + 0.5).long().max())
    q = torch.arange(1, last + 1, dtype=torch.float64) / views.optics.box_A
    return torch.from_numpy(np.interp(q.numpy(), at.numpy(), shells.numpy())).float()


def peak_memory_mb() -> float:
    """The process's largest resident memory so far, MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
