"""How fast a run of many items goes."""

from __future__ import annotations

import time

from diffragan.progress import Progress


class Pace:
    """Tells `progress` how many items are done, at what rate, by how many workers."""

    def __init__(self, progress: Progress, stage: str, total: int, done: int = 0) -> None:
        self._progress, self._stage, self._total, self._done = progress, stage, total, done
        self._began, self._first = time.perf_counter(), done
        progress(stage, done, total)

    def add(self, items: int, workers: int = 1, word: str = "") -> None:
        """Some more items are done, by a run of so many workers."""
        self._done += items
        seconds = time.perf_counter() - self._began
        rate = f"{(self._done - self._first) / seconds:.3g} a second"
        by = f", {workers} workers" if workers > 1 else ""
        self._progress(self._stage, self._done, self._total, f"({rate}{by}) {word}".rstrip())
