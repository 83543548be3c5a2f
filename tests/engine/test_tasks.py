"""Tasks in this process, and when a cluster is asked to help."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from diffragan.engine import cluster, tasks
from diffragan.engine.items import chosen_range, parse_range
from diffragan.engine.pace import Pace
from diffragan.engine.tasks import Done, run_tasks
from diffragan.engine.workers import HERE, Workers, one_thread
from diffragan.errors import DiffraganError
from engine_tasks import power, refused, slow


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of tasks that a cluster is asked to do, which nobody does."""
    numbers: list[int] = []

    def ask(
        function: Any, shared: Any, numbered: Sequence[tuple[int, Any]], *rest: Any, **words: Any
    ) -> Iterator[Done[Any]]:
        numbers.extend(number for number, _ in numbered)
        return iter(())

    monkeypatch.setattr(cluster, "run_on_cluster", ask)
    monkeypatch.setattr(tasks, "processes_of_machine", lambda: 4)
    return numbers


def test_a_short_run_stays_in_this_process(asked: list[int]) -> None:
    """Its tasks would be done before a cluster has started."""
    done = list(run_tasks(power, 3, [2, 3, 4], Workers()))
    assert [one.result for one in done] == [(b**3, os.getpid()) for b in (2, 3, 4)]
    assert not asked


def test_a_long_run_gets_help(asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as the first task has told how long it will take: 40 x 10 ms on four, against 0.1 s
    of start-up."""
    monkeypatch.setattr(tasks, "START_UP_S", 0.1)
    done = list(run_tasks(slow, 0.01, range(40), Workers()))
    assert [one.number for one in done] == [0]
    assert asked == list(range(1, 40))


@pytest.mark.parametrize(
    ("workers", "given"),
    [(HERE, 0), (Workers(2), 5), (Workers(scheduler="tcp://1.2.3.4:1"), 5)],
    ids=["one", "two", "scheduler"],
)
def test_who_is_named_does_the_work(asked: list[int], workers: Workers, given: int) -> None:
    """A number of processes, or a scheduler, is not weighed against the cost of its start."""
    done = list(run_tasks(power, 1, range(5), workers))
    assert len(asked) == given
    assert len(done) == 5 - given


def test_tasks_run_on_one_thread() -> None:
    """Inside, and outside as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_a_refusal_comes_through() -> None:
    with pytest.raises(DiffraganError, match="item 1 will not do"):
        list(run_tasks(refused, "item", [1, 2], HERE))


@pytest.mark.parametrize(
    ("text", "items"), [("2:5", [2, 3, 4]), (":2", [0, 1]), ("7:", [7, 8, 9]), ("8:99", [8, 9])]
)
def test_ranges_are_python_s(text: str, items: list[int]) -> None:
    assert chosen_range(10, parse_range(text)).tolist() == items


@pytest.mark.parametrize("text", ["5", "a:b", "-3:4", "1:2:3", "12:20", "4:4"])
def test_other_ranges_are_refused(text: str) -> None:
    with pytest.raises(DiffraganError, match="range"):
        chosen_range(10, parse_range(text))


def test_pace_tells_rate_and_workers() -> None:
    """From the items that this run has done, not those that it found."""
    told: list[tuple[int, str]] = []
    pace = Pace(lambda stage, done, total=None, word="", /: told.append((done, word)), "x", 100, 90)
    time.sleep(0.1)
    pace.add(2, 3, "(R 0.1)")
    assert told[0] == (90, "")
    done, word = told[1]
    assert done == 92
    rate = float(word.split()[0].removeprefix("("))
    assert 2 < rate < 20.1
    assert word.endswith("a second, 3 workers) (R 0.1)")
