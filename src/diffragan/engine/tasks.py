"""Tasks of one function, done here or by a cluster, with the same results."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from diffragan.engine.workers import Workers, one_thread, processes_of_machine

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Result = TypeVar("Result")

# What the start of a local cluster costs, seconds, with its workers' imports.
START_UP_S = 10.0


@dataclass(frozen=True)
class Done(Generic[Result]):
    """What a task gave, which of the tasks it was, and how many workers there are."""

    number: int
    result: Result
    workers: int = 1


def run_tasks(
    function: Callable[[Shared, Task], Result],
    shared: Shared,
    tasks: Sequence[Task],
    workers: Workers,
    *,
    ordered: bool = False,
) -> Generator[Done[Result], None, None]:
    """`function(shared, task)` of every task, as they end, or in order.

    A function of a module, which gives the same for the same arguments, on one thread. Its results
    do not depend on the workers; a task whose worker dies is done again by another. With a cluster
    everything is pickled: what is opened from a file should pickle as its path.

    Args:
        shared: what all tasks are given; a worker unpickles it once.

    Raises:
        DiffraganError: whatever the function raises of its kind, or the cluster's end.
    """
    left: Iterator[tuple[int, Task]] = iter(enumerate(tasks))
    count = len(tasks)
    if workers.scheduler is None:
        processes = min(workers.count or processes_of_machine(), count)
        for number, task in left:
            alone = processes <= 1
            if workers.count is not None and not alone:
                left = iter(list(enumerate(tasks))[number:])
                break
            began = time.perf_counter()
            with one_thread():
                result = function(shared, task)
            yield Done(number, result)
            saved = (count - number - 1) * (time.perf_counter() - began) * (1 - 1 / processes)
            if not alone and saved > START_UP_S:
                break
    rest = list(left)
    if not rest:
        return
    from diffragan.engine.cluster import run_on_cluster

    yield from run_on_cluster(function, shared, rest, workers, ordered=ordered)
