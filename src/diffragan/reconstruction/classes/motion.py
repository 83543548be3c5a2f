"""From pairs of a molecule that moves to views in order and a movie: `--classes motion`.

The movie is of maps as images show them, to the images' resolution: each frame is made of the views
near it alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffragan import __version__
from diffragan.devices import pick_device, to_device
from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.files.mrc import write_map
from diffragan.files.star import ITEM_COLUMN, Particles, pose_columns, write_tables
from diffragan.fourier.volumes import CPU, centred
from diffragan.pairs.open import open_all
from diffragan.progress import Progress, Warn
from diffragan.reconstruction.checkpoint import SCRATCH, claim, clear, run_key
from diffragan.reconstruction.choose_views import ViewSelection, choose_views
from diffragan.reconstruction.classes.run import pooled
from diffragan.reconstruction.maps.load_views import load_views
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.refine import align_to_images
from diffragan.reconstruction.outputs import FINISHED, Destination, peak_memory_mb
from diffragan.reconstruction.run import (
    MapInput,
    Reconstruction,
    ReconstructionOptions,
    reconstruction_method,
)
from diffragan.reconstruction.sorting.motion import Motion, frames_of, order_views
from diffragan.settings import Settings, load_settings, settings_to_toml

FRAMES, MOVIE = "frames", "motion.gif"
_SHOWN_A = 5.0  # finest resolution of the frames
LEAST_VIEWS = 100
_ALIGNED_A = (8.0, 6.5, 5.5, 5.0)
_FRAME_MS = 120  # that a picture stands
_TAKEN = ("image", "box_A", "mass_kda", "orientations", "limit", "settings", "device")


@dataclass(frozen=True, repr=False)
class OrderedViews(Reconstruction):
    """A finished run: `folder` holds particles.star, the frames and the movie."""

    def __repr__(self) -> str:
        return f"OrderedViews('{self.folder}': {self.metrics['n_views']} views)"

    @property
    def report(self) -> Path:
        """The movie."""
        return self.folder / MOVIE

    @property
    def summary(self) -> str:
        """The result in words."""
        return str(self.metrics["verdict"])


@reconstruction_method("motion", "many_views", "classes", *_TAKEN)
def from_moving_pairs(
    source: MapInput,
    destination: Destination,
    options: ReconstructionOptions,
    progress: Progress,
    warn: Warn,
) -> Reconstruction:
    """Views of one molecule ordered along what they vary in most, and maps along it."""
    began = time.perf_counter()
    out, device = destination.folder, pick_device(options.device)
    destination.check()
    settings = options.settings or load_settings()
    if settings.many_views.orientations == "find":
        raise DiffraganError(
            "A motion is told from views whose orientations are known; find them first, by "
            "reconstruct --find-orientations, and give its projections.star (--orientations)."
        )
    pairs = source
    if isinstance(pairs, Sequence):
        images, side_A = options.image, options.box_A
        pairs = open_all(pairs, settings=settings, images=images, box_A=side_A, several=True)
    kept = {"many_views": settings.many_views, "classes": settings.classes}
    settings = pairs.settings.model_copy(update=kept)
    mass_kda = options.mass_kda or settings.many_views.mass_kda
    selection = choose_views(
        pooled(pairs), limit=options.limit, orientations=options.orientations, mass_kda=mass_kda
    )
    if len(selection.items) < LEAST_VIEWS:
        raise DiffraganError(
            f"{pairs.name} gives {len(selection.items)} views; give at least {LEAST_VIEWS} to "
            "tell a motion."
        )
    for warning in selection.warnings:
        warn(warning)
    destination.make()
    claim(out / SCRATCH, run_key(pairs, selection, settings, None) | {"classes": "motion"})
    assert selection.rotations is not None
    loaded = load_views(
        pairs,
        selection.items,
        selection.rotations,
        out / SCRATCH,
        shifts_A=selection.shifts_A,
        progress=progress,
    )
    views = to_device(loaded, device).limited(_SHOWN_A)
    if settings.many_views.orientations == "refine":
        aligned = align_to_images(views, schedule_A=_ALIGNED_A, progress=progress)
        views = aligned.put_into(views)
    motion = order_views(views, selection.mass_kda, seed=settings.seed, progress=progress)
    seconds = time.perf_counter() - began
    metrics = _write(out, views, motion, selection, settings, seconds)
    clear(out)
    return OrderedViews(out, metrics)


def _write(
    out: Path,
    views: Views,
    motion: Motion,
    selection: ViewSelection,
    settings: Settings,
    seconds: float,
) -> dict[str, Any]:
    """Table, frames, movie, settings, and last metrics.json, whose content comes back."""
    columns = {
        ITEM_COLUMN: selection.items,
        "diffraganPlace": motion.place.cpu().numpy().round(5),
        "diffraganPlaceError": motion.error.cpu().numpy().round(5),
        "diffraganPlaceByImage": motion.by_image.cpu().numpy().round(5),
        "diffraganPlaceByPattern": motion.by_pattern.cpu().numpy().round(5),
    }
    rotations, shifts = views.rotations.cpu().double().numpy(), views.shifts_A.cpu().numpy()
    poses = pose_columns(Particles(len(views), rotations, shifts))
    write_tables(out / "particles.star", {"particles": {**poses, **columns}})
    frames = frames_of(views, motion.place, settings.classes.frames, selection.mass_kda)
    (out / FRAMES).mkdir(exist_ok=True)
    for number, frame in enumerate(frames, 1):
        write_map(
            out / FRAMES / f"frame{number:02d}.mrc",
            centred(frame.to(CPU)),
            views.voxel_A,
            f"diffragan {__version__}, place {number} of {len(frames)}",
        )
    write_atomically(out / MOVIE, movie(frames, out / SCRATCH))
    write_atomically(out / "settings.toml", settings_to_toml(settings).encode())
    verdict = (
        f"{len(views)} views lie along one motion: places by images and by patterns, which share "
        f"no noise, have a rank correlation of {motion.agreement:.2f}."
    )
    if not motion.sure:
        verdict = f"NOT CONVERGED. No motion is told: {verdict[0].lower()}{verdict[1:]}"
    metrics: dict[str, Any] = {
        "method": "motion",
        "version": __version__,
        "molecule": selection.molecule,
        "converged": motion.sure,
        "verdict": verdict,
        "n_views": len(views),
        "agreement": motion.agreement,
        "mean_place_error": float(motion.error.mean()),
        "frames": len(frames),
        "fsc_0p143_A": None,
        "seconds": seconds,
        "peak_memory_mb": peak_memory_mb(),
        "warnings": list(selection.warnings),
    }
    write_atomically(out / FINISHED, (json.dumps(metrics, indent=1) + "\n").encode())
    return metrics


def movie(frames: Sequence[Tensor], scratch: Path) -> bytes:
    """An animated GIF, there and back, of maps (n, n, n) seen along z, y and x side by side."""
    from matplotlib.animation import ArtistAnimation
    from matplotlib.figure import Figure

    pictures = [_seen(centred(frame.to(CPU)).numpy()) for frame in frames]
    top = max(float(picture.max()) for picture in pictures)
    figure = Figure(figsize=(6.6, 2.2), layout="tight")
    axis = figure.subplots()
    axis.set_axis_off()
    shown = [
        [axis.imshow(picture, cmap="gray", vmin=0, vmax=top, interpolation="bicubic")]
        for picture in [*pictures, *pictures[-2:0:-1]]
    ]
    made = scratch / MOVIE
    ArtistAnimation(figure, shown, interval=_FRAME_MS).save(made, writer="pillow", dpi=100)
    return made.read_bytes()


def _seen(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 3 n) projections along z, y and x."""
    views: NDArray[np.float32] = np.concatenate([volume.sum(axis) for axis in range(3)], 1)
    return views
