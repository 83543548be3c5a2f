"""Arrays as PNG: their pixels for the page, and a figure with scale and caption to keep."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patches import Circle
from numpy.typing import NDArray

from diffragan.report.html import png
from diffragan.report.plotting import (
    AMBER,
    ORANGE,
    colorbar,
    limits,
    log_pattern,
    picture,
    scale_bar,
    styled,
)

Array = NDArray[Any]

RINGS_A = (10.0, 5.0, 3.0, 2.0, 1.5, 1.25)
_BARS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000)


@dataclass(frozen=True)
class Picture:
    """An array to look at.

    values: (y, x), nan where nothing is known. levels: what is drawn black and white.
    title: what it is. unit: of the values. pixel: side of a pixel in Å, or in 1/Å where
    `reciprocal`; 0 where it is not known. centre: x, y of the beam, for a pattern. upward: whether
    y points up, as in the pages; else row 0 is at the top. colours: a colour map of matplotlib.
    marks: x and y of points to draw on the figure to keep, in pixels, by their colour.
    """

    values: Array
    levels: tuple[float, float]
    title: str
    unit: str = ""
    pixel: float = 0.0
    reciprocal: bool = False
    centre: tuple[float, float] | None = None
    colours: str = "gray"
    upward: bool = True
    marks: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, Any]:
        """What the page draws over the pixels."""
        rows, columns = self.values.shape
        return {
            "title": self.title, "unit": self.unit, "width": columns, "height": rows,
            "pixel": self.pixel, "reciprocal": self.reciprocal, "upward": self.upward,
            "centre": self.centre, "rings": self.rings_A, "levels": self.levels,
            "bar_A": self.bar_A, "colours": self.colours,
        }  # fmt: skip

    @property
    def rings_A(self) -> list[float]:
        """Resolutions of the rings that lie within a pattern."""
        if not self.reciprocal or not self.pixel:
            return []
        edge = min(self.values.shape) / 2 * self.pixel
        return [d for d in RINGS_A if 1 / d <= edge * 1.01 and 1 / d > 3 * self.pixel]

    @property
    def bar_A(self) -> float:
        """Length of a scale bar, about a quarter of the side; 0 where the scale is not known."""
        if self.reciprocal or not self.pixel:
            return 0.0
        return max((b for b in _BARS if b <= self.values.shape[1] * self.pixel / 3.5), default=0)


def pattern_picture(pattern: Array, mask: Array, box_A: float, title: str) -> Picture:
    """A pattern (m, m) on a log scale, its zero frequency at [m // 2, m // 2]."""
    log, levels = counted_levels(pattern, mask)
    middle = (pattern.shape[-1] // 2, pattern.shape[-2] // 2)
    unit = "log10 of the fraction of the beam"
    return Picture(log, levels, title, unit, 1 / box_A, True, middle, "inferno")


def counted_levels(pattern: Array, mask: Array) -> tuple[Array, tuple[float, float]]:
    """`log_pattern`, with room below for pixels without an electron: of few counts one would
    otherwise be as black as none."""
    log, (low, high) = log_pattern(pattern, mask)
    if not (mask & (pattern <= 0)).any():
        return log, (low, high)
    below = low - 0.4 * max(high - low, 0.5)
    return np.where(mask & ~(pattern > 0), below, log), (below, high)


def grey_picture(values: Array, box_A: float, title: str, unit: str = "mean intensity") -> Picture:
    """An image of side `box_A` between grey levels that leave out a few pixels."""
    return Picture(values, limits(values), title, unit, box_A / values.shape[-1])


def pixels_png(shown: Picture) -> bytes:
    """The picture pixel by pixel; what is not known is clear."""
    low, high = shown.levels
    part = np.clip((shown.values - low) / max(high - low, 1e-30), 0, 1)
    coloured = mpl.colormaps[shown.colours](np.ma.masked_invalid(part), bytes=True)
    coloured[~np.isfinite(shown.values)] = 0
    stream = io.BytesIO()
    imsave(stream, coloured[::-1] if shown.upward else coloured, format="png")
    return stream.getvalue()


@styled
def figure_png(shown: Picture) -> bytes:
    """The picture as a figure: title, rings and centre of a pattern, scale bar of an image."""
    rows, columns = shown.values.shape
    height = min(max(5.6 * rows / columns, 2.0), 12.0)
    figure = Figure(figsize=(6.4, height + 0.5), layout="constrained")
    axis: Axes = figure.subplots()
    axis.set_facecolor("#BBBBBB")
    drawn = picture(axis, shown.values, columns * (shown.pixel or 1), shown.title, shown.levels,
                    cmap=shown.colours)  # fmt: skip
    if shown.centre is not None:
        _rings(axis, shown, shown.centre)
    if shown.bar_A and shown.upward:
        scale_bar(axis, columns, columns * shown.pixel, shown.bar_A)
    axis.set(xlim=(-0.5, columns - 0.5))
    axis.set(ylim=(-0.5, rows - 0.5) if shown.upward else (rows - 0.5, -0.5))
    for colour, (x, y) in shown.marks.items():
        axis.scatter(x, y, s=9, facecolors="none", edgecolors=colour, linewidths=0.8)
    colorbar(figure, drawn, axis, shown.unit)
    return png(figure)


def _rings(axis: Axes, shown: Picture, centre: tuple[float, float]) -> None:
    axis.plot(*centre, marker="+", markersize=12, color=ORANGE, markeredgewidth=1.2)
    for spacing in shown.rings_A:
        radius = 1 / spacing / shown.pixel
        axis.add_patch(Circle(centre, radius, fill=False, color=AMBER, linewidth=0.7))
        axis.annotate(f"{spacing:g} Å", (centre[0] + 0.71 * radius, centre[1] + 0.71 * radius),
                      color=AMBER, fontsize=8)  # fmt: skip
