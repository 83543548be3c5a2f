"""Formats that RosettaSciIO reads: MIB, BLO, EMD, HSPY, DM3 and DM4, SER, TVIPS, EMPAD."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from diffragan.errors import DiffraganError, one_line
from diffragan.files.instruments.extra import needs_extra
from diffragan.files.instruments.stacks import frames_of

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

# How long one unit of an axis is, in Å, or in 1/Å for a reciprocal axis.
_LENGTHS_A = {"a": 1.0, "å": 1.0, "angstrom": 1.0, "nm": 10.0, "µm": 1e4, "μm": 1e4, "um": 1e4,
              "pm": 0.01, "mm": 1e7, "cm": 1e8, "m": 1e10}  # fmt: skip


def read_rosetta(path: Path) -> Mapping[str, Any]:
    """The largest signal of a file, frames (n, y, x) as `pattern`, and what its metadata tell.

    Raises:
        DiffraganError: RosettaSciIO is not installed, or the file holds no frames.
    """
    name = MODULES[path.suffix.lower()]
    with needs_extra(path):
        module = import_module(f"rsciio.{name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that nothing here needs
        logging.getLogger("rsciio").setLevel(logging.ERROR)
        try:
            signals = module.file_reader(str(path), lazy=True)
        except Exception as error:  # each format has its own words for a damaged file
            raise DiffraganError(
                f"{path} can't be read as {name} data ({one_line(error)}); is it whole, and what "
                "its name says?"
            ) from None
    frames = [signal for signal in signals if len(signal["data"].shape) >= 2]
    if not frames:
        raise DiffraganError(f"{path} holds no frames; give a file of patterns or images.")
    signal = max(frames, key=lambda s: math.prod(s["data"].shape))
    *scan, _, _ = signal["data"].shape
    arrays: dict[str, Any] = {"pattern": frames_of(signal["data"])}
    if len(scan) == 2 and min(scan) > 1:
        arrays["scan_shape"] = (int(scan[0]), int(scan[1]))
    axes = sorted(signal["axes"], key=lambda axis: axis.get("index_in_array", 0))
    return arrays | _pixel(axes[-1]) | _microscope(signal.get("metadata", {}))


def _pixel(axis: Mapping[str, Any]) -> dict[str, float]:
    """The pixel of a frame's axis by its unit: of an image, of a pattern, or of the detector."""
    scale = abs(float(axis.get("scale") or 0))
    unit = str(axis.get("units") or "").replace(" ", "").strip().lower()
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
    if unit in ("cm", "mm"):  # in the plane of the detector: block files
        return {"detector_pixel_um": scale * length / 1e4}
    return {"pixel_A": scale * length}


def _microscope(metadata: Mapping[str, Any]) -> dict[str, float]:
    """Voltage, camera length, exposure and defocus, in HyperSpy's places for them."""
    tem = _inside(metadata, ("Acquisition_instrument", "TEM"))
    found = {
        "energy_ev": (tem.get("beam_energy"), 1e3),
        "camera_length_mm": (tem.get("camera_length"), 1.0),
        "exposure_s": (_exposure(tem), 1.0),
    }
    return {
        name: float(value) * unit
        for name, (value, unit) in found.items()
        if isinstance(value, int | float) or hasattr(value, "dtype")
        if float(value) > 0
    }


def _exposure(tem: Mapping[str, Any]) -> Any:
    camera = _inside(tem, ("Detector", "Camera"))
    return camera.get("exposure", camera.get("exposure_time"))


def _inside(tree: Any, names: Sequence[str]) -> Mapping[str, Any]:
    """A branch of nested mappings, empty where there is none."""
    for name in names:
        tree = tree.get(name, {}) if hasattr(tree, "get") else {}
    return tree if hasattr(tree, "get") else {}
