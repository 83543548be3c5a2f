"""Tasks over a Dask cluster: one that is running, or one of this machine's processes."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from diffragan import __version__
from diffragan.engine.tasks import Done
from diffragan.engine.workers import Workers, one_thread, processes_of_machine
from diffragan.errors import DiffraganError

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Result = TypeVar("Result")

# Tasks a worker is given ahead, so that it never waits for the next.
_AHEAD = 3
_LOOK_S = 5.0  # between looks at a cluster that finishes nothing
_START_S = 120.0  # for workers of this machine to appear
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)


def run_on_cluster(
    function: Callable[[Shared, Task], Result],
    shared: Shared,
    numbered: Sequence[tuple[int, Task]],
    workers: Workers,
    *,
    ordered: bool,
) -> Iterator[Done[Result]]:
    """As `run_tasks`, of tasks with their numbers.

    Raises:
        DiffraganError: no scheduler, or one that is lost on the way; workers that keep dying.
    """
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        if workers.scheduler is None:
            count = min(workers.count or processes_of_machine(), len(numbered))
            address, alive = stack.enter_context(_local_cluster(count, workers.tell))
            lost = "The processes that did the work are gone"
        else:
            address, alive = workers.scheduler, _unknown
            lost = f"The scheduler {address} is gone"
        client = stack.enter_context(_connected(address, workers))
        done = _results(client, function, shared, numbered, alive)
        try:
            yield from _in_order(done, [number for number, _ in numbered]) if ordered else done
        except _lost_errors() as error:
            raise _as_sentence(error, lost) from None


def _results(
    client: Any,
    function: Callable[[Shared, Task], Result],
    shared: Shared,
    numbered: Sequence[tuple[int, Task]],
    alive: Callable[[], bool],
) -> Iterator[Done[Result]]:
    """Results as tasks end; a few tasks a worker are under way, so that neither they nor results
    pile up. Waits for workers as long as they are `alive`."""
    import cloudpickle
    from distributed import wait

    packed = cloudpickle.dumps((function, shared))
    digest = hashlib.sha256(packed).hexdigest()
    # Of this call alone: a scheduler gives what it knows by a name, and numbers count from what a
    # run finds to do.
    name = f"diffragan-{uuid.uuid4().hex[:12]}"
    left = iter(numbered)
    flying: dict[Any, int] = {}
    while True:
        workers = _count(client)
        if not alive():
            raise CancelledError
        while len(flying) < _AHEAD * workers and (entry := next(left, None)) is not None:
            number, task = entry
            key = f"{name}-{number}"
            flying[client.submit(_call, digest, packed, task, key=key)] = number
        if not flying:
            return
        with suppress(TimeoutError), client.as_current():
            wait(list(flying), timeout=_LOOK_S, return_when="FIRST_COMPLETED")
        for future in [future for future in flying if future.done()]:
            number = flying.pop(future)
            yield Done(number, future.result(), workers)


def _unknown() -> bool:
    """Whether workers may still come to a cluster that is not ours."""
    return True


def _count(client: Any) -> int:
    """Workers of the cluster, at least one: the tasks for it wait until it comes."""
    from distributed.comm.core import CommClosedError

    try:
        return max(len(client.nthreads()), 1)
    except OSError as error:
        raise CommClosedError(str(error)) from None


def _call(digest: str, packed: bytes, task: Any) -> Any:
    """In a worker: a task of a function with what it shares with others."""
    _keep_freed_memory()
    function, shared = _unpacked(digest, _Packed(packed))
    if not {"torch", "numba"} & sys.modules.keys():
        # A task that does without them is not kept waiting for their import; one that has them
        # imported on its way finds them on one thread.
        os.environ.update(_ONE_THREAD)
        return function(shared, task)
    with one_thread():
        return function(shared, task)


@lru_cache(maxsize=1)
def _keep_freed_memory() -> None:
    """Have the C library keep what is freed for what is asked for next, up to blocks of 32 MiB.

    Dask starts workers so that all goes back to the system at once (MALLOC_TRIM_THRESHOLD_), and
    then every temporary array is paid for again, page by page: waves took twice the CPU time.
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
    with suppress(AttributeError, OSError):  # glibc alone has it
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**25)
        libc.mallopt(trim_threshold, 2**28)


