"""Writes are whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from diffragan.errors import DiffraganError
from diffragan.files.atomic import replacing, save_tensors, write_atomically


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_leaves_the_old_file(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the disk is full while writing or while renaming."""
    path = tmp_path / "metrics.json"
    write_atomically(path, b"old")
    monkeypatch.setattr(where, full)
    with pytest.raises(DiffraganError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_an_interrupt_leaves_the_old_file(tmp_path: Path) -> None:
    """What was written until then never takes the name, and no draft stays behind."""
    path = tmp_path / "stack.mrcs"
    write_atomically(path, b"old")

    def interrupted() -> None:
        with replacing(path) as file:
            file.write(b"half of the ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_draft_of_a_killed_process_goes_with_the_next_write(tmp_path: Path) -> None:
    """That of a process which lives, and those of other files, stay."""
    path = tmp_path / "overview.mrc"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = path.with_name(f".overview.mrc.{ended.pid}.part")
    alive = path.with_name(f".overview.mrc.{os.getppid()}.part")
    other = path.with_name(f".map.mrc.{ended.pid}.part")
    for draft in (dead, alive, other):
        draft.write_bytes(b"half")
    write_atomically(path, b"new")
    assert sorted(tmp_path.iterdir()) == sorted([alive, other, path])


@pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("unexpected pos 64")])
def test_a_failed_state_leaves_the_old_one(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors too, whichever way torch reports a full disk."""

    def fail(value: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    path = tmp_path / "state.pt"
    save_tensors(path, {"map": torch.arange(3)})
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(DiffraganError, match=r"state\.pt can't be written"):
        save_tensors(path, {})
    assert torch.load(path, weights_only=True)["map"].tolist() == [0, 1, 2]
    assert list(tmp_path.iterdir()) == [path]
