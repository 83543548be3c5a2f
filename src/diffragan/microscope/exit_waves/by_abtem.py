"""One exit wave by abTEM multislice, and FFTW's plans for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.fourier.grids import resample
from diffragan.microscope.exit_waves.field import Field


def exit_wave(
    numbers: NDArray[np.int64],
    positions_A: NDArray[np.float64],
    field: Field,
    energy_ev: float,
) -> NDArray[np.complex64]:
    """Exit wave (stored_px, stored_px), [y, x], of atoms about the origin, beam along +z.

    abTEM multislice (Cowley and Moodie, Acta Cryst. 10, 609 (1957)) of a plane wave through the
    independent-atom potential of Lobato and Van Dyck (Acta Cryst. A 70, 2014), infinite
    projections, cropped in Fourier space. Atoms outside the square field are left out: the beam
    does not reach them.
    """
    import abtem
    import torch
    from ase import Atoms

    half = np.array([field.box_A, field.box_A, field.depth_A]) / 2
    inside = (np.abs(positions_A) <= half).all(-1)
    atoms = Atoms(
        numbers=numbers[inside],
        positions=positions_A[inside] + half,
        cell=2 * half,
    )
    with abtem.config.set(_ABTEM):
        potential = abtem.Potential(
            atoms,
            gpts=field.grid_px,
            slice_thickness=field.slice_A,
            parametrization="lobato",
            projection="infinite",
        )
        wave: Any = abtem.PlaneWave(energy=energy_ev).multislice(potential)
        array = np.asarray(wave.array)
    stored = resample(torch.from_numpy(array.T.copy()), field.stored_px)
    result: NDArray[np.complex64] = stored.numpy().astype(np.complex64)
    return result


# abTEM draws a progress bar and builds lazy Dask graphs unless told not to.
_ABTEM: dict[str, Any] = {
    "dask.lazy": False,
    "local_diagnostics.progress_bar": False,
    "precision": "float32",
    "fft": "fftw",
    "fftw.threads": 1,
    "fftw.planning_effort": "FFTW_MEASURE",
}


def fft_plans(field: Field, energy_ev: float, cache_dir: Path | None = None) -> bytes | None:
    """FFTW's plans ("wisdom") for a field, measured once per machine and kept in the cache.

    Measured plans run six times faster than estimated ones, but measuring twice may choose
    differently and change the last bits. None where the cache can't be written: then plans are
    estimated, which is slow and repeatable.
    """
    import platform

    import pooch
    import pyfftw

    folder = cache_dir or Path(pooch.os_cache("diffragan"))
    name = f"fftw-{pyfftw.__version__}-{platform.machine()}-{field.grid_px}px.wisdom"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            # One atom of each element of a protein, so that every shape is planned.
            exit_wave(np.array([1, 6, 7, 8, 16]), np.zeros((5, 3)), field, energy_ev)
            write_atomically(folder / name, pyfftw.export_wisdom()[1])
        return (folder / name).read_bytes()
    except (OSError, DiffraganError):
        return None


def use_plans(plans: bytes | None) -> None:
    """Have FFTW of this process run by `fft_plans`; None: by estimated ones."""
    import pyfftw

    if plans is None:
        _ABTEM["fftw.planning_effort"] = "FFTW_ESTIMATE"
        return
    pyfftw.forget_wisdom()
    pyfftw.import_wisdom((b"", plans, b""))
