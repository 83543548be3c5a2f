"""The compiled loops: the same bits from the process that first needs them as from later ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import hashlib, sys
import numba, torch
from diffragan.fourier.interpolation import extract_points, insert_points
from diffragan.fourier.loops import PAD

threads, n = int(sys.argv[1]), 24
numba.set_num_threads(threads)
generator = torch.Generator().manual_seed(0)
padded = torch.randn((n, n, n // 2 + 1 + 2 * PAD, 2), generator=generator)
turns = torch.linalg.qr(torch.randn((8, 3, 3), generator=generator))[0].contiguous()
points = (torch.rand((300, 3), generator=generator) - 0.5) * 12
values = extract_points(torch.view_as_complex(padded), turns, points)
filled = torch.zeros((threads, *padded.shape[:-1]), dtype=torch.complex64)
insert_points(filled, values, turns, points)
for result in (values, filled):
    print(hashlib.sha256(result.numpy().tobytes()).hexdigest())
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_process_gives_the_bits_of_later_ones(tmp_path: Path, threads: int) -> None:
    """An interrupted run goes on in another process, so machine code that is compiled on the way
    and machine code that is loaded must add in one order."""
    environment = os.environ | {
        "NUMBA_CACHE_DIR": str(tmp_path),
        "NUMBA_NUM_THREADS": "2",
        "PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder),
    }
    command = [sys.executable, "-c", _PROGRAM, str(threads)]
    printed = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert printed[0] == printed[1]
    assert len(set(printed[0].split())) == 2
    assert list(tmp_path.rglob("*.nbc"))
