"""From a PDB entry to exit waves."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from diffragan.api.sources import Source, as_paths, as_words
from diffragan.progress import Progress, Warn, no_progress
from diffragan.settings import Settings, load_settings

if TYPE_CHECKING:
    from diffragan.engine.workers import Workers
    from diffragan.files.store import SimulationStore
    from diffragan.molecules.preparation_report import PreparationReport


def prepare(
    sources: Source,
    out: Path | str,
    *,
    test: Source = (),
    max_identity: float = 0.35,
    settings: Settings | None = None,
    progress: Progress = no_progress,
) -> list[PreparationReport]:
    """One clean protein chain with hydrogens of each source, as mmCIF, with every change reported.

    Args:
        sources: PDB IDs, which are fetched, or PDB and mmCIF files, plain or gzipped.
        out: folder for NAME.cif, NAME.json and prepare.json; what is done is not done again.
        test: structures kept for testing, files or folders of them.
        max_identity: largest sequence identity (0 to 1) that a source may have to one of them.
        settings: chain, pH and where entries are fetched from; none: the default preset.

    Raises:
        DiffraganError: a source that can't be found, read or completed, that holds no protein, or
            that is related to a test structure.
    """
    from diffragan.molecules.prepare import prepare_structures

    return prepare_structures(
        as_words(sources),
        Path(out),
        (settings or load_settings()).prepare,
        test=as_words(test),
        max_identity=max_identity,
        progress=progress,
    )


def simulate(  # long: what it may be told, as the command lists it
    structures: Source,
    out: Path | str,
    *,
    settings: Settings | None = None,
    items: str | None = None,
    workers: Workers | int | None = None,
    device: str = "auto",
    write_rotated: bool = False,
    overwrite: bool = False,
    repair: bool = False,
    progress: Progress = no_progress,
    warn: Warn = warnings.warn,
) -> SimulationStore:
    """Exit waves of prepared structures (.cif, or folders of them) into a simulation store.

    The orientations are also written beside it, as RELION angles (OUT.orientations.star).

    Args:
        structures: what `prepare` wrote.
        out: simulation store to write, .zarr.
        settings: box, grid and orientations; none: the default preset.
        items: those of a range `a:b` alone, counted structure by structure; `join_stores` puts
            the stores of several ranges together.
        workers: processes of this machine, or a cluster; None for as many as pay.
        device: auto, cpu or cuda; only `simulate.engine=torch` computes on a GPU.
        write_rotated: also save every rotated structure (.cif) in OUT.rotated.
        repair: do again what the store holds and can't be read any more.
        warn: told in a sentence which molecules cross the edge of the box.

    Raises:
        DiffraganError: a structure that is missing, not prepared or larger than its box.
    """
    from diffragan.engine.items import parse_range
    from diffragan.files.star import write_relion_angles
    from diffragan.files.store import open_simulation
    from diffragan.microscope.simulate import simulate as run
    from diffragan.molecules.structure import (
        load_structure,
        prepared_files,
        write_rotated_structures,
    )
    from diffragan.rotations import quasi_uniform

    chosen = settings or load_settings()
    files = prepared_files(as_paths(structures))
    store = run(
        [load_structure(file) for file in files],
        Path(out),
        chosen,
        items=None if items is None else parse_range(items),
        overwrite=overwrite,
        repair=repair,
        workers=workers,
        device=device,
        progress=progress,
        warn=warn,
    )
    rotations = quasi_uniform(chosen.simulate.orientations, chosen.seed)
    write_relion_angles(store.with_suffix(".orientations.star"), rotations)
    for number, file in enumerate(files if write_rotated else (), 1):
        write_rotated_structures(file, rotations, store.with_suffix(".rotated"))
        progress("rotated structures", number * len(rotations), len(files) * len(rotations))
    return open_simulation(store)
