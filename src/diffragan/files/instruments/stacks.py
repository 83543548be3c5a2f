"""Frames read one by one, wherever they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class FrameStack:
    """Frames (n, y, x) that a function reads by their number; asked for in any order.

    Args:
        read: from increasing frame numbers (k,) to frames (k, y, x).
        shape: (n, y, x).
    """

    def __init__(
        self, read: Callable[[NDArray[np.int64]], NDArray[Any]], shape: tuple[int, int, int]
    ) -> None:
        self._read, self.shape = read, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, items: Any) -> NDArray[Any]:
        chosen = np.arange(len(self))[items]
        ordered, back = np.unique(np.atleast_1d(chosen), return_inverse=True)
        frames = np.asarray(self._read(ordered))[back]
        result: NDArray[Any] = frames if np.ndim(chosen) else frames[0]
        return result


def frames_of(array: Any) -> FrameStack:
    """An array-like (..., y, x), lazy or not, as frames; scan positions row by row."""
    *scan, y, x = (int(side) for side in array.shape)
    n = int(np.prod(scan)) if scan else 1

    def read(numbers: NDArray[np.int64]) -> NDArray[Any]:
        frames = np.empty((len(numbers), y, x), dtype=array.dtype)
        for k, number in enumerate(numbers):
            place = np.unravel_index(int(number), scan) if scan else ()
            frames[k] = np.asarray(array[tuple(int(i) for i in place)])
        return frames

    return FrameStack(read, (n, y, x))


def first_frames(stack: Any, n: int) -> FrameStack:
    """The first n frames (n, y, x) of a stack, lazy as it is."""
    return FrameStack(lambda numbers: np.asarray(stack[numbers]), (n, *stack.shape[1:]))


def joined_frames(stacks: Sequence[Any]) -> FrameStack:
    """Several stacks (n, y, x) of one size of frames, one after the other."""
    starts = np.cumsum([0, *(len(stack) for stack in stacks)])

    def read(numbers: NDArray[np.int64]) -> NDArray[Any]:
        of = np.searchsorted(starts, numbers, side="right") - 1
        parts = [
            np.asarray(stacks[k][numbers[of == k] - starts[k]]) for k in np.unique(of).tolist()
        ]
        return np.concatenate(parts)

    return FrameStack(read, (int(starts[-1]), *stacks[0].shape[1:]))
