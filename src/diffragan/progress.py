"""How a long call tells how far it is: one callable, the same everywhere."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told the stage, how much of it is done, of how much (None where nobody knows), and a word on
    how it goes."""

    def __call__(
        self, stage: str, done: int, total: int | None = None, word: str = "", /
    ) -> None: ...


def no_progress(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
    """Tells nobody."""
