"""From pairs of several molecules to a map of each: `diffragan reconstruct --classes`.

Views are sorted by images and by patterns to the images' resolution; then every class is phased by
itself, by the run that `reconstruct` is for one molecule, in a folder of its own.
"""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from diffragan.devices import pick_device
from diffragan.engine.processes import start_processes
from diffragan.errors import DiffraganError
from diffragan.files.atomic import save_tensors
from diffragan.files.store_header import StructureInfo
from diffragan.pairs.open import open_all
from diffragan.pairs.pairs import Pairs
from diffragan.progress import Progress, Warn
from diffragan.reconstruction.checkpoint import SCRATCH, claim, clear, run_key
from diffragan.reconstruction.choose_views import LEAST_TO_FIND, ViewSelection, choose_views
from diffragan.reconstruction.classes.outputs import write_classes_folder
from diffragan.reconstruction.classes.sort_pairs import least_part, sort_pairs
from diffragan.reconstruction.classes.sorted_views import SortedViews
from diffragan.reconstruction.outputs import FINISHED, PHASED, Destination
from diffragan.reconstruction.run import (
    MapInput,
    Reconstruction,
    ReconstructionOptions,
    from_pairs,
    reconstruction_method,
)
from diffragan.settings import Settings, load_settings

_POOL = "views"  # what all molecules of an input are called before they are told apart
_TAKEN = [f.name for f in fields(ReconstructionOptions) if f.name not in ("start", "phased")]


@dataclass(frozen=True, repr=False)
class SortedReconstruction(Reconstruction):
    """A finished reconstruction of several classes; `folder` holds a folder of each.

    classes: their reconstructions, the largest first.
    """

    classes: tuple[Reconstruction, ...] = ()

    def __repr__(self) -> str:
        return f"SortedReconstruction('{self.folder}': {len(self.classes)} classes)"

    @property
    def resolution_A(self) -> float:
        """The coarsest that a class claims."""
        return max(each.resolution_A for each in self.classes)

    @property
    def summary(self) -> str:
        """The result in words, a line a class."""
        return "\n".join(self.metrics["summary"])


@reconstruction_method("classes", "many_views", "relion", "classes", *_TAKEN)
def from_mixed_pairs(
    source: MapInput,
    destination: Destination,
    options: ReconstructionOptions,
    progress: Progress,
    warn: Warn,
) -> Reconstruction:
    """Views of several molecules, sorted, and each class phased; an interrupted run is continued
    by the same call."""
    began = time.perf_counter()
    out, device = destination.folder, pick_device(options.device)
    destination.check()
    if start_processes(device).count > 1:
        raise DiffraganError(
            "Views are sorted by one process; leave out torchrun. Every class may be phased by "
            "several afterwards, from its rows of particles.star (--orientations)."
        )
    settings = options.settings or load_settings()
    many = settings.many_views
    if options.mass_kda is not None:
        many = many.model_copy(update={"mass_kda": options.mass_kda})
    pairs = source
    if isinstance(pairs, Sequence):
        images, side_A = options.image, options.box_A
        pairs = open_all(pairs, settings=settings, images=images, box_A=side_A, several=True)
    settings = pairs.settings.model_copy(update={"many_views": many, "classes": settings.classes})
    pool = pooled(pairs)
    selection = choose_views(
        pool,
        limit=options.limit,
        orientations=options.orientations,
        find=many.orientations == "find",
        mass_kda=many.mass_kda,
    )
    refuse_too_many(settings, selection)
    for warning in selection.warnings:
        warn(warning)
    _make(destination)
    key = run_key(pool, selection, settings, None)
    classes = settings.classes.model_dump(mode="json")
    claim(out / SCRATCH, key | {"classes": classes})
    found = sort_pairs(pool, selection, settings, out / SCRATCH, device, progress)
    for warning in found.warnings:
        warn(warning)
    results = tuple(
        _phased(pairs, selection, found, k, destination, options, settings, progress, warn)
        for k in range(1, found.classes + 1)
    )
    seconds = time.perf_counter() - began
    metrics = write_classes_folder(
        destination, pairs, selection, found, [r.metrics for r in results], settings, seconds
    )
    clear(out)
    return SortedReconstruction(out, metrics, None, results)


