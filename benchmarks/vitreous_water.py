"""What vitreous water scatters: the table that `microscope/matter/water.py` reads.

    python -m benchmarks.vitreous_water --out FILE.json

Boxes of water (TIP4P-Ew, 0.94 g/cm³) are held at 300 K and cooled to 80 K by OpenMM, faster than
any ice can crystallise. Their atoms scatter as free atoms do; the intensity per molecule is taken
at the frequencies that the periodic box allows, and averaged by ring of q.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.microscope.exit_waves.form_factors import form_factor_A

DENSITY_G_CM3, MOLAR_MASS_G = 0.94, 18.01528
RING_PER_A, EDGE_PER_A = 0.02, 1.2
STEP_PS = 0.004
PUBLISHED_RINGS_A = (3.7, 2.1)


def side_A(molecules: int) -> float:
    """Side of a cube that holds so many molecules at the density of vitreous water."""
    volume_cm3 = molecules * MOLAR_MASS_G / 6.02214076e23 / DENSITY_G_CM3
    return float((volume_cm3 * 1e24) ** (1 / 3))


def quenched(molecules: int, seed: int, picoseconds: float) -> tuple[NDArray[Any], list[int]]:
    """Places (n, 3) in Å and atomic numbers of water that was cooled from 300 to 80 K."""
    import openmm
    from openmm import app, unit

    field = app.ForceField("tip4pew.xml")
    side = side_A(molecules)
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    modeller.addSolvent(field, model="tip4pew", numAdded=molecules)
    grown = modeller.topology.getPeriodicBoxVectors()[0][0].value_in_unit(unit.angstrom)
    modeller.topology.setPeriodicBoxVectors(
        [openmm.Vec3(*row) * side * unit.angstrom for row in np.eye(3).tolist()]
    )
    system = field.createSystem(
        modeller.topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=9 * unit.angstrom,
        hydrogenMass=3 * unit.dalton,  # heavy enough for long steps; places do not know of it
    )
    step = STEP_PS * unit.picosecond
    integrator = openmm.LangevinMiddleIntegrator(300, 1 / unit.picosecond, step)
    integrator.setRandomNumberSeed(seed)
    simulation = app.Simulation(
        modeller.topology,
        system,
        integrator,
        openmm.Platform.getPlatformByName("CPU"),
        {"Threads": "1"},
    )
    # Molecules move as wholes when the box changes its size.
    places = np.array(modeller.positions.value_in_unit(unit.angstrom)).reshape(molecules, -1, 3)
    places += places[:, :1] * (side / grown - 1)
    simulation.context.setPositions(places.reshape(-1, 3) * unit.angstrom)
    simulation.minimizeEnergy(maxIterations=500)
    simulation.context.setVelocitiesToTemperature(300, seed)
    steps = round(picoseconds / STEP_PS)
    simulation.step(steps // 3)
    for kelvin in np.linspace(300, 80, 45):
        integrator.setTemperature(float(kelvin))
        simulation.step(2 * steps // 3 // 45)
    state = simulation.context.getState(getPositions=True)
    found = np.array(state.getPositions(asNumpy=True).value_in_unit(unit.angstrom))
    numbers = [a.element.atomic_number if a.element else 0 for a in modeller.topology.atoms()]
    real = [k for k, number in enumerate(numbers) if number]
    return found[real], [numbers[k] for k in real]


def intensity(places: NDArray[Any], numbers: list[int], side: float) -> NDArray[Any]:
    """(rings, 2) sum of |sum f exp(-2 pi i q r)|² per molecule in Å², and how many q there are."""
    reach = int(EDGE_PER_A * side)
    axis = np.arange(-reach, reach + 1) / side
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    q = np.linalg.norm(grid, axis=1)
    grid, q = grid[(q > 0) & (q < EDGE_PER_A)], q[(q > 0) & (q < EDGE_PER_A)]
    half = grid[:, 2] > 0
    grid, q = grid[half], q[half]
    molecules = numbers.count(8)
    total = np.zeros(len(q), complex)
    kinds = np.array(numbers)
    q2 = torch.from_numpy(q**2)
    # exp(-2 pi i (h x + k y + l z) / side) is a product of three powers.
    unit = np.exp(-2j * np.pi * places / side)
    powers = [unit[:, d][None] ** np.arange(-reach, reach + 1)[:, None] for d in range(3)]
    index = np.rint(grid * side).astype(int) + reach
    for number in (1, 8):
        some = kinds == number
        factor = form_factor_A(number, q2).numpy()
        x, y, z = (power[:, some] for power in powers)
        for start in range(0, len(q), 2000):
            h, k, m = index[start : start + 2000].T
            total[start : start + 2000] += factor[start : start + 2000] * (x[h] * y[k] * z[m]).sum(
                1
            )
    ring = (q / RING_PER_A).astype(int)
    count = round(EDGE_PER_A / RING_PER_A)
    sums = np.bincount(ring, np.abs(total) ** 2 / molecules, minlength=count)
    return np.stack((sums, np.bincount(ring, minlength=count)), 1)


def peaks_A(q: NDArray[Any], curve: NDArray[Any]) -> list[float]:
    """Resolutions of the rings: where the intensity over that of free atoms is highest nearby."""
    q2 = torch.from_numpy(q**2)
    free = (form_factor_A(8, q2) ** 2 + 2 * form_factor_A(1, q2) ** 2).numpy()
    ratio = curve / free
    top = [k for k in range(2, len(q) - 2) if q[k] > 0.2 and ratio[k] == ratio[k - 2 : k + 3].max()]
    return [round(1 / float(q[k]), 2) for k in top]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--molecules", type=int, default=600)
    parser.add_argument("--boxes", type=int, default=3)
    parser.add_argument("--picoseconds", type=float, default=40.0)
    args = parser.parse_args()
    side = side_A(args.molecules)
    sums = np.zeros((round(EDGE_PER_A / RING_PER_A), 2))
    for seed in range(1, args.boxes + 1):
        places, numbers = quenched(args.molecules, seed, args.picoseconds)
        sums += intensity(places, numbers, side)
        print(f"box {seed}: {args.molecules} molecules in {side:.2f} Å", flush=True)
    q = RING_PER_A * (np.arange(len(sums)) + 0.5)
    known = sums[:, 1] > 0
    curve = sums[known, 0] / sums[known, 1]
    print("rings at", peaks_A(q[known], curve), "Å; published", PUBLISHED_RINGS_A)
    table = {
        "q_per_A": [round(float(x), 4) for x in q[known]],
        "intensity_A2": [round(float(x), 4) for x in curve],
        "density_g_cm3": DENSITY_G_CM3,
    }
    args.out.write_text(json.dumps(table) + "\n", "utf-8")


if __name__ == "__main__":
    main()
