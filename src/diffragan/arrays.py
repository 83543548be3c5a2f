"""Array files of other programs, as lazy stacks (n, y, x), and checks on what they hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.optics import Optics, frequency_grid, q_from_angle
from diffragan.settings import ImageSettings


class Stack(Protocol):
    """Anything like an array (n, y, x) that is read by item."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, items: Any) -> Any: ...


Reader = Callable[[Path], Mapping[str, Any]]


def reader(path: Path) -> Reader | None:
    """The function that reads a file of this name, or None.

    It returns lazy arrays by name: `pattern`, `image`, `pattern_mask`, and `pixel_A` where the
    file tells the image's pixel size. A file that holds one unnamed stack gives it as `pattern`.
    """
    readers: dict[str, Reader] = {
        ".npy": _npy, ".npz": _npz, ".mrc": _mrc, ".mrcs": _mrc, ".star": _star,
        ".h5": _h5, ".hdf5": _h5,
    }  # fmt: skip
    found = readers.get(path.suffix.lower())
    if found is None:
        return None

    def read(file: Path) -> Mapping[str, Any]:
        if not file.exists():
            raise DiffraganError(f"There is no file {file}; check the name.")
        try:
            return found(file)
        except DiffraganError:
            raise
        except Exception as error:  # each library has its own word for a damaged file
            raise DiffraganError(f"{file} can't be read ({error}); is it whole?") from None

    return read


def checked_pattern(
    pattern: NDArray[Any], path: Path, mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Patterns (k, m, m) with masked pixels 0.

    Raises:
        DiffraganError: a valid pixel is NaN, infinite or negative.
    """
    valid = pattern[..., mask]
    if not np.isfinite(valid).all():
        raise DiffraganError(
            f"A pattern of {path} holds NaN or infinite values; mask those pixels (pattern_mask)."
        )
    if (valid < 0).any():
        raise DiffraganError(
            f"A pattern of {path} holds negative intensities, which no detector counts; subtract "
            "less background, or mask those pixels (pattern_mask)."
        )
    return np.where(mask, pattern, 0).astype(np.float32)


def checked_image(image: NDArray[Any], path: Path) -> NDArray[np.float32]:
    """Images (k, m, m).

    Raises:
        DiffraganError: a pixel is NaN or infinite, or a whole image is not positive in the mean.
    """
    if not np.isfinite(image).all():
        raise DiffraganError(f"An image of {path} holds NaN or infinite values; repair it first.")
    if (image.mean((-2, -1)) <= 0).any():
        raise DiffraganError(
            f"An image of {path} has a mean of 0 or less; give intensities, not contrast."
        )
    return image.astype(np.float32)


def estimated_dose(
    image: NDArray[np.float32], optics: Optics, settings: ImageSettings
) -> NDArray[np.float64]:
    """Dose (k,) in e/Å² of images (k, m, m) of mean 1, from the noise beyond the optics' reach.

    An aperture at q passes no intensity beyond 2 q: what is there is counting noise, whose power
    per mode is 1 / (dose L²). Infinite where there is none; the shell just inside the image's
    corner is used where the aperture leaves no empty band.
    """
    q = frequency_grid(image.shape[-1], optics.box_A).sqrt()
    edge = 2 * q_from_angle(settings.aperture_mrad, optics.energy_ev)
    empty = (q > edge) & (q < image.shape[-1] / 2 / optics.box_A)
    if not bool(empty.any()):
        empty = q >= 0.9 * q.max()
    power = torch.fft.fft2(torch.from_numpy(image).double(), norm="forward").abs() ** 2
    noise = power[:, empty].mean(-1).numpy()
    with np.errstate(divide="ignore"):
        dose = 1 / (noise * optics.box_A**2)
    return np.where(noise > 1e-14, dose, math.inf)


def _npy(path: Path) -> Mapping[str, Any]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return {"pattern": array[None] if array.ndim == 2 else array}


def _npz(path: Path) -> Mapping[str, Any]:
    # numpy leaves a file open that it can't read, unless it is opened for it.
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        found = {name: archive[name] for name in archive.files}
    for name in ("pattern", "image"):
        if name in found and found[name].ndim == 2:
            found[name] = found[name][None]
    if "pixel_A" in found:
        found["pixel_A"] = float(found["pixel_A"])
    return found


def _mrc(path: Path) -> Mapping[str, Any]:
    import mrcfile

    with mrcfile.mmap(path, mode="r", permissive=False) as file:
        data, pixel = file.data, float(file.voxel_size.x)
    return {"pattern": data[None] if data.ndim == 2 else data, "pixel_A": pixel or None}


def _star(path: Path) -> Mapping[str, Any]:
    import starfile

    tables = starfile.read(path, always_dict=True)
    particles = tables.get("particles", next(iter(tables.values())))
    if "rlnImageName" not in particles:
        raise DiffraganError(f"{path} has no rlnImageName column; give RELION particles.")
    names = [str(name).split("@") for name in particles["rlnImageName"]]
    places = [(int(number) - 1, (path.parent / file)) for number, file in names]
    stacks = {file: _mrc(file) for _, file in places}
    pixel = next(iter(stacks.values()))["pixel_A"]
    if "optics" in tables:
        optics = tables["optics"]
        for name in ("rlnImagePixelSize", "rlnVoltage", "rlnImageSize"):
            if name in optics and optics[name].nunique() > 1:
                values = ", ".join(f"{v:g}" for v in optics[name].unique())
                raise DiffraganError(
                    f"The optics groups of {path} differ in {name} ({values}); pairs of one box "
                    "and one energy are needed, so give a file for each."
                )
        if "rlnImagePixelSize" in optics:
            pixel = float(optics["rlnImagePixelSize"].iloc[0])
    found: dict[str, Any] = {
        "pattern": _Gathered([(stacks[f]["pattern"], i) for i, f in places]),
        "pixel_A": pixel,
    }
    angles = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    if all(name in particles for name in angles):
        from diffragan.orientations import rotations_from_relion

        found["rotation"] = rotations_from_relion(particles[angles].to_numpy(float))
    if "rlnOriginXAngst" in particles and "rlnOriginYAngst" in particles:
        found["shifts_A"] = -particles[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy(float)
    return found


def _h5(path: Path) -> Mapping[str, Any]:
    import h5py

    file = h5py.File(path, "r")
    found: dict[str, Any] = {}
    for name in ("pattern", "image"):
        if name in file:
            stack = file[name]
            found[name] = _H5Stack(stack) if stack.ndim == 3 else np.asarray(stack)[None]
    if "pattern_mask" in file:
        found["pattern_mask"] = np.asarray(file["pattern_mask"])
    if "pixel_A" in file.attrs:
        found["pixel_A"] = float(file.attrs["pixel_A"])
    return found


class _H5Stack:
    """An HDF5 data set whose items may be asked for in any order."""

    def __init__(self, data: Any) -> None:
        self._data = data

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._data.shape)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, items: Any) -> NDArray[Any]:
        chosen = np.atleast_1d(np.arange(len(self))[items])
        ordered, back = np.unique(chosen, return_inverse=True)
        return np.asarray(self._data[ordered])[back]


class _Gathered:
    """A stack whose items lie in several files."""

    def __init__(self, places: list[tuple[Any, int]]) -> None:
        self._places = places

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._places), *self._places[0][0].shape[1:])

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, items: Any) -> NDArray[Any]:
        chosen = np.arange(len(self))[items]
        return np.stack([self._places[i][0][self._places[i][1]] for i in np.atleast_1d(chosen)])
