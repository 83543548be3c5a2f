"""A reconstruction by two processes, as torchrun starts them, is that of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diffragan.engine.processes import Processes, apart, gathered, joined, summed
from diffragan.files.mrc import read_map
from quick_runs import SET, run

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("n", "count"), [(7, 2), (64, 3), (1, 4), (0, 2)])
def test_shares_are_all_of_it_and_even(n: int, count: int) -> None:
    shares = [range(n)[Processes(rank, count).share(n)] for rank in range(count)]
    assert [k for share in shares for k in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_nothing_is_sent() -> None:
    """The very tensors come back."""
    part = torch.ones(3)
    with apart():
        assert joined() == Processes()
    assert summed(part) is part
    assert gathered(part) is part


def by_two(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Python in two processes of one thread, as torchrun starts them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", *map(str, words)]
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(ROOT / "src")])
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONPATH": path},
    )


# What the processes find together, beside what each finds by itself.
TOGETHER = """
import torch
from diffragan.engine.processes import apart, joined, leave_processes, start_processes
from diffragan.fourier.volumes import volume_spectrum
from diffragan.reconstruction import many_views
from diffragan.reconstruction.likelihood.patterns import pattern_target
from diffragan.reconstruction.maps.free_set import free_correlation
from diffragan.reconstruction.orientations.refine import refine_orientations
from diffragan.settings import ManyViewsSettings
from synthetic_views import make_views, mass_kda, molecule

start_processes(torch.device("cpu"))
assert joined().count == 2
atoms = molecule(1)
# 75 in a half: more than a block, and no even number.
views = make_views(atoms, 150, edge_A=2.7, dose=3e4)


def found():
    half = many_views.start(views, ManyViewsSettings(), mass_kda(atoms), 0).halves[0]
    spectrum = volume_spectrum(half.map)
    refined = refine_orientations(spectrum, half.views, resolution_A=3.0, max_step_deg=2.0)
    half.weigh_views()
    misfit, gradient = pattern_target(half.views).evaluate(half.image.spectrum)
    return {
        "image map": half.image.volume,
        "projection": half.project(half.x, 0.5),
        "free": free_correlation(half.map, half.project).nan_to_num(),
        "R": torch.tensor(half.r_factor),
        "rotations": refined.rotations,
        "shifts": refined.shifts_A,
        "misfit": torch.tensor(misfit),
        "gradient": gradient,
    }


together = found()
with apart():
    alone = found()
for name, value in together.items():
    error = (value - alone[name]).norm() / alone[name].norm()
    assert error < 1e-4, (name, float(error))
leave_processes()
print("the same")
"""


def test_what_two_find_together_is_what_one_finds(tmp_path: Path) -> None:
    """To rounding, since the parts are added in another order: the images' map, the data's
    projection, free correlation, R, refined orientations, the likelihood and its slope."""
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    done = by_two(script)
    assert done.stdout.count("the same") == 2, done.stderr


def test_two_processes_run_the_command(ball_views: Path, tmp_path: Path) -> None:
    """One of the two speaks, and what lies in the folder is what one process leaves."""
    few = ["--set", "many_views.iterations=3", "--set", "many_views.error_reduction_iterations=2"]
    few += ["--set", "many_views.resolution_steps_A=[2.0]"]
    words: list[str | Path] = ["reconstruct", ball_views, "--views", "30", *SET, *few]
    code, text = run(*words, "--out", tmp_path / "one")
    assert code in (0, 3), text
    done = by_two("-m", "diffragan", *words, "--out", tmp_path / "two")
    assert done.stdout.count("Hand:") == 1, done.stderr
    one, two = (read_map(tmp_path / name / "map.mrc")[0] for name in ("one", "two"))
    assert np.linalg.norm(two - one) < 1e-3 * np.linalg.norm(one)
    names = [{p.name for p in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert names[0] == names[1]
