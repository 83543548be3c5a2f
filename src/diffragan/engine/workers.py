"""Who does the work: this process, processes of this machine, or a cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# What a process takes with its libraries and a batch, GiB; one is not started per core where
# memory is short.
WORKER_GIB = 2.0


def tell_nobody(sentence: str) -> None:
    """Where nobody wants to know about the cluster."""


@dataclass(frozen=True)
class Workers:
    """How the tasks of a run are spread.

    count: processes of this machine, 1 for this process alone; None for as many as it has cores
        and memory for, started only where the run is long enough to gain by them.
    scheduler: address of a running Dask scheduler (tcp://host:8786), or its scheduler file; its
        workers do the work instead.
    tell: told in a sentence what is started, and where its dashboard is.
    """

    count: int | None = None
    scheduler: str | None = None
    tell: Callable[[str], None] = tell_nobody


HERE = Workers(1)


def as_workers(workers: Workers | int | None) -> Workers:
    """A number of processes, or None for as many as pay, as `Workers`."""
    return workers if isinstance(workers, Workers) else Workers(workers)


def processes_of_machine() -> int:
    """As many processes as this machine has cores and free memory for, at least one."""
    import psutil

    memory_gib = psutil.virtual_memory().available / 2**30
    return max(1, min(usable_cores(), int(memory_gib / WORKER_GIB)))


def usable_cores() -> int:
    """Cores this process may use; macOS does not tell its share."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch and Numba on one thread: sums then have one order, and workers do not fight over
    cores."""
    import torch

    before = torch.get_num_threads()
    numba = sys.modules.get("numba")
    numba_before = numba.get_num_threads() if numba else 0
    if numba:  # first: its start sets the number that PyTorch sees
        numba.set_num_threads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if numba:
            numba.set_num_threads(numba_before)
