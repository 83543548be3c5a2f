"""What the public calls take in place of one another: a path, its text, or several of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

Source = Path | str | Sequence[Path | str]


def as_paths(source: Source) -> list[Path]:
    """One or several paths as a list of them."""
    return [Path(path) for path in as_words(source)]


def as_words(source: Source) -> list[str]:
    """The same as text: not every source is a path, a PDB ID for one."""
    return [str(word) for word in ([source] if isinstance(source, Path | str) else source)]
