"""Command lines run in this process, and settings that make a reconstruction quick."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from diffragan import cli
from diffragan.errors import DiffraganError

QUICK = [
    "simulate.sampling_A=0.25",
    "simulate.slice_A=10",
    "simulate.box_A=30",
    "simulate.depth_A=24",
    "simulate.keep_q_per_A=1.0",
    "image.snr=8",
    "image.aperture_mrad=6.5",
    "many_views.mask_margin_A=1.5",
    "many_views.iterations=60",
    "many_views.error_reduction_iterations=6",
]
# The same as words of a command line, for many views and for pairs one by one. Runs that are
# compared bit for bit stay on the CPU, where sums have one order.
SET = [word for pair in QUICK for word in ("--set", pair)] + ["--device", "cpu"]
PAIR_SET = [
    *(word for pair in QUICK if "many_views." not in pair for word in ("--set", pair)),
    *("--device", "cpu"),
]


def run(*words: str | Path) -> tuple[int, str]:
    """Exit code and output of a command line; refusals count as the program would count them."""
    result = CliRunner().invoke(cli.app, [str(w) for w in words])
    if isinstance(result.exception, DiffraganError):
        return 2, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output
