"""Folders of .npy files, one frame a file, as the authors of DiffraGAN keep their triplets.

Their folders are three of one inner order, `diffraction`, `noisy` and `clean`, with a folder for
each protein and a file for each orientation, often in uint16.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.instruments.stacks import FrameStack


def read_folder(path: Path) -> Mapping[str, Any]:
    """Frames (n, y, x) of all .npy files below a folder, in the order of their paths, as `pattern`;
    or, where it has folders named for diffraction and noisy images, `pattern` and `image`.

    Raises:
        DiffraganError: no .npy file, frames of several sizes, or a pattern without its image.
    """
    kinds = {kind: _named(path, kind) for kind in ("diffraction", "noisy")}
    if not all(kinds.values()):
        return {"pattern": _frames(path)[0]}
    patterns, images = (_frames(folder) for folder in kinds.values() if folder is not None)
    if patterns[1] != images[1]:
        odd = sorted(set(patterns[1]) ^ set(images[1]))
        raise DiffraganError(
            f"{path} has {len(patterns[1])} patterns and {len(images[1])} images; the first that "
            f"lacks its partner is {odd[0]}."
        )
    return {"pattern": patterns[0], "image": images[0]}


def _named(path: Path, kind: str) -> Path | None:
    return next(
        (p for p in sorted(path.iterdir()) if p.is_dir() and p.name.lower().startswith(kind)), None
    )


def _frames(folder: Path) -> tuple[FrameStack, list[str]]:
    """The frames of a folder, and their files by their path in it."""
    files = sorted(folder.rglob("*.npy"))
    if not files:
        raise DiffraganError(f"The folder {folder} holds no .npy files; give one that does.")
    first = np.load(files[0], mmap_mode="r", allow_pickle=False)
    if first.ndim != 2:
        raise DiffraganError(f"{files[0]} has the shape {first.shape}; a file here is one frame.")

    def read(numbers: NDArray[np.int64]) -> NDArray[Any]:
        frames = [np.load(files[int(k)], allow_pickle=False) for k in numbers]
        for k, frame in zip(numbers, frames, strict=True):
            if frame.shape != first.shape:
                raise DiffraganError(
                    f"{files[int(k)]} is {frame.shape} and {files[0]} {first.shape}; give frames "
                    "of one size."
                )
        return np.stack(frames)

    names = [file.relative_to(folder).as_posix() for file in files]
    return FrameStack(read, (len(files), first.shape[0], first.shape[1])), names
