"""How coarse may the multislice grid be? Error and time of several grids, on one protein.

The reference is the setting of DiffraGAN's authors: 0.05 Å pixels and 0.5 Å slices. The error of
a grid is that of its pattern's amplitudes inside 20 mrad, without the direct beam, as a relative
norm: norm(A - A_reference) / norm(A_reference), the mean over orientations. Times are of whole
exit waves, one thread, after a warm-up that plans the FFTs.

    python benchmarks/multislice.py prepared/1UBQ.cif --box-A 70 --orientations 2
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.microscope.exit_waves.by_abtem import exit_wave
from diffragan.microscope.exit_waves.field import Field, check_fit, plan_field
from diffragan.microscope.imaging import diffraction_pattern
from diffragan.molecules.structure import Structure, load_structure
from diffragan.optics import Optics
from diffragan.rotations import quasi_uniform
from diffragan.settings import PatternSettings, load_settings

REFERENCE = (0.05, 0.5)
"""Pixel and slice of the authors' setting, Å."""
PIXELS_A = (70 / 320, 70 / 400, 70 / 512, 70 / 640)
SLICES_A = (1.0, 2.0, 3.0, 5.0)
ENERGY_EV = 200e3


@dataclass(frozen=True)
class Row:
    """One grid: its amplitudes' error and the mean time of an exit wave."""

    name: str
    grid_px: int
    pixel_A: float
    slice_A: float
    error: float
    seconds: float
    cpu_seconds: float


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("structure", type=Path, help="a prepared structure (.cif)")
    parser.add_argument("--box-A", type=float, default=70.0, help="side of the field, Å")
    parser.add_argument("--orientations", type=int, default=2, help="waves for each grid")
    parser.add_argument("--no-table", action="store_true", help="default against reference only")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    arguments = parser.parse_args()
    structure = load_structure(arguments.structure)
    load_before = os.getloadavg()[0]
    rows = measure(structure, arguments.box_A, arguments.orientations, not arguments.no_table)
    print(
        f"{structure.stem}, {structure.mass_kda:.1f} kDa, {arguments.box_A:g} Å box, "
        f"{arguments.orientations} orientations, one thread; load of the machine "
        f"{load_before:.1f} on {os.cpu_count()} cores.\n"
    )
    print(as_markdown(rows))
    if arguments.json:
        report = {"structure": structure.stem, "load": load_before, "rows": [*map(asdict, rows)]}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def measure(structure: Structure, box_A: float, orientations: int, table: bool) -> list[Row]:
    """The reference first, then the default, then the grids of the table."""
    torch.set_num_threads(1)
    settings = load_settings(values={"simulate.box_A": box_A}).simulate
    default = plan_field([structure.diameter_A], settings)
    rotations = quasi_uniform(orientations)
    check_fit([structure], rotations, default, settings.max_outside)
    reference = with_grid(default, *REFERENCE)
    fields = {"authors' setting": reference, "default": default}
    if table:
        choices = [(p, settings.slice_A) for p in PIXELS_A]
        choices += [(settings.sampling_A, s) for s in SLICES_A]
        for choice in choices:
            field = with_grid(default, *choice)
            if field not in fields.values():
                fields[f"{field.grid_px} px, {choice[1]:g} Å"] = field
    rows: list[Row] = []
    truth = torch.zeros(())
    for name, field in fields.items():
        amplitude, wall, cpu = amplitudes(structure, rotations, field)
        truth = amplitude if field == reference else truth
        norms = torch.linalg.vector_norm(amplitude - truth, dim=(-2, -1))
        error = float((norms / torch.linalg.vector_norm(truth, dim=(-2, -1))).mean())
        pixel = field.box_A / field.grid_px
        rows.append(Row(name, field.grid_px, pixel, field.slice_A, error, wall, cpu))
    return rows


def with_grid(field: Field, pixel_A: float, slice_A: float) -> Field:
    """The same box on another grid."""
    return replace(
        field,
        grid_px=round(field.box_A / pixel_A),
        slices=max(1, round(field.depth_A / slice_A)),
    )


def amplitudes(
    structure: Structure, rotations: NDArray[np.float64], field: Field
) -> tuple[Tensor, float, float]:
    """Pattern amplitudes (n, m, m) in each orientation, wall and CPU seconds a wave."""
    # The same grid in two slices, with each element of a protein, plans every FFT.
    shallow = replace(field, depth_A=2 * field.slice_A, slices=2)
    exit_wave(np.array([1, 6, 7, 8, 16]), np.zeros((5, 3)), shallow, ENERGY_EV)
    optics = Optics(ENERGY_EV, field.box_A, field.centre_to_exit_A)
    wall, cpu = time.perf_counter(), time.process_time()
    waves = [
        exit_wave(structure.numbers, structure.positions_A @ rotation.T, field, ENERGY_EV)
        for rotation in rotations
    ]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    stacked = torch.from_numpy(np.stack(waves))
    pattern, _ = diffraction_pattern(stacked, optics, PatternSettings())
    return pattern.double().sqrt(), wall / len(rotations), cpu / len(rotations)


def as_markdown(rows: list[Row]) -> str:
    """The rows as a table, times also relative to the first row's."""
    lines = [
        "| grid | pixels | pixel, Å | slice, Å | amplitude error | s a wave | CPU s a wave "
        "| times faster (CPU) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        error = "reference" if row is rows[0] else f"{row.error:.2%}"
        lines.append(
            f"| {row.name} | {row.grid_px} | {row.pixel_A:.3f} | {row.slice_A:.2f} | {error} "
            f"| {row.seconds:.2f} | {row.cpu_seconds:.2f} "
            f"| {rows[0].cpu_seconds / row.cpu_seconds:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
