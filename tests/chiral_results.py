"""Result stores of a chiral molecule whose waves are known at every point of Fourier space."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.files.store import ResultStore, open_results
from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.reconstruction.maps.merge_waves import wave_from_object
from diffragan.settings import load_settings
from synthetic_views import BOX_A, EDGE_A, mass_kda, molecule, pattern_mask, transform

M = 2 * math.ceil(BOX_A / EDGE_A) + 2


def waves_of(
    positions: NDArray[np.float64],
    rotations: NDArray[np.float64],
    noise: float = 0.0,
    seed: int = 0,
) -> NDArray[np.complex64]:
    """(v, M, M) waves of a weak molecule at its centre plane, flat slices exactly.

    noise: standard deviation of a Fourier value's error, in parts of the band's rms value.
    """
    axis = (np.arange(M) - M // 2) / BOX_A
    y, x = np.meshgrid(axis, axis, indexing="ij")
    points = np.stack((x, y, np.zeros_like(x)), -1).reshape(-1, 3)
    inside = pattern_mask(M).flatten().numpy()
    spectra = np.zeros((len(rotations), M * M), dtype=np.complex128)
    for k, turn in enumerate(rotations):
        spectra[k, inside] = transform(positions @ turn.T, points[inside])
    rms = np.sqrt((np.abs(spectra[:, inside]) ** 2).mean())
    rng = np.random.default_rng(seed)
    error = rng.normal(size=(2, *spectra.shape)) * noise * rms / math.sqrt(2)
    spectra += (error[0] + 1j * error[1]) * inside
    beam = torch.ones(len(rotations), dtype=torch.complex128)
    waves: NDArray[np.complex64] = wave_from_object(torch.from_numpy(spectra), beam, M).numpy()
    return waves.astype(np.complex64)


def chiral_store(
    path: Path,
    rotations: NDArray[np.float64],
    *,
    waves: NDArray[np.complex64] | None = None,
    with_rotations: bool = True,
    **arrays: NDArray[Any],
) -> ResultStore:
    """A result store of `molecule(3)` in these orientations, as a method would have left it.

    waves: others than the exact ones. with_rotations: whether it tells the orientations.
    """
    count, atoms = len(rotations), molecule(3)
    found: dict[str, NDArray[Any]] = {
        "wave": waves_of(atoms, rotations) if waves is None else waves,
        "item": np.arange(count),
        "structure": np.zeros(count, np.int32),
        "pattern_mask": pattern_mask(M).numpy(),
        **arrays,
    }
    if with_rotations:
        found["rotation"] = rotations
    header = {
        "method": "raar",
        "optics": {"energy_ev": 200e3, "box_A": BOX_A, "centre_to_exit_A": 20.0},
        "structures": [{"stem": "chiral", "mass_kda": mass_kda(atoms)}],
        "settings": load_settings().model_dump(mode="json"),
        "input": {"path": "pairs.zarr", "sha256": "0" * 64},
        "weights": None,
    }
    once = {"pattern_mask": found.pop("pattern_mask")}
    specs = {name: ArraySpec(a.shape[1:], str(a.dtype), "1") for name, a in found.items()}
    specs |= {
        name: ArraySpec(a.shape, str(a.dtype), "1", per_item=False) for name, a in once.items()
    }
    writer = StoreWriter(path, "result", count, specs, header)
    for name, array in once.items():
        writer.put(name, array)
    writer.write(np.arange(count), **found)
    writer.finish()
    return open_results(path)
