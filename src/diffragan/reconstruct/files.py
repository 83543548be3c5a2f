"""Files that RELION, ChimeraX and Coot open: MRC maps, particle stacks, FSC and history tables.

Every file is written under a temporary name and then renamed, so that a failure leaves what was
there.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.files import write_atomically
from diffragan.orientations import relion_angles

# What RELION writes for the resolution of shell 0, which has none.
NO_RESOLUTION_A = 999.0
# RELION's default; nothing uses it, as the projections carry no CTF.
AMPLITUDE_CONTRAST = 0.1
_IMAGE_STACK, _VOLUME = 0, 1
_STAR_CURVES = {
    "half": "rlnFourierShellCorrelationCorrected",
    "masked": "rlnFourierShellCorrelationMaskedMaps",
    "unmasked": "rlnFourierShellCorrelationUnmaskedMaps",
}
# A background whose spread is below this part of the image's holds only rounding.
_ROUNDING = 1e-5


def write_map(path: Path, volume: Tensor | NDArray[Any], voxel_A: float, label: str) -> None:
    """A volume as an MRC file of mode 2 (float32), its rotation centre at 0, 0, 0 Å.

    ChimeraX and Coot place the map by the ORIGIN field; RELION ignores it and takes the same
    voxel for the centre.

    Args:
        volume: (n, n, n), [z, y, x], rotation centre at voxel [n // 2] * 3.
        voxel_A: side of a voxel in Å.
        label: up to 80 ASCII characters for the header; more are cut.

    Raises:
        DiffraganError: the volume is no cube or not finite, or the disk refuses.
    """
    data = np.ascontiguousarray(_array(volume), dtype="<f4")
    if data.ndim != 3 or len(set(data.shape)) != 1:
        raise DiffraganError(f"A map must be a cube, not {data.shape}; nothing went to {path}.")
    if not np.isfinite(data).all():
        raise DiffraganError(f"The map for {path} holds NaN or infinite values; nothing written.")
    n = data.shape[-1]
    header = _header((n, n, n), voxel_A, _VOLUME, label)
    header["origin"] = (-(n // 2) * voxel_A,) * 3
    moments = _Moments()
    for section in data:
        moments.add(section)
    moments.put(header)
    write_atomically(path, header.tobytes() + data.tobytes())


def read_map(path: Path) -> tuple[NDArray[np.float32], float]:
    """A cubic map as [z, y, x], and its voxel's side in Å. The ORIGIN field is not looked at.

    Raises:
        DiffraganError: no such file, no MRC file, not cubic, not finite, or no voxel size.
    """
    import mrcfile

    if not path.is_file():
        raise DiffraganError(f"There is no file {path}; check the name.")
    try:
        with mrcfile.open(path, mode="r", permissive=False) as file:
            data = np.array(file.data)
            sides = [float(file.voxel_size[axis]) for axis in "xyz"]
            order = [int(file.header[name]) for name in ("maps", "mapr", "mapc")]
    except Exception as error:  # mrcfile has several words for a damaged file
        raise DiffraganError(f"{path} can't be read as MRC ({error}); is it whole?") from None
    if data.ndim != 3 or len(set(data.shape)) != 1 or np.iscomplexobj(data):
        raise DiffraganError(
            f"{path} holds {data.dtype} of shape {data.shape}, not one cubic map; resample or pad "
            "it to a cube."
        )
    if min(sides) <= 0 or max(sides) > min(sides) * 1.001:
        raise DiffraganError(
            f"{path} gives its voxel as {' x '.join(f'{side:.4g}' for side in sides)} Å; set one "
            "positive voxel size for all axes in its header."
        )
    if sorted(order) != [1, 2, 3]:
        raise DiffraganError(f"{path} doesn't say which of its axes is x; write it anew.")
    volume = np.transpose(data, [order.index(axis) for axis in (3, 2, 1)]).astype(np.float32)
    if not np.isfinite(volume).all():
        raise DiffraganError(f"{path} holds NaN or infinite values; repair the map first.")
    return np.ascontiguousarray(volume), float(np.mean(sides))


def save_tensors(path: Path, value: Any) -> None:
    """What `torch.load(..., weights_only=True)` reads back, written in one step."""
    temporary = path.with_name(path.name + ".tmp")
    torch.save(value, temporary)
    temporary.replace(path)


def write_fsc(folder: Path, q: Tensor, curves: Mapping[str, Tensor]) -> None:
    """`fsc.csv` and `fsc.star` with one row per shell.

    The CSV names the curves as given. The STAR table `data_fsc` calls the curve between half maps
    ("half") rlnFourierShellCorrelationCorrected, "masked" and "unmasked" as RELION does, and any
    other NAME rlnFourierShellCorrelationName. Shell 0 has the resolution 999 Å, as in RELION.
    A value that is not known (nan) is an empty cell in the CSV and `nan` in the STAR table.

    Args:
        folder: must exist.
        q: (s,) spatial frequencies in 1/Å, shell k at k steps; s at least 2.
        curves: name to (s,).

    Raises:
        DiffraganError: fewer than two shells, a curve of another length, or the disk refuses.
    """
    import pandas as pd
    import starfile

    at = _array(q).astype(np.float64)
    if len(at) < 2:
        raise DiffraganError(f"An FSC of {len(at)} shells tells nothing; give two or more.")
    values = {name: _array(curve).astype(np.float64) for name, curve in curves.items()}
    for name, curve in values.items():
        if curve.shape != at.shape:
            raise DiffraganError(
                f"The FSC curve “{name}” has shape {curve.shape}, its frequencies {at.shape}."
            )
    with np.errstate(divide="ignore"):
        resolution = np.where(at > 0, 1 / at, NO_RESOLUTION_A)
    rows = [
        dict(zip(("q_per_A", "resolution_A", *values), map(float, row), strict=True))
        for row in zip(at, resolution, *values.values(), strict=True)
    ]
    write_history(folder / "fsc.csv", rows)
    columns: dict[str, NDArray[Any]] = {
        "rlnSpectralIndex": np.rint(at / (at[1] - at[0])).astype(int),
        "rlnResolution": at,
        "rlnAngstromResolution": resolution,
    }
    columns |= {_star_name(name): curve for name, curve in values.items()}
    # Its own word for a missing value, <NA>, is no number to other programs.
    text = starfile.to_string({"fsc": pd.DataFrame(columns)}, na_rep="nan")
    write_atomically(folder / "fsc.star", text.encode())


def write_projections(
    path: Path,
    batches: Iterable[NDArray[Any]],
    count: int,
    pixel_A: float,
    rotations: NDArray[np.float64],
    energy_ev: float,
    cs_mm: float = 0,
    shifts_A: NDArray[Any] | None = None,
    extra: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """Projections as a RELION particle stack `.mrcs` with a `.star` of the same stem beside it.

    Each image is normalised as RELION wants it: the background (outside the circle inscribed in
    the box) has mean 0 and standard deviation 1. Where the background is flat, only its mean is
    taken off. Batches go to the disk one by one, so memory holds one of them.

    Args:
        path: ends in `.mrcs`.
        batches: (k, y, x) each, together `count` images of one square size, protein positive.
        count: number of images, at least 1.
        pixel_A: side of a pixel in Å.
        rotations: (count, 3, 3), r' = R r, projection along z.
        energy_ev, cs_mm: beam energy in eV and spherical aberration in mm, for the optics table.
        shifts_A: (count, 2) as y, x in Å: RELION's origins, that is how far each image must be
            moved to bring the molecule's centre to pixel [n // 2, n // 2]. A molecule that
            lies at +3 Å in x has the origin -3 Å. Not given: 0.
        extra: further particle columns by RELION name, (count,) each, as `rlnRandomSubset`.

    Raises:
        DiffraganError: numbers of images, rotations or columns differ, an image is not square or
            not finite, or the disk refuses.
    """
    columns = {"shifts_A": shifts_A} if shifts_A is not None else {}
    for name, found in {"rotations": rotations, **columns, **(extra or {})}.items():
        if len(found) != count:
            raise DiffraganError(f"{path} is to hold {count} images, but {len(found)} {name}.")
    if path.suffix != ".mrcs":
        raise DiffraganError(f"RELION knows image stacks by the suffix .mrcs; rename {path}.")
    side = _write_stack(path, batches, count, pixel_A)
    tables = {
        "optics": {
            "rlnOpticsGroup": [1],
            "rlnOpticsGroupName": ["opticsGroup1"],
            "rlnVoltage": [energy_ev / 1000],
            "rlnSphericalAberration": [float(cs_mm)],
            "rlnAmplitudeContrast": [AMPLITUDE_CONTRAST],
            "rlnImagePixelSize": [pixel_A],
            "rlnImageSize": [side],
            "rlnImageDimensionality": [2],
        },
        "particles": _particles(path.name, count, rotations, shifts_A, extra or {}),
    }
    import pandas as pd
    import starfile

    text = starfile.to_string({name: pd.DataFrame(table) for name, table in tables.items()})
    write_atomically(path.with_suffix(".star"), text.encode())


def write_history(path: Path, rows: Sequence[Mapping[str, float | int | str]]) -> None:
    """Rows as CSV; columns in the order they first appear, empty where a row has none.

    Raises:
        DiffraganError: the disk refuses.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(row.get(name, "")) for name in names] for row in rows)
    write_atomically(path, text.getvalue().encode())


