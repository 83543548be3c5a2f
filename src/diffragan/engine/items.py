"""A range of a run's items, for runs that are spread over several stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError


def chosen_range(n: int, items: slice | None) -> NDArray[np.int64]:
    """The items of a range of `n`, all where there is none.

    Raises:
        DiffraganError: it holds none of them.
    """
    chosen = np.arange(n)[slice(None) if items is None else items]
    if not len(chosen):
        assert items is not None
        raise DiffraganError(
            f"The range {range_text(items)} holds none of the {n} items; they are counted from 0."
        )
    return chosen


def choose_items(n: int, limit: int | None, items: slice | None = None) -> NDArray[np.int64]:
    """All items or those of a range, or `limit` of them spread evenly.

    Raises:
        DiffraganError: the range holds none.
    """
    chosen = chosen_range(n, items)
    if limit is None or limit >= len(chosen):
        return chosen
    return chosen[(np.arange(limit) * len(chosen)) // limit]


def parse_range(text: str) -> slice:
    """`a:b`, from a to before b; `a:`, `:b`.

    Raises:
        DiffraganError: other text.
    """
    first, colon, last = text.partition(":")
    if not colon or not all(part == "" or part.isdecimal() for part in (first, last)):
        raise DiffraganError(f"The range '{text}' is not of the form a:b, such as 0:100.")
    return slice(int(first) if first else 0, int(last) if last else None)


def range_text(items: slice) -> str:
    """As it is typed."""
    return f"{items.start or 0}:{'' if items.stop is None else items.stop}"


def range_in_header(chosen: NDArray[np.int64]) -> dict[str, Any]:
    """How a store's header tells that its items are not a run's first; nothing where they are."""
    return {"first_item": int(chosen[0])} if chosen[0] else {}


def first_item(header: Mapping[str, Any]) -> int:
    """Which of its run's items a store's first is."""
    return int(header.get("first_item", 0))
