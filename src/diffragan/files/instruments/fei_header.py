"""What the extended header of an MRC file tells, as Thermo Fisher's programs write it."""

from __future__ import annotations

from typing import Any

import numpy as np

_DIFFRACTION = 1  # of the projection's modes


def fei_metadata(header: Any) -> dict[str, float]:
    """Pixel, voltage, camera length, exposure and defocus of the first frame, where they are told.

    Their defocus is negative under focus, in metres; ours is positive.

    Args:
        header: `mrcfile`'s indexed extended header, or None.
    """
    names = getattr(getattr(header, "dtype", None), "names", None) or ()
    if "HT" not in names or not len(header):
        return {}

    def value(name: str) -> float:
        number = float(header[name].flat[0]) if name in names else 0.0
        return number if np.isfinite(number) else 0.0

    diffraction = value("Projection mode") == _DIFFRACTION
    pixel = value("Pixel size X")
    told = {
        "energy_ev": value("HT"),
        "exposure_s": value("Integration time"),
        "camera_length_mm": value("Camera length") * 1e3 if diffraction else 0.0,
        "reciprocal_pixel_per_A": pixel * 1e-10 if diffraction else 0.0,
        "pixel_A": 0.0 if diffraction else pixel * 1e10,
        "defocus_A": 0.0 if diffraction else -value("Defocus") * 1e10,
    }
    return {name: number for name, number in told.items() if number}
