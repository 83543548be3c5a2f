"""A virtual session from structures to files: exit waves, the scan, its overview, the truth."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.engine.tasks import run_tasks
from diffragan.engine.workers import as_workers
from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.files.instruments.nexus import (
    FRAMES_A_FILE,
    ScanHeader,
    data_file,
    write_frames,
    write_master,
)
from diffragan.files.mrc import write_image_rows
from diffragan.files.store import open_simulation
from diffragan.fourier.grids import even_fast_length
from diffragan.microscope.detector import detected
from diffragan.microscope.session.exposures import Exposures
from diffragan.microscope.session.overview import Overview
from diffragan.microscope.session.square import draw_square
from diffragan.microscope.session.truth import truth_tables
from diffragan.microscope.simulate import simulate
from diffragan.progress import Progress, no_progress
from diffragan.settings import Settings, settings_to_toml

if TYPE_CHECKING:
    from diffragan.molecules.structure import Structure

_ROOM_A = 10.0  # of the waves' field beyond the molecule
_AT_A_TIME = 64
_MOST_OFF_PX = 3.0  # of the beam from the detector's middle


def simulate_scan(
    structures: Sequence[Structure],
    out: Path,
    settings: Settings,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Progress = no_progress,
    warn: Callable[[str], None] = lambda _: None,
) -> Path:
    """A scan over molecules of these structures and its overview, as instruments write them.

    Leaves scan.h5 (with data files beside it), overview.mrc and settings.toml in `out`, and in
    `out`/truth what no instrument tells. An interrupted run goes on where it was.

    Raises:
        DiffraganError: no dose, or `out` holds another session.
    """
    if settings.pattern.dose_e_per_A2 is None or settings.image.dose_e_per_A2 is None:
        raise DiffraganError(
            "Detector and camera of a session count electrons; give --dose and --image-dose (e/Å²)."
        )
    master, toml = out / "scan.h5", settings_to_toml(settings)
    names = [f"{s.stem} {s.sha256}" for s in structures]
    if _is_whole(out, toml, names, overwrite=overwrite):
        return out
    (out / "truth").mkdir(parents=True, exist_ok=True)
    write_atomically(out / "settings.toml", toml.encode())
    write_atomically(out / "truth" / "structures.json", json.dumps(names).encode())
    waves = session_waves(
        structures, out / "truth" / "waves.zarr", settings, workers, progress, warn
    )
    exposures = exposures_of(waves, settings)
    for name, text in truth_tables(exposures).items():
        write_atomically(out / "truth" / name, text.encode())
    files = _write_scan(master, exposures, workers, progress)
    overview = Overview(exposures)
    rows = overview.shape[0]

    def told() -> Iterator[NDArray[np.float32]]:
        done = 0
        for strip in overview.strips():
            yield strip
            done += len(strip)
            progress("overview, rows", done, rows)

    if not (out / "overview.mrc").exists():
        write_image_rows(out / "overview.mrc", told(), overview.shape, overview.pixel_A)
    write_master(master, _header(exposures), files)
    return out


def _is_whole(out: Path, toml: str, names: list[str], *, overwrite: bool) -> bool:
    """Whether this session lies there already; what is left of it may be gone on with.

    Raises:
        DiffraganError: another one lies there.
    """
    kept = out / "truth" / "structures.json"
    if overwrite and out.exists():
        _clear(out)
        return False
    if not out.exists() or not any(out.iterdir()):
        return False
    try:
        same = (out / "settings.toml").read_text("utf-8") == toml
        same &= json.loads(kept.read_text("utf-8")) == names
    except (OSError, ValueError):
        same = False
    if not same:
        raise DiffraganError(
            f"{out} holds something else, or a session with other settings; choose another --out, "
            "or pass --overwrite."
        )
    return (out / "scan.h5").exists()


def _clear(out: Path) -> None:
    """Remove what a session leaves, and nothing else."""
    shutil.rmtree(out / "truth", ignore_errors=True)
    for path in (*out.glob("scan*.h5*"), out / "overview.mrc", out / "settings.toml"):
        path.unlink(missing_ok=True)


def session_waves(
    structures: Sequence[Structure],
    path: Path,
    settings: Settings,
    workers: int | None = None,
    progress: Progress = no_progress,
    warn: Callable[[str], None] = lambda _: None,
) -> Path:
    """Exit waves of every kind, on a grid whose pixel fits the detector's."""
    session = settings.session
    pixel = session.field_A / session.detector_px
    wanted = session.waves_box_A or max(s.diameter_A for s in structures) + _ROOM_A
    side = even_fast_length(wanted / pixel)
    changed = {
        "box_A": side * pixel,
        "keep_q_per_A": 0.5 / pixel,
        "orientations": min(session.orientations, max(1, session.molecules)),
        "depth_A": settings.simulate.depth_A or max(s.diameter_A for s in structures) + 4,
    }
    simulation = settings.simulate.model_copy(update=changed)
    settings = settings.model_copy(update={"simulate": simulation})
    return simulate(structures, path, settings, workers=workers, progress=progress, warn=warn)


