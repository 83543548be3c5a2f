"""How a long call tells how far it is, and what is doubtful: one callable each, everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

# Told a sentence that the caller should read.
Warn = Callable[[str], None]


class Progress(Protocol):
    """Told the stage, how much of it is done, of how much (None where nobody knows), and a word on
    how it goes."""

    def __call__(
        self, stage: str, done: int, total: int | None = None, word: str = "", /
    ) -> None: ...


def no_progress(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
    """Tells nobody."""
