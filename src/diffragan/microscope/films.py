"""What lies in the beam beside the molecule, as waves in the field and as intensity beyond it.

Ice and amorphous carbon are random waves from layers along the beam, each with the structure
factor of what it is made of; graphene is its lattice. A beam of a stated edge lights them and the
molecule by its amplitude, and diffracts itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffragan.microscope.matter import water
from diffragan.microscope.matter.beam import SoftDisc
from diffragan.microscope.matter.carbon import carbon_intensity
from diffragan.microscope.matter.graphene import graphene_wave
from diffragan.microscope.noise import (
    BEAM,
    ICE,
    SUPPORT,
    THICKNESS,
    each_apart,
    random_objects,
)
from diffragan.optics import Optics
from diffragan.settings import SpecimenSettings

_LAYER_A = 20.0  # thickest layer that scatters as one plane


@dataclass(frozen=True)
class Light:
    """An uneven beam on the fields of b molecules.

    amplitude: (b, y, x) of the beam, FFT order in space: pixel [0, 0] is the field's corner.
    tails: (b, y, x) Fourier values of the beam's own diffraction, without its middle. middle: (b,)
    its middle's. part: (b,) of the field's area that is lit.
    """

    amplitude: Tensor
    tails: Tensor
    middle: Tensor
    part: Tensor

    def on(self, wave: Tensor) -> Tensor:
        """Fourier values (b, y, x) of a unit beam's exit waves, as this beam makes them."""
        added = wave.clone()
        added[..., 0, 0] -= 1
        lit = self.lights(added)
        lit[..., 0, 0] += self.middle
        return lit

    def lights(self, wave: Tensor) -> Tensor:
        """Fourier values (b, y, x) of a film's wave, lit."""
        space = torch.fft.ifft2(wave, norm="forward") * self.amplitude
        result: Tensor = torch.fft.fft2(space, norm="forward")
        return result


