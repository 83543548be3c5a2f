"""HDF5 of detectors and other programs: NeXus and Dectris, py4DSTEM, or arrays by their names."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.instruments.cut_off import open_hdf5, whole_frames
from diffragan.files.instruments.stacks import FrameStack, first_frames, frames_of, joined_frames
from diffragan.optics import DEFOCUS_ARRAYS, energy_of_wavelength_ev

_LISTED = 12  # data sets that a message names


def read_hdf5(path: Path, keys: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Lazy frames (n, y, x) and what the file tells beside them.

    The package's own names come first (`pattern`, `image`, `pattern_mask`, ...), then NeXus as
    Dectris writes it (`entry/data/data_000001`, ...), then the largest array of frames.

    Args:
        keys: `pattern` and `image` to the names of their data sets, where the user tells them.

    Raises:
        DiffraganError: no data set of that name, none that is clearly the frames, or a file of
            which no frame is left.
    """
    if importlib.util.find_spec("hdf5plugin"):
        import hdf5plugin  # noqa: F401 - registers the detectors' compressions

    file, left = open_hdf5(path)
    if left is None:
        return _read(path, file, left, keys)
    try:
        return _read(path, file, left, keys)
    except (KeyError, OSError, RuntimeError, ValueError):
        raise DiffraganError(
            f"{path} was cut off, and what tells where its frames lie is gone; copy it anew."
        ) from None


def _read(
    path: Path, file: Any, left: int | None, keys: Mapping[str, str] | None
) -> dict[str, Any]:
    """What an open file holds; `left` bytes of it, where its end is missing."""
    arrays: dict[str, Any] = {}
    chosen = {name: _chosen(path, file, key) for name, key in (keys or {}).items()}
    if not keys:
        chosen = {name: file[name] for name in ("pattern", "image") if name in file}
    for name, data in chosen.items():
        arrays[name], notes = _whole(path, data, left)
        arrays["notes"] = [*arrays.get("notes", ()), *notes]
    arrays |= _own_names(file)
    if "pattern" not in arrays and "image" not in arrays:
        arrays |= _detector_frames(path, file, left)
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


def _whole(path: Path, data: Any, left: int | None) -> tuple[FrameStack, list[str]]:
    """A data set as frames, and what is missing of it in words.

    Args:
        left: bytes that are left of its file, where its end is missing.

    Raises:
        DiffraganError: no frame is whole.
    """
    stack = _frames(path, data)
    if left is None or data.ndim < 3:
        return stack, []
    whole = whole_frames(data, left) * (len(stack) // max(len(data), 1))
    if not whole:
        raise DiffraganError(f"{path} was cut off before the end of a frame; copy it anew.")
    note = f"{path} was cut off: {whole:,} of its {len(stack):,} frames are whole and used."
    return first_frames(stack, whole), [note]


def _frames(path: Path, data: Any) -> FrameStack:
    """A data set as frames, read as they are asked for."""
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


def _walk(group: Any, under: str = "") -> Iterator[tuple[str, Any]]:
    """Names and items below a group, those of its own file. (HDF5's own visit measures every data
    set on the way, which fails where a file was cut off.)"""
    import h5py

    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        item = group.get(name)
        yield under + name, item
        if isinstance(item, h5py.Group):
            yield from _walk(item, f"{under}{name}/")


def _datasets(file: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all numeric data sets of two or more dimensions."""
    import h5py

    return {
        name: item.shape
        for name, item in _walk(file)
        if isinstance(item, h5py.Dataset) and item.ndim >= 2 and item.dtype.kind in "uif"
    }


def _detector_frames(path: Path, file: Any, left: int | None) -> dict[str, Any]:
    """The frames of a detector's file, and what of it is missing."""
    data = file.get("entry/data")
    numbered = sorted(k for k in data if k.startswith("data_")) if data is not None else []
    parts = {key: part for key in numbered if (part := _data_file(path, data, key, left))}
    if parts:
        first = next(iter(parts))
        for key, (stack, _, _) in parts.items():
            if stack.shape[1:] != parts[first][0].shape[1:]:
                raise DiffraganError(
                    f"Frames of {path} are of several detectors: {first} has "
                    f"{parts[first][0].shape[1:]} pixels, {key} {stack.shape[1:]}; give one data "
                    "set (--pattern-key)."
                )
        stacks = [stack for stack, _, _ in parts.values()]
        notes = [note for _, _, own in parts.values() for note in own]
        lost = [key for key in numbered if key not in parts]
        if lost:
            notes.append(
                f"{path} refers to {len(numbered)} data files, of which {len(lost)} are missing "
                f"({', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}); the frames of the "
                "others are used."
            )
        arrays: dict[str, Any] = {"pattern": joined_frames(stacks)}
        if notes:
            arrays |= {"notes": notes} | _numbers_beside(numbered, parts)
        return arrays | _scan(file, len(arrays["pattern"]))
    sizes = {name: int(np.prod(shape)) for name, shape in _datasets(file).items()}
    largest = max(sizes.values(), default=0)
    likely = [name for name, size in sizes.items() if size > largest / 4]
    if len(likely) != 1:
        raise DiffraganError(
            f"{path} does not tell which of its data sets are frames; give --pattern-key (and "
            f"--image-key). It has {_listed(file)}."
        )
    found = file[likely[0]]
    arrays = {}
    arrays["pattern"], arrays["notes"] = _whole(path, found, left)
    if found.ndim == 4:
        arrays["scan_shape"] = (int(found.shape[0]), int(found.shape[1]))
    return arrays


def _data_file(
    path: Path, data: Any, key: str, left: int | None
) -> tuple[FrameStack, int, list[str]] | None:
    """The whole frames of one data set of a master file, or of the file that it links to; how many
    there should be; and what is missing in words. None where there are none."""
    import h5py

    there = data.get(key)
    link = data.get(key, getlink=True)
    if there is None and isinstance(link, h5py.ExternalLink):
        path = path.parent / link.filename
        try:
            file, left = open_hdf5(path)
        except OSError:
            return None
        there = file.get(link.path)
    if there is None or (left is not None and not whole_frames(there, left)):
        return None
    stack, notes = _whole(path, there, left)
    return stack, int(there.shape[0]), notes


def _numbers_beside(
    numbered: list[str], parts: Mapping[str, tuple[FrameStack, int, list[str]]]
) -> dict[str, Any]:
    """Which frames of the whole are left where some are missing: every file but the last holds as
    many as the first. None where those that are left are the first."""
    each = max(count for _, count, _ in parts.values())
    numbers = np.concatenate(
        [numbered.index(key) * each + np.arange(len(stack)) for key, (stack, *_) in parts.items()]
    )
    return {} if np.array_equal(numbers, np.arange(len(numbers))) else {"frame_numbers": numbers}


def _scan(file: Any, n: int) -> dict[str, Any]:
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

    for name, item in _walk(file):
        if name.split("/")[-1] != "calibration" or not isinstance(item, h5py.Group):
            continue
        holder = {**item.attrs, **{k: v[()] for k, v in item.items() if hasattr(v, "shape")}}
        unit = holder.get("Q_pixel_units", b"")
        unit = unit.decode() if isinstance(unit, bytes) else str(unit)
        if unit in ("A^-1", "1/A", "Å^-1") and "Q_pixel_size" in holder:
            told["reciprocal_pixel_per_A"] = float(np.asarray(holder["Q_pixel_size"]).flat[0])
    return told
