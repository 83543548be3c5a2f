"""The page of a scan: the overview with its hits, the scan as images, spread of the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from diffragan import __version__
from diffragan.report.html import ReportFigure, write_page
from diffragan.report.plotting import (
    AMBER,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    SOFT,
    colorbar,
    limits,
    styled,
)
from diffragan.scan.hits.rings import Values

COLOURS = {
    "molecule": ORANGE,
    "several": PURPLE,
    "ice": SKY,
    "carbon": AMBER,
    "empty": SOFT,
    "missing": "#000000",
}
_SHOWN_PX = 1400


@dataclass(frozen=True)
class ScanReport:
    """A scan and what is told of it.

    session: as session.json. overview: (rows, columns), pixel_A. dark, bright: (rows, columns) of
    the scan. positions_A: (n, 2), classes: (n,), pair: (n,) number or -1. mass_kda: (pairs,).
    summary, warnings: sentences. settings_toml: those of the run.
    """

    session: Mapping[str, Any]
    overview: NDArray[np.float32]
    pixel_A: float
    dark: Values
    bright: Values
    positions_A: Values
    classes: NDArray[np.str_]
    pair: NDArray[np.int64]
    mass_kda: Values
    summary: list[str]
    warnings: list[str]
    settings_toml: str


def write_scan_report(out: Path, report: ScanReport) -> Path:
    """Writes report.html and figures/*.png into `out` and returns the page's path."""
    return write_page(
        out,
        "scan.html",
        [figure for make in FIGURES if (figure := make(report)) is not None],
        name=Path(str(report.session["scan"])).name,
        failed=not len(report.mass_kda),
        summary=report.summary,
        warnings=report.warnings,
        lost=[(one["step"], one["count"]) for one in report.session["lost"]],
        provenance={
            "scan": report.session["scan"],
            "overview": report.session["overview"],
            "software": f"diffragan {__version__}",
        },
        conditions={},
        run="run",
        settings=report.settings_toml,
    )


@styled
def overview_figure(report: ScanReport) -> ReportFigure:
    """The overview, every position of the beam on it in the colour of its class."""
    step = max(1, max(report.overview.shape) // _SHOWN_PX)
    smooth = uniform_filter(report.overview, step)[::step, ::step] if step > 1 else report.overview
    height, width = (side * report.pixel_A for side in report.overview.shape)
    figure = Figure(figsize=(9.2, 9.2 * height / width + 0.8), layout="constrained")
    axis = figure.add_subplot()
    low, high = limits(smooth)
    axis.imshow(
        smooth, cmap="gray", vmin=low, vmax=high, extent=(0, width, height, 0),
        interpolation="nearest",
    )  # fmt: skip
    size = max(1.0, 90 / np.sqrt(len(report.classes)))
    for name, colour in COLOURS.items():
        own = report.classes == name
        if own.any():
            y, x = report.positions_A[own].T
            axis.scatter(x, y, s=size, color=colour, label=f"{name} ({own.sum()})", linewidths=0)
    paired = report.pair >= 0
    if paired.any():
        y, x = report.positions_A[paired].T
        axis.scatter(
            x, y, s=9 * size, facecolors="none", edgecolors=GREEN, linewidths=0.8,
            label=f"pairs ({paired.sum()})",
        )  # fmt: skip
    axis.set(xlim=(0, width), ylim=(height, 0), xlabel="x (Å)", ylabel="y (Å)")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.05), ncols=4, markerscale=2)
    caption = (
        "The overview with the positions of the beam, as the registration lays them, coloured by "
        "class; rings: patterns that became pairs."
    )
    return ReportFigure("overview", figure, caption, "Overview image with coloured positions.")


@styled
def scan_figure(report: ScanReport) -> ReportFigure:
    """Dark and bright field of the scan."""
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    axes: Any = figure.subplots(1, 2)
    dark = np.log10(np.maximum(report.dark, 1))
    for axis, image, title, label in (
        (axes[0], dark, "Dark field", "log10 counts beyond 20 Å"),
        (axes[1], report.bright, "Bright field", "counts of the direct beam"),
    ):
        low, high = np.percentile(image, [1, 99])
        drawn = axis.imshow(
            image, cmap="viridis" if axis is axes[0] else "gray", vmin=low,
            vmax=max(high, low + 1e-6), interpolation="nearest",
        )  # fmt: skip
        axis.set(xlabel="column", ylabel="row")
        axis.set_title(title)
        colorbar(figure, drawn, axis, label)
    return ReportFigure(
        "scan", figure, "The scan as images, a pixel for each position.", "Dark and bright field."
    )


@styled
def weight_figure(report: ScanReport) -> ReportFigure | None:
    """Weights of the molecules of all pairs."""
    if not len(report.mass_kda):
        return None
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axis = figure.subplots()
    axis.hist(report.mass_kda, bins=min(60, max(8, len(report.mass_kda) // 4)), color=BLUE)
    for told in report.session["masses_kda"]:
        axis.axvline(told, color=ORANGE, linewidth=1.2)
    axis.set(xlabel="weight by scattering beyond 3 Å (kDa)", ylabel="pairs")
    caption = "Weights of the pairs' molecules, by what they scatter; lines: the weights told."
    return ReportFigure("weights", figure, caption, "Histogram of weights.")


FIGURES = (overview_figure, scan_figure, weight_figure)
