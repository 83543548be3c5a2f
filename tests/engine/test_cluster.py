"""Runs over a Dask cluster: the same bytes, whoever does them and whoever dies on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import diffragan as dg
from conftest import cluster
from diffragan.engine.tasks import run_tasks
from diffragan.engine.workers import Workers
from diffragan.errors import DiffraganError
from diffragan.microscope.simulate import simulate
from diffragan.settings import Settings, load_settings
from engine_tasks import always_fatal, fatal_once, power, refused, slow_power
from quick_runs import QUICK
from stores_alike import differing

TESTS = Path(__file__).parents[1]
ATOMS = [cluster("ball", 5, atoms=40, radius_A=7.0)]


@dataclass
class ByHand:
    """A scheduler and two workers, as a user starts them."""

    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]
    file: Path

    @property
    def address(self) -> str:
        """tcp://..."""
        return str(json.loads(self.file.read_text("utf-8"))["address"])


def started(program: str, *words: str | Path) -> subprocess.Popen[bytes]:
    """A program of Dask, which finds this package and the tests' tasks."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
    return subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.{program}", *map(str, words), "--no-dashboard"],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def worker(file: Path) -> subprocess.Popen[bytes]:
    """One more worker of the scheduler that wrote a file."""
    return started("dask_worker", "--scheduler-file", file, "--no-nanny", "--nthreads", "1")


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByHand]:
    """One scheduler and two workers for the whole file."""
    file = tmp_path_factory.mktemp("dask") / "scheduler.json"
    scheduler = started(
        "dask_scheduler", "--scheduler-file", file, "--host", "127.0.0.1", "--port", "0"
    )
    both = ByHand(scheduler, [worker(file), worker(file)], file)
    until = time.monotonic() + 120
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.1)
    yield both
    for process in (*both.workers, scheduler):
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def settings() -> Settings:
    """Five small waves."""
    return load_settings(
        overrides=[
            *QUICK,
            "simulate.orientations=5",
            "phase.iterations=6",
            "phase.starts=1",
            "phase.force=true",
        ]
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Path:
    """Waves, pairs, phases and their numbers, made in this process."""
    folder = tmp_path_factory.mktemp("plain")
    whole_chain(folder, settings, Workers(1))
    return folder


def whole_chain(folder: Path, settings: Settings, workers: Workers) -> None:
    """Every command that spreads its items, one after the other."""
    simulate(ATOMS, folder / "waves.zarr", settings, workers=workers)
    dg.make_pairs(
        folder / "waves.zarr",
        folder / "pairs.zarr",
        truth=True,
        settings=settings,
        workers=workers,
    )
    results = dg.phase(
        folder / "pairs.zarr",
        folder / "phased.zarr",
        method="raar",
        settings=settings,
        device="cpu",
        workers=workers,
        warn=lambda sentence: None,
    )
    metrics = dict(dg.evaluate(results, workers=workers))
    numbers = {k: v for k, v in metrics.items() if k not in ("provenance", "seconds_per_image")}
    numbers["structures"] = {
        stem: {k: v for k, v in block.items() if k != "seconds_per_image"}
        for stem, block in metrics["structures"].items()
    }
    (folder / "numbers.json").write_text(json.dumps(numbers), "utf-8")


def test_a_cluster_gives_the_same_bytes(
    by_hand: ByHand, plain: Path, settings: Settings, tmp_path: Path
) -> None:
    """Of waves, pairs, phases (all but the seconds that they took) and numbers."""
    told: list[str] = []
    # The stores name their inputs, so these must lie at the same place.
    here = plain.with_name("moved")
    plain.replace(here)
    try:
        plain.mkdir()
        whole_chain(plain, settings, Workers(None, str(by_hand.file), told.append))
        assert differing(here / "waves.zarr", plain / "waves.zarr") == []
        assert differing(here / "pairs.zarr", plain / "pairs.zarr") == []
        assert differing(here / "phased.zarr", plain / "phased.zarr", without="seconds") == []
        assert (here / "numbers.json").read_bytes() == (plain / "numbers.json").read_bytes()
    finally:
        plain.replace(tmp_path / "by-cluster")
        here.replace(plain)
    assert str(by_hand.file) in told[0]


def test_both_workers_take_part(by_hand: ByHand) -> None:
    """And neither is this process."""
    done = list(run_tasks(slow_power, 2, range(12), Workers(scheduler=by_hand.address)))
    assert sorted(one.result[0] for one in done) == [k**2 for k in range(12)]
    seen = {one.result[1] for one in done}
    assert seen <= {process.pid for process in by_hand.workers}


def test_a_refusal_comes_through_the_cluster(by_hand: ByHand) -> None:
    """Words and kind, as if it had been raised here."""
    with pytest.raises(DiffraganError, match=r"item . will not do"):
        list(run_tasks(refused, "item", [1, 2], Workers(scheduler=by_hand.address)))


def test_workers_of_another_release_are_refused(
    by_hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or they would die of the first task, or give other bytes."""
    monkeypatch.setattr("diffragan.engine.cluster.__version__", "9.9")
    with pytest.raises(DiffraganError, match=r"The worker tcp://.* and this is 9\.9"):
        list(run_tasks(power, 1, [1], Workers(scheduler=by_hand.address)))


