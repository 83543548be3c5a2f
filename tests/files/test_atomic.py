"""Writes are whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically


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
