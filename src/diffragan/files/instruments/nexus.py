"""A scan as a counting detector writes it: a NeXus master file, and data files of frames.

`hdf5.py` reads it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FRAMES_A_FILE = 1024
_PIXEL_M = 75e-6
_DATA = "entry/data/data"


@dataclass(frozen=True)
class ScanHeader:
    """What a master file tells of a scan.

    rows, columns: of the scan. step_A: between positions. field_A: 1 / the detector's pixel.
    wavelength_A, energy_ev: of the beam; beam_diameter_A: its width on the specimen.
    good: (y, x) pixels that work.
    """

    rows: int
    columns: int
    step_A: float
    field_A: float
    wavelength_A: float
    energy_ev: float
    beam_diameter_A: float
    good: NDArray[np.bool_]


def data_file(master: Path, number: int) -> Path:
    """The name of a data file, numbered from 0."""
    return master.with_name(f"{master.stem}_data_{number + 1:06d}.h5")


def write_frames(path: Path, frames: NDArray[np.unsignedinteger[Any]]) -> None:
    """Frames (k, y, x) into one data file, compressed, under its name once it is whole."""
    import h5py

    part = path.with_name(path.name + ".part")
    with h5py.File(part, "w") as file:
        file.create_dataset(
            _DATA, data=frames, chunks=(1, *frames.shape[1:]), compression="gzip",
            compression_opts=1, shuffle=True,
        )  # fmt: skip
    part.replace(path)


def write_master(path: Path, header: ScanHeader, files: int) -> None:
    """The file that tells how the scan was taken and links its data files."""
    import h5py

    part = path.with_name(path.name + ".part")
    with h5py.File(part, "w") as file:
        for name, kind in (("entry", "NXentry"), ("entry/data", "NXdata"),
                           ("entry/instrument", "NXinstrument"), ("entry/sample", "NXsample"),
                           ("entry/instrument/detector", "NXdetector"),
                           ("entry/instrument/beam", "NXbeam")):  # fmt: skip
            file.create_group(name).attrs["NX_class"] = kind
        for number in range(files):
            name = data_file(path, number).name
            file[f"entry/data/data_{number + 1:06d}"] = h5py.ExternalLink(name, "/" + _DATA)
        detector = file["entry/instrument/detector"]
        length = _PIXEL_M * header.field_A / header.wavelength_A
        for key, value in (("x_pixel_size", _PIXEL_M), ("y_pixel_size", _PIXEL_M),
                           ("detector_distance", length)):  # fmt: skip
            detector[key] = value
            detector[key].attrs["units"] = "m"
        specific = detector.create_group("detectorSpecific")
        specific["ntrigger"], specific["nimages"] = header.rows, header.columns
        specific["pixel_mask"] = np.where(header.good, 0, 2).astype(np.uint32)
        beam = file["entry/instrument/beam"]
        beam["incident_energy"] = header.energy_ev
        beam["incident_energy"].attrs["units"] = "eV"
        beam["extent"] = np.full(2, header.beam_diameter_A * 1e-10)
        beam["extent"].attrs["units"] = "m"
        row, column = np.divmod(np.arange(header.rows * header.columns), header.columns)
        for axis, numbers in (("y", row), ("x", column)):
            place = f"entry/sample/transformations/translation_{axis}"
            file[place] = numbers * header.step_A * 1e-10
            file[place].attrs["units"] = "m"
    part.replace(path)
