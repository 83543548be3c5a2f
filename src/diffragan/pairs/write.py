"""Simulated pairs written down: a measurement store as an instrument would fill it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.engine.items import choose_items, first_item, range_in_header
from diffragan.engine.pace import Pace
from diffragan.engine.tasks import run_tasks
from diffragan.engine.workers import Workers, as_workers
from diffragan.files.store import SimulationStore
from diffragan.files.store_header import info_to_json
from diffragan.files.store_writer import ArraySpec, StoreWriter, defocus_specs
from diffragan.optics import DEFOCUS_ARRAYS
from diffragan.pairs.imaged import ImagedPairs
from diffragan.progress import Progress, no_progress

BATCH = 16


def write_pairs(  # long: what it may be told, as the command lists it
    pairs: ImagedPairs,
    out: Path,
    *,
    limit: int | None = None,
    items: slice | None = None,
    truth: bool = False,
    orientations: bool = False,
    overwrite: bool = False,
    repair: bool = False,
    workers: Workers | int | None = None,
    progress: Progress = no_progress,
) -> Path:
    """The pairs of a simulation into a measurement store.

    With `truth` the exit waves and orientations lie beside the pairs, with `orientations` these
    alone, as if they were known; without either the store holds nothing an instrument could not
    give, apart from the molecules' names.

    Args:
        limit: so many, spread evenly over the store. items: those of a range alone.
        repair: do again what can't be read any more.
        workers: processes of this machine, or a cluster.

    Raises:
        DiffraganError: `out` exists and was made otherwise.
    """
    chosen = choose_items(pairs.n, limit, items)
    specs = _arrays_of(pairs, truth=truth, orientations=truth or orientations)
    simulation = pairs.store
    header = {
        "optics": vars(simulation.optics),
        "structures": info_to_json(simulation.structures),
        "settings": pairs.settings.model_dump(mode="json"),
        "source": {"path": str(simulation.path), "structures_sha256": _hashes(simulation)},
        "truth": truth,
    } | range_in_header(chosen + first_item(simulation.header))
    if limit is not None and limit < pairs.n:
        header["spread_over"] = pairs.n  # as many in one run are others
    n = len(chosen)
    with StoreWriter(
        out, "measurement", n, specs, header, overwrite=overwrite, repair=repair
    ) as writer:
        if writer.complete:
            return out
        for name, values in _known_before(pairs, chosen, specs).items():
            writer.put(name, values)
        pace = Pace(progress, "pairs", n, int(writer.done.sum()))
        blocks = writer.pending(BATCH)
        tasks = [chosen[block] for block in blocks]
        with closing(run_tasks(_measured, (pairs, truth), tasks, as_workers(workers))) as finished:
            for done in finished:
                writer.write(blocks[done.number], **done.result)
                pace.add(len(blocks[done.number]), done.workers)
        writer.finish()
    return out


def _measured(what: tuple[ImagedPairs, bool], items: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """What is measured of some items, by the store's arrays; with their truth if that is wanted."""
    pairs, truth = what
    arrays: dict[str, NDArray[Any]] = {
        "pattern": pairs.pattern(items),
        "image": pairs.image(items),
        "image_dose": pairs.image_dose(items),
    }
    if truth:
        arrays["exit_wave"] = pairs.store.exit_wave(items)
    return arrays


def _known_before(
    pairs: ImagedPairs, chosen: NDArray[np.int64], specs: Mapping[str, ArraySpec]
) -> dict[str, NDArray[Any]]:
    """The arrays that need no imaging."""
    known: dict[str, NDArray[Any]] = {
        "pattern_mask": pairs.pattern_mask,
        "structure": pairs.store.structure_index[chosen].astype(np.int32),
    }
    if "rotation" in specs and pairs.store.rotation is not None:
        known["rotation"] = pairs.store.rotation[chosen]
    if pairs.defocus is not None:
        values = vars(pairs.defocus[chosen]).values()
        known |= dict(zip(DEFOCUS_ARRAYS, values, strict=True))
    return known


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
        specs |= defocus_specs()
    return specs


def _hashes(simulation: SimulationStore) -> list[str]:
    return [s.sha256 for s in simulation.structures]
