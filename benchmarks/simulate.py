"""Waves a second of both engines, side by side, and the error of each grid by ring.

    python benchmarks/simulate.py prepared/1UBQ.cif --rounds 3 --store 64

The reference is a plain loop of abTEM at the grid of DiffraGAN's authors, 0.05 Å pixels and 0.5 Å
slices, with measured FFTW plans and one thread. Rows are measured in turn, a wave of each a round,
by the CPU seconds of this process, which other work on the machine changes less than wall time. An
error is norm(A - A_ref) / norm(A_ref) of the pattern's amplitudes, without the direct beam, the
mean over orientations. The reference itself errs, since abTEM shares atoms out among four pixels;
so a second reference is ours on the same grid, exact in that, with the slices of each row.

`--store` writes so many waves with one worker and with two: CPU seconds a wave of the command
itself, which compresses and writes, and of its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.fourier.grids import frequency_grid
from diffragan.microscope.exit_waves import by_abtem, by_torch
from diffragan.microscope.exit_waves.field import Field, plan_field
from diffragan.molecules.structure import Structure, load_structure
from diffragan.rotations import quasi_uniform
from diffragan.settings import load_settings

ENERGY_EV = 200e3
AUTHORS = (0.05, 0.5)
RINGS_PER_A = (0.01, 0.2, 0.4, 0.6, 0.8)
OURS_PX = (512, 384, 320)
Wave = NDArray[np.complex64]

# Operations of PyTorch by what they are for.
PARTS = {
    "aten::_fft_c2c": "FFTs of the wave",
    "aten::_fft_c2r": "FFT of the potential",
    "aten::addmm": "products of atoms",
    "aten::mm": "products of atoms",
    "aten::addcmul_": "form factors",
    "aten::cos": "cosine and sine",
    "aten::sin": "cosine and sine",
    "aten::mul_": "wave times slice, propagator",
    "aten::mul": "wave times slice, propagator",
    "aten::complex": "cosine and sine",
}


@dataclass
class Row:
    """One engine on one grid, and what was measured of it."""

    name: str
    grid: Field
    wave: Callable[[NDArray[np.int64], NDArray[np.float64], Field, float], Wave]
    seconds: list[float] = field(default_factory=list)
    errors: dict[str, list[NDArray[np.float64]]] = field(default_factory=lambda: defaultdict(list))


def rows_of(structure: Structure, box_A: float) -> list[Row]:
    """The reference first; then abTEM on the default grid, and ours on that and coarser ones."""
    settings = load_settings(values={"simulate.box_A": box_A}).simulate
    default = plan_field([structure.diameter_A], settings)
    pixel_A, slice_A = AUTHORS
    fine = replace(default, grid_px=round(box_A / pixel_A), slices=round(default.depth_A / slice_A))
    abtem = by_abtem.exit_wave
    ours = partial(by_torch.exit_wave, device=None)
    rows = [
        Row("abTEM, authors' grid", fine, abtem),
        Row("torch, authors' grid", fine, ours),
        Row("abTEM, default grid", default, abtem),
    ]
    return rows + [Row(f"torch, {px} px", replace(default, grid_px=px), ours) for px in OURS_PX]


def ring_errors(found: Wave, expected: Wave, box_A: float) -> NDArray[np.float64]:
    """Of amplitudes, inside 20 mrad and in every ring."""
    a, b = (np.abs(np.fft.fft2(wave)) for wave in (found, expected))
    q = frequency_grid(a.shape[0], box_A).sqrt().numpy()
    edges = [(RINGS_PER_A[0], RINGS_PER_A[-1]), *pairwise(RINGS_PER_A)]
    rings = [(q > low) & (q <= high) for low, high in edges]
    return np.array([np.linalg.norm((a - b)[r]) / np.linalg.norm(b[r]) for r in rings])


def measure(rows: Sequence[Row], structure: Structure, rounds: int) -> None:
    """A wave of every row in turn, in as many orientations."""
    for row in rows:  # plans and tables
        shallow = replace(row.grid, depth_A=2 * row.grid.slice_A, slices=2)
        row.wave(np.array([1, 6, 7, 8, 16]), np.zeros((5, 3)), shallow, ENERGY_EV)
        if row.wave is not by_abtem.exit_wave:
            row.wave(structure.numbers, structure.positions_A, row.grid, ENERGY_EV)
    for rotation in quasi_uniform(rounds):
        waves = []
        for row in rows:
            began = time.process_time()
            places = structure.positions_A @ rotation.T
            waves.append(row.wave(structure.numbers, places, row.grid, ENERGY_EV))
            row.seconds.append(time.process_time() - began)
        for row, wave in zip(rows, waves, strict=True):
            sharp = replace(rows[1].grid, slices=row.grid.slices)
            same_slices = rows[1].wave(structure.numbers, places, sharp, ENERGY_EV)
            box_A = row.grid.box_A
            row.errors["reference"].append(ring_errors(wave, waves[0], box_A))
            row.errors["exact atoms"].append(ring_errors(wave, waves[1], box_A))
            row.errors["same slices"].append(ring_errors(wave, same_slices, box_A))


def profile(row: Row, structure: Structure, waves: int = 5) -> dict[str, float]:
    """Share of the CPU time by part of a torch row."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    with record(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(waves):
            row.wave(structure.numbers, structure.positions_A, row.grid, ENERGY_EV)
    parts: dict[str, float] = defaultdict(float)
    for event in found.key_averages():
        parts[PARTS.get(event.key, "rest")] += event.self_cpu_time_total
    total = sum(parts.values())
    return {name: value / total for name, value in sorted(parts.items(), key=lambda p: -p[1])}


