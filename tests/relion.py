"""RELION for tests: the programs where they are installed, and stand-ins for them on the PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REQUIRED = "DIFFRAGAN_REQUIRE_RELION"  # set, a missing RELION is a failure


def need_relion() -> None:
    """RELION; without it the test is skipped, or fails where it is required."""
    if shutil.which("relion_refine") is not None:
        return
    words = "no RELION here, so nothing is proved against it"
    if os.environ.get(REQUIRED):
        pytest.fail(f"{words}, and {REQUIRED} is set; install relion")
    pytest.skip(words)


def relion(folder: Path, *words: str) -> str:
    """A program of RELION's run in a folder; what it says."""
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, **programs: str) -> None:
    """Programs of one's own, by their shell scripts, before all others on the PATH; where
    `relion_refine` is not among them, one that tells its version and nothing else."""
    folder.mkdir(exist_ok=True)
    scripts = {"relion_refine": 'echo "RELION version: 3.1.3"', **programs}
    for name, script in scripts.items():
        file = folder / name
        file.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
