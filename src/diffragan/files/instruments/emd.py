"""EMD files: of Velox and of Berkeley by RosettaSciIO, of py4DSTEM as HDF5."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffragan.files.instruments.hdf5 import read_hdf5
from diffragan.files.instruments.rosetta import read_rosetta


def read_emd(path: Path) -> Mapping[str, Any]:
    """Frames of an EMD file, whichever program wrote it; errors as the readers it leads to."""
    import h5py

    with h5py.File(path, "r") as file:
        # Velox keeps its data under this name; py4DSTEM names its group, or itself as the author.
        py4dstem = "4DSTEM_experiment" in file or "authoring_program" in file.attrs
        known = not py4dstem and ("Data" in file or "version_major" in file.attrs)
    return read_rosetta(path) if known else read_hdf5(path)
