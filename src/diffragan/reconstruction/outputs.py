"""What a reconstruction leaves in its folder: maps, curves, phased views, numbers, a page."""

from __future__ import annotations

import json
import resource
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan import __version__
from diffragan.errors import DiffraganError
from diffragan.evaluation.known_model import KnownModel, write_fitted_model
from diffragan.evaluation.map_model import MapModel, compare_map
from diffragan.evaluation.metrics import metrics_of
from diffragan.evaluation.scores import score
from diffragan.files.atomic import write_atomically
from diffragan.files.csv import write_fsc, write_history
from diffragan.files.export import write_particles
from diffragan.files.mrc import write_map
from diffragan.files.store import open_results
from diffragan.fourier.correlation import fsc, resolution_at
from diffragan.fourier.volumes import best_shift, centred, moved
from diffragan.pairs.pairs import Pairs
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.checkpoint import SCRATCH, clear
from diffragan.reconstruction.likelihood.coherent import Coherent, coherent_part, ring_intensity
from diffragan.reconstruction.maps.agreement import Agreement
from diffragan.reconstruction.maps.mask import grown
from diffragan.reconstruction.maps.merge_waves import merge_waves
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.phased_views import METHOD, write_phased
from diffragan.reconstruction.solve import Solution
from diffragan.report.map_page import write_map_report
from diffragan.report.map_report import MapReport
from diffragan.settings import Settings, settings_to_toml

PHASED = "phased.zarr"
STACK = "projections.mrcs"  # the phased views as RELION particles


ERRORS = "pattern_errors.csv"  # of every view, where they were looked for


FINISHED = "metrics.json"  # written last: with it a folder is finished


_TRUTH_VIEWS = 1078


