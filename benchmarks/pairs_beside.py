"""Single pairs through damage and ice: how far beyond the image a method gets.

    python -m benchmarks.pairs_beside small.zarr --ice 0 --molecules 1,300000 --methods image,raar

Each pair of the simulation store is measured as the preset `experiment` says, with as much ice and
as the sum of so many molecules in its orientation, and phased. Printed are the mean FRC of the
wave with the truth, how many are solved by it, and what the method judged without it. `--empty n`
has the ice told by n patterns of positions without a molecule instead of by the weight.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from diffragan.evaluation.metrics import metrics_of
from diffragan.evaluation.scores import score
from diffragan.files.store import open_results
from diffragan.fourier.correlation import solved
from diffragan.microscope.imaging import measure
from diffragan.pairs.open import open_pairs
from diffragan.phasing.run import load_context, phase_pairs, with_method
from diffragan.settings import Settings, load_settings

AT_A = (8.0, 5.0, 4.0, 3.0, 2.0, 1.6)
NEAR = 0.05  # rings this close to a resolution are averaged
EMPTY_SEED = 10_000


def exposed(ice_nm: float, molecules: int, words: list[str], seed: int) -> Settings:
    """The preset with other ice and more molecules; without ice the beam is the field."""
    vacuum = [] if ice_nm else ["specimen.beam_diameter_A=none"]
    own = [f"specimen.ice_nm={ice_nm}", f"specimen.molecules={molecules}", *vacuum, *words]
    return load_settings("experiment", overrides=own, values={"seed": seed})


def empty_positions(store: Path, settings: Settings, count: int, out: Path) -> Path:
    """Patterns of ice alone, each the sum of as many exposures as a pair's."""
    pairs = open_pairs(store, settings=settings)
    side = pairs.exit_wave(np.array([0]))
    assert side is not None
    blank = torch.ones(1, *side.shape[1:], dtype=torch.complex64)
    patterns = [
        measure(blank, pairs.optics, settings, [EMPTY_SEED + k]).pattern.numpy()
        for k in range(count)
    ]
    np.save(out, np.concatenate(patterns))
    return out


def row(store: Path, settings: Settings, method: str, folder: Path) -> str:
    """FRC of the waves, solved by it and judged so, of all pairs of the store."""
    began = time.process_time()
    settings = with_method(settings, method)
    pairs = open_pairs(store, settings=settings)
    out = phase_pairs(
        pairs, folder / f"{method}.zarr", settings, load_context(method), overwrite=True
    )
    results = open_results(out)
    scored = score(results, pairs)
    metrics = metrics_of(results, scored)
    q = 1 / torch.tensor(metrics["frc"]["resolution_A"])
    mean = torch.tensor(metrics["frc"]["mean"])
    at = [f"{float(mean[(q * a - 1).abs() < NEAR].mean()):.2f}" for a in AT_A]
    assert scored.wave is not None
    right = solved(scored.wave.values, scored.wave.q)
    judged = "-"
    if results.solved is not None:
        named = torch.as_tensor(np.asarray(results.solved))
        judged = f"{int(named.sum())}, {int((named & ~right).sum())} of them wrongly"
    seconds = (time.process_time() - began) / pairs.n
    verdict = f"solved {int(right.sum())} of {pairs.n}, judged {judged}"
    return f"{' '.join(at)} | {verdict} | {seconds:.1f} s a pair"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--ice", default="0")
    parser.add_argument("--molecules", default="1")
    parser.add_argument("--methods", default="image,raar")
    parser.add_argument("--empty", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="words")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for ice_nm in map(float, args.ice.split(",")):
        for molecules in map(int, args.molecules.split(",")):
            with tempfile.TemporaryDirectory() as name:
                settings = exposed(ice_nm, molecules, args.words, args.seed)
                if args.empty:
                    path = Path(name) / "empty.npy"
                    told = empty_positions(args.store, settings, args.empty, path)
                    update = {"background_from": str(told)}
                    phase = settings.phase.model_copy(update=update)
                    settings = settings.model_copy(update={"phase": phase})
                for method in args.methods.split(","):
                    found = row(args.store, settings, method, Path(name))
                    print(f"{ice_nm:g} nm, {molecules} molecules, {method}: {found}", flush=True)


if __name__ == "__main__":
    main()