def stored(structure: Path, waves: int, engine: str, workers: int) -> dict[str, float]:
    """CPU and wall seconds a wave, and bytes, of a whole run of the engine."""
    import diffragan as dg

    folder = Path(tempfile.mkdtemp())
    values: dict[str, Any] = {
        "simulate.orientations": waves,
        "simulate.engine": engine,
        "simulate.box_A": 70.0,
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    own, wall = time.process_time(), time.perf_counter()
    settings = load_settings(values=values)
    dg.simulate(structure, folder / "waves.zarr", settings=settings, workers=workers)
    own, wall = time.process_time() - own, time.perf_counter() - wall
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    children = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    files = [p for p in (folder / "waves.zarr").rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files)
    shutil.rmtree(folder)
    return {
        "command_s": own / waves,
        "workers_s": children / waves,
        "wall_s": wall / waves,
        "bytes": size / waves,
        "files": len(files),
    }


def as_markdown(rows: Sequence[Row]) -> str:
    """Times and errors as a table."""
    first = np.mean(rows[0].seconds)
    rings = " | ".join(f"{low:g} to {high:g}" for low, high in pairwise(RINGS_PER_A))
    lines = [
        "| engine and grid | CPU s a wave | waves/s of a core | faster | against | to 0.8 1/Å "
        f"| {rings} |",
        "|---|---|---|---|---|---|" + "---|" * (len(RINGS_PER_A) - 1),
    ]
    for row in rows:
        own = float(np.mean(row.seconds))
        for against, errors in row.errors.items():
            mean = np.mean(errors, axis=0)
            told = [f"{row.name}", f"{own:.3f}", f"{1 / own:.2f}", f"{first / own:.0f}"]
            numbers = " | ".join(f"{100 * e:.3f} %" for e in mean)
            lines.append(f"| {' | '.join(told)} | {against} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("structure", type=Path, help="a prepared structure (.cif)")
    parser.add_argument("--rounds", type=int, default=3, help="waves of each row")
    parser.add_argument("--box-A", type=float, default=70.0)
    parser.add_argument("--store", type=int, default=0, help="waves to write with 1 and 2 workers")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    structure = load_structure(arguments.structure)
    rows = rows_of(structure, arguments.box_A)
    measure(rows, structure, arguments.rounds)
    atoms = len(structure.numbers)
    print(f"{structure.stem}, {atoms} atoms; load {os.getloadavg()[0]:.1f}\n{as_markdown(rows)}\n")
    shares = profile(rows[3], structure)
    print("; ".join(f"{name} {share:.0%}" for name, share in shares.items()))
    record: dict[str, Any] = {"seconds": {r.name: r.seconds for r in rows}, "shares": shares}
    for engine in ("torch", "abtem") if arguments.store else ():
        waves = arguments.store if engine == "torch" else max(8, arguments.store // 8)
        for workers in (1, 2):
            found = stored(arguments.structure, waves, engine, workers)
            record[f"{engine}, {workers} workers"] = found
            words = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
            print(f"{engine}, {waves} waves, {workers} workers, a wave: {words}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
