"""HDF5 of detectors and other programs: NeXus and Dectris, py4DSTEM, or arrays by their names."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.instruments.stacks import FrameStack, frames_of, joined_frames
from diffragan.optics import DEFOCUS_ARRAYS, energy_of_wavelength_ev

_LISTED = 12  # data sets that a message names


def read_hdf5(path: Path, keys: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Lazy frames (n, y, x) and what the file tells beside them.

    The package's own names come first (`pattern`, `image`, `pattern_mask`, ...), then NeXus as
    Dectris writes it (`entry/data/data_000001`, ...), then the largest array of frames.

    Args:
        keys: `pattern` and `image` to the names of their data sets, where the user tells them.

    Raises:
        DiffraganError: no data set of that name, or none that is clearly the frames.
    """
    import h5py

    if importlib.util.find_spec("hdf5plugin"):
        import hdf5plugin  # noqa: F401 - registers the detectors' compressions

    file = h5py.File(path, "r")
    arrays: dict[str, Any] = {}
    for name, key in (keys or {}).items():
        arrays[name] = _frames(path, _chosen(path, file, key))
    if not keys:
        for name in ("pattern", "image"):
            if name in file:
                arrays[name] = _frames(path, file[name])
    arrays |= _own_names(file)
    if "pattern" not in arrays and "image" not in arrays:
        arrays |= _detector_frames(path, file)
    return arrays | {k: v for k, v in _instrument(file).items() if k not in arrays}


def _own_names(file: Any) -> dict[str, Any]:
    """What this package's own files tell: arrays or attributes at the top."""
    arrays: dict[str, Any] = {}
    if "pattern_mask" in file:
        arrays["pattern_mask"] = np.asarray(file["pattern_mask"])
    if "pixel_A" in file.attrs:
        arrays["pixel_A"] = float(file.attrs["pixel_A"])
    for name in ("energy_ev", "cs_mm", "defocus_A", *DEFOCUS_ARRAYS):
        for holder in (file, file.attrs):
            if name in holder:
                arrays[name] = np.asarray(holder[name])
    return arrays


def _frames(path: Path, data: Any) -> Any:
    """A data set as frames; of two dimensions in memory, and masked where its filter is missing."""
    if data.ndim < 2:
        raise DiffraganError(
            f"The data set {data.name} of {path} has the shape {data.shape}, and frames have a "
            "height and a width; give another key."
        )
    stack = frames_of(data)

    def read(numbers: NDArray[np.int64]) -> NDArray[Any]:
        try:
            if data.ndim == 3:
                # A slice is read many times as fast as a list of numbers.
                first, last = int(numbers[0]), int(numbers[-1])
                whole = last - first + 1 == len(numbers)
                return np.asarray(data[first : last + 1] if whole else data[numbers])
            return stack[numbers]
        except OSError as error:
            if "filter" in str(error).lower():
                raise DiffraganError(
                    f"{path} is compressed as h5py alone can't read; run: pip install "
                    "'diffragan[instruments]'."
                ) from None
            raise DiffraganError(
                f"Frames of {path} can't be read ({error}); copy the file anew."
            ) from None

    return FrameStack(read, stack.shape)


def _chosen(path: Path, file: Any, key: str) -> Any:
    """The data set of a name that the user gave."""
    import h5py

    found = file.get(key)
    if isinstance(found, h5py.Dataset):
        return found
    raise DiffraganError(f"{path} has no data set '{key}'; it has {_listed(file)}.")


def _listed(file: Any) -> str:
    names = [f"{name} {shape}" for name, shape in sorted(_datasets(file).items())]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more if names else "none of two or more dimensions"


