"""The figures of a reconstruction: sections, FSC, progress, orientations and weights.

Each function returns a matplotlib Figure in the style of `diffragan.report.pair_figures`; none
touches pyplot or the screen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from diffragan.fourier.correlation import BAND_EDGES_A
from diffragan.report.pair_figures import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    SOFT,
    _colorbar,
    _frc_axes,
    _legend,
    _limits,
    _picture,
    _styled,
)

Array = NDArray[Any]


Rows = Sequence[Mapping[str, Any]]


MARGIN_A = 4.0


# Fewer views than this are drawn as dots: a histogram would show their scatter, not their trend.
DOTS_UP_TO = 400


VIEWS_PER_BIN = 12


_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, AMBER, INK)


@dataclass(frozen=True)
class ExtraCurve:
    """How a further curve by resolution is drawn, and what the caption says of it."""

    label: str
    colour: str
    marker: str
    said: str


# Beside the two Fourier shell correlations, by the names of fsc.csv.
EXTRA_CURVES = {
    "free": ExtraCurve(
        "free correlation",
        GREEN,
        "s",
        "The green squares are the free correlation: how well the half maps predict intensities "
        "of the patterns that were left out of the phasing (squared correlation, to be read "
        "like the half maps' line); it has gaps where too little was left out, or too few "
        "electrons count, to tell.",
    ),
    "expected": ExtraCurve(
        "expected with the truth",
        PURPLE,
        "",
        "The purple line is the correlation with the truth that these let expect; the claimed "
        "resolution is where it falls to 0.5, or the end of the data if it does not.",
    ),
}


# Axis summed over or cut, then those shown right and up, as numpy axes of [z, y, x].
_PLANES = (("z", 0, "x", "y"), ("y", 1, "x", "z"), ("x", 2, "y", "z"))


@_styled
def sections_figure(volume: Array, voxel_A: float, mask: Array | None) -> Figure:
    """The three central sections on one grey scale, with the mask's outline where there is one."""
    figure, axes = _three()
    keep = _shown(volume, voxel_A, mask)
    part = volume[keep, keep, keep]
    limits = _limits(part)
    at = volume.shape[0] // 2
    for axis, (name, along, right, up) in zip(axes, _PLANES, strict=True):
        section = volume.take(at, along)[keep, keep]
        title = f"{name} = 0: {right} right, {up} up"
        bar = along == 0
        shown = _picture(axis, section, len(section) * voxel_A, title, limits, bar=bar)
        if mask is not None:
            inside = np.asarray(mask, dtype=bool).take(at, along)[keep, keep]
            if inside.any() and not inside.all():
                axis.contour(inside, levels=[0.5], colors=ORANGE, linewidths=0.9)
    _colorbar(figure, shown, axes, "density")
    return figure


@_styled
def projections_figure(volume: Array, voxel_A: float, mask: Array | None) -> Figure:
    """The map summed along its three axes, each on its own grey scale."""
    figure, axes = _three()
    keep = _shown(volume, voxel_A, mask)
    for axis, (name, along, right, up) in zip(axes, _PLANES, strict=True):
        picture = volume.sum(along)[keep, keep]
        title = f"along {name}: {right} right, {up} up"
        bar = along == 0
        _picture(axis, picture, len(picture) * voxel_A, title, _limits(picture), bar=bar)
    return figure


@_styled
def fsc_figure(
    q: Array,
    half: Array,
    truth: Array | None,
    others: Mapping[str, Array] | None = None,
    *,
    half_A: float | None = None,
    truth_A: float | None = None,
    edge_A: float = BAND_EDGES_A[1],
) -> Figure:
    """Fourier shell correlation of the half maps, and of the map with the truth where known.

    Args:
        q, half, truth: (s,) 1/Å and correlations.
        others: further curves (s,) by their names in `EXTRA_CURVES`, with gaps where they are nan.
        half_A, truth_A: where the curves fall below 0.143 and 0.5, for dots and legend.
        edge_A: resolution at which the pattern ends.
    """
    figure = Figure(figsize=(6.8, 4.6), layout="constrained")
    axis = figure.subplots()
    # Beyond the pattern's end nothing is measured, so nothing is drawn.
    end = 1 / edge_A + 0.015
    if q[-1] < 0.9 / edge_A:
        end = float(q[-1])
    _frc_axes(axis, 1 / end)
    axis.axhline(0.143, color=SOFT, linewidth=0.9, linestyle=":", zorder=1)
    for height in (0.143, 0.5):
        axis.text(0.012 * end, height + 0.012, f"{height:g}", fontsize=8, color=SOFT)
    for where_A, name in ((BAND_EDGES_A[0], "image ends"), (edge_A, "pattern ends")):
        if 1 / where_A < end:
            axis.axvline(1 / where_A, color=SOFT, linewidth=0.9, linestyle="--", zorder=1)
            axis.text(1 / where_A - 0.008 * end, -0.2, f"{name}, {where_A:.2f} Å", rotation=90,
                      ha="right", va="bottom", fontsize=8, color=SOFT)  # fmt: skip
    beam = int(q[0] == 0)  # shell 0 is no measure of a map
    lines = [(half, half_A, 0.143, BLUE, "-", "half maps")]
    lines += [] if truth is None else [(truth, truth_A, 0.5, ORANGE, "--", "map and truth")]
    for curve, at_A, level, colour, style, label in lines:
        if at_A is not None and math.isfinite(at_A):
            label += f": {level:g} at {at_A:.2f} Å"
            axis.plot([1 / at_A], [level], "o", color=colour, markersize=5, markeredgecolor="white",
                      zorder=4)  # fmt: skip
        axis.plot(q[beam:], curve[beam:], style, color=colour, label=label)
    for name, curve in (others or {}).items():
        look = EXTRA_CURVES[name]
        drawn: dict[str, Any] = {"color": look.colour, "marker": look.marker, "label": look.label}
        axis.plot(q[beam:], curve[beam:], ":", markersize=2.8, linewidth=1.2, **drawn)
    axis.set_ylabel("Fourier shell correlation")
    _legend(axis)
    return figure


