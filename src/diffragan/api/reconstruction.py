"""Many views of one molecule into a map."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffragan.api.sources import Source, as_paths
from diffragan.progress import Progress, Warn, no_progress
from diffragan.settings import Settings

if TYPE_CHECKING:
    from diffragan.pairs.pairs import Pairs
    from diffragan.reconstruction.run import Reconstruction


def reconstruct(  # long: what it may be told, as the command lists it
    pairs: Pairs | Source,
    out: Path | str,
    *,
    method: str = "many-views",
    orientations: Path | str | None = None,
    start: Path | str | None = None,
    structure: str | None = None,
    limit: int | None = None,
    mass_kda: float | None = None,
    image: Source = (),
    box_A: float | None = None,
    phased: Path | str | None = None,
    model: Path | str | None = None,
    settings: Settings | None = None,
    device: str = "auto",
    overwrite: bool = False,
    command: str = "diffragan.reconstruct",
    progress: Progress = no_progress,
    warn: Warn = warnings.warn,
) -> Reconstruction:
    """Many views of one molecule into a 3D map, in a folder; an interrupted run goes on.

    Args:
        pairs: pairs, or their stores and files, which count as one; for the method `merge` one
            result store, whose phased waves are put into one map.
        out: folder to write: map.mrc, the half maps, FSC, report.html, metrics.json.
        method: `many-views`, or `merge`.
        orientations: RELION .star with the angles of every pair, in order; none: the pairs' own.
        start: result store of the same pairs, whose phased waves make the start.
        structure: the molecule, where there are several.
        limit: so many views, spread evenly.
        mass_kda: molecular weight; none: the pairs' own, or told from the map.
        image, box_A: as `open_pairs`.
        phased: where the phased views go; none: OUT/phased.zarr.
        model: a known structure (.cif, .pdb), in any frame and either hand, to hold the map
            against; nothing of it is used to make the map.
        settings: how the run goes; none: the default preset.
        device: auto, cpu, cuda or cuda:1.
        command: what the page says it was made by.
        warn: told in a sentence what makes the result doubtful.

    Raises:
        DiffraganError: input that will not do, an option that the method does not take, or
            another reconstruction in `out`.
    """
    from diffragan.reconstruction import run

    source = as_paths(pairs) if isinstance(pairs, Path | str | Sequence) else pairs
    options = run.ReconstructionOptions(
        image=tuple(as_paths(image)),
        box_A=box_A,
        mass_kda=mass_kda,
        orientations=None if orientations is None else Path(orientations),
        start=None if start is None else Path(start),
        structure=structure,
        limit=limit,
        phased=None if phased is None else Path(phased),
        model=None if model is None else Path(model),
        settings=settings,
        device=device,
    )
    where = run.Destination(Path(out), overwrite, command)
    return run.reconstruct(source, where, options, method=method, progress=progress, warn=warn)
