"""Small packages that offer entry points, put on the path as an installer would."""

from __future__ import annotations

from pathlib import Path


def install(folder: Path, package: str, code: str, entries: str) -> None:
    """A package as an installer leaves it: a module and its metadata, on the path."""
    folder.mkdir(exist_ok=True)
    (folder / f"{package}.py").write_text(code)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entries)
