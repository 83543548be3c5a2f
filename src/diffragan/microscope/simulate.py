"""Atoms to exit waves: abTEM multislice, one orientation at a time, resumable.

Each orientation is computed alone with one thread and planned the same way every time, so a
store does not depend on the number of processes, nor on being interrupted.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.store_header import StructureInfo, info_to_json
from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.microscope.multislice import (
    Field,
    check_fit,
    exit_wave,
    fft_plans,
    outside_fraction,
    plan_field,
    use_plans,
)
from diffragan.optics import Optics
from diffragan.progress import Progress, no_progress
from diffragan.rotations import quasi_uniform
from diffragan.settings import Settings

if TYPE_CHECKING:
    from diffragan.molecules.structure import Structure


def simulate(
    structures: Sequence[Structure],
    out: Path,
    settings: Settings,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Progress = no_progress,
    warn: Callable[[str], None] = warnings.warn,
) -> Path:
    """Exit waves of every structure in every orientation, into a simulation store.

    Items run structure by structure. An interrupted run is continued by the same call and ends
    in the same store.

    Args:
        out: the store to write, .zarr. workers: processes, one per core if not given.
        warn: told in a sentence which molecules cross the edge of the box.

    Raises:
        DiffraganError: a molecule does not fit, two structures share a name, or `out` holds a
            store made otherwise.
    """
    stems = [s.stem for s in structures]
    for stem in stems:
        if stems.count(stem) > 1:
            raise DiffraganError(f"Two structures are called '{stem}'; rename one of the files.")
    field = plan_field([s.diameter_A for s in structures], settings.simulate)
    rotations = quasi_uniform(settings.simulate.orientations, settings.seed)
    for message in check_fit(structures, rotations, field, settings.simulate.max_outside):
        warn(message)
    per = len(rotations)
    n = per * len(structures)
    shape = (field.stored_px, field.stored_px)
    writer = StoreWriter(
        out,
        "simulation",
        n,
        {
            "exit_wave": ArraySpec(shape, "complex64", "amplitude of a unit plane wave"),
            "rotation": ArraySpec((3, 3), "float64", "1"),
            "structure": ArraySpec((), "int32", "index"),
            "outside": ArraySpec((), "float64", "fraction of atoms"),
        },
        _header(structures, field, settings),
        overwrite=overwrite,
    )
    if writer.complete:
        return out
    if not writer.done.any():
        writer.put("rotation", np.tile(rotations, (len(structures), 1, 1)))
        writer.put("structure", np.repeat(np.arange(len(structures)), per))
        outside = [outside_fraction(s.positions_A, rotations, field.box_A) for s in structures]
        writer.put("outside", np.concatenate(outside))
    progress("exit waves", int(writer.done.sum()), n)
    for block, waves in _run(writer.pending(), structures, rotations, field, settings, workers):
        writer.write(block, exit_wave=waves)
        progress("exit waves", int(writer.done.sum()), n)
    writer.finish()
    return out


def _header(structures: Sequence[Structure], field: Field, settings: Settings) -> dict[str, Any]:
    optics = Optics(settings.energy_ev, field.box_A, field.centre_to_exit_A)
    infos = [
        StructureInfo(s.stem, s.sha256, round(s.mass_kda, 3), round(s.diameter_A, 3), s.sequence)
        for s in structures
    ]
    return {
        "optics": vars(optics),
        "field": vars(field),
        "structures": info_to_json(infos),
        "settings": settings.model_dump(mode="json"),
    }


_shared: dict[str, Any] = {}


def _start_worker(plans: bytes | None, *arguments: Any) -> None:
    import signal

    import torch

    # The parent hears the interrupt and ends the pool; a worker's own traceback says nothing.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    use_plans(plans)
    _shared["arguments"] = arguments


def _end_with_parent() -> None:
    """End this process when its parent is gone, however it went; a pool alone would wait on."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _one(item: int) -> NDArray[np.complex64]:
    atoms, rotations, field, energy_ev = _shared["arguments"]
    numbers, positions = atoms[item // len(rotations)]
    turned = positions @ rotations[item % len(rotations)].T
    return exit_wave(numbers, turned, field, energy_ev)


def _cores() -> int:
    """Cores this process may use; macOS does not tell its share."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _run(
    blocks: list[NDArray[np.int64]],
    structures: Sequence[Structure],
    rotations: NDArray[np.float64],
    field: Field,
    settings: Settings,
    workers: int | None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.complex64]]]:
    """Blocks with their waves, in order, computed by a pool of processes."""
    atoms = [(s.numbers, s.positions_A) for s in structures]
    arguments = (atoms, rotations, field, settings.energy_ev)
    items = sum(len(block) for block in blocks)
    # A process takes seconds to start, as long as several waves.
    count = min(workers or min(_cores(), math.ceil(items / 8)), items)
    plans = fft_plans(field, settings.energy_ev)
    if count <= 1:
        use_plans(plans)
        _shared["arguments"] = arguments
        for block in blocks:
            yield block, np.stack([_one(int(i)) for i in block])
        return
    pool = ProcessPoolExecutor(count, get_context("spawn"), _start_worker, (plans, *arguments))
    try:
        waves = pool.map(_one, [int(i) for block in blocks for i in block])
        for block in blocks:
            yield block, np.stack([next(waves) for _ in block])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
