"""A scan's folder: its positions on the overview, what each is, and its pattern."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError, one_line
from diffragan.files.mrc import read_mrc_stack
from diffragan.inspection.frames import Frames, open_frames
from diffragan.report.plotting import AMBER, ORANGE, PURPLE, SKY, SOFT, limits
from diffragan.view.pictures import Picture, counted_levels

Array = NDArray[Any]

# The scan's page has the same.
COLOURS = {
    "molecule": ORANGE, "several": PURPLE, "ice": SKY, "carbon": AMBER, "empty": SOFT,
}  # fmt: skip
LAYERS = {
    "overview": "overview",
    "dark_field": "dark field",
    "bright_field": "bright field",
}
_NEEDED = ("session.json", "positions.csv")
_MOST_PX = 2048  # of a side of a picture on the page
_LEVELS_FROM = 2_000_000
# Columns of positions.csv that are told elsewhere, or name the row.
_PLACES = ("index", "row", "column", "x_A", "y_A", "class", "pair")
_UNITS = {"mass_kda": ("mass", " kDa"), "excess": ("excess over the background", " electrons")}


class ScanView:
    """The folder of a scan.

    session: as its file has it. columns: of positions.csv, each (n,), in the order of the scan.

    Raises:
        DiffraganError: a file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.session: dict[str, Any] = json.loads((path / "session.json").read_text("utf-8"))
            self.shape = (int(self.session["scan_shape"][0]), int(self.session["scan_shape"][1]))
            self.columns = _columns(path / "positions.csv")
            self.n = len(self.columns["index"])
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise DiffraganError(
                f"{path} can't be read as a scan ({one_line(error)}); scan it anew."
            ) from None
        self.layers = [name for name in LAYERS if (path / f"{name}.mrc").is_file()]
        self._lock = Lock()
        self.layer = lru_cache(maxsize=None)(self._layer)

    @property
    def classes(self) -> Array:
        """(n,) what each position is."""
        return self.columns["class"]

    @property
    def says(self) -> list[str]:
        """Sentences that the run ended with."""
        return [str(line).strip() for line in self.session.get("words", ())]

    @property
    def numbers(self) -> dict[str, str]:
        """What is told of the scan, in words."""
        session = self.session
        rows = {
            "scan": session.get("scan"),
            "overview": session.get("overview"),
            "positions": f"{self.shape[0]} x {self.shape[1]}",
            "step": _length(session.get("step_A")),
            "beam": _length(session.get("beam_diameter_A")),
            "threshold": session.get("threshold"),
        }
        lost = session.get("lost") or []
        steps = {str(one["step"]): f"{one['count']:,}" for one in lost if isinstance(one, dict)}
        known = {name: str(value) for name, value in rows.items() if value is not None}
        return known | steps

    @property
    def json(self) -> dict[str, Any]:
        """Positions as the page draws them: in the overview in Å, and what each is."""
        counts = Counter(self.classes.tolist())
        names = [*(name for name in COLOURS if name in counts),
                 *(name for name in sorted(counts) if name not in COLOURS)]  # fmt: skip
        place = {name: k for k, name in enumerate(names)}
        x, y = self.places(self.layers[0]) if self.layers else self.places("")
        return {
            "shape": self.shape,
            "names": names,
            "colours": [COLOURS.get(name, "#000000") for name in names],
            "counts": [counts[name] for name in names],
            "class": [place[name] for name in self.classes.tolist()],
            "pair": self.columns["pair"].astype(int).tolist(),
            "x": np.round(x, 2).tolist(),
            "y": np.round(y, 2).tolist(),
            "step_A": float(self.session.get("step_A", 0)),
            "beam_A": float(self.session.get("beam_diameter_A") or 0),
            "layers": [{"name": name, "label": LAYERS[name]} for name in self.layers],
        }

    def _layer(self, name: str) -> tuple[Array, float, int]:
        """A picture of the place, at most 2048 pixels a side, its pixel in Å, and how many of the
        file's pixels it is wide."""
        if name not in self.layers:
            raise DiffraganError(f"There is no “{name}”; there are {', '.join(self.layers)}.")
        stack = read_mrc_stack(self.path / f"{name}.mrc")
        values = np.asarray(stack["pattern"][0], dtype=np.float32)
        every = -(-max(values.shape) // _MOST_PX)
        if every > 1:
            rows, columns = (side // every for side in values.shape)
            cut = values[: rows * every, : columns * every]
            values = cut.reshape(rows, every, columns, every).mean((1, 3))
        pixel = float(stack["pixel_A"] or 0)
        if name == "overview":
            pixel = float(self.session.get("overview_pixel_A") or pixel)
        return values, pixel * every, every

    def picture(self, name: str) -> Picture:
        """The overview or the scan as an image, with the positions marked on the figure to keep."""
        with self._lock:
            values, pixel, _ = self.layer(name)
        finite = values[np.isfinite(values)]
        levels = limits(finite[:: max(1, finite.size // _LEVELS_FROM)])
        x, y = self.places(name)
        marks = {
            colour: (x[self.classes == kind], y[self.classes == kind])
            for kind, colour in COLOURS.items()
            if kind != "empty"
        }
        return Picture(values, levels, LAYERS[name], "counts", pixel, upward=False, marks=marks)

    def places(self, name: str) -> tuple[Array, Array]:
        """(n,) x and y of the positions in pixels of a layer."""
        if name != "overview":
            return self.columns["column"], self.columns["row"]
        _, pixel, every = self.layer(name)
        # A pixel's middle is its number; one of several has its middle between theirs.
        shift = 0.5 / every - 0.5
        return self.columns["x_A"] / pixel + shift, self.columns["y_A"] / pixel + shift

    def check(self, position: int) -> None:
        """Refuses a position that is not there."""
        if not 0 <= position < self.n:
            raise DiffraganError(f"There are {self.n} positions, from 0; there is no {position}.")

    def facts(self, position: int) -> list[tuple[str, str]]:
        """What is known of a position: names and values in words."""
        self.check(position)
        facts = [("class", str(self.classes[position]))]
        for name, values in self.columns.items():
            if name not in _PLACES and values.dtype.kind == "f" and np.isfinite(values[position]):
                label, unit = _UNITS.get(name, (name.replace("_", " "), ""))
                facts.append((label, f"{values[position]:.4g}{unit}"))
        x, y = self.columns["x_A"][position], self.columns["y_A"][position]
        return [*facts, ("place on the overview", f"{x:.0f}, {y:.0f} Å")]

    def pair(self, position: int) -> int | None:
        """The pair that was made of a position."""
        self.check(position)
        pair = int(self.columns["pair"][position])
        return pair if pair >= 0 else None

    @cached_property
    def positions_of_pairs(self) -> Mapping[int, int]:
        """The position that each pair comes from."""
        pairs = self.columns["pair"].astype(int)
        return {int(pairs[k]): int(k) for k in np.flatnonzero(pairs >= 0)}

    @cached_property
    def _frames(self) -> Frames | str:
        """The scan's own file, or why it is not to be had."""
        told = Path(str(self.session.get("scan", "")))
        # A path that was given from another folder may be meant from this one's.
        path = next((p for p in (told, self.path.parent / told) if p.is_file()), None)
        if path is None:
            return f"The scan {told} is not there any more; only what became a pair has a pattern."
        try:
            return open_frames([path], "pattern", None)
        except DiffraganError as error:
            return str(error)

    def frame(self, position: int) -> Picture:
        """The pattern of a position as the detector counted it, from the scan's own file."""
        self.check(position)
        with self._lock:
            if isinstance(self._frames, str):
                raise DiffraganError(self._frames)
            numbers = np.asarray(self._frames.told.get("frame_numbers", np.arange(self.n)))
            at = np.flatnonzero(numbers == position)
            if not len(at) or at[0] >= len(self._frames):
                raise DiffraganError("The scan's file ends before this position.")
            counts, good = self._frames.counts(int(at[0]))
        log, levels = counted_levels(counts, good)
        centre, pixel = self.session.get("centre_px"), self.session.get("pixel_per_A")
        middle = (float(centre[1]), float(centre[0])) if centre else None
        return Picture(log, levels, "pattern as counted", "log10 of counts", float(pixel or 0),
                       bool(pixel), middle, "inferno", upward=False)  # fmt: skip


def is_scan(path: Path) -> bool:
    """Whether a folder is one of a finished scan."""
    return all((path / name).is_file() for name in _NEEDED)


def _columns(path: Path) -> dict[str, Array]:
    """A CSV file by columns: numbers as float64 (nan where empty), classes as words."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        names = next(rows, [])
        columns = list(zip(*rows, strict=True)) or [() for _ in names]
    found = {
        name: np.array(values) if name == "class" else np.array([float(v or "nan") for v in values])
        for name, values in zip(names, columns, strict=True)
    }
    missing = [name for name in _PLACES if name not in found]
    if missing:
        raise KeyError(f"positions.csv has no column {missing[0]}")
    return found


def _length(value: Any) -> str | None:
    return None if value is None else f"{float(value):.4g} Å"
