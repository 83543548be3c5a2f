"""The processes of a run: how several share it, and how a signal ends it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import torch
from torch import distributed, nn

from diffragan.engine.processes import Processes


def average_gradients(parameters: Iterable[nn.Parameter], processes: Processes) -> None:
    """Replace every gradient by its mean over the processes, in one message."""
    if processes.count == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    distributed.all_reduce(flat)
    flat /= processes.count
    parts = torch.split(flat, [g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))


def agree(flags: Sequence[bool], processes: Processes) -> list[bool]:
    """Each flag true for all processes if it is for one, so that they stop at the same step."""
    if processes.count == 1:
        return list(flags)
    values = torch.tensor([float(f) for f in flags])
    if distributed.get_backend() == "nccl":
        values = values.cuda()
    distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return [bool(v > 0) for v in values.tolist()]


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM add themselves to; a second one acts as usual."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {s: signal.getsignal(s) for s in wanted}

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        for s in wanted:
            signal.signal(s, before[s])

    try:
        for s in wanted:
            signal.signal(s, note)
        yield caught
    finally:
        for s in wanted:
            signal.signal(s, before[s])
