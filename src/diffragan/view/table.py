"""Columns of many items, sorted and filtered where they lie, and handed out by the page.

A filter is words: `r_factor < 0.2 verdict = solved` keeps what fulfils every term, and a word alone
keeps rows that have it in one of their names.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError

Array = NDArray[Any]

_ORDERS_KEPT = 8
_BINS = 40

_TERM = re.compile(r'([A-Za-z_]\w*)\s*(<=|>=|!=|=|<|>)\s*("[^"]*"|[^\s"<>=!]+)')
_COMPARE: dict[str, Callable[[Array, Any], Array]] = {
    "<": np.less,
    ">": np.greater,
    "<=": np.less_equal,
    ">=": np.greater_equal,
    "=": np.equal,
    "!=": np.not_equal,
}


@dataclass(frozen=True)
class Column:
    """One value of every item.

    name: in filters, in small letters. label: over the column. values: (n,), numbers, or indices
    into `names`. names: what the indices stand for, empty for numbers. form: of a number as text.
    unit: of the numbers. about: one sentence. bar: whether the numbers lie from 0 to 1, to be
    drawn as bars.
    """

    name: str
    label: str
    values: Array
    names: tuple[str, ...] = ()
    form: str = "g"
    unit: str = ""
    about: str = ""
    bar: bool = False

    def text(self, rows: Array) -> list[str]:
        """Values of some rows as the table shows them; a dash for what is not known."""
        values = self.values[rows]
        if self.names:
            return [self.names[int(v)] if 0 <= v < len(self.names) else "–" for v in values]
        return [format(v, self.form) if np.isfinite(v) else "–" for v in values.tolist()]


def named_column(
    name: str, label: str, values: Sequence[str] | Array, about: str = "", first: Sequence[str] = ()
) -> Column:
    """A column of words, told by their indices.

    Args:
        first: names that are listed before others, in their order.
    """
    known = sorted(set(values))
    names = [*(word for word in first if word in known), *(w for w in known if w not in first)]
    place = {word: k for k, word in enumerate(names)}
    indices = np.array([place[word] for word in values], dtype=np.int64)
    return Column(name, label, indices, tuple(names), about=about)


class Table:
    """Columns of n items.

    Orders that were asked for lately are kept, so that scrolling costs a slice of an array.
    """

    def __init__(self, n: int, columns: Sequence[Column]) -> None:
        self.n = n
        self.columns: dict[str, Column] = {column.name: column for column in columns}
        self._orders: OrderedDict[tuple[str, str], Array] = OrderedDict()
        self._lock = Lock()

    def add(self, column: Column) -> None:
        """A column that was read later than the others."""
        with self._lock:
            self.columns = {**self.columns, column.name: column}
            self._orders.clear()

    def order(self, sort: str = "", filter_: str = "") -> Array:
        """(k,) rows that pass a filter, in an order.

        Args:
            sort: a column's name, with "-" before it from the largest; "" as they are. What has no
                value comes last either way.

        Raises:
            DiffraganError: a column that is not there, or a filter that can't be read.
        """
        key = (sort, " ".join(filter_.split()))
        with self._lock:
            if key in self._orders:
                self._orders.move_to_end(key)
                return self._orders[key]
        rows = np.flatnonzero(self.passing(key[1]))
        if sort:
            rows = rows[self._sorted(self._column(sort.removeprefix("-")), rows, sort[0] == "-")]
        with self._lock:
            self._orders[key] = rows
            while len(self._orders) > _ORDERS_KEPT:
                self._orders.popitem(last=False)
        return rows

    def page(self, order: Array, offset: int, limit: int) -> list[list[Any]]:
        """Rows offset to offset + limit of an order: their number, then a text for each column."""
        rows = order[max(0, offset) : max(0, offset) + limit]
        texts = [column.text(rows) for column in self.columns.values()]
        return [[int(row), *cells] for row, *cells in zip(rows, *texts, strict=True)]

    def passing(self, filter_: str) -> Array:
        """(n,) bool, the rows that a filter keeps; errors as `order`."""
        keep = np.ones(self.n, dtype=bool)
        for name, sign, value in _TERM.findall(filter_):
            keep &= _compared(self._column(name), sign, value.strip('"'))
        for word in _TERM.sub(" ", filter_).split():
            keep &= self._has_word(word)
        return keep

    def histogram(self, name: str, keep: Array) -> Mapping[str, Any]:
        """Counts of a column of numbers over its range, in all and in the rows kept."""
        column = self._column(name)
        finite = np.isfinite(column.values)
        if column.names or not finite.any():
            return {"name": name, "low": 0, "high": 0, "all": [], "kept": []}
        values = column.values
        low, high = (float(v) for v in (values[finite].min(), values[finite].max()))
        span = (low, high) if high > low else (low - 0.5, low + 0.5)
        every = np.histogram(values[finite], _BINS, span)[0]
        kept = np.histogram(values[finite & keep], _BINS, span)[0]
        return {"name": name, "low": span[0], "high": span[1], "all": every.tolist(),
                "kept": kept.tolist()}  # fmt: skip

    def _column(self, name: str) -> Column:
        if name.lower() not in self.columns:
            raise DiffraganError(
                f"There is no column “{name}”; there are {', '.join(self.columns)}."
            )
        return self.columns[name.lower()]

    def _sorted(self, column: Column, rows: Array, descending: bool) -> Array:
        values = column.values[rows].astype(np.float64)
        if column.names:
            values[values < 0] = np.nan
        # nan goes last whichever way the others go.
        return np.argsort(-values if descending else values, kind="stable")

    def _has_word(self, word: str) -> Array:
        """(n,) bool: rows with a name that has the word in it."""
        if re.search(r"[<>=!\"]", word):
            raise DiffraganError(
                f"“{word}” is no filter; write a column, a sign and a value, as in "
                f"“{self._example}”."
            )
        keep = np.zeros(self.n, dtype=bool)
        for column in self.columns.values():
            chosen = [k for k, name in enumerate(column.names) if word.lower() in name.lower()]
            keep |= np.isin(column.values, chosen) if chosen else False
        return keep

    def middle(self, name: str) -> str:
        """The median of a column of numbers as the table writes it, "" of others."""
        column = self._column(name)
        finite = column.values[np.isfinite(column.values)]
        if column.names or not len(finite):
            return ""
        return f"{float(f'{np.median(finite):.2g}'):g}"

    def varies(self, name: str) -> bool:
        """Whether a column has more than one value."""
        values = self._column(name).values
        return bool(len(values) and (values != values[0]).any())

    @property
    def _example(self) -> str:
        numbers = [name for name, column in self.columns.items() if not column.names]
        return f"{numbers[-1]} > 0.5" if numbers else "verdict = solved"


def _compared(column: Column, sign: str, value: str) -> Array:
    """(n,) bool: the items whose value of a column compares so with one in words."""
    if column.names:
        if sign not in ("=", "!="):
            raise DiffraganError(f"“{column.name}” has no order; compare it by = or !=.")
        if value.lower() not in (names := [name.lower() for name in column.names]):
            raise DiffraganError(
                f"“{column.name}” is never “{value}”; it is {', '.join(column.names)}."
            )
        result: Array = _COMPARE[sign](column.values, names.index(value.lower()))
        return result
    try:
        number = float(value)
    except ValueError:
        raise DiffraganError(f"“{column.name}” is a number, and “{value}” is none.") from None
    return _COMPARE[sign](column.values, number) & np.isfinite(column.values)