def pooled(pairs: Pairs) -> Pairs:
    """The same pairs, nothing said of which molecule each shows: of the weight that their
    molecules have in the mean, and as wide as the widest."""
    infos = [pairs.structures[int(k)] for k in np.unique(pairs.structure_index)]
    weights = [info.mass_kda for info in infos if info.mass_kda]
    info = StructureInfo(
        _POOL,
        mass_kda=float(np.mean(weights)) if weights else 0.0,
        diameter_A=max(info.diameter_A for info in infos),
    )
    alike = copy.copy(pairs)
    alike.structures, alike.structure_index = (info,), np.zeros_like(pairs.structure_index)
    return alike


def refuse_too_many(settings: Settings, selection: ViewSelection) -> None:
    """Refuses classes that the views can't fill.

    Raises:
        DiffraganError: fewer than 20 views for each, or more classes than parts of that size.
    """
    wanted, count = settings.classes.number, len(selection.items)
    if not isinstance(wanted, int):
        if count < 2 * LEAST_TO_FIND:
            raise DiffraganError(
                f"There are {count} views, too few to tell how many classes they are of; give "
                f"{2 * LEAST_TO_FIND} or more, or reconstruct them as one (without --classes)."
            )
        return
    if count < wanted * LEAST_TO_FIND:
        raise DiffraganError(
            f"{wanted} classes of {count} views leave fewer than {LEAST_TO_FIND} for each; ask for "
            f"{max(1, count // LEAST_TO_FIND)} at most (--classes), or give more views."
        )
    if wanted * least_part(settings.classes) > 1:
        raise DiffraganError(
            f"{wanted} classes that hold {least_part(settings.classes):.0%} of the views each are "
            "more than all views; lower classes.least_part, or ask for fewer."
        )


def _make(destination: Destination) -> None:
    """The folder, without the classes of a run that is to be replaced.

    Raises:
        DiffraganError: there are classes of another run, and they are to stay.
    """
    out = destination.folder
    if destination.overwrite or not (out / SCRATCH / "run.json").exists():
        left = sorted(p for p in out.glob("class*") if p.is_dir() and p.name[5:].isdigit())
        if left and not destination.overwrite:
            raise DiffraganError(
                f"{left[0]} is of another run; choose another --out, or pass --overwrite."
            )
        for folder in left:
            shutil.rmtree(folder)
    destination.make()


def _phased(  # long: a class is a whole run, and takes what that takes
    pairs: Pairs,
    selection: ViewSelection,
    found: SortedViews,
    k: int,
    destination: Destination,
    options: ReconstructionOptions,
    settings: Settings,
    progress: Progress,
    warn: Warn,
) -> Reconstruction:
    """One class phased into its folder, or read from there where that was done before."""
    name = f"class{k}"
    out = destination.folder / name
    if (out / FINISHED).exists():
        return Reconstruction(out, json.loads((out / FINISHED).read_text("utf-8")), out / PHASED)
    own = torch.nonzero(found.number == k).flatten()
    alone = copy.copy(pairs)
    member = np.zeros(pairs.n, dtype=np.int64)
    member[selection.items[own.numpy()]] = 1
    widest = max(pairs.structures[int(i)].diameter_A for i in np.unique(pairs.structure_index))
    info = StructureInfo(name, mass_kda=selection.mass_kda or 0.0, diameter_A=widest)
    alone.structures, alone.structure_index = (StructureInfo("others"), info), member
    one = settings.classes.model_copy(update={"number": None})
    alone.settings = settings.model_copy(update={"classes": one})
    given = replace(
        options, structure=name, limit=None, settings=alone.settings, box_A=None, image=()
    )
    if settings.many_views.orientations == "find":
        (out / SCRATCH).mkdir(parents=True, exist_ok=True)
        placed = {"rotations": found.rotations[own], "shifts_A": found.shifts_A[own]}
        save_tensors(out / SCRATCH / "orientations.pt", {"placed": placed, "warning": []})

    def told(done: str, at: int, of: int | None = None, word: str = "") -> None:
        progress(f"{name}: {done}", at, of, word)

    where = Destination(out, command=destination.command)
    return from_pairs(alone, where, given, told, lambda text: warn(f"{name}: {text}"))
