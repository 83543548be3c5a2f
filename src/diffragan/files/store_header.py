"""What a store says of itself: its header, the arrays it holds, and their descriptions.

A store is a Zarr 3 group, a folder `X.zarr` or the same zipped. Its attribute `diffragan` is the
header; its attribute `arrays` lists type and shape of every array, so that one that is gone or
changed is noticed.

Waves in half precision lie as real and imaginary part of what is left without their mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from diffragan.errors import DiffraganError, one_line

FORMAT = 1

Kind = Literal["simulation", "measurement", "result"]


@dataclass(frozen=True)
class StructureInfo:
    """What a store remembers of a molecule."""

    stem: str
    sha256: str = ""
    mass_kda: float = 0.0
    diameter_A: float = 0.0
    sequence: str = ""


def info_to_json(structures: Sequence[StructureInfo]) -> list[dict[str, Any]]:
    """Structures as a store's header keeps them."""
    return [asdict(s) for s in structures]


def unfinished(path: Path) -> Path:
    """Where a store lies until it is whole."""
    return path.with_name(path.name + ".part")


def open_group(path: Path) -> zarr.Group:
    """A store's group, to be read."""
    if path.name.endswith(".zip"):
        return zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")
    return zarr.open_group(path, mode="r")


def read_header(path: Path) -> dict[str, Any]:
    """The store's header.

    Raises:
        DiffraganError: no finished store, a damaged one, or one that this release can't read.
    """
    if not path.exists():
        part = unfinished(path)
        if part.exists():
            raise DiffraganError(
                f"{path} is not finished (only {part.name} is there); run the command that "
                "writes it again, and it goes on where it stopped."
            )
        raise DiffraganError(f"There is no store {path}; check the name.")
    try:
        header = open_group(path).attrs["diffragan"]
        if not isinstance(header, dict):
            raise TypeError("its header is no dictionary")
        kind, version = header["kind"], header["format"]
    except Exception:  # zarr, zipfile and json have a word each for a damaged file
        raise DiffraganError(
            f"{path} is not a diffragan store, or its zarr.json is damaged; give one that "
            "`diffragan simulate`, `image` or `phase` wrote."
        ) from None
    if version != FORMAT or kind not in ("simulation", "measurement", "result"):
        raise DiffraganError(
            f"{path} has format {version} (kind '{kind}'), and this release reads format "
            f"{FORMAT}; use the release that wrote it ({header.get('version')})."
        )
    return dict(header)


def described(array: zarr.Array[Any]) -> list[Any]:
    """Type and shape of an array, as the group's attribute `arrays` lists them."""
    return [str(array.dtype), *array.shape]


def listed_arrays(group: zarr.Group) -> Mapping[str, Any]:
    """What the store is to hold; empty for a store of an earlier version, which doesn't say."""
    arrays = group.attrs.get("arrays", {})
    return arrays if isinstance(arrays, dict) else {}


def to_half(waves: NDArray[np.complex64]) -> tuple[NDArray[np.float16], NDArray[np.complex64]]:
    """Waves (k, y, x) without their means, (k, 2, y, x), and the means (k,).

    Half precision keeps eleven bits of each number. The mean is the direct beam, beside which all
    else is small; without it the rounding is a few parts in ten thousand of what is scattered.
    """
    means = waves.mean((-2, -1), dtype=np.complex128).astype(np.complex64)
    rest = waves - means[:, None, None]
    return np.stack((rest.real, rest.imag), 1).astype(np.float16), means


def from_half(rest: NDArray[np.float16], means: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """The waves (k, y, x) of `to_half`, but for its rounding."""
    waves = np.empty((len(rest), *rest.shape[2:]), np.complex64)
    waves.real, waves.imag = rest[:, 0], rest[:, 1]
    waves += means[:, None, None]
    return waves


def array_of(group: zarr.Group, name: str, path: Path) -> zarr.Array[Any]:
    """An array of the store at `path`.

    Raises:
        DiffraganError: it is missing, or its description (its `zarr.json`) is damaged.
    """
    try:
        array = group[name]
    except KeyError:
        raise DiffraganError(f"The store {path} has no array '{name}'; write it anew.") from None
    except Exception as error:  # json, unicode and zarr have a word each for a damaged file
        raise _damaged_description(path, name, reason_of(error)) from None
    if not isinstance(array, zarr.Array):
        raise _damaged_description(path, name, "it describes no array")
    known = listed_arrays(group).get(name)
    if known is not None and known != described(array):
        raise _damaged_description(path, name, f"it tells {described(array)}, not {known}")
    return array


def reason_of(error: Exception) -> str:
    """What is wrong with a file of a store, from the error that reading it gave."""
    return "its checksum is wrong" if "checksum" in str(error) else one_line(error)


def _damaged_description(path: Path, name: str, reason: str) -> DiffraganError:
    return DiffraganError(
        f"{path / name / 'zarr.json'} is damaged ({reason}); copy the store again, or have "
        "the command that wrote it repair it (--repair)."
    )
