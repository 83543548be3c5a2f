"""Formats that RosettaSciIO reads: MIB, BLO, EMD, HSPY, DM3 and DM4, SER, TVIPS, EMPAD."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError, one_line
from diffragan.files.instruments.extra import needs_extra
from diffragan.files.instruments.stacks import FrameStack

# Suffix to RosettaSciIO's module for it.
MODULES = {
    ".mib": "quantumdetector",
    ".blo": "blockfile",
    ".emd": "emd",
    ".hspy": "hspy",
    ".dm3": "digitalmicrograph",
    ".dm4": "digitalmicrograph",
    ".ser": "tia",
    ".emi": "tia",
    ".tvips": "tvips",
    ".xml": "empad",
}

# What is taken of HyperSpy's tree of metadata, under this package's names: the places where readers
# put it, and its unit. Lengths of cameras are in millimetres there, energies in keV.
_TOLD = {
    "energy_ev": (("TEM.beam_energy",), 1e3),
    "camera_length_mm": (("TEM.camera_length",), 1.0),
    "exposure_s": (
        ("TEM.Detector.Camera.exposure", "TEM.Detector.Camera.exposure_time", "TEM.Camera.exposure",
         "dwell_time"), 1.0,
    ),
}  # fmt: skip
# No image has a pixel of a metre: what says so is a pattern's, in 1/m, that TIA gave no unit.
_METRE_A = 1e10
_SMALLEST_CAMERA_PIXEL_UM = 1.0

# How long one unit of an axis is, in Å, or in 1/Å for a reciprocal axis.
_LENGTHS_A = {"a": 1.0, "å": 1.0, "angstrom": 1.0, "nm": 10.0, "µm": 1e4, "μm": 1e4, "um": 1e4,
              "pm": 0.01, "mm": 1e7, "cm": 1e8, "m": 1e10}  # fmt: skip


def read_rosetta(path: Path) -> Mapping[str, Any]:
    """The largest signal of a file, frames (n, y, x) as `pattern`, and what its metadata tell.

    Raises:
        DiffraganError: RosettaSciIO is not installed, or the file holds no frames or was cut off.
    """
    name = MODULES[path.suffix.lower()]
    with needs_extra(path):
        module = import_module(f"rsciio.{name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that nothing here needs
        logging.getLogger("rsciio").setLevel(logging.ERROR)
        try:
            signals = module.file_reader(str(path), lazy=True)
        except ImportError as error:  # RosettaSciIO's own extras, as for Velox files with spectra
            raise DiffraganError(
                f"{path} needs another package ({one_line(error)}); install it by pip."
            ) from None
        except Exception as error:  # each format has its own words for a damaged file
            raise DiffraganError(
                f"{path} can't be read as {name} data ({one_line(error)}); is it whole, and what "
                "its name says?"
            ) from None
    frames = [signal for signal in signals if len(signal["data"].shape) >= 2]
    if not frames:
        raise DiffraganError(f"{path} holds no frames; give a file of patterns or images.")
    signal = max(frames, key=lambda s: math.prod(s["data"].shape))
    data = signal["data"]
    axes = sorted(signal["axes"], key=lambda axis: axis.get("index_in_array", 0))
    if name == "digitalmicrograph" and len(axes) == 4 and not _detector_first(signal, axes):
        data, axes = data.transpose(2, 3, 0, 1), [*axes[2:], *axes[:2]]
    *scan, _, _ = data.shape
    arrays: dict[str, Any] = {"pattern": _whole(path, data)}
    if len(scan) == 2 and min(scan) > 1:
        arrays["scan_shape"] = (int(scan[0]), int(scan[1]))
        step = _pixel(axes[1]).get("pixel_A")
        arrays |= {"step_A": step} if step else {}
    told = _microscope(name, signal)
    pixel = _of_camera(signal) if name == "tvips" else _pixel(axes[-1])
    if "pixel_A" in pixel:  # an image: what the projector would do to a pattern is not its matter
        told.pop("camera_length_mm", None)
    else:
        told.pop("defocus_A", None)
    return arrays | pixel | told


def _whole(path: Path, data: Any) -> FrameStack:
    """An array of Dask's (..., y, x) as frames, of which those that can't be read say so; the last
    one is tried at once, as a file is mapped whatever its length.

    Raises:
        DiffraganError: the last frame is not there.
    """

    *scan, y, x = (int(side) for side in data.shape)
    columns, n = scan[-1] if scan else 1, math.prod(scan)

    def read(numbers: NDArray[np.int64]) -> NDArray[Any]:
        # Neighbours in a row of the scan in one go: each call of Dask costs milliseconds.
        apart = (np.diff(numbers) != 1) | (numbers[1:] % columns == 0)
        parts = []
        try:
            for run in np.split(numbers, np.flatnonzero(apart) + 1):
                place = np.unravel_index(int(run[0]), scan) if scan else ()
                part = data[tuple(int(k) for k in place[:-1])]
                part = part[int(place[-1]) : int(place[-1]) + len(run)] if scan else part[None]
                parts.append(np.asarray(part.compute(scheduler="synchronous")))
        except Exception as error:  # a library's own, of the bytes that are missing
            raise DiffraganError(
                f"{path} was cut off or is damaged: frames of it can't be read "
                f"({one_line(error)}); copy it anew."
            ) from None
        return np.concatenate(parts)

    frames = FrameStack(read, (n, y, x))
    frames[n - 1]
    return frames


def _detector_first(signal: Mapping[str, Any], axes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the detector's sides are those that run fastest in DigitalMicrograph's four.

    Newer versions say so (`Data Order Swapped`); older ones wrote the scan's sides first and say
    nothing. Where just one pair of axes is reciprocal, its unit decides.
    """
    image = _inside(signal.get("original_metadata", {}), ("ImageList", "TagGroup0", "ImageTags"))
    if _inside(image, ("Meta Data",)).get("Data Order Swapped"):
        return True
    scan, detector = (bool({*_pixel(axis)} & {"reciprocal_pixel_per_A", "pixel_mrad"})
                      for axis in (axes[1], axes[3]))  # fmt: skip
    return detector and not scan


