"""The figures of a reconstruction: sections, FSC, progress, orientations and weights.

Each takes a report and gives a figure with its caption, or None where the run holds nothing to
draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffragan.evaluation.map_model import UNMATCHED as POOR
from diffragan.files.mrc import as_array
from diffragan.fourier.correlation import BAND_EDGES_A, HALF_SET_THRESHOLD, TRUTH_THRESHOLD
from diffragan.report.html import ReportFigure
from diffragan.report.map_report import MapReport, describe_map, finite
from diffragan.report.plotting import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    SOFT,
    Array,
    colorbar,
    frc_axes,
    legend,
    limits,
    picture,
    styled,
)

MARGIN_A = 4.0

# Fewer views than this are drawn as dots: a histogram would show their scatter, not their trend.
DOTS_UP_TO = 400

VIEWS_PER_BIN = 12

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, AMBER, INK)


@dataclass(frozen=True)
class ExtraCurve:
    """How a further curve by resolution is drawn, and what the figure's caption adds for it."""

    label: str
    colour: str
    marker: str
    caption: str


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
    "other": ExtraCurve(
        "by the other half's patterns",
        INK,
        "^",
        "The dark triangles are what patterns of the other half say of a half map's squared "
        "correlation with the truth, through what scatters beside the molecule; where they lie "
        "below the half maps' line, these agree in what no pattern bears out.",
    ),
    "expected": ExtraCurve(
        "expected with the truth",
        PURPLE,
        "",
        "The purple line is the correlation with the truth that these let expect; the claimed "
        "resolution is where it falls to 0.5, or the end of the data if it does not.",
    ),
    "model": ExtraCurve(
        "map and model",
        AMBER,
        "",
        "The amber line is the correlation of the map with the known structure's potential, "
        "laid on the map as a rigid body.",
    ),
}

# Axis summed over or cut, then those shown right and up, as numpy axes of [z, y, x].
_PLANES = (("z", 0, "x", "y"), ("y", 1, "x", "z"), ("x", 2, "y", "z"))


@styled
def fsc_figure(report: MapReport) -> ReportFigure:
    """Fourier shell correlation of the half maps, and of the map with the truth where known."""
    q, edge_A = as_array(report.q), report.edge_A
    figure = Figure(figsize=(6.8, 4.6), layout="constrained")
    axis = figure.subplots()
    # Beyond the pattern's end nothing is measured, so nothing is drawn.
    end = 1 / edge_A + 0.015
    if q[-1] < 0.9 / edge_A:
        end = float(q[-1])
    frc_axes(axis, 1 / end)
    _mark_thresholds(axis, end, edge_A)
    beam = int(q[0] == 0)  # shell 0 is no measure of a map
    lines = [(report.fsc_half, report.half_A, HALF_SET_THRESHOLD, BLUE, "-", "half maps")]
    if report.fsc_truth is not None:
        lines.append(
            (report.fsc_truth, report.truth_A, TRUTH_THRESHOLD, ORANGE, "--", "map and truth")
        )
    for curve, at_A, level, colour, style, label in lines:
        if at_A is not None and math.isfinite(at_A):
            label += f": {level:g} at {at_A:.2f} Å"
            axis.plot([1 / at_A], [level], "o", color=colour, markersize=5, markeredgecolor="white",
                      zorder=4)  # fmt: skip
        axis.plot(q[beam:], as_array(curve)[beam:], style, color=colour, label=label)
    extra = _extra_curves(report)
    for name, values in extra.items():
        look = EXTRA_CURVES[name]
        style_of: dict[str, Any] = {"color": look.colour, "marker": look.marker}
        axis.plot(q[beam:], values[beam:], ":", markersize=2.8, linewidth=1.2, label=look.label,
                  **style_of)  # fmt: skip
    axis.set_ylabel("Fourier shell correlation")
    legend(axis)
    with_truth = (
        ""
        if report.fsc_truth is None
        else ", and of the whole map with the truth: half maps at 0.143 and a map against the "
        "truth at 0.5 mean the same resolution, if nothing but noise parts them"
    )
    added = "".join(f" {EXTRA_CURVES[name].caption}" for name in extra)
    return ReportFigure(
        "fsc",
        figure,
        f"Fourier shell correlation of two maps from separate halves of the data{with_truth}."
        f"{added} Shading marks what the images and what the patterns measure.",
        "Line plot of Fourier shell correlation against spatial frequency. "
        + " ".join(describe_map(report)[:2]),
    )


