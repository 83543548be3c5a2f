"""What array files hold of some exposures, put together from one file or two."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.formats import Stack, read_arrays
from diffragan.pairs.lens import RecordedLens, recorded_lens

_SAME_TURN = 1e-3


@dataclass(frozen=True)
class Exposures:
    """Patterns and images (n, m, m) each, with what their files tell of them.

    path, image_path: the file of the patterns, and that of the images where they lie apart.
    mask: (m, m), True where patterns are valid. pixel_A: the images' pixel. rotation: (n, 3, 3).
    shifts_A: (n, 2) x and y of the molecule from its image's centre. None: not told.
    sha256: of arrays that lie in no file.
    """

    path: Path
    patterns: Stack
    images: Stack
    image_path: Path | None = None
    mask: NDArray[np.bool_] | None = None
    pixel_A: float | None = None
    rotation: NDArray[np.float64] | None = None
    shifts_A: NDArray[np.float64] | None = None
    lens: RecordedLens = field(default_factory=RecordedLens)
    sha256: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process reads the same file."""
        if self.sha256 is None:
            image = None if self.image_path is None else self.image_path.resolve()
            return read_exposures, (self.path.resolve(), image)
        return _exposures_again, tuple(getattr(self, field.name) for field in fields(self))


def _exposures_again(*values: Any) -> Exposures:
    return Exposures(*values)


def read_exposures(path: Path, image: Path | None) -> Exposures:
    """Exposures of a file that holds both, or of patterns and of images in another file.

    Raises:
        DiffraganError: a file that can't be read or lacks an array, numbers of patterns and images
            that differ, or files that contradict each other.
    """
    first = read_arrays(path)
    second = first if image is None else read_arrays(image)
    # A file of one unnamed stack gives it as `pattern`; with --image it is the images.
    images = second.get("image", second.get("pattern") if image else None)
    patterns = first.get("pattern")
    for name, stack in (("pattern", patterns), ("image", images)):
        if stack is None:
            raise DiffraganError(
                f"{path} has no '{name}' array; name it so, or pass the images with --image."
            )
    assert patterns is not None
    assert images is not None
    if len(patterns) != len(images):
        counts = f"{path} holds {len(patterns)} patterns and"
        counts += f" {image} {len(images)} images" if image else f" {len(images)} images"
        raise DiffraganError(f"{counts}; each pattern needs its image, in the same order.")
    mask = first.get("pattern_mask")
    pixel_A, shifts = second.get("pixel_A"), second.get("shifts_A")
    return Exposures(
        path=path,
        patterns=patterns,
        images=images,
        image_path=image,
        mask=None if mask is None else np.asarray(mask, dtype=bool),
        pixel_A=float(pixel_A) if pixel_A else None,
        rotation=_rotation(path, first, image, second),
        # A pattern is the same wherever its molecule lies, so the images' origins count.
        shifts_A=first.get("shifts_A") if shifts is None else shifts,
        lens=recorded_lens([(path, first)] + ([(image, second)] if image else []), len(patterns)),
    )


def exposures_in_memory(patterns: Any, images: Any) -> Exposures:
    """Exposures of arrays (n, m, m), or (m, m) for one. Their path is a name made of their hash.

    Raises:
        DiffraganError: numbers of patterns and images that differ.
    """
    stacks = [np.asarray(a) for a in (patterns, images)]
    one, two = (a[None] if a.ndim == 2 else a for a in stacks)
    if one.ndim != 3 or two.ndim != 3 or len(one) != len(two):
        raise DiffraganError(
            f"The arrays have shapes {one.shape} (patterns) and {two.shape} (images); give (n, m, "
            "m) of both, in the same order."
        )
    digest = hashlib.sha256()
    for array in (one, two):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    name = f"arrays-{digest.hexdigest()[:12]}"
    return Exposures(Path(name), one, two, sha256=digest.hexdigest())


def checked_side(exposures: Exposures, box_A: float | None) -> int:
    """m, the side in pixels that patterns and images share.

    Args:
        box_A: side of the field as given by hand, for the message.

    Raises:
        DiffraganError: they are not square, of one size and even.
    """
    pattern_file, image_file = exposures.path, exposures.image_path or exposures.path
    for name, stack, file in (
        ("patterns", exposures.patterns, pattern_file),
        ("images", exposures.images, image_file),
    ):
        y, x = stack.shape[1:]
        if y != x:
            raise DiffraganError(
                f"The {name} of {file} are {y} x {x} pixels; crop or pad them to squares."
            )
    m, side = exposures.patterns.shape[-1], exposures.images.shape[-1]
    if m != side:
        pixel = exposures.pixel_A
        images = _field(pixel * side if pixel else box_A, "" if pixel else " by hand")
        patterns = _field(
            box_A or (pixel * m if pixel else None), " by hand" if box_A else " at their pixel"
        )
        raise DiffraganError(
            f"The images of {image_file} are {side} pixels a side ({images}) and the patterns of "
            f"{pattern_file} {m} ({patterns}), and both must cover one field with as many pixels; "
            f"crop or resample the images to {m} x {m} pixels of that field."
        )
    if m % 2:
        raise DiffraganError(
            f"The patterns of {pattern_file} are {m} x {m} pixels; crop patterns and images to an "
            "even size, the zero frequency at pixel [m // 2, m // 2]."
        )
    return int(m)


def _field(side_A: float | None, whence: str) -> str:
    return "field not told" if side_A is None else f"{side_A:.4g} Å{whence}"


def _rotation(
    path: Path, first: Mapping[str, Any], image: Path | None, second: Mapping[str, Any]
) -> NDArray[np.float64] | None:
    one, two = first.get("rotation"), second.get("rotation")
    if one is None or two is None:
        rotation: NDArray[np.float64] | None = two if one is None else one
        return rotation
    apart = np.abs(one - two).max((-2, -1)) if len(one) == len(two) else np.ones(1)
    if apart.max(initial=0) > _SAME_TURN:
        raise DiffraganError(
            f"{path} and {image} tell different orientations, first for pair "
            f"{int((apart > _SAME_TURN).argmax())}; correct the angles (rlnAngleRot, rlnAngleTilt, "
            "rlnAnglePsi) of one, or leave them out there."
        )
    return np.asarray(one, dtype=np.float64)
