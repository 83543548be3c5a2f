"""Files written whole or not at all."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from diffragan.errors import DiffraganError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the name `path` only when it is whole and on the disk.

    Whatever goes wrong before leaves what was there. What a killed process left of the same file
    goes away.

    Raises:
        DiffraganError: the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _remove_left_over(path)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DiffraganError(
            f"{path} can't be written ({error.strerror or error}); free some space or choose "
            "another --out."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def _remove_left_over(path: Path) -> None:
    """Remove the unfinished files of that name whose processes are dead."""
    import psutil

    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        process = left.name.split(".")[-2]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            left.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Put bytes under a name in one step; errors as `replacing`."""
    with replacing(path) as file:
        file.write(content)


def save_tensors(path: Path, value: Any) -> None:
    """What `torch.load(..., weights_only=True)` reads back; errors as `replacing`."""
    with replacing(path) as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:  # torch's word for a full disk
            raise OSError(str(error)) from None
