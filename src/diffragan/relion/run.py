"""From phased results to a folder with RELION's map: `diffragan reconstruct --engine relion`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffragan.errors import DiffraganError
from diffragan.evaluation.known_model import read_model
from diffragan.files.mrc import write_map
from diffragan.files.star import read_column
from diffragan.files.store import file_sha256
from diffragan.fourier.volumes import centred
from diffragan.progress import Progress, Warn, no_progress
from diffragan.reconstruction.checkpoint import claim
from diffragan.reconstruction.outputs import (
    Destination,
    MapFolder,
    peak_memory_mb,
    write_map_folder,
)
from diffragan.reconstruction.run import (
    MapInput,
    Reconstruction,
    ReconstructionOptions,
    reconstruction_method,
)
from diffragan.relion.maps import JudgedMaps, judge, soft_mask, volume_of
from diffragan.relion.particles import STAR, ShownParticles, open_source, show
from diffragan.relion.programs.find import Relion, find_relion
from diffragan.relion.programs.jobs import (
    RefinedMaps,
    RelionProject,
    auto_refine,
    clear_iterations,
    initial_model,
    known_angles,
    postprocess,
)
from diffragan.settings import Settings, load_settings

FOLDER = "relion"  # in the folder of the reconstruction: RELION's files and logs
_ROOM_A = 6.0  # around a molecule in the circle that RELION masks images with
_WIDEST = 0.95  # of the box: no such circle is wider
_FIRST_MASK = {"blur_A": 4.0, "margin_A": 6.0, "edge_A": 6.0}  # of a map at some 10 Å
_NOT_INDEPENDENT = (
    "These views were phased together, from one map, so the half maps agree by more than they "
    "know; the resolution stands in the metrics of the run that phased them."
)
_SHARED_PRIOR = (
    "The views were phased by one method; errors that its prior puts into all of them count as "
    "agreement here."
)


def export_particles(
    source: Path, out: Path, settings: Settings, limit: int | None, warn: Warn
) -> Path:
    """The files that RELION would be given, and no more: the STAR file in OUT/relion.

    Raises:
        DiffraganError: as `show`.
    """
    shown = show(open_source(source), out / FOLDER, settings.relion, limit=limit)
    for warning in shown.warnings:
        warn(warning)
    return out / FOLDER / STAR


@reconstruction_method("relion", "limit", "mass_kda", "model", "settings", "relion")
def by_relion(
    source: MapInput,
    destination: Destination,
    options: ReconstructionOptions,
    progress: Progress = no_progress,
    warn: Warn = print,
) -> Reconstruction:
    """Images of phased results in one map, by RELION; an interrupted run is continued by the same
    call.

    Raises:
        DiffraganError: no RELION, input that will not do, or a program of RELION's that fails.
    """
    settings = options.settings or load_settings()
    destination.check()
    relion = find_relion()
    model = None if options.model is None else read_model(options.model)
    began = time.perf_counter()
    shown = _begun(_one_file(source), destination, options, relion)
    for warning in shown.warnings:
        warn(warning)
    mass_kda = options.mass_kda or _mass_kda(shown)
    project = RelionProject(
        relion,
        destination.folder / FOLDER,
        STAR,
        settings.relion,
        settings.relion.diameter_A or _diameter_A(shown),
        settings.seed,
        progress,
        shown.has_ctf,
    )
    maps = _maps(project, shown, mass_kda)
    judged = judge(shown, maps, mass_kda)
    metrics = _numbers(project, shown, judged) | {
        "mass_da": None if mass_kda is None else 1e3 * mass_kda,
        "postprocess_A": _postprocessed(project, shown, maps, judged, warn),
        "seconds": time.perf_counter() - began,
    }
    made = MapFolder(
        map=judged.map,
        halves=judged.halves,
        mask=judged.mask > 0.5,
        voxel_A=shown.pixel_A,
        q=judged.q,
        curves=judged.curves,
        rotations=judged.rotations,
        weights=np.ones(len(shown.rows), dtype=np.float32),
        metrics=metrics,
        settings=settings,
        model=model,
    )
    metrics = write_map_folder(destination.folder, made, destination.command)
    clear_iterations(project)
    return Reconstruction(destination.folder, metrics)


def _begun(
    path: Path, destination: Destination, options: ReconstructionOptions, relion: Relion
) -> ShownParticles:
    """The particles in RELION's folder, which is made this run's or found so; what is refused
    leaves nothing behind."""
    settings, folder = options.settings or load_settings(), destination.folder / FOLDER
    if destination.overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    source, there = open_source(path), (folder / STAR).exists()
    shown = show(source, folder, settings.relion, limit=options.limit, write=False)
    destination.make()
    claim(folder, _key(path, options, relion.version))
    return shown if there else show(source, folder, settings.relion, limit=options.limit)


def _numbers(project: RelionProject, shown: ShownParticles, judged: JudgedMaps) -> dict[str, Any]:
    """What metrics.json says beside the molecule's weight, RELION's resolution and the time."""
    return (
        {"hand": "open: orientations were found from projections alone"}
        | judged.numbers
        | {
            "method": "RELION {}.{}, ".format(*project.relion.version)
            + _WAYS[project.settings.orientations],
            "molecule": _stem(shown),
            "rounds": 1,
            "peak_memory_mb": peak_memory_mb(),
            "warnings": [*shown.warnings, *_doubts(shown)],
        }
    )


_WAYS = {
    "given": "known angles",
    "refine": "orientations refined",
    "find": "orientations found from nothing",
}


def _maps(project: RelionProject, shown: ShownParticles, mass_kda: float | None) -> RefinedMaps:
    """RELION's maps, by the way that the settings name."""
    mode, star = project.settings.orientations, None
    if mode != "find":
        known = known_angles(project, weighted=project.settings.unsolved == "weigh")
        if mode == "given":
            return known
        start = known.map
    else:
        start, found = initial_model(project)
        if not project.settings.search_again:
            star = str(found.relative_to(project.folder))
    mask = project.folder / "refine_mask.mrc"
    if not mask.exists():
        soft = soft_mask(volume_of(start), shown.source.box_A, mass_kda, **_FIRST_MASK)
        write_map(mask, centred(soft), shown.pixel_A, "mask of the refinement")
    reference = str(start.relative_to(project.folder))
    local = mode == "refine" or star is not None
    return auto_refine(project, reference, local=local, mask=mask.name, star=star)


