"""How a protein's mean intensity differs, ring by ring, from that of its atoms one by one.

    python -m benchmarks.protein_profile 1A2Y.cif 1T3Y.cif ...

Secondary structure and bonds give every protein the same rises and falls beyond 5 Å (Popov &
Bourenkov, Acta Cryst. D 59, 1145, 2003). Printed is the mean over all orientations, by Debye's sum
over pairs of atoms, over `atoms_intensity` of the same weight: of all proteins given, and how they
spread. `microscope/effective_dose.py` has the means.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from diffragan.microscope.effective_dose import DALTONS_PER_CARBON
from diffragan.microscope.exit_waves.form_factors import CARBON, form_factor_A
from diffragan.molecules.structure import load_structure

_BIN_A, _BLOCK = 0.02, 500


def profile(path: Path, q: NDArray[np.float64]) -> NDArray[np.float64]:
    """(len(q),) mean intensity over that of as heavy a set of carbons, each by itself."""
    structure = load_structure(path)
    kinds = np.unique(structure.numbers)
    q2 = torch.from_numpy(q**2)
    factors = {z: form_factor_A(int(z), q2).numpy() for z in kinds}
    total = np.zeros_like(q)
    for one in kinds:
        for two in kinds:
            a, b = (structure.positions_A[structure.numbers == z] for z in (one, two))
            counts = np.zeros(0)
            for start in range(0, len(a), _BLOCK):
                apart = (cdist(a[start : start + _BLOCK], b) / _BIN_A + 0.5).astype(np.int64)
                found = np.bincount(apart.ravel(), minlength=len(counts)).astype(float)
                found[: len(counts)] += counts
                counts = found
            distance = _BIN_A * np.arange(len(counts))
            sinc = np.sinc(2 * q[:, None] * distance)
            total += factors[one] * factors[two] * (sinc @ counts)
    atoms = 1e3 * structure.mass_kda / DALTONS_PER_CARBON
    return total / (atoms * factors[CARBON] ** 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("structure", type=Path, nargs="+")
    args = parser.parse_args()
    q = np.arange(0.2, 1.001, 0.02)
    # A ring of 1 / field is as wide as this: finer ripples of a small molecule are averaged.
    fine = (q[:, None] + np.linspace(-0.01, 0.01, 9)).ravel()
    every = np.array([profile(path, fine).reshape(len(q), -1).mean(1) for path in args.structure])
    for k, value in enumerate(q):
        print(f"{value:.2f} {1 / value:.2f} A: {every[:, k].mean():.3f} +- {every[:, k].std():.3f}")


if __name__ == "__main__":
    main()
