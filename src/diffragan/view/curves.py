"""Curves as the page draws them, and as a figure to keep."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from diffragan.report.html import png
from diffragan.report.map_figures import EXTRA_CURVES
from diffragan.report.map_report import finite
from diffragan.report.plotting import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    SOFT,
    frc_axes,
    legend,
    styled,
)

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, AMBER, INK)


@dataclass(frozen=True)
class Line:
    """One curve; values that are not known are None."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves over one axis.

    name: in addresses. by_resolution: x is a spatial frequency in 1/Å, told in Å beside it.
    thresholds: heights to mark. about: what it shows, in a sentence.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    about: str = ""
    by_resolution: bool = False
    thresholds: Sequence[float] = ()

    @property
    def json(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        return asdict(self)


@styled
def chart_png(chart: Chart) -> bytes:
    """The chart as a figure in the style of the pages."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axis = figure.subplots()
    end = max((max(line.x) for line in chart.lines if line.x), default=1.0)
    if chart.by_resolution:
        frc_axes(axis, 1 / end)
    for line in chart.lines:
        values = np.array([np.nan if v is None else v for v in line.y], dtype=float)
        axis.plot(line.x, values, "--" if line.dashed else "-", color=line.colour, label=line.label)
    for height in chart.thresholds:
        axis.axhline(height, color=SOFT, linewidth=0.9, linestyle=":")
    axis.set_ylabel(chart.y_label)
    if chart.by_resolution:
        legend(axis)
    else:
        axis.set(xlabel=chart.x_label, title=chart.title)
        axis.legend()
    return png(figure)


def trust_chart(trust: Sequence[float], box_A: float, row: int) -> Chart:
    """Trust in the phases of one result by ring, ring k at k / box."""
    x = [k / box_A for k in range(1, len(trust))]
    line = Line("trust", x, [finite(float(v)) for v in trust[1:]], BLUE)
    about = "The expected cosine of the phases' error by resolution, judged without a truth."
    return Chart(f"pair/{row}/trust", "Trust", "spatial frequency q (1/Å)", "trust", [line], about,
                 True, (0.5,))  # fmt: skip


def folder_charts(folder: Path) -> list[Chart]:
    """Charts of the curves that a folder of `reconstruct` or `atoms` holds."""
    charts = [_fsc(folder), _atoms(folder), _rounds(folder), _cycles(folder)]
    return [chart for chart in charts if chart is not None]


def _fsc(folder: Path) -> Chart | None:
    rows = _rows(folder / "fsc.csv")
    if not rows:
        return None
    looks = {"half": ("half maps", BLUE, False), "truth": ("map and truth", ORANGE, True)}
    looks |= {name: (look.label, look.colour, True) for name, look in EXTRA_CURVES.items()}
    rows = [row for row in rows if _number(row.get("q_per_A"))]
    x = [float(row["q_per_A"]) for row in rows]
    values = {name: [_number(row.get(name)) for row in rows] for name in looks}
    lines = [
        Line(label, x, values[name], colour, dashed)
        for name, (label, colour, dashed) in looks.items()
        if any(v is not None for v in values[name])
    ]
    about = (
        "Two maps from separate halves of the data, ring by ring: where they fall below 0.143 they "
        "no longer agree."
    )
    return Chart("fsc", "Fourier shell correlation", "spatial frequency q (1/Å)",
                 "Fourier shell correlation", lines, about, True, (0.143, 0.5))  # fmt: skip


def _rounds(folder: Path) -> Chart | None:
    """R by iteration, a line for each half."""
    rows = [row for row in _rows(folder / "history.csv") if "half" in row and "r_factor" in row]
    return _history(rows, "half", "iteration", "r_factor", "half {}", "R-factor by iteration",
                    "Each half of the data against its patterns; it needs no truth.")  # fmt: skip


def _cycles(folder: Path) -> Chart | None:
    """R of the patterns kept aside by cycle, for atoms."""
    rows = [row for row in _rows(folder / "history.csv") if "set" in row and "r_watched" in row]
    return _history(rows, "set", "cycle", "r_watched", "atoms from {}", "R-factor by cycle",
                    "Patterns that the atoms were not refined against.")  # fmt: skip


def _history(  # long: two tables differ in these words
    rows: list[dict[str, str]], by: str, x: str, y: str, label: str, title: str, about: str
) -> Chart | None:
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        at, value = _number(row.get(x)), _number(row.get(y))
        if at is not None and value is not None:
            groups.setdefault(row[by], []).append((at, value))
    if not groups:
        return None
    lines = [
        Line(label.format(name), [p[0] for p in points], [p[1] for p in points], colour, k > 0)
        for k, ((name, points), colour) in enumerate(zip(groups.items(), _COLOURS, strict=False))
    ]
    return Chart("history", title, x, "R (amplitude)", lines, about)


def _atoms(folder: Path) -> Chart | None:
    """How far atoms are expected to be right, and with a structure are."""
    path = folder / "metrics.json"
    metrics: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    free = metrics.get("free")
    if not isinstance(free, dict) or "correlation" not in free:
        return None
    x = [1 / d for d in free["resolution_A"]]
    values = [finite(v) for v in free["correlation"]]
    lines = [Line("expected, by patterns of the other half set", x, values, BLUE)]
    if truth := metrics.get("truth_fsc"):
        x = [1 / d for d in truth["resolution_A"]]
        values = [finite(v) for v in truth["fsc"]]
        lines.append(Line("FSC with the structure", x, values, ORANGE, True))
    about = "How far the atoms are right; past the patterns' end nothing was measured."
    return Chart("resolution", "Correlation by resolution", "spatial frequency q (1/Å)",
                 "correlation", lines, about, True, (0.5,))  # fmt: skip


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