def test_a_worker_s_death_loses_nothing(by_hand: ByHand, tmp_path: Path) -> None:
    """The other one does its tasks, in order where that is wanted."""
    done = run_tasks(
        fatal_once, tmp_path, range(8), Workers(scheduler=by_hand.address), ordered=True
    )
    assert [one.result for one in done] == list(range(8))
    assert (tmp_path / "tried").exists()
    assert sum(process.poll() is None for process in by_hand.workers) == 1


def test_a_lost_scheduler_ends_in_a_sentence(
    by_hand: ByHand, settings: Settings, plain: Path, tmp_path: Path
) -> None:
    """What was finished is kept, and the same command goes on with it."""
    out = tmp_path / "waves.zarr"

    def stop(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
        if done == 2:
            by_hand.scheduler.kill()

    workers = Workers(scheduler=by_hand.address)
    with pytest.raises(DiffraganError, match=r"scheduler .* is gone; .* run the same command"):
        simulate(ATOMS, out, settings, workers=workers, progress=stop)
    with pytest.raises(DiffraganError, match="No Dask scheduler answers"):
        simulate(ATOMS, out, settings, workers=workers)
    begins: list[int] = []
    simulate(ATOMS, out, settings, progress=lambda _, done, *rest: begins.append(done))
    assert begins[0] >= 2
    assert differing(out, plain / "waves.zarr") == []


def test_a_task_that_imports_pytorch_has_one_thread() -> None:
    """Also where it is the first of its process to do so; for tasks that do without nobody does."""
    code = (
        "import cloudpickle, engine_tasks\n"
        "from diffragan.engine import cluster\n"
        "print(*cluster._call('a', cloudpickle.dumps((engine_tasks.threads, 0)), 1))\n"
    )
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    given = {name: value for name, value in os.environ.items() if name not in counts}
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=given | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "1", "1"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiffraganError, match="no scheduler file"):
        list(run_tasks(power, 1, [1], Workers(scheduler=str(tmp_path / "s.json"))))


def test_processes_of_this_machine(tmp_path: Path) -> None:
    """Two are started without a word of the user's script, survive a death, and end with the run;
    a task that kills every one of them is given up."""
    told: list[str] = []
    workers = Workers(2, tell=told.append)
    run = run_tasks(fatal_once, tmp_path, range(6), workers)
    assert sorted(one.result for one in run) == list(range(6))
    assert told[0].startswith("2 workers on this machine")


def test_a_task_that_kills_its_workers_is_given_up() -> None:
    with pytest.raises(DiffraganError, match="several workers died"):
        list(run_tasks(always_fatal, Path(), [1, 2], Workers(2)))


def test_the_chain_gave_something(plain: Path) -> None:
    """Or the comparison above would say little."""
    results = dg.open_pairs(plain / "pairs.zarr")
    assert results.n == 5
    numbers = json.loads((plain / "numbers.json").read_text("utf-8"))
    assert numbers["n"] == 5
    assert np.isfinite(numbers["frc_0p5_A"])