def exposures_of(waves: Path, settings: Settings) -> Exposures:
    """The square, and how it is exposed, of a session's exit waves and settings."""
    store = open_simulation(waves)
    kinds = len(store.structures)
    each = store.n // kinds
    diameters = [s.diameter_A for s in store.structures]
    square = draw_square(settings.session, settings.seed, diameters, [each] * kinds)
    rng = np.random.default_rng([settings.seed, 2])
    half = settings.session.detector_px / 2
    y, x = half + rng.uniform(-_MOST_OFF_PX, _MOST_OFF_PX, 2)
    return Exposures(square, store, each, (float(y), float(x)), settings)


def _header(exposures: Exposures) -> ScanHeader:
    session = exposures.settings.session
    n = session.detector_px
    _, good = detected(torch.zeros(1, n, n), torch.ones(n, n, dtype=torch.bool), exposures.settings)
    optics = exposures.optics
    return ScanHeader(
        rows=session.rows,
        columns=session.columns,
        step_A=session.step_A,
        field_A=optics.box_A,
        wavelength_A=optics.wavelength_A,
        energy_ev=optics.energy_ev,
        beam_diameter_A=session.beam_diameter_A,
        good=good.numpy(),
    )


def _write_scan(master: Path, exposures: Exposures, workers: int | None, progress: Progress) -> int:
    """The data files that are not there yet; how many there are in all."""
    n = len(exposures.square.positions_A)
    numbers = range(math.ceil(n / FRAMES_A_FILE))
    missing = [k for k in numbers if not data_file(master, k).exists()]
    beam = exposures.electrons * exposures.beam.area_A2 / exposures.optics.box_A**2
    kind = np.uint16 if beam < np.iinfo(np.uint16).max / 2 else np.uint32
    todo = [_items(k, n) for k in missing]
    progress("patterns", n - sum(map(len, todo)), n)
    counts = _counted(exposures, [i for items in todo for i in items], workers)
    done = n - sum(map(len, todo))
    for number, items in zip(missing, todo, strict=True):
        side = exposures.settings.session.detector_px
        frames = np.zeros((len(items), side, side), kind)
        for k in range(len(items)):
            frames[k] = np.minimum(next(counts), np.iinfo(kind).max - 1)
            done += 1
            if done % _AT_A_TIME == 0 or done == n:
                progress("patterns", done, n)
        write_frames(data_file(master, number), frames)
    return len(numbers)


def _items(number: int, n: int) -> range:
    return range(number * FRAMES_A_FILE, min((number + 1) * FRAMES_A_FILE, n))


def _counted(
    exposures: Exposures, items: list[int], workers: int | None
) -> Iterator[NDArray[np.float64]]:
    """Patterns in order, by several processes where there is much to do."""
    session = _Session(str(exposures.store.path), exposures.settings.model_dump_json())
    parts = [items[k : k + _AT_A_TIME] for k in range(0, len(items), _AT_A_TIME)]
    with closing(run_tasks(_some, session, parts, as_workers(workers), ordered=True)) as finished:
        for done in finished:
            yield from done.result


@dataclass(frozen=True)
class _Session:
    """What makes a session's exposures again in another process: the waves' store, settings."""

    waves: str
    settings: str


@lru_cache(maxsize=1)
def _exposures(session: _Session) -> Exposures:
    return exposures_of(Path(session.waves), Settings.model_validate_json(session.settings))


def _some(session: _Session, items: list[int]) -> NDArray[np.uint32]:
    exposures = _exposures(session)
    return np.stack([exposures.counts(i) for i in items]).astype(np.uint32)
