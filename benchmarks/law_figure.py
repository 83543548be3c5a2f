"""The law of many views as a figure: resolution against the electrons that all exposures have.

Drawn by `python -m benchmarks.many_views_law plot`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffragan.errors import DiffraganError

LIKELIHOOD = "many_views.climb_by=likelihood"
# Marker and colour of a dose, e/Å².
LOOK = {
    100_000: ("o", "#0072b2"), 10_000: ("s", "#009e73"), 1_000: ("D", "#d55e00"),
    200: ("^", "#cc79a7"), 50: ("v", "#e69f00"), 20: ("<", "#56b4e9"),
    20_000: ("o", "#0072b2"), 2_000: ("s", "#009e73"), 400: ("D", "#d55e00"),
    100: ("^", "#cc79a7"), 40: ("v", "#e69f00"),
}  # fmt: skip


def draw_law(rows: list[dict[str, Any]], out: Path) -> None:
    """Write the figure of rows as `many_views_law run` leaves them.

    Raises:
        DiffraganError: no row has counts on its pattern.
    """
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["case"]["pattern_dose"] is not None]
    shared = [row for row in rows if row["case"]["image_dose"] is not None]
    given = [row for row in rows if row["case"]["image_dose"] is None]
    climbed = [row for row in given if LIKELIHOOD in row["case"]["overrides"]]
    projected = [row for row in given if LIKELIHOOD not in row["case"]["overrides"]]
    on_pattern = "dose on the pattern x views (e/Å²)"
    panels = [
        (projected, 1, "images at SNR 0.8", on_pattern),
        (climbed, 1, "images at SNR 0.8, by the likelihood", on_pattern),
        (shared, 2, "dose halved between pattern and image", "dose on both x views (e/Å²)"),
    ]
    panels = [panel for panel in panels if panel[0]]
    if not panels:
        raise DiffraganError("There is no run with counts in these files, so nothing to plot.")
    figure = Figure(figsize=(2 + 5 * len(panels), 4.6), layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (own, exposures, title, label) in zip(axes, panels, strict=True):
        axis.set(xscale="log", xlabel=label)
        axis.set_title(title, fontsize=10)
        doses = sorted({row["case"]["pattern_dose"] for row in own}, reverse=True)
        for dose in doses:
            same = [row for row in own if row["case"]["pattern_dose"] == dose]
            total = exposures * dose
            x = np.array([total * row["case"]["views"] for row in same])
            y = np.array([row["truth_A"] for row in same])
            good = np.array([row["converged"] for row in same])
            mark, colour = LOOK.get(round(total), ("o", "#000000"))
            axis.plot(x[good], y[good], mark, color=colour, label=f"{total:,.0f} e/Å²")
            axis.plot(x[~good], y[~good], mark, color=colour, markerfacecolor="none")
            axis.plot(x, [row["resolution_A"] for row in same], "_", color=colour, markersize=9)
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("resolution (Å)")
    axes[0].invert_yaxis()
    figure.suptitle("Truth's FRC at 0.5; bars: claimed; open: not converged", fontsize=10)
    figure.savefig(out, dpi=150)
