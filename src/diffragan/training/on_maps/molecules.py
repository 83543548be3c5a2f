"""Molecules as Fourier volumes, of which any orientation is drawn in a millisecond.

Thousands of exit waves by multislice would take hours and hold a few orientations of each molecule.
To the 2.5 Å that maps are drawn to, a slice of the molecule's spectrum on the Ewald sphere is the
object, and its phase grating exp(i o) the wave: no batch sees an orientation twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffragan.atoms.model.atoms import Atoms
from diffragan.atoms.model.density import AtomGrid
from diffragan.atoms.model.scattering import in_carbons
from diffragan.errors import DiffraganError
from diffragan.fourier.grids import even_fast_length
from diffragan.fourier.slices import Slices, extract, slices
from diffragan.fourier.volumes import volume_spectrum
from diffragan.molecules.structure import Structure, load_structure, prepared_files
from diffragan.networks.weights import TrainedOn
from diffragan.optics import wavelength_A
from diffragan.progress import Progress, no_progress
from diffragan.settings import Settings

ROOM_A = 2.0  # that a molecule leaves of its box
_WINDOW_PX = 5  # voxels that a volume's Fourier grid needs beyond its outermost slice


@dataclass(frozen=True)
class Molecule:
    """One molecule's spectrum, (n, n, n // 2 + 1), of a volume of side `field_A`."""

    info: TrainedOn
    radius_A: float
    spectrum: Tensor


@dataclass(frozen=True)
class Molecules:
    """Molecules on one Fourier grid: of side `field_A`, drawn to `finest_A`."""

    each: tuple[Molecule, ...]
    field_A: float
    finest_A: float
    energy_ev: float

    def __len__(self) -> int:
        return len(self.each)

    def that_fit(self, box_A: float) -> list[int]:
        """Numbers of the molecules whose diameter leaves 2 Å of a box.

        Raises:
            DiffraganError: none does.
        """
        fit = [k for k, one in enumerate(self.each) if 2 * one.radius_A <= box_A - ROOM_A]
        if not fit:
            smallest = min(2 * one.radius_A for one in self.each)
            raise DiffraganError(
                f"No molecule fits a box of {box_A:g} Å (the smallest is {smallest:.0f} Å wide); "
                "take a larger one out of conditions.box_A, or add smaller molecules."
            )
        return fit

    def waves(self, chosen: Sequence[int], rotations: Tensor, shifts_A: Tensor) -> Tensor:
        """Waves at the centre plane (b, m, m) complex64 over `field_A`, the beam 1.

        Args:
            chosen: number of each item's molecule. rotations: (b, 3, 3) float32.
            shifts_A: (b, 2), x and y.
        """
        geometry = _geometry(self.field_A, self.finest_A, self.energy_ev)
        k, m = len(geometry), geometry.m
        flat = torch.zeros((len(chosen), m * m), dtype=torch.complex64)
        for row, number, turn, shift in zip(flat, chosen, rotations, shifts_A, strict=True):
            values = extract(self.each[number].spectrum, turn[None], geometry.points)[0]
            cycles = (geometry.points[:k, :2] / self.field_A) @ shift
            ramp = torch.polar(torch.ones_like(cycles), -2 * math.pi * cycles)
            row[geometry.pixel] = values[:k] * ramp
            row[geometry.mate] = (values[k:] * ramp).conj()
        spectrum = torch.fft.ifftshift(flat.reshape(-1, m, m), dim=(-2, -1))
        thing = torch.fft.fftshift(torch.fft.ifft2(spectrum, norm="forward"), dim=(-2, -1))
        # A slice lacks its zero frequency: the object is nothing at the field's edge.
        edge = torch.cat((thing[:, 0], thing[:, :, 0]), 1).mean(1)
        return torch.exp(1j * (thing - edge[:, None, None]))


def read_molecules(
    paths: Sequence[Path], settings: Settings, progress: Progress = no_progress
) -> Molecules:
    """Prepared structures from files, or folders of them; otherwise as `molecules_of`.

    Raises:
        DiffraganError: no structure, one that is not prepared, or none that fits.
    """
    files = prepared_files(paths)

    def read() -> Iterator[Structure]:
        for k, file in enumerate(files):
            yield load_structure(file)
            progress("reading molecules", k + 1, len(files))

    return molecules_of(read(), settings)


def molecules_of(structures: Iterable[Structure], settings: Settings) -> Molecules:
    """Structures as Fourier volumes, those that fit the largest box of `conditions.box_A`.

    Raises:
        DiffraganError: none fits.
    """
    finest, largest = settings.network.maps_finest_A, max(settings.conditions.box_A)
    # Close to its edge a volume is not interpolated faithfully.
    field = whole_pixels(1.1 * largest, finest)
    each = tuple(
        _as_volume(one, field, finest, settings.energy_ev)
        for one in structures
        if one.diameter_A <= largest - ROOM_A
    )
    if not each:
        raise DiffraganError(
            f"None of the structures fits a box of {largest:g} Å; add smaller ones, or a larger "
            "box to conditions.box_A."
        )
    return Molecules(each, field, finest, settings.energy_ev)


def whole_pixels(box_A: float, finest_A: float) -> float:
    """The nearest box that has an even number of a map's pixels, which are half of `finest_A`."""
    return finest_A * round(box_A / finest_A)


def _as_volume(s: Structure, field_A: float, finest_A: float, energy_ev: float) -> Molecule:
    """All elements go as carbons of other weights and B factors, through one transform."""
    shapes = {int(z): in_carbons(int(z)) for z in np.unique(s.numbers)}
    weight, b = (torch.tensor([shapes[int(z)][i] for z in s.numbers]) for i in range(2))
    places = torch.from_numpy(s.positions_A).float()
    n = even_fast_length(2 * (field_A / finest_A + _WINDOW_PX))
    grid = AtomGrid(n, field_A, field_A, energy_ev)
    spectrum = volume_spectrum(grid.volume(Atoms(places, weight.float(), b.float())))
    return Molecule(TrainedOn(s.stem, s.sha256, s.sequence), s.radius_A, spectrum)


@lru_cache(maxsize=2)
def _geometry(field_A: float, finest_A: float, energy_ev: float) -> Slices:
    m = 2 * round(field_A / finest_A)
    axis = torch.arange(m) - m // 2
    radius = torch.hypot(axis[:, None].double(), axis[None, :].double())
    mask = (radius > 0.5) & (radius <= m // 2 - 1)
    return slices(mask, field_A, wavelength_A(energy_ev), curved=True)
