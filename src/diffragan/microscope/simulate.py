"""Atoms to exit waves: multislice, one orientation at a time, resumable.

Each orientation is computed alone with one thread and planned the same way every time, so a
store does not depend on who computes it, nor on being interrupted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.devices import pick_device
from diffragan.engine.items import chosen_range, range_in_header
from diffragan.engine.pace import Pace
from diffragan.engine.tasks import run_tasks
from diffragan.engine.workers import HERE, Workers, as_workers
from diffragan.errors import DiffraganError
from diffragan.files.store_header import StructureInfo, info_to_json, to_half
from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.microscope.exit_waves import by_abtem, by_torch
from diffragan.microscope.exit_waves.field import Field, check_fit, outside_fraction, plan_field
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
    device: str = "cpu",
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
        device: `auto`, `cpu` or `cuda`, for the engine `torch`; a GPU is used by this process, or
            by the workers of a cluster that have one.
        warn: told in a sentence which molecules cross the edge of the box.

    Raises:
        DiffraganError: a molecule does not fit, two structures share a name, `out` holds a store
            made otherwise, or there is no such device.
    """
    where = _device_of(settings, device)
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
    with StoreWriter(
        out,
        "simulation",
        len(chosen),
        _wave_specs(field, settings)
        | {
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
        beam = _beam(field, settings, where)
        blocks = writer.pending(_WAVES_A_TASK[beam.engine])
        tasks = [_views_of(chosen[block], structures, rotations) for block in blocks]
        by = _by(as_workers(workers), where)
        with closing(run_tasks(_exit_waves, beam, tasks, by)) as finished:
            for done in finished:
                writer.write(blocks[done.number], **done.result)
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


_UNIT = "amplitude of a unit plane wave"


def _wave_specs(field: Field, settings: Settings) -> dict[str, ArraySpec]:
    """How the waves lie in the store."""
    shape = (field.stored_px, field.stored_px)
    if settings.simulate.stored_as == "complex64":
        return {"exit_wave": ArraySpec(shape, "complex64", _UNIT)}
    return {
        "exit_wave": ArraySpec((2, *shape), "float16", f"{_UNIT}, without its mean"),
        "mean_wave": ArraySpec((), "complex64", _UNIT),
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


# A task should outweigh its way to a worker.
_WAVES_A_TASK = {"abtem": 1, "torch": 16}


@dataclass(frozen=True)
class _Beam:
    """What all views share: the field, the electrons' energy in eV, who computes on what device,
    how waves are stored, and FFTW's plans for abTEM."""

    field: Field
    energy_ev: float
    engine: str
    device: str
    stored_as: str
    plans: bytes | None


def _device_of(settings: Settings, name: str) -> torch.device:
    if settings.simulate.engine == "abtem":
        if name not in ("auto", "cpu"):
            raise DiffraganError(
                "abTEM simulates on the CPU here; leave out --device, or choose "
                "--set simulate.engine=torch."
            )
        name = "cpu"
    return pick_device(name)


def _beam(field: Field, settings: Settings, device: torch.device) -> _Beam:
    engine, energy_ev = settings.simulate.engine, settings.energy_ev
    plans = by_abtem.fft_plans(field, energy_ev) if engine == "abtem" else None
    return _Beam(field, energy_ev, engine, str(device), settings.simulate.stored_as, plans)


def _by(workers: Workers, device: torch.device) -> Workers:
    """One GPU is for one process, unless a cluster or a number of processes is asked for."""
    alone = device.type != "cpu" and workers.scheduler is None and not workers.count
    return HERE if alone else workers


# Other plans are rarely wanted, and to take plans in costs time.
_plan = lru_cache(maxsize=1)(by_abtem.use_plans)


def _exit_waves(beam: _Beam, views: Sequence[_Views]) -> dict[str, NDArray[Any]]:
    """(k, y, x) exit waves of the views, one after the other, as arrays of the store."""
    if beam.engine == "abtem":
        _plan(beam.plans)
        wave_of = by_abtem.exit_wave
    else:
        # A worker without a GPU helps all the same.
        device = beam.device if torch.cuda.is_available() else "cpu"
        wave_of = partial(by_torch.exit_wave, device=torch.device(device))
    waves = np.stack(
        [
            wave_of(one.numbers, one.positions_A @ rotation.T, beam.field, beam.energy_ev)
            for one in views
            for rotation in one.rotations
        ]
    )
    if beam.stored_as == "complex64":
        return {"exit_wave": waves}
    rest, means = to_half(waves)
    return {"exit_wave": rest, "mean_wave": means}


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