@_styled
def history_figure(history: Rows) -> Figure:
    """R-factor and resolution by iteration, a line for each half."""
    figure = Figure(figsize=(10.6, 3.8), layout="constrained")
    axes: Any = figure.subplots(1, 2)
    names = {"r_factor": "R (amplitude, measured band)", "resolution_A": "resolution (Å)"}
    halves = list(dict.fromkeys(str(row.get("half", "")) for row in history))
    for axis, (key, label) in zip(axes, names.items(), strict=True):
        axis.spines["top"].set_visible(False)
        for half, colour in zip(halves, _COLOURS, strict=False):
            points = [
                (float(row["iteration"]), float(row[key]))
                for row in history
                if str(row.get("half", "")) == half and _is_number(row.get(key))
            ]
            if points:
                x, y = zip(*points, strict=True)
                # Halves often lie on each other: the second is dashed, so that both show.
                style = "-" if half == halves[0] else "--"
                mark = "o" if len(points) == 1 else None
                name = f"half {half}" if half.strip("0123456789") == "" and half else half
                axis.plot(x, y, style, color=colour, marker=mark, label=name or None)
        axis.set(xlabel="iteration", ylabel=label)
        axis.margins(x=0.02)
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(max(0, low - 0.1 * (high - low)), high)
    axes[0].set_title("Agreement with the patterns")
    axes[1].set_title("Resolution")
    # Finer is better and drawn higher.
    axes[1].invert_yaxis()
    for axis in axes:
        if len(axis.get_legend_handles_labels()[0]) > 1:
            axis.legend()
    return figure


@_styled
def orientations_figure(rotations: Array) -> Figure:
    """Viewing directions over the sphere, in an equal-area (Mollweide) projection.

    Args:
        rotations: (v, 3, 3), r' = R r; the direction is the third row, in the molecule's frame.
    """
    directions = np.asarray(rotations, dtype=float)[:, 2]
    east = np.arctan2(directions[:, 1], directions[:, 0])
    height = np.clip(directions[:, 2], -1, 1)
    figure = Figure(figsize=(7.2, 3.9), layout="constrained")
    axis = figure.add_subplot(projection="mollweide")
    views = len(directions)
    if views <= DOTS_UP_TO:
        axis.scatter(east, np.arcsin(height), s=12, color=BLUE, alpha=0.7, linewidth=0)
        axis.grid(color="#DDDDDD", linewidth=0.6)
    else:
        rows = int(np.clip(np.sqrt(views / VIEWS_PER_BIN / 2), 6, 24))
        # Even steps in height give bins of one area.
        edges = np.linspace(-1, 1, rows + 1)
        around = np.linspace(-np.pi, np.pi, 2 * rows + 1)
        counts, _, _ = np.histogram2d(height, east, bins=(edges, around))
        relative = counts / (views / counts.size)
        # Drawn in fine steps of latitude, as the map's outline is curved within a bin.
        north = np.linspace(-np.pi / 2, np.pi / 2, 181)
        row = np.clip(np.digitize(np.sin((north[1:] + north[:-1]) / 2), edges) - 1, 0, rows - 1)
        shown = axis.pcolormesh(
            around, north, relative[row], cmap="viridis", vmin=0,
            vmax=max(2.0, float(relative.max())), rasterized=True,
        )  # fmt: skip
        _colorbar(figure, shown, axis, "views, relative to even coverage")
        axis.grid(visible=False)
    axis.set_xticks(np.deg2rad([-120, -60, 0, 60, 120]), [])
    axis.set_yticks(np.deg2rad([-60, -30, 0, 30, 60]), ["", "30° S", "0°", "30° N", ""])
    axis.set_title(f"Viewing directions of {views} views", pad=12)
    return figure


@_styled
def weights_figure(weights: Array) -> Figure:
    """Histogram of the weights with which views enter the map."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.spines["top"].set_visible(False)
    some = np.asarray(weights, dtype=float)
    some = some[np.isfinite(some)]
    axis.hist(some, bins=min(40, max(5, len(some) // 8)), color=BLUE)
    axis.set(xlabel="weight of a view in the map", ylabel="views", title="Weights of the views")
    return figure


def _three() -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(10.6, 3.8), layout="constrained")
    axes: Any = figure.subplots(1, 3)
    return figure, list(axes)


def _shown(volume: Array, voxel_A: float, mask: Array | None) -> slice:
    """The middle of the map that holds the mask and a margin; all of it without a mask."""
    n = volume.shape[0]
    if mask is None or not np.any(mask):
        return slice(0, n)
    reach = int(np.abs(np.argwhere(mask) - n // 2).max()) + round(MARGIN_A / voxel_A)
    return slice(max(0, n // 2 - reach), min(n, n // 2 + reach + 1))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)
