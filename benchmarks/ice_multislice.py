"""Ice as atoms, through the multislice, beside the law of `microscope/matter/water.py` for it.

    python -m benchmarks.ice_multislice 1DUR.cif --draws 24

Layers of one cooled periodic box of water (`benchmarks/vitreous_water.py`), each moved and turned
at random, make ice of any thickness. Two things are printed by thickness and resolution:

- ice alone: mean intensity over what the law says, which knows no multiple scattering;
- a molecule in its middle: what is left of the molecule's own wave, on the mean over the ice. The
  law leaves all of it.

No electron loses energy here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from benchmarks.vitreous_water import quenched, side_A
from diffragan.fourier.grids import even_fast_length, frequency_grid
from diffragan.microscope.exit_waves.by_torch import exit_wave
from diffragan.microscope.exit_waves.field import Field
from diffragan.microscope.matter.water import elastic_intensity
from diffragan.molecules.structure import load_structure
from diffragan.optics import Optics, propagate

ENERGY_EV, SLICE_A = 200e3, 3.0
SHELLS_A = (10.0, 5.0, 3.7, 3.0, 2.5, 2.0, 1.5)
_WIDTH = 0.12  # of a shell, in parts of its frequency
_CLOSEST_A = 2.6  # an atom of water to one of the molecule

Water = tuple[NDArray[np.float64], NDArray[np.int64], float]


def layers(water: Water, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(count a, 3) places of so many layers of the box's a atoms, one upon the other along z, each
    with its axes exchanged and turned round, and moved, at random."""
    places, _, side = water
    out = []
    for k in range(count):
        turned = places[:, rng.permutation(3)] * rng.choice([-1, 1], 3)
        moved = (turned + rng.uniform(0, side, 3)) % side
        out.append(moved + np.array([-side / 2, -side / 2, k * side]))
    return np.concatenate(out)


def wave_of(
    numbers: NDArray[np.int64], places_A: NDArray[np.float64], side_A: float, depth_A: float
) -> torch.Tensor:
    """(n, n) complex64 exit wave of atoms about the origin, back at the middle plane."""
    stored = even_fast_length(side_A / 0.4)
    field = Field(side_A, depth_A, 2 * stored, round(depth_A / SLICE_A), stored)
    wave = torch.from_numpy(exit_wave(numbers, places_A, field, ENERGY_EV))
    return propagate(wave[None], side_A, ENERGY_EV, -field.centre_to_exit_A)[0]


def shells(values: torch.Tensor, q: torch.Tensor) -> list[float]:
    """Mean of values (n, n) about each of `SHELLS_A`."""
    return [float(values[((q * d - 1).abs() < _WIDTH)].mean()) for d in SHELLS_A]


def ice_alone(water: Water, count: int, draws: int, rng: np.random.Generator) -> list[float]:
    """Mean intensity of `count` layers over the law's, by shell."""
    _, numbers, side = water
    total: torch.Tensor | float = 0.0
    for _ in range(draws):
        places = layers(water, count, rng) - np.array([0, 0, count * side / 2])
        wave = wave_of(np.tile(numbers, count), places, side, count * side)
        total = total + torch.fft.fft2(wave, norm="forward").abs().square() / draws
    assert isinstance(total, torch.Tensor)
    q = frequency_grid(total.shape[-1], side).sqrt()
    law = elastic_intensity(q, Optics(ENERGY_EV, side, 0.0), count * side / 10, side**2)
    return [a / b for a, b in zip(shells(total, q), shells(law, q), strict=True)]


def molecule_within(
    water: Water, molecule: Path, count: int, draws: int, rng: np.random.Generator
) -> list[float]:
    """What is left of the molecule's own wave with `count` layers around its middle, by shell: the
    slope of the mean wave on the wave in vacuum. It takes the place of the water that it meets."""
    _, numbers, box = water
    structure = load_structure(molecule)
    own = structure.positions_A - structure.positions_A.mean(0)
    times = int(np.ceil((np.ptp(own[:, :2], axis=0).max() + 6) / box))
    side, depth = times * box, max(count * box, np.ptp(own[:, 2]) + 4)
    alone = torch.fft.fft2(wave_of(structure.numbers, own, side, depth), norm="forward")
    total = torch.zeros_like(alone)
    corner = np.stack(np.meshgrid(np.arange(times), np.arange(times), [0]), -1).reshape(-1, 3) * box
    for _ in range(draws):
        ice = layers(water, count, rng) + np.array([box / 2, box / 2, -count * box / 2])
        ice = np.concatenate([ice + c for c in corner]) - np.array([side / 2, side / 2, 0])
        kinds = np.tile(np.tile(numbers, count), len(corner))
        near = cKDTree(own).query(ice)[0] < _CLOSEST_A
        places = np.concatenate((own, ice[~near]))
        wave = wave_of(np.append(structure.numbers, kinds[~near]), places, side, depth)
        total = total + torch.fft.fft2(wave, norm="forward") / draws
    # Ice turns the phase of the whole wave, direct beam and all, by its mean potential.
    total = total * torch.sgn(alone[0, 0] / total[0, 0])
    q = frequency_grid(alone.shape[-1], side).sqrt()
    cross, power = (total * alone.conj()).real, alone.abs().square()
    return [a / b for a, b in zip(shells(cross, q), shells(power, q), strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("molecule", type=Path)
    parser.add_argument("--layers", default="1,2,4,8,16", help="of the box's side, some 26 Å")
    parser.add_argument("--molecules", type=int, default=600, help="of water in the box")
    parser.add_argument("--picoseconds", type=float, default=40.0, help="of cooling the box")
    parser.add_argument("--draws", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    places, numbers = quenched(args.molecules, args.seed, args.picoseconds)
    side = side_A(args.molecules)
    water = (places, np.asarray(numbers), side)
    print("shells of", *SHELLS_A, "Å")
    for count in map(int, args.layers.split(",")):
        rng = np.random.default_rng(args.seed)
        rows = {
            "ice over law": ice_alone(water, count, args.draws, rng),
            "molecule left": molecule_within(water, args.molecule, count, args.draws, rng),
        }
        for name, row in rows.items():
            print(f"{count * side / 10:5.1f} nm, {name}:", *(f"{x:.2f}" for x in row), flush=True)


if __name__ == "__main__":
    main()
