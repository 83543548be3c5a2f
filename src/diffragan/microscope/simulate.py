"""Atoms to exit waves: abTEM multislice, one orientation at a time, resumable.

Each orientation is computed alone with one thread and planned the same way every time, so a
store does not depend on who computes it, nor on being interrupted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffragan.engine.items import chosen_range, range_in_header
from diffragan.engine.pace import Pace
from diffragan.engine.tasks import run_tasks
from diffragan.engine.workers import Workers, as_workers
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


def simulate(  # long: what it may be told, as the command lists it
    structures: Sequence[Structure],
    out: Path,
    settings: Settings,
    *,
    items: slice | None = None,
    overwrite: bool = False,
    repair: bool = False,
    workers: Workers | int | None = None,
    progress: Progress = no_progress,
    warn: Callable[[str], None] = warnings.warn,
) -> Path:
    """Exit waves of every structure in every orientation, into a simulation store.

    Items run structure by structure. An interrupted run is continued by the same call and ends
    in the same store.

    Args:
        out: the store to write, .zarr. items: those of a range alone.
        repair: do again what the store holds and can't be read any more.
        workers: processes of this machine, or a cluster.
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
    chosen = chosen_range(len(rotations) * len(structures), items)
    per_item = _per_item(structures, rotations, field)
    shape = (field.stored_px, field.stored_px)
    with StoreWriter(
        out,
        "simulation",
        len(chosen),
        {
            "exit_wave": ArraySpec(shape, "complex64", "amplitude of a unit plane wave"),
            "rotation": ArraySpec((3, 3), "float64", "1"),
            "structure": ArraySpec((), "int32", "index"),
            "outside": ArraySpec((), "float64", "fraction of atoms"),
        },
        _header(structures, field, settings) | range_in_header(chosen),
        overwrite=overwrite,
        repair=repair,
    ) as writer:
        if writer.complete:
            return out
        if writer.fresh:
            for name, values in per_item.items():
                writer.put(name, values[chosen])
        pace = Pace(progress, "exit waves", writer.n, int(writer.done.sum()))
        blocks = writer.pending()
        beam = _Beam(field, settings.energy_ev, fft_plans(field, settings.energy_ev))
        tasks = [_views_of(chosen[block], structures, rotations) for block in blocks]
        with closing(run_tasks(_exit_waves, beam, tasks, as_workers(workers))) as finished:
            for done in finished:
                writer.write(blocks[done.number], exit_wave=done.result)
                pace.add(len(blocks[done.number]), done.workers)
        writer.finish()
    return out


def _per_item(
    structures: Sequence[Structure], rotations: NDArray[np.float64], field: Field
) -> dict[str, NDArray[Any]]:
    """What is known of every view before it is computed."""
    outside = [outside_fraction(s.positions_A, rotations, field.box_A) for s in structures]
    return {
        "rotation": np.tile(rotations, (len(structures), 1, 1)),
        "structure": np.repeat(np.arange(len(structures)), len(rotations)),
        "outside": np.concatenate(outside),
    }


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


@dataclass(frozen=True)
class _Views:
    """A molecule in some orientations: atomic numbers (a,), places (a, 3) in Å, and (k, 3, 3)."""

    numbers: NDArray[np.int64]
    positions_A: NDArray[np.float64]
    rotations: NDArray[np.float64]


@dataclass(frozen=True)
class _Beam:
    """What all views share: the field, the electrons' energy in eV, and FFTW's plans."""

    field: Field
    energy_ev: float
    plans: bytes | None


# Other plans are rarely wanted, and to take plans in costs time.
_plan = lru_cache(maxsize=1)(use_plans)


def _exit_waves(beam: _Beam, views: Sequence[_Views]) -> NDArray[np.complex64]:
    """(k, y, x) exit waves of the views, one after the other."""
    _plan(beam.plans)
    return np.stack(
        [
            exit_wave(one.numbers, one.positions_A @ rotation.T, beam.field, beam.energy_ev)
            for one in views
            for rotation in one.rotations
        ]
    )


def _views_of(
    items: NDArray[np.int64], structures: Sequence[Structure], rotations: NDArray[np.float64]
) -> list[_Views]:
    """The views that some items are of. Atoms travel with them, since they are little beside the
    work, and workers then need no folder of the structures."""
    place, turn = np.divmod(items, len(rotations))
    return [
        _Views(structures[k].numbers, structures[k].positions_A, rotations[turn[place == k]])
        for k in np.unique(place)
    ]