@dataclass(frozen=True)
class Destination:
    """The folder of a reconstruction.

    overwrite: whether it replaces an earlier one. command: how it was asked for, which its page
    repeats.
    """

    folder: Path
    overwrite: bool = False
    command: str = "diffragan.reconstruct"

    def check(self, store: Path | None = None) -> None:
        """Find it free, and the place of a result store that goes elsewhere.

        Raises:
            DiffraganError: something finished lies there and is not to be replaced.
        """
        # A run that was killed after its last file and before its scratch folder went may end.
        begun = (self.folder / SCRATCH).exists()
        if (self.folder / FINISHED).exists() and not begun and not self.overwrite:
            raise DiffraganError(
                f"{self.folder} holds a finished reconstruction; choose another --out, or pass "
                "--overwrite."
            )
        if store is None:
            return
        if store.suffix != ".zarr":
            raise DiffraganError(f"A store's name ends in .zarr, which '{store}' does not.")
        if store.exists() and not self.overwrite:
            raise DiffraganError(f"{store} exists; choose another --out, or pass --overwrite.")

    def make(self) -> None:
        """Make the folder; one that is to be replaced is no longer finished, nor begun."""
        if self.overwrite:
            (self.folder / FINISHED).unlink(missing_ok=True)
            clear(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class MapFolder:
    """A map and what is known of it, as every way to a map leaves it.

    map, halves, mask: (n, n, n) in FFT order, the mask bool. voxel_A: side of a voxel.
    q: (s,) 1/Å, the measured rings. curves: (s,) each, "half" (the half maps' FSC) among them,
    and where they are known "free", "expected", "other" (by the other half's patterns), "truth".
    rotations: (v, 3, 3). weights: (v,) of the views in the map.
    metrics: the dictionary of metrics.json, "molecule" in it. history: rows of the run's checks.
    model: a known structure to hold the map against.
    """

    map: Tensor
    halves: tuple[Tensor, Tensor]
    mask: Tensor
    voxel_A: float
    q: Tensor
    curves: Mapping[str, Tensor]
    rotations: NDArray[np.float64]
    weights: NDArray[np.float32]
    metrics: dict[str, Any]
    settings: Settings
    history: Sequence[Mapping[str, Any]] = ()
    model: KnownModel | None = None


def write_map_folder(out: Path, folder: MapFolder, command: str) -> dict[str, Any]:
    """Maps as MRC, curves as CSV and STAR, the page, and last the numbers, which come back."""
    out.mkdir(parents=True, exist_ok=True)
    (out / FINISHED).unlink(missing_ok=True)
    match = None if folder.model is None else _compared(out, folder, folder.model)
    if match is not None:
        folder = replace(
            folder,
            curves={**folder.curves, "model": match.fsc_at(folder.q)},
            metrics=folder.metrics | {"model": match.metrics(folder.q)},
        )
    label = f"diffragan {__version__} {folder.metrics['molecule']}"
    write_map(out / "map.mrc", centred(folder.map), folder.voxel_A, f"{label}, all views")
    for k, half in enumerate(folder.halves, 1):
        write_map(out / f"half{k}.mrc", centred(half), folder.voxel_A, f"{label}, half set")
    write_map(out / "mask.mrc", centred(folder.mask).float(), folder.voxel_A, f"{label}, mask")
    write_fsc(out, folder.q, folder.curves)
    if folder.history:
        write_history(out / "history.csv", folder.history)
    toml = settings_to_toml(folder.settings)
    write_atomically(out / "settings.toml", toml.encode())
    curves = dict(folder.curves)
    report = MapReport(
        map=centred(folder.map),
        voxel_A=folder.voxel_A,
        mask=centred(folder.mask),
        q=folder.q,
        fsc_half=curves.pop("half"),
        fsc_truth=curves.pop("truth", None),
        history=folder.history,
        rotations=folder.rotations,
        weights=folder.weights,
        metrics=folder.metrics,
        settings_toml=toml,
        others=curves,
        residues=() if match is None else match.residues,
    )
    write_map_report(out, report, command)
    write_atomically(out / FINISHED, (json.dumps(folder.metrics, indent=1) + "\n").encode())
    return folder.metrics


def _compared(out: Path, folder: MapFolder, model: KnownModel) -> MapModel:
    """The map against a known structure: model.csv, and the structure laid on the map."""
    box_A = folder.voxel_A * folder.map.shape[-1]
    finest_A = folder.metrics.get("resolution_A") or folder.metrics["fsc_0p143_A"]
    support = grown(folder.map != 0, 1.0)
    match = compare_map(folder.map, support, box_A, float(finest_A), model)
    write_history(out / "model.csv", [asdict(residue) for residue in match.residues])
    write_fitted_model(out / "fitted_model.cif", model, match.fit)
    return match


def write_views(
    out: Path,
    store: Path,
    solution: Solution,
    pairs: Pairs,
    settings: Settings,
    progress: Progress = no_progress,
) -> MapFolder:
    """Write the phased views, and what else belongs into the folder comes back.

    Args:
        store: where the result store of the phased views goes.
    """
    combined, agreement = solution.combined, solution.half_maps.measure
    assert agreement is not None
    views = combined.views
    first, second = solution.half_maps.halves
    write_phased(store, pairs, solution, settings, progress)
    results = open_results(store)
    write_particles(out / STACK, results, shifts_A=views.shifts_A.numpy())
    truth = truth_curve(
        pairs, views, combined.map, refined=settings.many_views.orientations != "given"
    )
    curves = {"half": agreement.fsc, "free": agreement.free, "expected": agreement.expected}
    if agreement.other is not None:
        curves["other"] = agreement.other[0].clamp(0, 1)
    metrics = _metrics(solution, agreement, settings, truth)
    coherent = _coherent(solution)
    if coherent is not None:
        write_history(out / "coherent.csv", coherent.rows())
        metrics["fades_further_by_b_A2"] = coherent.b_A2()
    if "damage" in settings.many_views.refine_views:
        metrics["damage_found_b_A2"] = solution.half_maps.further_b_A2
    if views.errors is not None:
        metrics["pattern_errors"] = views.errors.summary()
        write_history(out / ERRORS, views.errors.rows(views.items))
    metrics["views"] = metrics_of(results, score(results, pairs, progress=progress))
    return MapFolder(
        map=combined.map,
        halves=(first.map, second.map),
        mask=combined.mask,
        voxel_A=views.voxel_A,
        q=agreement.q,
        curves=curves if truth is None else curves | {"truth": truth},
        rotations=views.rotations.double().numpy(),
        weights=views.weights.numpy(),
        metrics=metrics,
        settings=settings,
        history=solution.half_maps.history,
    )


def _coherent(solution: Solution) -> Coherent | None:
    """What is coherent in the patterns, over what a molecule of this weight scatters; None in
    vacuum, or where the weight is not known."""
    halves, mass_kda = solution.half_maps.halves, solution.selection.mass_kda
    views = halves[0].views
    if views.background is None or mass_kda is None:
        return None
    return coherent_part((views, halves[1].views), ring_intensity(views, mass_kda))


def _metrics(
    solution: Solution, agreement: Agreement, settings: Settings, truth: Tensor | None
) -> dict[str, Any]:
    """The numbers of metrics.json, apart from those of the views."""
    combined, views = solution.combined, solution.combined.views
    mass_kda = solution.selection.mass_kda
    return {
        "method": METHOD,
        "version": __version__,
        "molecule": solution.selection.molecule,
        "mass_kda": mass_kda,
        "mass_da": None if mass_kda is None else 1e3 * mass_kda,
        "converged": solution.converged,
        "verdict": solution.verdict,
        "resolution_A": agreement.resolution_A,
        "fsc_0p143_A": agreement.fsc_resolution_A,
        "truth_fsc_0p5_A": None if truth is None else resolution_at(truth, agreement.q, 0.5),
        "measured_to_A": float(1 / agreement.q[-1]),
        "rounds": solution.half_maps.iteration,
        "n_views": len(views),
        "symmetry": settings.many_views.symmetry,
        "symmetry_seen": solution.symmetry_seen,
        "views_used": int((views.weights >= 0.5).sum()),
        "r_factor": combined.r_factor,
        "hand": solution.hand,
        "box_A": views.optics.box_A,
        "voxel_A": views.voxel_A,
        "padding": views.flat.padding,
        "dose_e_per_A2": settings.pattern.dose_e_per_A2,
        "seconds": solution.seconds,
        "device": solution.device,
        "peak_memory_mb": peak_memory_mb(),
        "warnings": list(solution.selection.warnings),
    }


def truth_curve(pairs: Pairs, views: Views, volume: Tensor, *, refined: bool) -> Tensor | None:
    """(rings - 1,) FSC of a map with the map that the true waves make, None without a truth.

    The true waves are merged at the orientations of the map's views. A map whose orientations
    were refined or found may be turned and moved as a whole, so it is laid on the truth first.
    """
    if not pairs.has_truth:
        return None

    def waves(items: NDArray[np.int64]) -> NDArray[np.complex64]:
        true = pairs.truth_wave(items)
        assert true is not None
        return true

    every = max(1, len(views) // _TRUTH_VIEWS)
    true = merge_waves(waves, views.items[::every], views.rotations[::every], views.flat, views.n)
    if refined:
        volume = moved(volume, best_shift(volume, torch.fft.rfftn(true)))
    shells = fsc(volume, true * (grown(volume != 0, 1.0)))
    at = torch.arange(len(shells), dtype=torch.float64) / views.volume_box_A
    last = int((views.flat.radius + 0.5).long().max())
    q = torch.arange(1, last + 1, dtype=torch.float64) / views.optics.box_A
    return torch.from_numpy(np.interp(q.numpy(), at.numpy(), shells.numpy())).float()


def peak_memory_mb() -> float:
    """The process's largest resident memory so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
