"""What multiple scattering does to patterns, to R, and to atoms refined without it.

    python -m benchmarks.multiple_scattering prep/1DUR.cif prep/1AUP.cif --views 60

Patterns are those of a multislice through a structure's atoms (as carbons, hydrogens riding), so
that nothing but multiple scattering parts them from what single scattering expects. The atoms are
refined from their true places, first without it, then with it; what they move by is its effect.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numba
import torch

from benchmarks.atoms import ENERGY_EV, blank_views
from diffragan.atoms.building.multiple_scattering import with_multiple_scattering
from diffragan.atoms.building.refine import refine
from diffragan.atoms.model.atoms import Atoms, atoms_at
from diffragan.atoms.model.density import AtomGrid
from diffragan.atoms.model.hydrogens import riding_hydrogens
from diffragan.evaluation.known_model import read_model
from diffragan.fourier.slices import Extractor
from diffragan.fourier.volumes import volume_spectrum
from diffragan.reconstruction.likelihood.patterns import PatternTarget, pattern_target

MARGIN_A = 8.0  # between the outermost atom and the edge of the field
RATES = (0.003, 0.01, 0.1)


def moved_A(atoms: Atoms, true: Atoms) -> float:
    """Root mean square distance, Å, after the common shift that patterns do not tell."""
    apart = atoms.positions_A - true.positions_A
    return float((apart - apart.mean(0)).square().sum(1).mean().sqrt())


def effect(path: Path, count: int, slice_A: float, steps: int) -> dict[str, float | str]:
    """A row of the table for one structure."""
    model = read_model(path)
    places = torch.from_numpy(model.places_A[model.heavy]).float()
    true = atoms_at(places, 1.0, 3.0)
    riding = riding_hydrogens(true)
    box_A = 2 * (float(places.norm(dim=1).max()) + MARGIN_A)
    views = blank_views(count, box_A)
    grid = AtomGrid(views.n, views.volume_box_A, box_A, ENERGY_EV)
    began = time.perf_counter()
    full = with_multiple_scattering(pattern_target(views), true, riding, grid, slice_A)
    seconds = (time.perf_counter() - began) / count
    sliced = Extractor(volume_spectrum(grid.volume(true, riding)))
    values = torch.cat([full.slices(sliced, block) for block in views.blocks()])
    measured = values.abs().reshape(count, 2, -1) * full.geometry.valid
    views = replace(views, measured=measured)
    single: PatternTarget = pattern_target(views)
    at_truth = single.sums(grid.spectrum(true, riding)).r_factor
    alone = refine(true, grid, single, steps, riding=riding, rates=RATES)
    target = with_multiple_scattering(single, alone, riding, grid, slice_A)
    both = refine(alone, grid, target, steps, riding=riding, rates=RATES)
    target = with_multiple_scattering(single, both, riding, grid, slice_A)
    return {
        "structure": path.stem,
        "atoms": len(true),
        "box_A": round(box_A, 1),
        "r_single_true_atoms": at_truth,
        "r_single_refined": single.sums(grid.spectrum(alone, riding)).r_factor,
        "moved_single_A": moved_A(alone, true),
        "weight_single": float(alone.weights.median()),
        "r_multiple_refined": target.sums(grid.spectrum(both, riding)).r_factor,
        "moved_multiple_A": moved_A(both, true),
        "weight_multiple": float(both.weights.median()),
        "seconds_a_view": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("structures", nargs="+", type=Path, help="prepared .cif files")
    parser.add_argument("--views", type=int, default=60)
    parser.add_argument("--slice-A", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=24, help="of each refinement")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    numba.set_num_threads(given.threads)
    torch.set_num_threads(given.threads)
    for path in given.structures:
        row = effect(path, given.views, given.slice_A, given.steps)
        print(
            "  ".join(
                f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()
            )
        )


if __name__ == "__main__":
    main()