class _Packed:
    """Bytes that count as equal, as their digest beside them tells them apart."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Packed)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=2)
def _unpacked(digest: str, packed: _Packed) -> Any:
    import pickle

    return pickle.loads(packed.content)


def _in_order(done: Iterator[Done[Result]], numbers: Sequence[int]) -> Iterator[Done[Result]]:
    """The same in the order of their numbers."""
    early: dict[int, Done[Result]] = {}
    for number in numbers:
        while number not in early:
            one = next(done)
            early[one.number] = one
        yield early.pop(number)


@contextmanager
def _connected(address: str, workers: Workers) -> Iterator[Any]:
    """A client of a scheduler."""
    from distributed import Client

    words: dict[str, Any] = {"address": address}
    if not address.startswith(("tcp://", "tls://", "ws://", "wss://")):
        if not Path(address).is_file():
            raise DiffraganError(
                f"There is no scheduler file {address}; give one that `dask scheduler "
                "--scheduler-file` wrote, or an address, tcp://host:8786."
            )
        words = {"scheduler_file": address}
    try:
        client = Client(**words, timeout=10, set_as_default=False)
    except (OSError, TimeoutError, ValueError):
        raise DiffraganError(
            f"No Dask scheduler answers at {address}; start one (`dask scheduler`), or leave out "
            "--scheduler."
        ) from None
    try:
        if workers.scheduler is not None:
            _check_releases(client)
            count = len(client.nthreads())
            waits = "" if count else ", and starts when workers join it"
            workers.tell(
                f"{_counted(count)} at {address}{_dashboard(client.dashboard_link)}{waits}"
            )
        yield client
    finally:
        with suppress(Exception):  # a lost scheduler can't be told goodbye
            client.close(timeout=2)


def _check_releases(client: Any) -> None:
    """Refuses workers without this release: they would end when they are sent a task, or give
    other bytes."""
    for address, found in client.run(version, "diffragan", on_error="return").items():
        if found != __version__:
            what = f"diffragan {found}" if isinstance(found, str) else "no diffragan"
            raise DiffraganError(
                f"The worker {address} has {what} and this is {__version__}; install the same "
                "release wherever workers run."
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask's own words about workers that come and go are not for users."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _counted(count: int) -> str:
    return f"{count or 'no'} worker{'' if count == 1 else 's'}"


def _dashboard(link: str) -> str:
    """Where the cluster's dashboard is, in words; it needs bokeh."""
    if importlib.util.find_spec("bokeh") is None:
        return ""
    return f", dashboard at {link}"


@contextmanager
def _local_cluster(
    count: int, tell: Callable[[str], None]
) -> Iterator[tuple[str, Callable[[], bool]]]:
    """A scheduler in this process and workers beside it; its address, and whether any is left.

    The workers are programs of their own, so that a script needs no `if __name__ == "__main__"`;
    they end when the scheduler does, however it goes.
    """
    from distributed import LocalCluster

    folder = tempfile.mkdtemp(prefix="diffragan-")
    environment = os.environ | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    started: list[subprocess.Popen[bytes]] = []
    log = Path(folder, "workers.log")
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        cluster = stack.enter_context(
            LocalCluster(
                n_workers=0,
                processes=False,
                dashboard_address="127.0.0.1:0",
                protocol="tcp://",
                host="127.0.0.1",
                silence_logs=logging.CRITICAL,
            )
        )
        stack.callback(_end, started)
        address = str(cluster.scheduler_address)
        with log.open("wb") as file:
            for number in range(count):
                words = [sys.executable, "-m", "distributed.cli.dask_worker", address]
                words += ["--nthreads", "1", "--memory-limit", "0", "--no-dashboard"]
                words += ["--name", str(number), "--death-timeout", "300"]
                words += ["--local-directory", folder]
                # In a session of their own, an interrupt from the keyboard is not theirs.
                worker = subprocess.Popen(
                    words, env=environment, stdout=file, stderr=file, start_new_session=True
                )
                started.append(worker)
        until = time.monotonic() + _START_S
        while not cluster.scheduler.workers:
            if time.monotonic() > until:
                last = log.read_text("utf-8", "replace").strip().splitlines()[-1:]
                raise DiffraganError(
                    f"The {count} processes that should do the work did not start "
                    f"({' '.join(last) or 'they say nothing'}); use --workers 1."
                )
            time.sleep(0.05)
        tell(f"{_counted(count)} on this machine{_dashboard(cluster.dashboard_link)}")
        yield address, lambda: any(process.poll() is None for process in started)


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """End workers and the nannies that watch them."""
    import psutil

    for process in started:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.wait()


def _lost_errors() -> tuple[type[BaseException], ...]:
    from distributed.client import FutureCancelledError
    from distributed.comm.core import CommClosedError
    from distributed.scheduler import KilledWorker

    return (CancelledError, FutureCancelledError, CommClosedError, KilledWorker)


def _as_sentence(error: BaseException, lost: str) -> DiffraganError:
    from distributed.scheduler import KilledWorker

    if isinstance(error, KilledWorker):
        return DiffraganError(
            "A task was given up after several workers died with it, perhaps for want of memory; "
            "give the workers more, or a smaller batch, and run the same command again."
        )
    return DiffraganError(
        f"{lost}; what was finished is kept: run the same command again, and it goes on there."
    )
