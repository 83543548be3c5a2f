"""What water a molecule displaces takes from its wave, by resolution.

    python -m benchmarks.displaced_water 1DUR.cif 1UBQ.cif 1AUP.cif

A molecule takes 1.21 Å³ a dalton from the water around it. That volume, as all points nearer to an
atom than some distance, filled with water of an even density, is taken off the atoms' potential.
Printed is what is left of the molecule's structure factors (slope of the difference on the whole),
by resolution, and the Gaussian 1 - K exp(-B q² / 4) that `microscope/matter/water.py` has for it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import curve_fit
from scipy.spatial import cKDTree

from diffragan.microscope.exit_waves.form_factors import form_factor_A
from diffragan.microscope.matter.water import molecules_per_A3
from diffragan.molecules.structure import load_structure

SHELLS_A = (30.0, 20.0, 15.0, 12.0, 10.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0)
A3_PER_DALTON = 1.21
_STEP_A, _DIRECTIONS = 0.7, 300


def displaced(positions_A: NDArray[np.float64], mass_kda: float) -> NDArray[np.float64]:
    """(p, 3) points of a grid, those nearest to the atoms, whose volume is the molecule's."""
    low, high = positions_A.min(0) - 5, positions_A.max(0) + 5
    axes = [np.arange(a, b, _STEP_A) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    distance = cKDTree(positions_A).query(points, distance_upper_bound=5)[0]
    count = round(A3_PER_DALTON * 1e3 * mass_kda / _STEP_A**3)
    return points[np.argsort(distance)[:count]]


def left(path: Path, rng: np.random.Generator) -> list[float]:
    """What is left of a molecule's structure factors, by shell."""
    structure = load_structure(path)
    places = structure.positions_A - structure.positions_A.mean(0)
    water = displaced(places, structure.mass_kda)
    directions = rng.standard_normal((_DIRECTIONS, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    out = []
    for shell in SHELLS_A:
        q = directions / shell
        q2 = torch.tensor([1 / shell**2], dtype=torch.float64)
        f = {z: float(form_factor_A(int(z), q2)) for z in np.unique(structure.numbers)}
        weights = np.array([f[z] for z in structure.numbers])
        whole = np.exp(-2j * np.pi * q @ places.T) @ weights
        one = float(2 * form_factor_A(1, q2) + form_factor_A(8, q2))
        even = np.exp(-2j * np.pi * q @ water.T).sum(1) * one * molecules_per_A3() * _STEP_A**3
        slope = ((whole - even) * whole.conj()).real.sum() / (np.abs(whole) ** 2).sum()
        out.append(float(slope))
    return out


def law(shell_A: NDArray[np.float64], k: float, b_A2: float) -> NDArray[np.float64]:
    result: NDArray[np.float64] = 1 - k * np.exp(-b_A2 / (4 * shell_A**2))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("molecules", type=Path, nargs="+")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    print("shells of", *SHELLS_A, "Å")
    for path in args.molecules:
        row = left(path, rng)
        (k, b), _ = curve_fit(law, np.array(SHELLS_A), row, (0.6, 200.0))
        print(f"{path.stem}: K {k:.3f}, B {b:.0f} Å², left", *(f"{x:.2f}" for x in row), flush=True)


if __name__ == "__main__":
    main()
