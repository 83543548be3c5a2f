"""Small result stores whose rightness is known, beside pairs with and without their truth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.files.store import ResultStore, open_results, open_simulation
from diffragan.files.store_header import StructureInfo, info_to_json
from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.fourier.grids import frequency_grid
from diffragan.microscope.imaging import projection_of_centre_wave
from diffragan.optics import Optics, propagate
from diffragan.pairs.imaged import ImagedPairs
from diffragan.pairs.open import open_pairs
from diffragan.pairs.pairs import Pairs
from diffragan.pairs.write import write_pairs
from diffragan.settings import ImageSettings, Settings

N, N_PX, BOX_A = 5, 128, 36.0
OPTICS = Optics(200e3, BOX_A, 18.0)
# The field is 36 Å, over whose edge more defocus would spread the molecule.
SETTINGS = Settings(image=ImageSettings(defocus_A=-1000.0))
STRUCTURES = (StructureInfo("1ABC"), StructureInfo("2xyz <b>"))


@dataclass(frozen=True)
class World:
    """A simulation, its pairs with and without truth, and a folder for results."""

    root: Path
    pairs: Pairs
    blind: Pairs

    @cached_property
    def true_wave(self) -> torch.Tensor:
        """(N, m, m) true waves at the centre plane."""
        return torch.as_tensor(self.pairs.truth_wave(slice(0, N)))

    def results(
        self,
        name: str,
        wave: torch.Tensor | None,
        given: Mapping[str, NDArray[Any]] = MappingProxyType({}),
        **header: Any,
    ) -> ResultStore:
        """A result store whose projection is that of `wave`, or of the turned truth.

        given: arrays that it holds besides, or in place of the usual ones.
        """
        arrays: dict[str, Any] = {"item": np.arange(N), "structure": np.array([0, 0, 0, 1, 1])}
        arrays |= {"seconds": np.full(N, 0.25)}
        shown = self.true_wave if wave is None else wave
        projection = projection_of_centre_wave(shown, OPTICS, SETTINGS.projection, 132)
        arrays["projection"] = projection.numpy()
        if wave is not None:
            arrays["wave"] = wave.numpy().astype(np.complex64)
            arrays["r_factor"] = np.linspace(0.01, 0.05, N)
            arrays["trust"] = np.ones((N, wave.shape[-1] // 2 + 1), dtype=np.float32)
        arrays |= given
        attributes = {
            "method": "image",
            "optics": vars(OPTICS),
            "structures": info_to_json(STRUCTURES),
            "settings": SETTINGS.model_dump(mode="json"),
            "input": {"path": str(self.pairs.path), "sha256": self.pairs.sha256},
            "weights": None,
        }
        specs = {k: ArraySpec(a.shape[1:], str(a.dtype), "1") for k, a in arrays.items()}
        path = self.root / f"{name}.zarr"
        writer = StoreWriter(path, "result", N, specs, attributes | header)
        writer.write(range(N), **arrays)
        writer.finish()
        return open_results(path)


def make_world(root: Path) -> World:
    """Waves of 120 atoms each, imaged with and without their truth."""
    generator = torch.Generator().manual_seed(0)
    q2 = frequency_grid(N_PX, BOX_A)
    atoms = torch.zeros(N, N_PX, N_PX)
    places = N_PX // 2 + (torch.randn(N, 120, 2, generator=generator) * 10).long()
    for k in range(N):
        atoms[k, places[k, :, 0], places[k, :, 1]] = 1
    blur = torch.exp(-2 * math.pi**2 * 0.3**2 * q2)
    phase = torch.fft.ifft2(torch.fft.fft2(atoms) * blur).real * 4
    exit_wave = propagate(torch.polar(torch.ones_like(phase), phase), BOX_A, 200e3, 18.0)

    header = {
        "optics": vars(OPTICS),
        "structures": info_to_json(STRUCTURES),
        "settings": SETTINGS.model_dump(mode="json"),
    }
    specs = {
        "exit_wave": ArraySpec((N_PX, N_PX), "complex64", "1"),
        "structure": ArraySpec((), "int32", "index"),
    }
    writer = StoreWriter(root / "sim.zarr", "simulation", N, specs, header)
    writer.write(
        range(N),
        exit_wave=exit_wave.to(torch.complex64).numpy(),
        structure=np.array([0, 0, 0, 1, 1]),
    )
    writer.finish()
    simulation = open_simulation(root / "sim.zarr")
    write_pairs(ImagedPairs(simulation, SETTINGS), root / "pairs.zarr", truth=True)
    write_pairs(ImagedPairs(simulation, SETTINGS), root / "blind.zarr", truth=False)
    return World(root, open_pairs(root / "pairs.zarr"), open_pairs(root / "blind.zarr"))


def noisy_results(world: World) -> ResultStore:
    """Right phases to about 4 Å and wrong ones beyond; the method saw these structures."""
    f = torch.fft.fft2(world.true_wave)
    wrong = torch.randn(f.shape, generator=torch.Generator().manual_seed(1))
    far = frequency_grid(f.shape[-1], BOX_A).sqrt() > 0.25
    turned = f * torch.polar(torch.ones_like(wrong), 3 * wrong * far)
    weights = {"path": "w", "sha256": "ab" * 32, "trained_on": ["1abc"]}
    return world.results("noisy", torch.fft.ifft2(turned), weights=weights)