@styled
def sections_figure(report: MapReport) -> ReportFigure:
    """The three central sections on one grey scale, with the mask's outline where there is one."""
    volume, mask = report.volume, report.inside
    figure, axes = _three()
    keep = _middle(report)
    grey = limits(volume[keep, keep, keep])
    at = volume.shape[0] // 2
    for axis, (name, along, right, up) in zip(axes, _PLANES, strict=True):
        section = volume.take(at, along)[keep, keep]
        title = f"{name} = 0: {right} right, {up} up"
        side_A = len(section) * report.voxel_A
        image = picture(axis, section, side_A, title, grey, bar=along == 0)
        if mask is not None:
            inside = mask.take(at, along)[keep, keep]
            if inside.any() and not inside.all():
                axis.contour(inside, levels=[0.5], colors=ORANGE, linewidths=0.9)
    colorbar(figure, image, axes, "density")
    outline = "" if mask is None else " The orange line is the mask."
    return ReportFigure(
        "sections",
        figure,
        f"The three sections through the centre, on one grey scale.{outline}",
        "Three central sections of the map.",
    )


@styled
def projections_figure(report: MapReport) -> ReportFigure:
    """The map summed along its three axes, each on its own grey scale."""
    figure, axes = _three()
    keep = _middle(report)
    for axis, (name, along, right, up) in zip(axes, _PLANES, strict=True):
        total = report.volume.sum(along)[keep, keep]
        title = f"along {name}: {right} right, {up} up"
        side_A = len(total) * report.voxel_A
        picture(axis, total, side_A, title, limits(total), bar=along == 0)
    return ReportFigure(
        "projections",
        figure,
        "The map summed along its three axes.",
        "Three projections of the map.",
    )


@styled
def history_figure(report: MapReport) -> ReportFigure | None:
    """R-factor and resolution by iteration, a line for each half."""
    rows = report.history
    if not rows:
        return None
    figure = Figure(figsize=(10.6, 3.8), layout="constrained")
    axes: Any = figure.subplots(1, 2)
    names = {"r_factor": "R (amplitude, measured band)", "resolution_A": "resolution (Å)"}
    halves = list(dict.fromkeys(str(row.get("half", "")) for row in rows))
    for axis, (key, label) in zip(axes, names.items(), strict=True):
        axis.spines["top"].set_visible(False)
        for half, colour in zip(halves, _COLOURS, strict=False):
            points = [
                (float(row["iteration"]), float(row[key]))
                for row in rows
                if str(row.get("half", "")) == half and finite(row.get(key)) is not None
            ]
            # Halves often lie on each other: all but the first are dashed, so that both show.
            _history_line(axis, points, half, colour, "-" if half == halves[0] else "--")
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
    return ReportFigure(
        "history",
        figure,
        "Each half of the data by iteration: the amplitude R-factor, which needs no "
        "truth, and the resolution. Halves that part ways fit noise.",
        "R-factor and resolution against iteration.",
    )


@styled
def orientations_figure(report: MapReport) -> ReportFigure | None:
    """Viewing directions over the sphere, in an equal-area (Mollweide) projection.

    A direction is the third row of a view's rotation, in the molecule's frame.
    """
    views = len(report.rotations)
    if not views:
        return None
    directions = np.asarray(report.rotations, dtype=float)[:, 2]
    east = np.arctan2(directions[:, 1], directions[:, 0])
    height = np.clip(directions[:, 2], -1, 1)
    figure = Figure(figsize=(7.2, 3.9), layout="constrained")
    axis = figure.add_subplot(projection="mollweide")
    if views <= DOTS_UP_TO:
        axis.scatter(east, np.arcsin(height), s=12, color=BLUE, alpha=0.7, linewidth=0)
        axis.grid(color="#DDDDDD", linewidth=0.6)
    else:
        image = _coverage(axis, east, height)
        colorbar(figure, image, axis, "views, relative to even coverage")
        axis.grid(visible=False)
    axis.set_xticks(np.deg2rad([-120, -60, 0, 60, 120]), [])
    axis.set_yticks(np.deg2rad([-60, -30, 0, 30, 60]), ["", "30° S", "0°", "30° N", ""])
    axis.set_title(f"Viewing directions of {views} views", pad=12)
    return ReportFigure(
        "orientations",
        figure,
        "From where the molecule was seen, in its own frame, each region of the sphere "
        "at its true area. Views crowded around one direction and its opposite leave "
        "the map blurred along it.",
        "Equal-area map of the viewing directions.",
    )