def _pixel(axis: Mapping[str, Any]) -> dict[str, float]:
    """The pixel of a frame's axis by its unit: of an image, of a pattern, or of the detector."""
    scale = abs(float(axis.get("scale") or 0))
    unit = str(axis.get("units") or "").replace(" ", "").strip().lower().replace("⁻¹", "^-1")
    unit = {"meters": "m", "radians": "rad"}.get(unit, unit)
    if not scale or not unit or unit in ("px", "<undefined>"):
        return {}
    reciprocal = unit.startswith("1/") or unit.endswith(("^-1", "-1"))
    length = _LENGTHS_A.get(unit.removeprefix("1/").removesuffix("^-1").removesuffix("-1"))
    if unit in ("mrad", "rad"):
        return {"pixel_mrad": scale * (1e3 if unit == "rad" else 1)}
    if length is None:
        return {}
    if reciprocal:
        return {"reciprocal_pixel_per_A": scale / length}
    if scale * length > _METRE_A:
        return {"reciprocal_pixel_per_A": scale * length / _METRE_A**2}
    if unit in ("cm", "mm"):  # in the plane of the detector: block files
        return {"detector_pixel_um": scale * length / 1e4}
    return {"pixel_A": scale * length}


def _microscope(name: str, signal: Mapping[str, Any]) -> dict[str, float]:
    """Voltage, camera length, exposure, aberration and defocus, where a file tells them.

    Readers put them into HyperSpy's tree, or leave a list of where in the file's own tree each
    belongs, which HyperSpy itself follows.
    """
    metadata, own = signal.get("metadata", {}), signal.get("original_metadata", {})
    found: dict[str, float] = {}
    for told, (places, unit) in _TOLD.items():
        for place in places:
            at = f"Acquisition_instrument.{place}"
            value = _number(_tag(metadata, at)) or _mapped(signal.get("mapping", {}), own, at)
            if value > 0:
                found.setdefault(told, value * unit)
    if name == "blockfile" and "camera_length_mm" in found:
        found["camera_length_mm"] *= 1e3  # its header is turned into metres
    microscope = _tag(own, "ImageList.TagGroup0.ImageTags.Microscope Info") or {}
    found["cs_mm"] = _number(_tag(microscope, "Cs(mm)"))
    # Velox: the camera of this image, and defocus negative under focus, in metres.
    index = _tag(own, "BinaryResult.DetectorIndex")
    found.setdefault("exposure_s", _number(_tag(own, f"Detectors.Detector-{index}.ExposureTime")))
    found["defocus_A"] = -_number(_tag(own, "Optics.Defocus")) * 1e10
    return {key: value for key, value in found.items() if value}


def _of_camera(signal: Mapping[str, Any]) -> dict[str, float]:
    """TVIPS tells its camera's own pixel, in whole nanometres, and of patterns the camera length as
    their magnification, in millimetres; RosettaSciIO takes the pixel for one of pattern or image.
    """
    header = _tag(signal, "original_metadata.tvips_header")
    pixel_um = _number(_tag(header, "pixelsize")) / 1e3
    told = {"detector_pixel_um": pixel_um} if pixel_um >= _SMALLEST_CAMERA_PIXEL_UM else {}
    if _number(_tag(header, "binx")) > 1:  # of one pixel or of those read together: not told
        told = {}
    length = _number(_tag(header, "magtotal"))
    if _tag(signal, "metadata.Signal.signal_type") == "diffraction" and length:
        told["camera_length_mm"] = length
    return told


def _mapped(mapping: Mapping[str, Any], own: Any, target: str) -> float:
    """What a file's own tree holds for a place in HyperSpy's; 0 where it holds nothing."""
    for source, (place, convert) in mapping.items():
        value = _tag(own, source) if place == target else None
        if value not in (None, ""):
            return _number(convert(value) if convert else value)
    return 0.0


def _number(value: Any) -> float:
    """A finite number, told as one or as its text; 0 for all else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) else 0.0


def _tag(tree: Any, path: str) -> Any:
    """A leaf or branch of nested mappings by a path of names with points between them, in which
    blanks and brackets count as HyperSpy counts them; None where there is none."""
    for name in path.split("."):
        if not hasattr(tree, "items"):
            return None
        tree = next((v for k, v in tree.items() if _plain(str(k)) == _plain(name)), None)
    return tree


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_")


def _inside(tree: Any, names: Sequence[str]) -> Mapping[str, Any]:
    """A branch of nested mappings, empty where there is none."""
    for name in names:
        tree = tree.get(name, {}) if hasattr(tree, "get") else {}
    return tree if hasattr(tree, "get") else {}
