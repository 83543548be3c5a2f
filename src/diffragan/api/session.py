"""A session at the microscope: a virtual one, and a scan to pairs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from diffragan.api.sources import Source, as_paths
from diffragan.progress import Progress, Warn, no_progress
from diffragan.settings import Settings, load_settings

if TYPE_CHECKING:
    from diffragan.scan.run import ScanResult


def simulate_scan(  # long: what it may be told, as the command lists it
    structures: Source,
    out: Path | str,
    *,
    settings: Settings | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
    warn: Warn = warnings.warn,
) -> Path:
    """A raster scan over a grid square of molecules and its overview, as instruments write them.

    Args:
        structures: what `prepare` wrote (.cif), or folders of it; each is a kind of molecule.
        out: folder for scan.h5, overview.mrc and truth/.
        settings: doses, optics and specimen, and under `session` the square; none: the default
            preset, which lacks doses.
        workers: processes; one per core if not given.

    Raises:
        DiffraganError: no dose, a structure that can't be used, or `out` holds something else.
    """
    from diffragan.microscope.session.run import simulate_scan as run
    from diffragan.molecules.structure import load_structure, prepared_files

    files = prepared_files(as_paths(structures))
    return run(
        [load_structure(file) for file in files],
        Path(out),
        settings or load_settings(),
        overwrite=overwrite,
        workers=workers,
        progress=progress,
        warn=warn,
    )


def scan(  # long: what it may be told, as the command lists it
    files: Source,
    overview: Path | str,
    out: Path | str,
    *,
    box_A: float | None = None,
    mask: Path | str | None = None,
    pattern_key: str | None = None,
    settings: Settings | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> ScanResult:
    """A raster scan and its overview image to pairs of pattern and image.

    Args:
        files: of the scan's patterns, of one detector, in order.
        overview: one image of the place.
        out: folder for pairs.zarr, positions.csv, session.json, images and a page.
        box_A: side of the pairs' field in Å; none: twice a molecule's diameter.
        mask: a file of good pixels, true or above 0.
        pattern_key: the patterns' data set in HDF5 and NPZ files.
        settings: under `scan` and `inspect` what the files do not tell; none: the default preset.

    Raises:
        DiffraganError: files that can't be read or don't belong together, no hits, or an overview
            of another place; the message says what to give.
    """
    from diffragan.scan.run import scan as run

    return run(
        as_paths(files),
        Path(overview),
        Path(out),
        settings or load_settings(),
        box_A=box_A,
        mask=None if mask is None else Path(mask),
        pattern_key=pattern_key,
        overwrite=overwrite,
        progress=progress,
    )
