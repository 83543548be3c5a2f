"""A scan's files opened: frames, their place in the raster, overview, beam, and what they tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.formats import read_arrays
from diffragan.files.instruments.stacks import first_frames
from diffragan.inspection.frames import Frames, open_frames
from diffragan.inspection.images import (
    ToldDefocus,
    shown_defocus,
    told_defocus,
    with_aberration,
)
from diffragan.microscope.session.raster import Beam
from diffragan.settings import Settings, given_by_hand

_EDGE_PART = 0.1  # of the beam's diameter: how soft its edge is taken to be


@dataclass(frozen=True)
class OpenedScan:
    """A scan and its overview, not yet looked at.

    frames: that there are. shape: rows and columns of the scan. numbers: (f,) position of each
    frame. image: (rows, columns) of the overview, pixel_A its pixel. beam, step_A: of the scan.
    defocus: of the overview, and who tells it; None where nobody does. notes: what is missing.
    """

    frames: Frames
    overview: Path
    shape: tuple[int, int]
    numbers: NDArray[np.int64]
    image: NDArray[np.float32]
    pixel_A: float
    beam: Beam
    step_A: float
    defocus: ToldDefocus | None
    settings: Settings
    notes: list[str]


def open_scan(
    files: Sequence[Path],
    overview: Path,
    settings: Settings,
    *,
    mask: Path | None = None,
    pattern_key: str | None = None,
) -> OpenedScan:
    """A scan's files (one detector) and one image of the place.

    Raises:
        DiffraganError: a file that can't be read, frames that make no scan, or what nobody tells.
    """
    frames = open_frames(files, "pattern", pattern_key, mask)
    if not given_by_hand(settings, "energy_ev") and "energy_ev" in frames.told:
        energy = float(np.mean(frames.told["energy_ev"]))
        settings = settings.model_copy(update={"energy_ev": energy})
    shape, numbers, notes = _raster_of(frames, settings)
    if len(numbers) < len(frames):  # more than the scan has: what follows is none of it
        frames = replace(frames, stack=first_frames(frames.stack, len(numbers)))
    image, pixel_A, defocus, settings = _image(overview, settings)
    told = frames.told
    step = settings.scan.step_A or told.get("step_A")
    diameter = settings.scan.beam_diameter_A or told.get("beam_diameter_A")
    for value, option, what in (
        (step, "--step-A", "the step between beam positions"),
        (diameter, "--beam-diameter-A", "the beam's diameter"),
    ):
        if not value:
            raise DiffraganError(f"{frames.path} does not tell {what}; give {option}.")
    assert step is not None
    assert diameter is not None
    beam = Beam(float(diameter), _EDGE_PART * float(diameter))
    notes = [*told.get("notes", ()), *notes]
    return OpenedScan(
        frames,
        overview,
        shape,
        numbers,
        image,
        pixel_A,
        beam,
        float(step),
        defocus,
        settings,
        notes,
    )


def _raster_of(
    frames: Frames, settings: Settings
) -> tuple[tuple[int, int], NDArray[np.int64], list[str]]:
    """Rows and columns, the position of each frame, and what is missing in words."""
    n, name = len(frames), frames.path.name
    numbers = np.asarray(frames.told.get("frame_numbers", np.arange(n)), dtype=np.int64)
    by_hand = settings.inspect.scan_shape
    told = by_hand or frames.told.get("scan_shape") or frames.told.get("whole_scan_shape")
    if told is None:
        side = round(n**0.5)
        if side * side != n:
            raise DiffraganError(
                f"{frames.path} holds {n} frames and does not tell the scan's shape; give "
                "--scan-shape rows,columns."
            )
        told = (side, side)
    rows, columns = int(told[0]), int(told[1])
    wanted = rows * columns
    if by_hand and numbers[-1] + 1 > wanted:
        whole = f", which makes {n // columns} rows of {columns}" if n % columns == 0 else ""
        raise DiffraganError(
            f"{frames.path} holds {n} frames, more than {rows} x {columns}{whole}; correct "
            "--scan-shape."
        )
    if len(numbers) == wanted:
        return (rows, columns), numbers, []
    end = int(numbers[-1]) + 1
    if end < columns:
        raise DiffraganError(
            f"{frames.path} holds {n} frames, not one row of the {rows} x {columns} that its scan "
            "should have; correct --scan-shape, or copy the file anew."
        )
    gone = wanted - len(numbers)
    where = f"from row {end // columns}, column {end % columns} on" if len(numbers) == end else (
        "some of them in the middle"
    )  # fmt: skip
    note = f"{name} holds {n:,} of {wanted:,} positions: {gone:,} are missing, {where}."
    return (rows, columns), numbers, [note]


def _image(
    overview: Path, settings: Settings
) -> tuple[NDArray[np.float32], float, ToldDefocus | None, Settings]:
    """The overview, its pixel and defocus, and the settings with its lens as the file tells."""
    arrays = read_arrays(overview)
    stack = arrays.get("image", arrays.get("pattern"))
    if stack is None or len(stack) != 1:
        count = "no image" if stack is None else f"{len(stack)} images"
        raise DiffraganError(f"{overview} holds {count}; an overview is one image of the place.")
    pixel = settings.inspect.image_pixel_A or arrays.get("pixel_A")
    if not pixel:
        raise DiffraganError(f"{overview} does not tell its pixel; give --image-pixel-A.")
    image = np.asarray(stack[0], dtype=np.float32)
    if not np.isfinite(image).all():
        raise DiffraganError(f"{overview} holds NaN or infinite values; repair the image first.")
    frames = Frames(overview, stack, arrays, np.ones(image.shape, bool))
    settings = with_aberration(frames, settings)
    told = told_defocus(frames, settings) or shown_defocus(frames, float(pixel), settings)
    return image, float(pixel), told, settings
