"""Files of DigitalMicrograph, written byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# DigitalMicrograph's names of types: in tags, and of a whole image.
_TAG_TYPES = {"i2": 2, "i4": 3, "u2": 4, "u4": 5, "f4": 6, "f8": 7, "b1": 8, "u1": 10}
_IMAGE_TYPES = {"i2": 1, "f4": 2, "u1": 6, "i4": 7, "u2": 10, "u4": 11, "f8": 12}


def write_dm(
    path: Path,
    data: NDArray[Any],
    units: tuple[str, str],
    scales: tuple[float, float],
    tags: Mapping[str, Any],
) -> Path:
    """A file of DigitalMicrograph, version 3 or 4 by its suffix, little endian, with a thumbnail
    before the image, as the program writes it (C. Boothroyd's and P. Potapov's descriptions).

    Args:
        data: (..., y, x), x running fastest; its dimensions are listed from the fastest on.
        units, scales: of all dimensions but the two that run fastest, and of those two.
        tags: beside the image.
    """
    version = int(path.suffix[-1])
    beyond = data.ndim - 2
    calibrations = [(units[1], scales[1])] * 2 + [(units[0], scales[0])] * beyond
    dimensions = [{"Origin": np.float32(0), "Scale": np.float32(scale), "Units": unit}
                  for unit, scale in calibrations]  # fmt: skip
    thumbnail = np.zeros((4, 4), np.int32)
    root = {
        "ImageList": [
            {"ImageData": _image_data(thumbnail, []), "ImageTags": {}},
            {
                "ImageData": _image_data(data, dimensions),
                "ImageTags": tags,
                "Name": "scan",
            },
        ],
        "Thumbnails": [{"ImageIndex": np.uint32(0)}],
    }
    body = _group(root, version)
    size = _integer(version)(len(body) + 4)
    path.write_bytes(_be(version, "i4") + size + _be(1, "i4") + body + bytes(8))
    return path


def _image_data(data: NDArray[Any], dimensions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    kind = 23 if not dimensions else _IMAGE_TYPES[data.dtype.str[1:]]
    return {
        "Calibrations": {
            "Brightness": {"Origin": np.float32(0), "Scale": np.float32(1), "Units": ""},
            "Dimension": list(dimensions),
        },
        "Data": data.ravel(),
        "DataType": np.int32(kind),
        "Dimensions": [np.uint32(side) for side in data.shape[::-1]],
        "PixelDepth": np.int32(data.dtype.itemsize),
    }


def _be(value: int, kind: str) -> bytes:
    return np.array(value, f">{kind}").tobytes()


def _integer(version: int) -> Callable[[int], bytes]:
    """Counts and lengths: of four bytes in version 3, of eight in 4."""
    return lambda value: _be(value, "i8" if version == 4 else "i4")


def _group(content: Mapping[str, Any] | Sequence[Any], version: int) -> bytes:
    """A group of tags; those of a list have no names."""
    named = content.items() if isinstance(content, Mapping) else [("", v) for v in content]
    tags = b"".join(_tag(name, value, version) for name, value in named)
    return bytes([1, 0]) + _integer(version)(len(named)) + tags


def _tag(name: str, value: Any, version: int) -> bytes:
    group = isinstance(value, Mapping | list)
    body = _group(value, version) if group else b"%%%%" + _value(value, version)
    head = bytes([20 if group else 21]) + _be(len(name), "i2") + name.encode("latin-1")
    return head + (_integer(4)(len(body)) if version == 4 else b"") + body


def _value(value: Any, version: int) -> bytes:
    """A number, a text or an array, after the list of numbers that tells which."""
    if isinstance(value, str):
        value = np.frombuffer(value.encode("utf-16-le"), "<u2")
    array = np.asarray(value)
    kind = _TAG_TYPES[array.dtype.str[1:]]
    told = [20, kind, array.size] if array.ndim else [kind]
    integer = _integer(version)
    raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return integer(len(told)) + b"".join(integer(n) for n in told) + raw