def light(
    seeds: Sequence[int], q: Tensor, optics: Optics, specimen: SpecimenSettings
) -> Light | None:
    """The beam where it is told to be uneven or beside the molecule; None where it is even."""
    edge_A, diameter_A = specimen.beam_edge_A, specimen.beam_diameter_A
    if diameter_A is None or (edge_A is None and not specimen.beam_offset_A):
        return None
    beam, side = SoftDisc(diameter_A, edge_A or 0.0), q.shape[-1]
    offsets = specimen.beam_offset_A * np.stack(
        [np.random.default_rng([seed, BEAM]).standard_normal(2) for seed in seeds]
    )
    place = (np.arange(side) - side // 2) * optics.box_A / side
    away = np.hypot(
        place[:, None] - offsets[:, 0, None, None], place[None, :] - offsets[:, 1, None, None]
    )
    amplitude = torch.from_numpy(beam.amplitude(away)).to(q.device)
    axis = torch.fft.fftfreq(side, optics.box_A / side, dtype=torch.float64)
    turns = torch.from_numpy(offsets + optics.box_A / side * (side // 2))
    phase = turns[:, 0, None, None] * axis[:, None] + turns[:, 1, None, None] * axis[None, :]
    spread = beam.spectrum(q) / optics.box_A**2
    tails = torch.polar(spread.expand(len(seeds), -1, -1), -2 * torch.pi * phase.to(q.device))
    middle = tails[..., 0, 0].clone()
    tails = tails * (0.0 if edge_A is None else 1.0)
    tails[..., 0, 0] = 0
    return Light(amplitude, tails, middle, amplitude.square().mean((-2, -1)))


def in_field(
    seeds: Sequence[int],
    q: Tensor,
    optics: Optics,
    specimen: SpecimenSettings,
    lit: Light | None,
    thickness_A: Tensor | None,
) -> tuple[Tensor | None, Tensor]:
    """(b, y, x) complex128 Fourier values of ice and support that lie in the field, or None; and
    what several summed exposures scatter beside their mean.

    Args:
        thickness_A: (b, y, x) of the water that molecules displace; None: none.
    """
    area = optics.box_A**2 if lit else min(optics.box_A**2, water.beam_area_A2(optics, specimen))
    films, apart = [], torch.zeros((), dtype=torch.float64, device=q.device)
    part = lit.part[:, None, None] if lit else 1.0
    if specimen.ice_nm:
        power = water.elastic_intensity(q, optics, specimen.ice_nm, area)
        power = power * ice_of_each(seeds, specimen)
        layers = _Layers(10 * specimen.ice_nm, optics.centre_to_exit_A)
        films.append(layers.wave(seeds, ICE, q, power, optics, specimen, thickness_A))
        each = each_apart(seeds, ICE, q.shape[-1], specimen.molecules).to(q.device)
        apart = apart + part * power * each
    if specimen.support == "carbon":
        power = carbon_intensity(q, optics, specimen.carbon_nm, area)
        thick_A = 10 * specimen.carbon_nm
        to_exit_A = optics.centre_to_exit_A - _behind_A(optics, specimen) - 0.5 * thick_A
        layers = _Layers(thick_A, to_exit_A)
        films.append(layers.wave(seeds, SUPPORT, q, power, optics, specimen))
        each = each_apart(seeds, SUPPORT, q.shape[-1], specimen.molecules).to(q.device)
        apart = apart + part * power * each
    if apart.ndim:
        apart[..., 0, 0] = 0
    total = sum(films[1:], films[0]) if films else None
    if total is not None and lit is not None:
        total = lit.lights(total)
    if specimen.support == "graphene":
        sheet = _graphene(seeds, q, optics, specimen)
        total = sheet if total is None else total + sheet
    return total, apart


def ice_of_each(seeds: Sequence[int], specimen: SpecimenSettings) -> Tensor | float:
    """(b, 1, 1) thickness of each pair's ice in parts of the mean, log-normal, since it is never
    below nothing; 1 where it does not vary."""
    if not specimen.ice_spread:
        return 1.0
    width = math.sqrt(math.log1p(specimen.ice_spread**2))
    drawn = [np.random.default_rng([seed, THICKNESS]).standard_normal() for seed in seeds]
    return torch.exp(width * torch.tensor(drawn)[:, None, None] - 0.5 * width**2)


def outside_field(
    seeds: Sequence[int],
    q: Tensor,
    optics: Optics,
    specimen: SpecimenSettings,
    lit: Light | None,
) -> Tensor:
    """(y, x), or (b, y, x) where the beam is uneven or ice not alike: intensity of what the beam
    meets outside the field, and of electrons that lost energy."""
    beside = water.beside_molecule(q, optics, specimen)
    whole = water.beam_area_A2(optics, specimen)
    area: float | Tensor = min(optics.box_A**2, whole)
    if lit is not None:
        area = (lit.part * optics.box_A**2).clamp_max(whole)[:, None, None]
    if specimen.ice_nm:  # whose part in the field is a wave
        each = water.elastic_intensity(q, optics, specimen.ice_nm, 1.0)
        beside = beside - each * area
        if specimen.ice_spread:
            beside = beside + (ice_of_each(seeds, specimen) - 1) * each * (whole - area)
    if specimen.support == "carbon":
        beside = beside + carbon_intensity(q, optics, specimen.carbon_nm, 1.0) * (whole - area)
    return beside


@dataclass(frozen=True)
class _Layers:
    """A film of some thickness in Å, its middle so far before the exit plane."""

    thick_A: float
    to_exit_A: float

    def wave(
        self,
        seeds: Sequence[int],
        kind: int,
        q: Tensor,
        power: Tensor,
        optics: Optics,
        specimen: SpecimenSettings,
        thickness_A: Tensor | None = None,
    ) -> Tensor:
        """(b, y, x) complex128: layers of weak phase objects, of this mean intensity (y, x), or
        (b, y, x), in all;
        of several summed exposures, their mean."""
        count = max(1, round(self.thick_A / _LAYER_A))
        root = (power / count / specimen.molecules).sqrt()
        root[..., 0, 0] = 0
        side = q.shape[-1]
        total = torch.zeros(len(seeds), side, side, dtype=torch.complex128, device=q.device)
        each_A = self.thick_A / count
        for k in range(count):
            from_middle = k - 0.5 * (count - 1)
            to_exit_A = self.to_exit_A + from_middle * each_A
            turn = -torch.pi * optics.wavelength_A * to_exit_A * q**2
            objects = random_objects(seeds, kind, k, side).to(q.device)
            if thickness_A is None:
                total += 1j * torch.polar(root, turn.expand_as(root)) * objects
                continue
            left = _left_of_layer(thickness_A, each_A, abs(from_middle)).sqrt()
            space = torch.fft.ifft2(root * objects) * left
            total += 1j * torch.polar(torch.ones_like(turn), turn) * torch.fft.fft2(space)
        return total


def _left_of_layer(thickness_A: Tensor, layer_A: float, from_middle: float) -> Tensor:
    """(b, y, x) what a molecule leaves of a layer: as much of it is gone as the molecule, in the
    middle of the film, reaches into it."""
    reach = 0.5 * thickness_A
    inner = max(0.0, from_middle - 0.5) * layer_A
    outer = (from_middle + 0.5) * layer_A
    if from_middle < 0.5:  # the layer has the middle in it, on both sides
        gone = 2 * reach.clamp_max(outer) / layer_A
    else:
        gone = (reach - inner).clamp(0, layer_A) / layer_A
    return (1 - gone).clamp(0, 1)


def _behind_A(optics: Optics, specimen: SpecimenSettings) -> float:
    """Where the support begins behind the molecule's centre: at the ice's far face, or where the
    field ends."""
    return max(5 * specimen.ice_nm, optics.centre_to_exit_A)


def _graphene(
    seeds: Sequence[int], q: Tensor, optics: Optics, specimen: SpecimenSettings
) -> Tensor:
    """(b, y, x) complex128, a sheet of its own for each molecule; of several summed exposures all
    have the same one, as all are on one sheet."""

    def window(y: Tensor, x: Tensor) -> Tensor:
        if specimen.beam_diameter_A is None:
            return optics.box_A**2 * torch.sinc(optics.box_A * y) * torch.sinc(optics.box_A * x)
        disc = SoftDisc(specimen.beam_diameter_A, specimen.beam_edge_A or 0.0)
        return disc.spectrum(torch.sqrt(y**2 + x**2))

    side = q.shape[-1]
    waves = [
        graphene_wave(
            side, optics.box_A, optics.energy_ev, window, np.random.default_rng([seed, SUPPORT])
        )
        for seed in seeds
    ]
    to_exit_A = optics.centre_to_exit_A - _behind_A(optics, specimen)
    turn = torch.polar(torch.ones_like(q), -math.pi * optics.wavelength_A * to_exit_A * q**2)
    return torch.stack(waves).to(q.device) * turn
