"""Compiled loops: the same machine code in every process.

Numba optimises the parallel part of a loop once for the process that compiles it and once more
when it links what the disk keeps. Sums may be reordered, so a process that compiles and one that
loads differ in the last bits, and a run interrupted in the first would not go on to the same ones.
So a loop is compiled by a process of its own, and every other process loads what that left. A
module that holds loops does without torch, whose import takes as long as the compiling.
"""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import subprocess
import sys
from typing import Any

import numba

log = logging.getLogger(__name__)

parallel_loop: Any = numba.njit(
    parallel=True, fastmath=True, nogil=True, cache=True, error_model="numpy"
)


def run_loop(loop: Any, *arguments: Any) -> None:
    """Call a `parallel_loop` at the top of its module with arrays, by the machine code that the
    disk keeps."""
    types = tuple(numba.typeof(a) for a in arguments)  # type: ignore[no-untyped-call]
    if types not in loop.overloads and loop._cache.load_overload(types, loop.targetctx) is None:
        _compile_elsewhere(loop.__module__, loop.__name__, types)
    loop(*arguments)


def _compile_elsewhere(module: str, name: str, types: tuple[Any, ...]) -> None:
    """Have another process compile a loop for these types of arguments, and keep it on the disk."""
    program = f"from {__name__} import compile_loop; compile_loop()"
    path = os.pathsep.join(folder for folder in sys.path if folder)
    try:
        subprocess.run(
            [sys.executable, "-c", program],
            input=pickle.dumps((module, name, types)),
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.warning(
            "The loops had to be compiled in this process (%s); its results may differ from those "
            "of later ones in the last digits.",
            error,
        )


def compile_loop() -> None:
    """Compile the loop, for the types, that standard input names (`_compile_elsewhere`)."""
    module, name, types = pickle.load(sys.stdin.buffer)
    getattr(importlib.import_module(module), name).compile(types)
