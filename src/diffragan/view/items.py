"""Pairs and results one by one: the table's columns, an item's pictures and what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from threading import Lock, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.store import MeasurementStore, ResultStore
from diffragan.files.store_header import listed_arrays
from diffragan.pairs.of_results import check_unchanged, pairs_of_results
from diffragan.pairs.pairs import Pairs
from diffragan.pairs.stored import StoredPairs
from diffragan.rotations import relion_angles
from diffragan.view.curves import Chart, trust_chart
from diffragan.view.pictures import Picture, grey_picture, pattern_picture
from diffragan.view.table import Column, Table, named_column

Array = NDArray[Any]

VERDICTS = ("solved", "not solved")

# Arrays of a store that the table shows otherwise, or not at all.
_KNOWN = {"structure", "done", "item", "solved", "r_factor", "trust", "seconds", "image_dose"}
_KNOWN |= {"defocus_u_A", "defocus_v_A", "defocus_angle_deg"}

_SHORT = ("kDa", "Å", "e/Å²", "s", "degrees", "electrons")  # units that fit over a column


class Items:
    """Pairs, or results beside the pairs that they came from.

    missing: why a result's input is not shown, "" where it is. table: a row for each item.
    later: labels of the columns that are still being read.
    """

    def __init__(self, pairs: Pairs | None, results: ResultStore | None, missing: str = "") -> None:
        assert pairs is not None or results is not None
        self.pairs, self.results, self.missing = pairs, results, missing
        self.n = results.n if results is not None else pairs.n if pairs is not None else 0
        self.table = Table(self.n, list(self._columns()))
        self.later: list[str] = []
        self.warning = ""
        self._lock = Lock()  # pairs that are imaged as they are read keep their last batch

    @property
    def box_A(self) -> float:
        """Side of the field."""
        return self._any.box_A

    def read_on(self) -> None:
        """Reads in the background what takes long: trust, and whether the input has changed."""
        if self.results is not None and self.results.has("trust"):
            self.later = ["trust"]
        Thread(target=self._read_on, daemon=True).start()

    def finish_reading(self) -> None:
        """The same, here and now; for one picture and for tests."""
        self._read_on()

    def _read_on(self) -> None:
        results = self.results
        if results is None:
            return
        try:
            if results.trust is not None:
                trust = results.trust[:, 1:].mean(-1, dtype=np.float64)
                about = "mean over the rings of the expected cosine of the phases' error"
                self.table.add(Column("trust", "trust", trust, form=".2f", about=about, bar=True))
            if self.pairs is not None:
                check_unchanged(results, self.pairs)
        except DiffraganError as error:
            self.warning = str(error)
        finally:
            self.later = []

    @property
    def _any(self) -> Pairs | ResultStore:
        known = self.results if self.results is not None else self.pairs
        assert known is not None
        return known

    def _columns(self) -> list[Column]:
        known, results = self._any, self.results
        inputs = np.arange(self.n) if results is None else results.items
        columns = [Column("item", "item", inputs, form="d", about="number in the input")]
        stems = [info.stem for info in known.structures]
        if len(stems) > 1:
            words = [stems[i] if 0 <= i < len(stems) else "?" for i in known.structure_index]
            columns.append(named_column("structure", "structure", words))
        if results is not None:
            columns += _result_columns(results)
        if isinstance(self.pairs, StoredPairs):
            rows = inputs
            if rows.size and rows.max() < self.pairs.n:
                columns += _stored_columns(self.pairs.store, rows)
        return columns

    def title(self, row: int) -> str:
        """An item as a sentence calls it."""
        return f"item {self._item(row)}"

    def _item(self, row: int) -> int:
        return row if self.results is None else int(self.results.items[row])

    def check(self, row: int) -> None:
        """Refuses a row that is not there."""
        if not 0 <= row < self.n:
            raise DiffraganError(f"There are {self.n} items, from 0; there is no {row}.")

    @cached_property
    def kinds(self) -> dict[str, Callable[[int], Picture]]:
        """The pictures of an item by their names."""
        kinds: dict[str, Callable[[int], Picture]] = {}
        if self.pairs is not None:
            kinds |= {"pattern": self._pattern, "image": self._image}
        if self.results is not None:
            kinds["phased"] = self._phased
            if self.results.has("wave"):
                kinds["phase"] = self._phase
        if self.pairs is not None and self.pairs.has_truth:
            kinds["target"] = self._target
        return kinds

    def picture(self, row: int, kind: str) -> Picture:
        """One picture of an item.

        Raises:
            DiffraganError: no such item or picture, or a damaged store.
        """
        self.check(row)
        if kind not in self.kinds:
            raise DiffraganError(
                f"Items have no picture “{kind}”; they have {', '.join(self.kinds)}."
            )
        with self._lock:
            return self.kinds[kind](row)

    def trust(self, row: int) -> Chart | None:
        """Trust by resolution, where the results tell one."""
        self.check(row)
        if self.results is None or not self.results.has("trust"):
            return None
        return trust_chart(self.results.read("trust", [row])[0].tolist(), self.box_A, row)

    def facts(self, row: int) -> list[tuple[str, str]]:
        """What is known of an item: names and values in words."""
        self.check(row)
        at = np.array([row])
        facts = [
            (column.label, f"{column.text(at)[0]} {column.unit}".rstrip())
            for column in self.table.columns.values()
            if column.name != "item"
        ]
        if (rotation := self._rotation(row)) is not None:
            angles = relion_angles(rotation)[0]
            facts.append(("rot, tilt, psi", ", ".join(f"{a:.1f}°" for a in angles)))
        if self.results is not None and self.results.has("start_r"):
            starts = self.results.read("start_r", [row])[0]
            if len(starts) > 1:
                facts.append(("R of each start", ", ".join(f"{r:.3f}" for r in starts[:12])))
        return facts

    def _rotation(self, row: int) -> Array | None:
        """(1, 3, 3), or None where the orientation is not known."""
        if self.results is not None:
            known = self.results.has("rotation")
            return self.results.read("rotation", [row]).astype(np.float64) if known else None
        rotation = self._inputs().rotation
        return None if rotation is None else rotation[row : row + 1]

    def _inputs(self) -> Pairs:
        assert self.pairs is not None
        return self.pairs

    def _pattern(self, row: int) -> Picture:
        pairs = self._inputs()
        pattern = pairs.pattern([self._item(row)])[0]
        return pattern_picture(pattern, pairs.pattern_mask, pairs.box_A, "pattern")

    def _image(self, row: int) -> Picture:
        pairs = self._inputs()
        return grey_picture(pairs.image([self._item(row)])[0], pairs.box_A, "image")

    def _phased(self, row: int) -> Picture:
        assert self.results is not None
        values = self.results.projection([row])[0]
        return grey_picture(values, self.results.box_A, "phased projection")

    def _phase(self, row: int) -> Picture:
        assert self.results is not None
        wave = self.results.wave([row])
        assert wave is not None
        phase = np.angle(wave[0] * np.exp(-1j * np.angle(wave[0].mean())))
        return grey_picture(phase, self.results.box_A, "phase of the wave", "radians")

    def _target(self, row: int) -> Picture:
        pairs = self._inputs()
        values = pairs.truth_projection([self._item(row)])
        assert values is not None
        return grey_picture(values[0], pairs.box_A, "true projection")


def items_of_results(results: ResultStore) -> Items:
    """Results beside their input, which is looked for where the results recall it."""
    try:
        return Items(pairs_of_results(results, verify=False), results)
    except DiffraganError as error:
        missing = str(error).replace("pass it with --input where it is now", "so only the results")
        return Items(None, results, f"{missing.rstrip('.')} are shown.")


def _result_columns(results: ResultStore) -> list[Column]:
    columns = []
    if results.r_factor is not None:
        about = "amplitude R-factor: how far model and measured amplitudes differ"
        columns.append(Column("r", "R", results.r_factor, form=".3f", about=about))
    if results.solved is not None:
        words = [VERDICTS[0] if solved else VERDICTS[1] for solved in results.solved]
        about = "the run's own verdict, judged without a truth"
        columns.append(named_column("verdict", "verdict", words, about, VERDICTS))
    if results.has("seconds"):
        seconds = results.read("seconds").astype(np.float64)
        if seconds.any():
            columns.append(Column("seconds", "time", seconds, form=".2f", unit="s"))
    return columns


def _stored_columns(store: MeasurementStore, rows: Array) -> list[Column]:
    """What a measurement store tells of every pair, among it what this package does not know."""
    columns = []
    dose = store.read("image_dose").astype(np.float64)[rows]
    if np.isfinite(dose).any():
        about = "dose of the image"
        columns.append(Column("dose", "dose", dose, form=".3g", unit="e/Å²", about=about))
    if (defocus := store.defocus) is not None:
        mean = defocus.terms_A[rows, 0]
        columns.append(Column("defocus", "defocus", mean, form=".0f", unit="Å"))
    for name, (_, *shape) in listed_arrays(store.group).items():
        if name not in _KNOWN and shape == [store.n]:
            values = store.read(name)[rows]
            if values.dtype.kind in "biuf":
                label = name.replace("_", " ")
                form = ".4g" if values.dtype.kind == "f" else "d"
                about = str(store.group[name].attrs.get("unit", ""))
                unit = about.split(",")[0] if about.split(",")[0] in _SHORT else ""
                columns.append(Column(name.lower(), label, values, (), form, unit, about))
    return columns