def _write_stack(path: Path, batches: Iterable[NDArray[Any]], count: int, pixel_A: float) -> int:
    """Streams normalised images into an MRC stack and returns their side in pixels."""
    moments, written, side = _Moments(), 0, 0
    background = np.zeros((0, 0), dtype=bool)
    with _replacing(path) as file:
        for batch in batches:
            images = np.asarray(batch, dtype=np.float64)
            side = side or images.shape[-1]
            if images.shape[1:] != (side, side):
                raise DiffraganError(
                    f"{path} is to hold images of {side} x {side} px, not {images.shape[1:]}."
                )
            if not written:
                background = _outside_circle(side)
                file.write(_header((count, side, side), pixel_A, _IMAGE_STACK, "").tobytes())
            normal = _normalised(images, background)
            if not np.isfinite(normal).all():
                raise DiffraganError(f"A projection for {path} holds NaN or infinite values.")
            moments.add(normal)
            file.write(normal.tobytes())
            written += len(normal)
        if written != count or not count:
            raise DiffraganError(f"{path} was to hold {count} images and got {written}.")
        # The header stands first in the file, and its statistics are known last.
        header = _header((count, side, side), pixel_A, _IMAGE_STACK, "diffragan projections")
        moments.put(header)
        file.seek(0)
        file.write(header.tobytes())
    return side


