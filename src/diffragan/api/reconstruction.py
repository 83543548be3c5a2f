"""Many views of one molecule into a map."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffragan.api.sources import Source, as_paths
from diffragan.errors import DiffraganError
from diffragan.progress import Progress, Warn, no_progress
from diffragan.settings import Settings

if TYPE_CHECKING:
    from diffragan.files.store import ResultStore
    from diffragan.pairs.pairs import Pairs
    from diffragan.reconstruction.run import Reconstruction


def reconstruct(  # long: what it may be told, as the command lists it
    pairs: Pairs | ResultStore | Source,
    out: Path | str,
    *,
    method: str = "many-views",
    engine: str = "fourier",
    orientations: Path | str | None = None,
    start: Path | str | None = None,
    structure: str | None = None,
    classes: int | str | None = None,
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
            result store, whose phased waves are put into one map; for RELION one result store
            or one STAR file of particles.
        out: folder to write: map.mrc, the half maps, FSC, report.html, metrics.json.
        method: `many-views`, or `merge`.
        engine: `fourier`, this package's own; `relion`: phased results (a store, or a STAR file of
            particles) to a map by RELION's programs, as `settings.relion` says.
        orientations: RELION .star with the angles of every pair, in order; none: the pairs' own.
        start: result store of the same pairs, whose phased waves make the start.
        structure: the molecule, where there are several.
        classes: the views are of several molecules or conformations, to be sorted: so many; `auto`:
            as many as they bear; `motion`: put in order along one motion. Every class gets a folder
            of its own in `out`. None: as `settings.classes.number` says, or all are of one
            molecule.
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
        DiffraganError: input that will not do, an option that the method does not take, another
            reconstruction in `out`, or a program of RELION's that fails.
    """
    from contextlib import nullcontext

    from diffragan.engine.processes import is_first
    from diffragan.engine.workers import tell_nobody
    from diffragan.files.integrity.lock import locked
    from diffragan.files.store import ResultStore
    from diffragan.reconstruction import run
    from diffragan.reconstruction.outputs import Destination

    method = method_of(method, engine)
    if classes is not None:
        settings = with_classes(settings, classes)
    if settings is not None and settings.classes.number is not None:
        method = way_to_classes(method, settings)

    if isinstance(pairs, ResultStore):
        pairs = pairs.path
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
    where = Destination(Path(out), overwrite, command)
    first = is_first()  # of several processes the first speaks, and holds the folder
    progress, warn = (progress, warn) if first else (no_progress, tell_nobody)
    with locked(where.folder) if first else nullcontext():
        return run.reconstruct(source, where, options, method=method, progress=progress, warn=warn)


def method_of(method: str, engine: str) -> str:
    """The way to a map by its method and its engine: RELION's is one of its own.

    Raises:
        DiffraganError: no such engine.
    """
    if engine == "fourier":
        return method
    if engine != "relion":
        raise DiffraganError(f"There is no engine '{engine}'; choose fourier or relion.")
    import diffragan.relion.run  # noqa: F401  # it enters itself in the list of ways

    return "relion"


def with_classes(settings: Settings | None, classes: int | str) -> Settings:
    """The settings with a number of classes, `auto` or `motion`.

    Raises:
        DiffraganError: neither a number of at least 1 nor one of these words.
    """
    from diffragan.settings import load_settings

    word = str(classes)
    number = int(word) if word.isdigit() and int(word) > 0 else word
    if isinstance(number, str) and number not in ("auto", "motion"):
        raise DiffraganError(
            f"There are no '{classes}' classes; give a number from 1 on, auto or motion."
        )
    settings = settings or load_settings()
    if settings.many_views.symmetry != "C1":
        raise DiffraganError("Classes are sorted without symmetry; leave it at C1.")
    sort = settings.classes.model_copy(update={"number": number})
    return settings.model_copy(update={"classes": sort})


def way_to_classes(method: str, settings: Settings) -> str:
    """The way to maps of several classes, where `method` phases views.

    Raises:
        DiffraganError: the method does not phase views.
    """
    if method != "many-views":
        raise DiffraganError(
            f"Method '{method}' makes one map; leave out classes, or take method many-views."
        )
    if settings.classes.number == "motion":
        import diffragan.reconstruction.classes.motion  # it enters itself in the list

        return "motion"
    import diffragan.reconstruction.classes.run  # noqa: F401  # so does this

    return "classes"


def relion_particles(
    phased: Path | str,
    out: Path | str,
    *,
    limit: int | None = None,
    settings: Settings | None = None,
    warn: Warn = warnings.warn,
) -> Path:
    """The files that RELION would be given by `reconstruct(..., engine="relion")`, and no more.

    Args:
        phased: a result store, or a STAR file of particles.
        out: OUT/relion is made.
        limit: so many images, spread evenly.

    Returns:
        The STAR file; its stack lies beside it.

    Raises:
        DiffraganError: results that make no map.
    """
    from diffragan.relion.run import export_particles
    from diffragan.settings import load_settings

    settings = settings or load_settings()
    return export_particles(Path(phased), Path(out), settings, limit, warn)
