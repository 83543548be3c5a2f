"""Processes that torchrun started for one run: who they are, and what they add up.

All of them run the same program. What is worth it is split between them, each by its rank, and the
parts are added; all else every process does for itself, and comes to the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Processes:
    """This process among those of a run."""

    rank: int = 0
    count: int = 1

    def share(self, n: int) -> slice:
        """Those of n that are this process's: a run as long as those of the others, or one more."""
        return slice(n * self.rank // self.count, n * (self.rank + 1) // self.count)


_apart: ContextVar[bool] = ContextVar("apart", default=False)


def is_first() -> bool:
    """Whether this process is the one that speaks and writes; also before it has joined."""
    return os.environ.get("RANK", "0") == "0"


def start_processes(device: torch.device) -> Processes:
    """Join the others if `torchrun` started this process; gloo on CPUs, nccl on GPUs."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes()
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not distributed.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        # The others wait while the first validates, so the default of minutes is too short.
        distributed.init_process_group(backend, timeout=timedelta(hours=2))
    return Processes(distributed.get_rank(), distributed.get_world_size())


def leave_processes() -> None:
    """Part from the others, where there are any."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def joined() -> Processes:
    """Who shares the present work: those that have joined, or this process alone."""
    if _apart.get() or not distributed.is_initialized():
        return Processes()
    return Processes(distributed.get_rank(), distributed.get_world_size())


def summed(part: Tensor) -> Tensor:
    """The sum of all processes' parts, the same bits for each; the part itself where there is one
    process."""
    if joined().count > 1:
        part = part.contiguous()
        distributed.all_reduce(torch.view_as_real(part) if part.is_complex() else part)
    return part


def gathered(rows: Tensor) -> Tensor:
    """(n, ...) of which every process has filled its share: all rows, for each."""
    share = joined().share(len(rows))
    if share == slice(0, len(rows)):
        return rows
    own = torch.zeros_like(rows)
    own[share] = rows[share]
    return summed(own)


def wait_for_all() -> None:
    """Go on when every process has come this far."""
    if joined().count > 1:
        distributed.barrier()


@contextmanager
def apart() -> Iterator[None]:
    """What is done by this process alone, while the others wait or do the same."""
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


@contextmanager
def first_alone() -> Iterator[bool]:
    """Whether this is the first process, which does what follows alone; then all go on."""
    with apart():
        yield is_first()
    wait_for_all()
