"""Simulated pairs written down: a measurement store as an instrument would fill it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.files.store import SimulationStore
from diffragan.files.store_header import info_to_json
from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.optics import DEFOCUS_ARRAYS
from diffragan.pairs.imaged import ImagedPairs
from diffragan.progress import Progress, no_progress

BATCH = 16


def write_pairs(
    pairs: ImagedPairs,
    out: Path,
    *,
    n: int | None = None,
    truth: bool = False,
    orientations: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """The first `n` pairs of a simulation into a measurement store.

    With `truth` the exit waves and orientations lie beside the pairs, with `orientations` these
    alone, as if they were known; without either the store holds nothing an instrument could not
    give, apart from the molecules' names.

    Raises:
        DiffraganError: `out` exists and was made otherwise.
    """
    n = pairs.n if n is None else min(n, pairs.n)
    specs = _arrays_of(pairs, truth=truth, orientations=truth or orientations)
    simulation = pairs.store
    header = {
        "optics": vars(simulation.optics),
        "structures": info_to_json(simulation.structures),
        "settings": pairs.settings.model_dump(mode="json"),
        "source": {"path": str(simulation.path), "structures_sha256": _hashes(simulation)},
        "truth": truth,
    }
    writer = StoreWriter(out, "measurement", n, specs, header, overwrite=overwrite)
    if writer.complete:
        return out
    writer.put("pattern_mask", pairs.pattern_mask)
    writer.put("structure", simulation.structure_index[:n].astype(np.int32))
    if "rotation" in specs and simulation.rotation is not None:
        writer.put("rotation", simulation.rotation[:n])
    if pairs.defocus is not None:
        defocus = pairs.defocus[:n]
        for name, values in zip(DEFOCUS_ARRAYS, vars(defocus).values(), strict=True):
            writer.put(name, values)
    size = max(BATCH // writer.block, 1)
    pending = writer.pending()
    for start in range(0, len(pending), size):
        for items in _runs(np.concatenate(pending[start : start + size])):
            arrays: dict[str, NDArray[Any]] = {
                "pattern": pairs.pattern(items),
                "image": pairs.image(items),
                "image_dose": pairs.image_dose(items),
            }
            if truth:
                arrays["exit_wave"] = simulation.exit_wave(items)
            writer.write(items, **arrays)
        progress("pairs", int(writer.done.sum()), n)
    writer.finish()
    return out


def _arrays_of(pairs: ImagedPairs, *, truth: bool, orientations: bool) -> dict[str, ArraySpec]:
    m, wave_px = pairs.m, pairs.store.n_px
    specs = {
        "pattern": ArraySpec((m, m), "float32", "fraction of the beam per pixel"),
        "pattern_mask": ArraySpec((m, m), "bool", "true where valid", per_item=False),
        "image": ArraySpec((m, m), "float32", "mean intensity"),
        "image_dose": ArraySpec((), "float64", "e/angstrom^2"),
        "structure": ArraySpec((), "int32", "index"),
    }
    if truth:
        specs["exit_wave"] = ArraySpec((wave_px, wave_px), "complex64", "unit plane wave")
    if orientations and pairs.rotation is not None:
        specs["rotation"] = ArraySpec((3, 3), "float64", "1")
    if pairs.defocus is not None:
        units = ("angstrom", "angstrom", "degree")
        specs |= {
            name: ArraySpec((), "float64", unit)
            for name, unit in zip(DEFOCUS_ARRAYS, units, strict=True)
        }
    return specs


def _runs(items: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Consecutive runs of sorted items."""
    return np.split(items, np.nonzero(np.diff(items) != 1)[0] + 1)


def _hashes(simulation: SimulationStore) -> list[str]:
    return [s.sha256 for s in simulation.structures]