def _postprocessed(
    project: RelionProject,
    shown: ShownParticles,
    maps: RefinedMaps,
    judged: JudgedMaps,
    warn: Warn,
) -> float | None:
    """The resolution by `relion_postprocess`, None where it does not work."""
    write_map(
        project.folder / "mask.mrc", centred(judged.mask), shown.pixel_A, "mask with a soft edge"
    )
    try:
        star = postprocess(project, maps, "mask.mrc", shown.pixel_A)
        return float(read_column(star, "rlnFinalResolution", table="general")[0])
    except DiffraganError as error:
        # It gives up on maps that are too much alike to make their phases random beyond a shell.
        reason = str(error).partition("; its log")[0]
        warn(f"There is no resolution by RELION's postprocess: {reason}.")
        return None


def _one_file(source: MapInput) -> Path:
    if not isinstance(source, Sequence):
        raise DiffraganError(
            f"{source.name} holds pairs; RELION takes phased results, so run `diffragan phase` "
            "first."
        )
    if len(source) != 1:
        raise DiffraganError(
            f"RELION takes one store of results or one STAR file, not {len(source)}; phase the "
            "pairs together, or join their particles (relion_star_handler --combine)."
        )
    return source[0]


def _key(path: Path, options: ReconstructionOptions, version: tuple[int, int]) -> dict[str, Any]:
    """What an unfinished run must share with the command that goes on with it."""
    settings = options.settings or load_settings()
    free = {"ranks", "threads", "launcher", "gpu"}
    return {
        "input": file_sha256(path),
        "mass_kda": options.mass_kda,
        "limit": options.limit,
        "relion": list(version),
        "settings": {
            "seed": settings.seed,
            "relion": settings.relion.model_dump(mode="json", exclude=free),
        },
    }


def _mass_kda(shown: ShownParticles) -> float | None:
    results = shown.source.results
    if results is None or not results.structures:
        return None
    return results.structures[int(results.structure_index[0])].mass_kda or None


def _stem(shown: ShownParticles) -> str:
    results = shown.source.results
    if results is None or not results.structures:
        return shown.source.path.stem
    return results.structures[int(results.structure_index[0])].stem


def _diameter_A(shown: ShownParticles) -> float:
    """Of the circle around a molecule."""
    results, widest = shown.source.results, _WIDEST * shown.source.box_A
    known = 0.0
    if results is not None and results.structures:
        known = results.structures[int(results.structure_index[0])].diameter_A
    return min(known + _ROOM_A, widest) if known else widest


def _doubts(shown: ShownParticles) -> list[str]:
    results = shown.source.results
    if results is None or results.method == "truth":
        return []
    return [_NOT_INDEPENDENT if results.method == "many-views" else _SHARED_PRIOR]
