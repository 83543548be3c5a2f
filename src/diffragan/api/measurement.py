"""Pairs of pattern and image: simulated, or as an instrument gave them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffragan.api.sources import Source, as_paths
from diffragan.progress import Progress, no_progress
from diffragan.settings import Settings, load_settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from diffragan.engine.workers import Workers
    from diffragan.files.store import MeasurementStore, ResultStore, SimulationStore
    from diffragan.inspection.findings import Findings
    from diffragan.pairs.pairs import Pairs


def make_pairs(  # long: what it may be told, as the command lists it
    simulation: Path | str,
    out: Path | str,
    *,
    n: int | None = None,
    items: str | None = None,
    truth: bool = False,
    orientations: bool = False,
    settings: Settings | None = None,
    overwrite: bool = False,
    repair: bool = False,
    workers: Workers | int | None = None,
    progress: Progress = no_progress,
) -> Pairs:
    """Patterns and images of a simulation store, as an instrument would give them.

    Args:
        simulation: store that `simulate` wrote.
        out: measurement store to write, .zarr.
        n: so many, spread evenly over the store. items: those of a range `a:b` alone.
        truth: keep exit waves and orientations beside them, to judge by; no method sees them.
        orientations: keep the orientations alone, as if they were known.
        settings: how patterns and images are taken; none: the default preset.
        repair: do again what the store holds and can't be read any more.
        workers: processes of this machine, or a cluster; None for as many as pay.

    Raises:
        DiffraganError: no simulation store, or `out` was made otherwise.
    """
    from diffragan.engine.items import parse_range
    from diffragan.files.store import open_simulation
    from diffragan.pairs.imaged import ImagedPairs
    from diffragan.pairs.write import write_pairs

    chosen = settings or load_settings()
    written = write_pairs(
        ImagedPairs(open_simulation(Path(simulation)), chosen),
        Path(out),
        limit=n,
        items=None if items is None else parse_range(items),
        truth=truth,
        orientations=orientations,
        overwrite=overwrite,
        repair=repair,
        workers=workers,
        progress=progress,
    )
    return open_pairs(written, settings=chosen)


def join_stores(
    parts: Source,
    out: Path | str,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> SimulationStore | MeasurementStore | ResultStore:
    """The store of a whole run, from those of its ranges.

    Args:
        parts: stores that were written with `items`, of adjacent ranges, in any order.
        out: store to write, .zarr; its bytes are those of a run in one go.

    Raises:
        DiffraganError: parts of different runs, or a gap or an overlap between them.
    """
    from diffragan.stores.join import join_stores as run
    from diffragan.stores.join import open_store

    return open_store(run(as_paths(parts), Path(out), overwrite=overwrite, progress=progress))


def inspect(  # long: what it may be told, as the command lists it
    files: Source,
    out: Path | str,
    *,
    image: Source = (),
    box_A: float | None = None,
    mask: Path | str | None = None,
    pattern_key: str | None = None,
    image_key: str | None = None,
    settings: Settings | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Findings:
    """Files of an instrument to a measurement store: centre, mask, calibration, resampling.

    Args:
        files: of patterns, of one detector.
        out: measurement store to write, .zarr; a picture (.png) and the numbers (.json) lie beside
            it. Without images only these are written.
        image: the images, in the patterns' order.
        box_A: side of the field in Å; none: the detector's own.
        mask: a file of good pixels, true or above 0.
        pattern_key: the patterns' data set in HDF5 and NPZ files; image_key: that of the images.
        settings: what the files do not tell, under `inspect`, `image` and `pattern`.

    Raises:
        DiffraganError: files that can't be read or used; the message names what to give.
    """
    from diffragan.inspection import run

    return run.inspect(
        as_paths(files),
        Path(out),
        settings or load_settings(),
        images=as_paths(image),
        box_A=box_A,
        mask=None if mask is None else Path(mask),
        pattern_key=pattern_key,
        image_key=image_key,
        overwrite=overwrite,
        progress=progress,
    )


def open_pairs(
    source: Source | NDArray[Any],
    *,
    image: Source | NDArray[Any] = (),
    box_A: float | None = None,
    settings: Settings | None = None,
) -> Pairs:
    """Pairs of pattern and image from a store or file, from several as one, or from arrays.

    Args:
        source: .zarr, .npy, .npz, .mrc, .mrcs, .star, .h5, or several of them; or patterns
            (n, m, m), zero frequency at [m // 2, m // 2].
        image: the images, where they lie in files of their own, one for each source; or images
            (n, m, m).
        box_A: side of the field in Å, where no file tells it.
        settings: how a simulation is imaged, or how measured arrays were taken.

    Raises:
        DiffraganError: a file that is missing, damaged or of another kind, or arrays that don't
            fit each other.
    """
    import numpy as np

    from diffragan.pairs.open import open_all, open_arrays

    if isinstance(source, np.ndarray) or isinstance(image, np.ndarray):
        return open_arrays(source, image, settings=settings, box_A=box_A)
    return open_all(as_paths(source), settings=settings, images=as_paths(image), box_A=box_A)
