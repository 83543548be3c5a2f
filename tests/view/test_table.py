"""Sorting and filtering give the rows that they say."""

from __future__ import annotations

import numpy as np
import pytest

from diffragan.errors import DiffraganError
from diffragan.view.table import Column, Table, named_column

R = np.array([0.3, np.nan, 0.1, 0.2, 0.1])


@pytest.fixture
def table() -> Table:
    """Five rows."""
    return Table(
        5,
        [
            Column("item", "item", np.arange(5) + 10, form="d"),
            Column("r", "R", R, form=".2f"),
            named_column(
                "verdict", "verdict", ["solved", "not solved", "solved", "solved", "not solved"],
                first=("solved", "not solved"),
            ),
        ],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sort", "rows"),
    [("r", [2, 4, 3, 0, 1]), ("-r", [0, 3, 2, 4, 1]), ("", [0, 1, 2, 3, 4]),
     ("verdict", [0, 2, 3, 1, 4]), ("-item", [4, 3, 2, 1, 0])],
)  # fmt: skip
def test_orders(table: Table, sort: str, rows: list[int]) -> None:
    """Equal rows keep their order, and what has no value is last either way."""
    assert table.order(sort).tolist() == rows


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ("r < 0.2", [2, 4]),
        ("R<=.2", [2, 3, 4]),
        ("r != 0.1", [0, 3]),
        ("verdict = solved r >= 0.2", [0, 3]),
        ('verdict = "not solved"', [1, 4]),
        ("verdict != solved", [1, 4]),
        ("NOT", [1, 4]),
        ("not r < 1", [4]),
        ("item = 12", [2]),
        ("nowhere", []),
        ("  ", [0, 1, 2, 3, 4]),
    ],
)
def test_filters(table: Table, words: str, rows: list[int]) -> None:
    """Every term must hold; what has no value fulfils no comparison."""
    assert table.order("", words).tolist() == rows


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("q < 1", "no column “q”; there are item, r, verdict"),
        ("r < big", "“big” is none"),
        ("verdict < solved", "no order"),
        ("verdict = maybe", "never “maybe”; it is solved, not solved"),
        ("r <", "“<” is no filter"),
    ],
)
def test_filters_that_can_not_be_read(table: Table, words: str, names: str) -> None:
    """The sentence names what is there."""
    with pytest.raises(DiffraganError, match=names):
        table.order("", words)


def test_pages_and_late_columns(table: Table) -> None:
    """A page is a slice of the order; a column that comes later is in the next."""
    assert table.page(table.order("r"), 1, 2) == [
        [4, "14", "0.10", "not solved"],
        [3, "13", "0.20", "solved"],
    ]
    assert table.page(table.order("r"), 4, 9)[0][2] == "–"
    table.add(Column("trust", "trust", np.linspace(0, 1, 5), form=".1f"))
    assert table.order("-trust").tolist() == [4, 3, 2, 1, 0]
    assert table.page(table.order("-trust"), 0, 1)[0][-1] == "1.0"


def test_histograms_count_every_row_once(table: Table) -> None:
    """All rows with a value, and those of them that are kept."""
    counts = table.histogram("r", table.passing("verdict = solved"))
    assert (sum(counts["all"]), sum(counts["kept"])) == (4, 3)
    assert (counts["low"], counts["high"]) == (0.1, 0.3)
    assert counts["all"][0] == 2
    flat = Table(2, [Column("a", "a", np.array([1.0, 1.0]))])
    assert sum(flat.histogram("a", np.ones(2, bool))["all"]) == 2