def _particles(
    stack: str,
    count: int,
    rotations: NDArray[np.float64],
    shifts_A: NDArray[Any] | None,
    extra: Mapping[str, NDArray[Any]],
) -> dict[str, Any]:
    rot, tilt, psi = relion_angles(np.asarray(rotations, dtype=np.float64)).T
    y, x = np.zeros((2, count)) if shifts_A is None else np.asarray(shifts_A, float).T
    return {
        "rlnImageName": [f"{k + 1:06d}@{stack}" for k in range(count)],
        "rlnAngleRot": rot,
        "rlnAngleTilt": tilt,
        "rlnAnglePsi": psi,
        "rlnOriginXAngst": x,
        "rlnOriginYAngst": y,
        "rlnOpticsGroup": np.ones(count, dtype=int),
        **{name: np.asarray(column) for name, column in extra.items()},
    }


def _outside_circle(side: int) -> NDArray[np.bool_]:
    """(side, side): pixels farther than half the box from pixel [side // 2] * 2."""
    axis = np.arange(side) - side // 2
    outside: NDArray[np.bool_] = axis[:, None] ** 2 + axis[None, :] ** 2 > (side / 2) ** 2
    return outside


def _normalised(images: NDArray[np.float64], background: NDArray[np.bool_]) -> NDArray[np.float32]:
    empty = images[:, background]
    centred = images - empty.mean(-1)[:, None, None]
    spread = empty.std(-1)
    scale = np.where(spread > _ROUNDING * images.std((-2, -1)), spread, 1.0)
    normal: NDArray[np.float32] = (centred / scale[:, None, None]).astype("<f4")
    return normal


def _header(shape: tuple[int, int, int], voxel_A: float, group: int, label: str) -> Any:
    """An MRC2014 header, little-endian, without statistics; shape is (z, y, x)."""
    from mrcfile.dtypes import HEADER_DTYPE

    header = np.zeros((), dtype=HEADER_DTYPE.newbyteorder("<"))
    depth = 1 if group == _IMAGE_STACK else shape[0]
    sizes = (shape[2], shape[1], depth)
    for axis, size, cell in zip("xyz", (shape[2], shape[1], shape[0]), sizes, strict=True):
        header[f"n{axis}"], header[f"m{axis}"] = size, cell
        header["cella"][axis] = cell * voxel_A
    header["cellb"] = (90.0,) * 3
    header["mode"] = 2
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["ispg"] = group
    header["map"], header["machst"], header["nversion"] = b"MAP ", (0x44, 0x44, 0, 0), 20141
    header["label"][0] = label.encode("ascii", "replace")[:80]
    header["nlabl"] = 1
    return header


class _Moments:
    """Minimum, maximum, mean and standard deviation of values that come in parts."""

    def __init__(self) -> None:
        self._low, self._high = math.inf, -math.inf
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, part: NDArray[Any]) -> None:
        values = part.astype(np.float64)
        self._low = min(self._low, float(values.min()))
        self._high = max(self._high, float(values.max()))
        # Merged about the means (Chan et al. 1983): a difference of large sums would lose digits.
        mean, count = float(values.mean()), self._count + values.size
        step = mean - self._mean
        self._squares += float(((values - mean) ** 2).sum())
        self._squares += step**2 * self._count * values.size / count
        self._mean += step * values.size / count
        self._count = count

    def put(self, header: Any) -> None:
        header["dmin"], header["dmax"], header["dmean"] = self._low, self._high, self._mean
        header["rms"] = math.sqrt(self._squares / self._count)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the name `path` only when it is whole.

    Raises:
        DiffraganError: the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DiffraganError(
            f"{path} can't be written ({error.strerror or error}); free some space or choose "
            "another --out."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def _star_name(curve: str) -> str:
    plain = "".join(part[:1].upper() + part[1:] for part in curve.replace("-", "_").split("_"))
    return _STAR_CURVES.get(curve, f"rlnFourierShellCorrelation{plain}")


def _array(values: Tensor | NDArray[Any]) -> NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values


def _cell(value: float | int | str) -> float | int | str:
    if isinstance(value, float | np.floating):
        return f"{value:.7g}" if math.isfinite(value) else ""
    return value