def _datasets(file: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all numeric data sets of two or more dimensions."""
    import h5py

    found: dict[str, tuple[int, ...]] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 2 and item.dtype.kind in "uif":
            found[name] = item.shape

    file.visititems(visit)
    return found


def _detector_frames(path: Path, file: Any) -> dict[str, Any]:
    """The frames of a detector's file, and what of it is missing."""
    data = file.get("entry/data")
    numbered = sorted(k for k in data if k.startswith("data_")) if data is not None else []
    whole = [key for key in numbered if data.get(key) is not None]
    if whole:
        stacks = [_frames(path, data[key]) for key in whole]
        for key, stack in zip(whole, stacks, strict=True):
            if stack.shape[1:] != stacks[0].shape[1:]:
                raise DiffraganError(
                    f"Frames of {path} are of several detectors: {whole[0]} has "
                    f"{stacks[0].shape[1:]} pixels, {key} {stack.shape[1:]}; give one data set "
                    "(--pattern-key)."
                )
        arrays: dict[str, Any] = {"pattern": joined_frames(stacks)}
        lost = [key for key in numbered if key not in whole]
        if lost:
            arrays |= _numbers_beside(numbered, lost, [len(stack) for stack in stacks])
            arrays["notes"] = [
                f"{path} refers to {len(numbered)} data files, of which {len(lost)} are missing "
                f"({', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}); the frames of the "
                "others are used."
            ]
        return arrays | _scan(file, len(arrays["pattern"]), stacks[0])
    sizes = {name: int(np.prod(shape)) for name, shape in _datasets(file).items()}
    largest = max(sizes.values(), default=0)
    likely = [name for name, size in sizes.items() if size > largest / 4]
    if len(likely) != 1:
        raise DiffraganError(
            f"{path} does not tell which of its data sets are frames; give --pattern-key (and "
            f"--image-key). It has {_listed(file)}."
        )
    found = file[likely[0]]
    arrays = {"pattern": _frames(path, found)}
    if found.ndim == 4:
        arrays["scan_shape"] = (int(found.shape[0]), int(found.shape[1]))
    return arrays


def _numbers_beside(numbered: list[str], lost: list[str], counts: list[int]) -> dict[str, Any]:
    """Which frames of the whole are left where files before the last are missing: every file but
    the last holds as many as the first."""
    if all(key > max(k for k in numbered if k not in lost) for key in lost):
        return {}
    there = [k for k, key in enumerate(numbered) if key not in lost]
    each = max(counts)
    frames = [k * each + np.arange(count) for k, count in zip(there, counts, strict=True)]
    return {"frame_numbers": np.concatenate(frames)}


def _scan(file: Any, n: int, first: Any) -> dict[str, Any]:
    """The scan's shape where triggers and images of one add up to the frames, or to more where
    some are missing."""
    detector = _group(file, "entry/instrument/detector/detectorSpecific")
    counts = [_number(detector, name) for name in ("ntrigger", "nimages")]
    if counts[0] and counts[1] and min(counts) > 1 and counts[0] * counts[1] >= n:
        whole = counts[0] * counts[1] == n
        name = "scan_shape" if whole else "whole_scan_shape"
        return {name: (int(counts[0]), int(counts[1]))}
    return {}


def _group(file: Any, name: str) -> Any:
    return file.get(name, {})


def _number(group: Any, name: str, units: Mapping[str, float] | None = None) -> float:
    """One number of a group, in the first of its units (name to factor); 0 where there is none."""
    if name not in group:
        return 0.0
    item = group[name]
    values = np.asarray(item[()])
    if values.size == 0 or values.dtype.kind not in "uif":
        return 0.0
    unit = item.attrs.get("units", "") if hasattr(item, "attrs") else ""
    unit = unit.decode() if isinstance(unit, bytes) else str(unit)
    return float(values.flat[0]) * (units or {}).get(unit.lower(), 1.0)


def _instrument(file: Any) -> dict[str, Any]:
    """What NeXus, Dectris and py4DSTEM tell of beam, detector and calibration."""
    told: dict[str, Any] = {}
    detector = _group(file, "entry/instrument/detector")
    specific = _group(file, "entry/instrument/detector/detectorSpecific")
    for group in (specific, detector):
        if "pixel_mask" in group:
            told["pattern_mask"] = np.asarray(group["pixel_mask"]) == 0
    metres = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "cm": 1e-2}
    told["detector_pixel_um"] = _number(detector, "x_pixel_size", metres) * 1e6
    told["camera_length_mm"] = (
        _number(detector, "detector_distance", metres) or _number(detector, "distance", metres)
    ) * 1e3
    told["exposure_s"] = _number(detector, "count_time", {"ms": 1e-3})
    told["saturation"] = _number(specific, "countrate_correction_count_cutoff") or _number(
        detector, "saturation_value"
    )
    centre = [_number(detector, f"beam_center_{axis}") for axis in "yx"]
    if all(centre):
        told["centre_px"] = tuple(centre)
    beam = _group(file, "entry/instrument/beam")
    energy = _number(beam, "incident_energy", {"kev": 1e3})
    wavelength = _number(beam, "incident_wavelength", {"nm": 10.0, "m": 1e10, "pm": 0.01})
    told["energy_ev"] = energy or (energy_of_wavelength_ev(wavelength) if wavelength else 0.0)
    extent = _number(beam, "extent", {"m": 1e10, "nm": 10.0, "um": 1e4})
    told["beam_diameter_A"] = extent
    told["step_A"] = _step_A(file)
    return {name: value for name, value in (told | _py4dstem(file)).items() if np.any(value)}


def _step_A(file: Any) -> float:
    """Between scan positions, as their places along x tell; 0 where there are none."""
    places = _group(file, "entry/sample/transformations").get("translation_x")
    if places is None or len(places) < 2:
        return 0.0
    unit = {"m": 1e10, "mm": 1e7, "um": 1e4, "nm": 10.0}.get(str(places.attrs.get("units")), 0.0)
    return float(np.median(np.abs(np.diff(np.asarray(places, dtype=float))))) * unit


def _py4dstem(file: Any) -> dict[str, Any]:
    """The pixel that py4DSTEM's calibration tells, wherever in the file it lies."""
    import h5py

    told: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if name.split("/")[-1] != "calibration" or not isinstance(item, h5py.Group):
            return
        holder = {**item.attrs, **{k: v[()] for k, v in item.items() if hasattr(v, "shape")}}
        unit = holder.get("Q_pixel_units", b"")
        unit = unit.decode() if isinstance(unit, bytes) else str(unit)
        if unit in ("A^-1", "1/A", "Å^-1") and "Q_pixel_size" in holder:
            told["reciprocal_pixel_per_A"] = float(np.asarray(holder["Q_pixel_size"]).flat[0])

    file.visititems(visit)
    return told