@styled
def view_weights_figure(report: MapReport) -> ReportFigure | None:
    """Histogram of the weights with which views enter the map, where they differ."""
    values = np.asarray(report.weights, dtype=float)
    if not len(values) or not np.ptp(values) > 0:
        return None
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.spines["top"].set_visible(False)
    values = values[np.isfinite(values)]
    axis.hist(values, bins=min(40, max(5, len(values) // 8)), color=BLUE)
    axis.set(xlabel="weight of a view in the map", ylabel="views", title="Weights of the views")
    return ReportFigure(
        "weights",
        figure,
        "How much each view counts in the map.",
        "Histogram of the weights of the views.",
    )


@styled
def residues_figure(report: MapReport) -> ReportFigure | None:
    """Correlation of map and model by residue, where a known structure was given."""
    if not report.residues:
        return None
    figure = Figure(figsize=(10.6, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.spines["top"].set_visible(False)
    values = np.array([residue.correlation for residue in report.residues])
    at = np.arange(len(values))
    axis.bar(at, values, width=0.9, color=[ORANGE if v < POOR else BLUE for v in values])
    axis.axhline(POOR, color=SOFT, linewidth=0.9, linestyle=":")
    every = max(1, len(at) // 24)
    names = [f"{r.chain}{r.number}" for r in report.residues]
    axis.set_xticks(at[::every], names[::every], rotation=90, fontsize=8)
    axis.set(ylabel="correlation", ylim=(min(0.0, float(values.min())), 1.02))
    axis.margins(x=0.01)
    return ReportFigure(
        "residues",
        figure,
        "How well the known structure's density and the map's correlate around each residue, both "
        "cut at the claimed resolution; orange residues do not lie in density.",
        "Bars of map-model correlation by residue.",
    )


def _extra_curves(report: MapReport) -> dict[str, Array]:
    """Curves beside the two FSCs; a run that left nothing out has no such curve to show."""
    curves = {name: as_array(curve) for name, curve in report.others.items()}
    return {name: curve for name, curve in curves.items() if np.isfinite(curve).any()}


def _mark_thresholds(axis: Axes, end: float, edge_A: float) -> None:
    """The levels 0.143 and 0.5, and where images and patterns end."""
    axis.axhline(HALF_SET_THRESHOLD, color=SOFT, linewidth=0.9, linestyle=":", zorder=1)
    for height in (HALF_SET_THRESHOLD, TRUTH_THRESHOLD):
        axis.text(0.012 * end, height + 0.012, f"{height:g}", fontsize=8, color=SOFT)
    for where_A, name in ((BAND_EDGES_A[0], "image ends"), (edge_A, "pattern ends")):
        if 1 / where_A < end:
            axis.axvline(1 / where_A, color=SOFT, linewidth=0.9, linestyle="--", zorder=1)
            axis.text(1 / where_A - 0.008 * end, -0.2, f"{name}, {where_A:.2f} Å", rotation=90,
                      ha="right", va="bottom", fontsize=8, color=SOFT)  # fmt: skip


def _history_line(
    axis: Axes, points: list[tuple[float, float]], half: str, colour: str, style: str
) -> None:
    if not points:
        return
    x, y = zip(*points, strict=True)
    mark = "o" if len(points) == 1 else None
    name = f"half {half}" if half.isdigit() else half
    axis.plot(x, y, style, color=colour, marker=mark, label=name or None)


def _coverage(axis: Any, east: Array, height: Array) -> Any:
    """Views by region of one area, relative to even coverage."""
    rows = int(np.clip(np.sqrt(len(east) / VIEWS_PER_BIN / 2), 6, 24))
    # Even steps in height give bins of one area.
    edges = np.linspace(-1, 1, rows + 1)
    around = np.linspace(-np.pi, np.pi, 2 * rows + 1)
    counts, _, _ = np.histogram2d(height, east, bins=(edges, around))
    relative = counts / (len(east) / counts.size)
    # Drawn in fine steps of latitude, as the map's outline is curved within a bin.
    north = np.linspace(-np.pi / 2, np.pi / 2, 181)
    row = np.clip(np.digitize(np.sin((north[1:] + north[:-1]) / 2), edges) - 1, 0, rows - 1)
    return axis.pcolormesh(
        around, north, relative[row], cmap="viridis", vmin=0,
        vmax=max(2.0, float(relative.max())), rasterized=True,
    )  # fmt: skip


def _three() -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(10.6, 3.8), layout="constrained")
    axes: Any = figure.subplots(1, 3)
    return figure, list(axes)


def _middle(report: MapReport) -> slice:
    """The middle of the map that holds the mask and a margin; all of it without a mask."""
    n, mask = report.map.shape[0], report.inside
    if mask is None or not np.any(mask):
        return slice(0, n)
    reach = int(np.abs(np.argwhere(mask) - n // 2).max()) + round(MARGIN_A / report.voxel_A)
    return slice(max(0, n // 2 - reach), min(n, n // 2 + reach + 1))
