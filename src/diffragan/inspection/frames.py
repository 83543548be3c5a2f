"""Files of an instrument as frames: read one by one, added up, with what the files tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffragan.errors import DiffraganError
from diffragan.files.formats import Stack, read_arrays
from diffragan.files.instruments.stacks import joined_frames
from diffragan.inspection.detector.smoothing import Image, Mask
from diffragan.progress import Progress

_SUMMED = 400  # frames that are enough to find a detector's faults in


@dataclass(frozen=True)
class Frames:
    """Frames (n, y, x) of one detector.

    path: the first file. told: what the files tell beside the frames, by name.
    valid: (y, x) True where the files call a pixel good.
    """

    path: Path
    stack: Stack
    told: Mapping[str, Any]
    valid: Mask

    def __len__(self) -> int:
        return len(self.stack)

    def counts(self, item: int) -> tuple[Image, Mask]:
        """One frame, and where it counted: not beyond the detector's limit, nor at no number."""
        frame = np.asarray(self.stack[item])
        good = self.valid.copy()
        if frame.dtype.kind == "u" and frame.dtype.itemsize > 1:
            good &= frame < np.iinfo(frame.dtype).max  # Dectris and others: pixel not measured
        if "saturation" in self.told:
            good &= frame < float(self.told["saturation"])
        values = frame.astype(np.float64)
        good &= np.isfinite(values) & (values >= 0)
        return np.where(good, values, 0.0), good

    def total(self, progress: Progress) -> tuple[Image, Mask, int]:
        """The sum of the frames, or of 400 spread evenly; where all counted; and of how many."""
        n = len(self)
        chosen = np.unique((np.arange(min(n, _SUMMED)) * n) // min(n, _SUMMED))
        total, seen = np.zeros(self.valid.shape), np.zeros(self.valid.shape)
        for k, item in enumerate(chosen):
            frame, good = self.counts(int(item))
            total += frame
            seen += good
            progress("frames looked at", k + 1, len(chosen))
        good = seen >= 0.9 * len(chosen)
        return total * len(chosen) / np.maximum(seen, 1), good, len(chosen)


def open_frames(
    paths: Sequence[Path], role: str, key: str | None, mask: Path | None = None
) -> Frames:
    """The frames of several files of one detector, one file after the other.

    Args:
        role: `pattern` or `image`. key: the data set's name, in files that have names.
        mask: a file of a mask or of detector counts, 0 or False where a pixel is bad.

    Raises:
        DiffraganError: no such frames, or frames of several sizes.
    """
    stacks: list[Stack] = []
    told: dict[str, Any] = {}
    for path in paths:
        arrays = read_arrays(path, {role: key} if key else None)
        stack = arrays.get(role, arrays.get("pattern"))
        if stack is None:
            raise DiffraganError(f"{path} holds no {role}s; name their data set (--{role}-key).")
        if stacks and stack.shape[1:] != stacks[0].shape[1:]:
            raise DiffraganError(
                f"Frames of {path} are {stack.shape[1:]} pixels and those of {paths[0]} "
                f"{stacks[0].shape[1:]}; give files of one detector at a time."
            )
        stacks.append(stack)
        notes = [*told.get("notes", ()), *arrays.get("notes", ())]
        told = {k: v for k, v in arrays.items() if k not in ("pattern", "image")} | told
        told["notes"] = notes
    joined = stacks[0] if len(stacks) == 1 else joined_frames(stacks)
    shape = (int(joined.shape[1]), int(joined.shape[2]))
    valid = np.ones(shape, dtype=bool)
    if role == "pattern" and "pattern_mask" in told:
        valid &= _of_shape(paths[0], np.asarray(told["pattern_mask"]), shape)
    if mask is not None:
        given = np.asarray(read_mask(mask))
        valid &= _of_shape(mask, given, shape)
    return Frames(paths[0], joined, told, valid)


def read_mask(path: Path) -> Any:
    """A mask (y, x) from any file that the package reads, True or above 0 where pixels are good."""
    arrays = read_arrays(path)
    return np.asarray(arrays.get("pattern_mask", np.asarray(arrays["pattern"][0]))) > 0


def _of_shape(path: Path, mask: Any, shape: tuple[int, int]) -> Mask:
    result: Mask = np.squeeze(mask).astype(bool)
    if result.shape != shape:
        raise DiffraganError(
            f"The mask of {path} is {result.shape} and the frames are {shape}; give one of the "
            "frames' size."
        )
    return result


def each(frames: Frames) -> Iterator[tuple[int, Image, Mask]]:
    """The frames one after the other."""
    for item in range(len(frames)):
        yield item, *frames.counts(item)
