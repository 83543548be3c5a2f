"""Tasks for tests of the engine, which workers import by this module's name."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from diffragan.errors import DiffraganError


def power(exponent: int, base: int) -> tuple[int, int]:
    """base ** exponent, and the process that found it."""
    return base**exponent, os.getpid()


def slow_power(exponent: int, base: int) -> tuple[int, int]:
    """As `power`, slow enough for every worker to be given some."""
    time.sleep(0.05)
    return power(exponent, base)


def fatal_once(folder: Path, number: int) -> int:
    """A worker's end the first time task 3 is tried."""
    mark = folder / "tried"
    if number == 3 and not mark.exists():
        mark.touch()
        os._exit(1)
    time.sleep(0.02)
    return number


def always_fatal(folder: Path, number: int) -> int:
    """A worker's end."""
    os._exit(1)


def refused(what: str, number: int) -> int:
    """No result at all."""
    raise DiffraganError(f"{what} {number} will not do.")


def threads(_: int, number: int) -> tuple[bool, int, int]:
    """Whether this process had PyTorch before the task, and the threads of both now."""
    early = "torch" in sys.modules
    import numba
    import torch

    return early, torch.get_num_threads(), numba.get_num_threads()


def slow(seconds: float, number: int) -> int:
    """Its number, after a while."""
    time.sleep(seconds)
    return number
