"""Stores compared byte by byte."""

from __future__ import annotations

from pathlib import Path


def files_of(folder: Path, *, without: str = "") -> dict[str, bytes]:
    """Every file of a folder by its place there; not those below `without`."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not (without and path.relative_to(folder).parts[0] == without)
    }


def differing(one: Path, two: Path, *, without: str = "") -> list[str]:
    """Files that only one of two folders holds, or that differ."""
    a, b = files_of(one, without=without), files_of(two, without=without)
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
