"""The images that RELION is shown: from a store of phased results or a STAR file, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.export import particle_images, write_particles
from diffragan.files.star import Particles, read_particles, write_projections
from diffragan.files.store import ResultStore, open_results
from diffragan.fourier.grids import resample
from diffragan.settings import RelionSettings

STACK, STAR = "particles.mrcs", "particles.star"
_BLOCK = 64
_LEAST_PER_HALF = 2
# Contrast below this part of the largest image's is that of no molecule.
_BLANK = 1e-6
# The lens as RELION's columns have it, by the names under which particles are read.
_LENS = {
    "defocus_u_A": "rlnDefocusU",
    "defocus_v_A": "rlnDefocusV",
    "defocus_angle_deg": "rlnDefocusAngle",
}


@dataclass(frozen=True)
class ParticleSource:
    """Images of one molecule, before RELION is shown any.

    images: gives some of them, (k, side, side), protein bright. rotations: (n, 3, 3), None where
    not known. shifts_A: (n, 2). solved: (n,) the run's verdict, None where there is none.
    columns: (n,) each, of the STAR file, by RELION's names.
    results: the store, where they come from one.
    """

    path: Path
    n: int
    side: int
    pixel_A: float
    energy_ev: float
    images: Callable[[NDArray[np.int64]], NDArray[np.floating[Any]]]
    rotations: NDArray[np.float64] | None = None
    shifts_A: NDArray[np.float64] | None = None
    solved: NDArray[np.bool_] | None = None
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    cs_mm: float = 0.0
    results: ResultStore | None = None

    @property
    def box_A(self) -> float:
        """Side of an image, Å."""
        return self.side * self.pixel_A


@dataclass(frozen=True)
class ShownParticles:
    """The particles' files in RELION's folder.

    rows: (k,) places in the source. side, pixel_A: of the images as they were written.
    """

    source: ParticleSource
    rows: NDArray[np.int64]
    side: int
    warnings: tuple[str, ...]

    @property
    def pixel_A(self) -> float:
        """Side of a pixel, Å."""
        return self.source.box_A / self.side

    @property
    def rotations(self) -> NDArray[np.float64] | None:
        """(k, 3, 3) orientations as the source tells them, None where it does not."""
        return None if self.source.rotations is None else self.source.rotations[self.rows]

    @property
    def has_ctf(self) -> bool:
        """Whether the images have a contrast transfer that their table tells."""
        return "rlnDefocusU" in self.source.columns


def open_source(path: Path) -> ParticleSource:
    """Phased results (.zarr) or RELION particles (.star).

    Raises:
        DiffraganError: another kind of file, several molecules, particles that differ in pixel or
            size, or a damaged file.
    """
    if path.suffix == ".star":
        return _of_star(path)
    results = open_results(path)
    if len(np.unique(results.structure_index)) > 1:
        raise DiffraganError(
            f"{path} holds several molecules; a map is made of one, so phase one structure's pairs."
        )

    def images(rows: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        return particle_images(results, rows)

    side = int(images(np.arange(1)).shape[-1])
    return ParticleSource(
        path,
        results.n,
        side,
        results.box_A / side,
        results.energy_ev,
        images,
        rotations=results.rotation,
        solved=results.solved,
        columns={"rlnRandomSubset": np.arange(results.n) % 2 + 1},
        results=results,
    )


def _of_star(path: Path) -> ParticleSource:
    if not path.is_file():
        raise DiffraganError(f"There is no file {path}; check the name.")
    try:
        arrays = read_particles(path)
    except DiffraganError:
        raise
    except Exception as error:  # starfile and pandas have several words for a damaged file
        raise DiffraganError(f"{path} can't be read as STAR ({error}); is it whole?") from None
    stack = arrays["pattern"]
    n, side, width = stack.shape
    if side != width:
        raise DiffraganError(f"The images of {path} are {width} x {side} pixels; give square ones.")
    if not arrays.get("pixel_A"):
        raise DiffraganError(f"{path} tells no pixel size (rlnImagePixelSize); add that column.")
    columns: dict[str, NDArray[Any]] = {"rlnRandomSubset": np.arange(n) % 2 + 1}
    columns |= {word: np.asarray(arrays[name]) for name, word in _LENS.items() if name in arrays}
    return ParticleSource(
        path,
        n,
        side,
        float(arrays["pixel_A"]),
        float(arrays.get("energy_ev", 200e3)),
        lambda rows: np.asarray(stack[rows], dtype=np.float32),
        rotations=arrays.get("rotation"),
        shifts_A=arrays.get("shifts_A"),
        columns=columns,
        cs_mm=float(arrays.get("cs_mm", 0.0)),
    )


def show(
    source: ParticleSource,
    folder: Path,
    settings: RelionSettings,
    *,
    limit: int | None = None,
    write: bool = True,
) -> ShownParticles:
    """Choose the images that RELION is shown and write them into its folder.

    Args:
        limit: so many images, spread evenly over each half set.
        write: whether the files are written; an interrupted run has them.

    Raises:
        DiffraganError: orientations are needed and not known, an odd number of pixels, or fewer
            than two images a half set.
    """
    if settings.orientations != "find" and source.rotations is None:
        raise DiffraganError(
            f"{source.path} tells no orientations; let RELION find them with --find-orientations, "
            "or phase pairs that have them."
        )
    side = settings.size_px or source.side
    if side % 2:
        raise DiffraganError(
            f"RELION wants an even number of pixels, and the images of {source.path} have "
            f"{side} a side; cut them with --set relion.size_px={side - 1}."
        )
    rows, warnings = _chosen(source, settings)
    if limit is not None and limit < len(rows):
        halves = rows[rows % 2 == 0], rows[rows % 2 == 1]
        spread = ((half, (limit + 1 - k) // 2) for k, half in enumerate(halves))
        rows = np.sort(np.concatenate([h[(np.arange(n) * len(h)) // n] for h, n in spread]))
    if write:
        _write(source, folder, rows, side)
    return ShownParticles(source, rows, side, tuple(warnings))


def _chosen(
    source: ParticleSource, settings: RelionSettings
) -> tuple[NDArray[np.int64], list[str]]:
    """The places of the images that take part, and what is left out in words."""
    warnings = []
    contrast = np.concatenate([source.images(block).std((-2, -1)) for block in _blocks(source.n)])
    use = contrast > _BLANK * max(float(contrast.max()), 1e-30)
    if blank := int((~use).sum()):
        first = int(np.flatnonzero(~use)[0]) + 1
        warnings.append(
            f"{blank} of {source.n} images of {source.path} are blank, number {first} the first; "
            "they were left out."
        )
    if settings.unsolved == "leave-out" and source.solved is not None:
        unsolved = int((use & ~source.solved).sum())
        use &= source.solved
        if unsolved:
            warnings.append(
                f"{unsolved} of {source.n} images were judged not solved and left out (--set "
                "relion.unsolved=keep or weigh takes them in)."
            )
    rows = np.flatnonzero(use)
    halves = np.bincount(source.columns["rlnRandomSubset"][rows], minlength=3)[1:3]
    if int(halves.min()) < _LEAST_PER_HALF:
        why = f" ({' '.join(warnings)})" if warnings else ""
        raise DiffraganError(
            f"{source.path} gives half sets of {halves[0]} and {halves[1]} images, and a map needs "
            f"{_LEAST_PER_HALF} in each at the least; give more{why}."
        )
    return rows, warnings


def _blocks(n: int) -> Iterator[NDArray[np.int64]]:
    return (np.arange(start, min(start + _BLOCK, n)) for start in range(0, n, _BLOCK))


def _write(source: ParticleSource, folder: Path, rows: NDArray[np.int64], side: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / STACK
    if source.results is not None:
        write_particles(path, source.results, rows=rows, side_px=side)
        return

    def batches() -> Iterator[NDArray[Any]]:
        for block in _blocks(len(rows)):
            images = torch.from_numpy(source.images(rows[block]))
            yield resample(images, side).numpy()

    def some(values: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if values is None else values[rows]

    columns = {name: values[rows] for name, values in source.columns.items()}
    particles = Particles(len(rows), some(source.rotations), some(source.shifts_A), columns)
    pixel_A = source.box_A / side
    write_projections(path, batches(), particles, pixel_A, source.energy_ev, source.cs_mm)
