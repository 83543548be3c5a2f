"""What `diffragan atoms` leaves in its folder: atoms, an extended map, views, numbers, a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffragan import __version__
from diffragan.atoms.building.watch import CORRELATION_BAND_A
from diffragan.atoms.model.cif import write_atoms_cif
from diffragan.atoms.model.density import AtomGrid
from diffragan.atoms.molecule.model_cif import write_model_cif
from diffragan.atoms.molecule.outputs import atom_rows, molecule_metrics, residue_rows
from diffragan.atoms.page import AtomsReport, write_atoms_report
from diffragan.atoms.reconstruction_folder import ReconstructionFolder
from diffragan.atoms.result import AtomsResult, mean_correlation
from diffragan.atoms.scene import atoms_scene
from diffragan.atoms.waves import write_waves
from diffragan.evaluation.metrics import metrics_of
from diffragan.evaluation.scores import score
from diffragan.files.atomic import write_atomically
from diffragan.files.csv import csv_text, write_history
from diffragan.files.mrc import read_map, write_map
from diffragan.files.store import open_results
from diffragan.fourier.grids import even_fast_length
from diffragan.fourier.volumes import centred
from diffragan.pairs.pairs import Pairs
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.likelihood.patterns import pattern_target
from diffragan.reconstruction.maps.views import Views

FINISHED = "metrics.json"  # written last: with it a folder is finished
_MAP_END_A = 0.9


def write_atoms_folder(
    out: Path,
    result: AtomsResult,
    folder: ReconstructionFolder,
    pairs: Pairs,
    views: Views,
    comparison: dict[str, Any],
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write everything; the dictionary of metrics.json comes back.

    Args:
        out: holds the run's settings.toml.
        comparison: what a known structure says (`known_model.compared`), or empty.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / FINISHED).unlink(missing_ok=True)
    _write_atoms(out, result, views, str(folder.metrics.get("molecule", "molecule")))
    curve = _free_correlation(result, views)
    store = write_waves(
        out / "waves.zarr", pairs, views, result.all_views, curve, solved=result.solved,
        progress=progress,
    )  # fmt: skip
    results = open_results(store)
    view_metrics = metrics_of(results, score(results, pairs, progress=progress))
    metrics = _metrics(result, folder, views, curve)
    if result.molecule:
        metrics["model"] = molecule_metrics(result.molecule, result.model)
    for key, value in comparison.items():
        metrics[key] = metrics.get(key, {}) | value
    metrics |= {"views": view_metrics, "extrapolated_frc": _extrapolated(view_metrics)}
    scene = atoms_scene(result, folder, views, read_map(out / "extended.mrc"))
    volume = centred(folder.maps["map"]).numpy()
    toml = (out / "settings.toml").read_text("utf-8")
    report = AtomsReport(metrics, scene, volume, folder.voxel_A, toml, result.molecule)
    write_atoms_report(out, report)
    text = json.dumps(metrics, indent=1, default=float) + "\n"
    write_atomically(out / FINISHED, text.encode())
    return metrics


def _write_atoms(out: Path, result: AtomsResult, views: Views, molecule: str) -> None:
    """atoms.cif, atoms.csv, residues.csv, model.cif, extended.mrc, history.csv."""
    atoms = result.atoms
    write_atoms_cif(
        out / "atoms.cif",
        atoms,
        result.confirmed.numpy(),
        molecule,
        result.molecule.symbols if result.molecule else None,
        result.errors_A.numpy(),
    )
    if result.molecule:
        rows = atom_rows(result.molecule)
        write_atomically(out / "atoms.csv", csv_text(rows, digits=5).encode())
        rows = residue_rows(result.molecule, result.model)
        write_atomically(out / "residues.csv", csv_text(rows, digits=4).encode())
    (out / "model.cif").unlink(missing_ok=True)
    if result.molecule and result.model:
        write_model_cif(out / "model.cif", result.molecule, result.model, molecule)
    _write_extended(out / "extended.mrc", result, views, molecule)
    history = [
        {"set": name} | row
        for name, built in zip(("all", "1", "2"), (result.all_views, *result.halves), strict=True)
        for row in built.history
    ]
    write_history(out / "history.csv", history)


def _extrapolated(view_metrics: dict[str, Any]) -> dict[str, Any] | None:
    """The views' FRC past the measured band, of projections; None without a truth."""
    if not view_metrics.get("truth"):
        return None
    projection = view_metrics["projection_frc"]
    return {
        "band_mean": projection["band_mean_frc"]["extrapolated"],
        "projection": projection["frc"],
    }


def _metrics(
    result: AtomsResult, folder: ReconstructionFolder, views: Views, curve: Tensor
) -> dict[str, Any]:
    atoms, field_A = result.atoms, views.optics.box_A
    map_sums = pattern_target(views).sums(torch.fft.rfftn(folder.maps["map"], norm="forward"))
    free = [sums.r_factor for sums in result.half_sums]
    rings = range(1, len(curve))
    return {
        "version": __version__,
        "molecule": folder.metrics.get("molecule"),
        "mass_kda": folder.metrics.get("mass_kda"),
        "reconstruction": str(folder.path.resolve()),
        "map_resolution_A": folder.metrics.get("resolution_A"),
        "solved": result.solved,
        "verdict": result.verdict,
        "warnings": list(result.warnings),
        "n_views": len(views),
        "dose_e_per_A2": folder.metrics.get("dose_e_per_A2"),
        "atoms": {
            "n": len(atoms),
            "hydrogens": result.all_views.riding.count,
            "expected": result.expected,
            "confirmed": int(result.confirmed.sum()),
            "confirmed_within_A": result.confirmation.within_A,
            "confirmed_by_chance": result.confirmation.false,
            "r_work": result.all_views.used.r_factor,
            "r_free": float(np.mean(free)),
            "r_map": map_sums.r_factor,
            "free_correlation": _number(mean_correlation(curve, field_A)),
            "free_band_A": list(CORRELATION_BAND_A),
            "median_error_A": _number(float(result.errors_A.nanmedian())),
            "median_b_A2": float(atoms.b_A2.median()) if len(atoms) else None,
        },
        "free": {
            "resolution_A": [field_A / k for k in rings],
            "correlation": [_number(float(curve[k])) for k in rings],
        },
        "seconds": result.seconds,
    }


def _free_correlation(result: AtomsResult, views: Views) -> Tensor:
    """(rings,) expected correlation of half a run's atoms with the truth, told by the patterns of
    the other half; the mean of both."""
    both = torch.stack([sums.correlation(views.electrons_by_ring) for sums in result.half_sums])
    return both.nanmean(0)


def _write_extended(path: Path, result: AtomsResult, views: Views, molecule: str) -> None:
    """The atoms' potential to 0.9 Å: a model's, past the measurement nothing was measured."""
    box_A = views.volume_box_A
    n = even_fast_length(2 * box_A / _MAP_END_A + 4)
    grid = AtomGrid(n, box_A, views.optics.box_A, views.optics.energy_ev)
    volume = centred(grid.volume(result.atoms, result.all_views.riding))
    label = f"diffragan {__version__} {molecule}: MODEL, potential of built atoms"
    write_map(path, volume, box_A / n, label)


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
