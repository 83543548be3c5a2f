"""What two processes gain in a solve of many views: seconds of an iteration, and of its sums.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 benchmarks/shared_solve.py --copies 4

The bundled views, several times over. Each process iterates first by itself on all of them, then
on its share. Told are CPU seconds of the process, which other work on the machine changes less, and
wall seconds, which count what one process waits for the other. The gain is the ratio of alone to
together, which has what the sums cost.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffragan.commands.demo import views_path
from diffragan.engine import processes
from diffragan.engine.processes import apart, leave_processes, start_processes
from diffragan.pairs.open import open_pairs
from diffragan.reconstruction import many_views
from diffragan.reconstruction.choose_views import choose_views
from diffragan.reconstruction.maps import data_step
from diffragan.reconstruction.maps.load_views import load_views
from diffragan.reconstruction.maps.views import Views


def many(copies: int) -> tuple[Views, float]:
    """The bundled views so many times, and the molecule's weight in kDa."""
    pairs = open_pairs(views_path())
    selection = choose_views(pairs)
    assert selection.rotations is not None
    assert selection.mass_kda is not None
    scratch = Path(tempfile.mkdtemp())
    views = load_views(pairs, selection.items, selection.rotations, scratch)
    per_view = ("measured", "contrast", "image_noise", "rotations", "shifts_A", "weights")
    repeated: dict[str, Any] = {n: torch.cat([getattr(views, n)] * copies) for n in per_view}
    return replace(views, **repeated, items=np.tile(views.items, copies)), selection.mass_kda


def seconds_of(work: Callable[[], object], rounds: int) -> tuple[float, float]:
    """CPU seconds of this process and wall seconds a round, after one for warming up."""
    work()
    cpu_began, wall_began = time.process_time(), time.perf_counter()
    for _ in range(rounds):
        work()
    cpu, wall = time.process_time() - cpu_began, time.perf_counter() - wall_began
    return cpu / rounds, wall / rounds


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--copies", type=int, default=4, help="of the bundled 300 views")
    parser.add_argument("--rounds", type=int, default=3, help="iterations of a half set")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    here = start_processes(torch.device("cpu"))
    views, mass_kda = many(arguments.copies)
    settings = open_pairs(views_path()).settings.many_views
    with apart():
        half = many_views.start(views, settings, mass_kda, 0).halves[0]
        half.refine_to(None)
        alone = seconds_of(lambda: half.iterate(1, 0.5), arguments.rounds)
    sent: list[float] = []
    add = processes.summed

    def timed(part: Tensor) -> Tensor:
        began = time.process_time()
        total = add(part)
        sent.append(time.process_time() - began)
        return total

    vars(data_step)["summed"] = timed
    together = seconds_of(lambda: half.iterate(1, 0.5), arguments.rounds)
    sums = sum(sent[1:]) / arguments.rounds
    if here.rank == 0:
        print(
            f"{len(half.views)} views in a half, volume {half.views.n}, {here.count} processes: "
            f"{alone[0]:.2f} CPU s an iteration alone, {together[0]:.2f} together, of which "
            f"{sums:.3f} adding, {alone[0] / together[0]:.2f} x; "
            f"{alone[1]:.2f} s of wall time alone, {together[1]:.2f} together, "
            f"{alone[1] / together[1]:.2f} x"
        )
    leave_processes()


if __name__ == "__main__":
    main()
