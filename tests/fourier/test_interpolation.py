"""The compiled loops: the same bits from the process that first needs them as from later ones."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import hashlib, sys
import numba, torch
from diffragan.fourier.interpolation import extract_points, insert_points
from diffragan.fourier.loops import PAD

n = 24
generator = torch.Generator().manual_seed(0)
padded = torch.randn((n, n, n // 2 + 1 + 2 * PAD, 2), generator=generator)
turns = torch.linalg.qr(torch.randn((8, 3, 3), generator=generator))[0].contiguous()
points = (torch.rand((300, 3), generator=generator) - 0.5) * 12
for threads in map(int, sys.argv[1:]):
    numba.set_num_threads(threads)
    values = extract_points(torch.view_as_complex(padded), turns, points)
    filled = torch.zeros((threads, *padded.shape[:-1]), dtype=torch.complex64)
    insert_points(filled, values, turns, points)
    print(*(hashlib.sha256(x.numpy().tobytes()).hexdigest() for x in (values, filled)))
"""
THREADS = (1, 2)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """Digests of what two processes found, a line for each number of threads: the first one had
    the loops compiled, the second one loads them."""
    kept = tmp_path_factory.mktemp("loops")
    environment = os.environ | {
        "NUMBA_CACHE_DIR": str(kept),
        "NUMBA_NUM_THREADS": "2",
        "PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder),
    }
    command = [sys.executable, "-c", _PROGRAM, *map(str, THREADS)]
    first, later = (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert list(kept.rglob("*.nbc"))
    return [first.splitlines(), later.splitlines()]


@pytest.mark.parametrize("threads", THREADS)
def test_the_first_process_gives_the_bits_of_later_ones(
    printed: list[list[str]], threads: int
) -> None:
    """An interrupted run goes on in another process, so machine code that is compiled on the way
    and machine code that is loaded must add in one order."""
    first, later = (lines[THREADS.index(threads)] for lines in printed)
    assert first == later
    assert len(set(first.split())) == 2
