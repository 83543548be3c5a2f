"""The picture to confirm an inspection by: centre, mask and rings on the pattern; the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from diffragan.files.atomic import replacing
from diffragan.inspection.detector.calibration import radial_profile
from diffragan.inspection.findings import Findings, PatternFindings
from diffragan.inspection.frames import Frames
from diffragan.optics import q_from_angle
from diffragan.report.plotting import AMBER, BLUE, GREEN, ORANGE, SOFT, styled
from diffragan.settings import Settings

_CIRCLES_A = (10.0, 5.0, 3.0, 2.0, 1.5, 1.25)


@styled
def draw(findings: Findings, patterns: Frames, path: Path, settings: Settings) -> None:
    """The picture as a PNG file, whole or not at all."""
    found = findings.patterns
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    whole, profile = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _pattern(whole, found, settings)
    _profile(profile, found)
    figure.suptitle(f"{patterns.path.name}: {len(patterns)} frames", x=0.01, ha="left")
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=130)


def _pattern(axis: Axes, found: PatternFindings, settings: Settings) -> None:
    shown = np.log10(found.total / found.frames + 0.3 / found.frames)
    low, high = np.percentile(shown[found.good], [2, 99.8])
    axis.imshow(shown, cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
    tint = np.zeros((*found.good.shape, 4))
    for mask, colour in (
        (~found.good, SOFT),
        (found.bad.stop, BLUE),
        (found.bad.dead, GREEN),
        (found.bad.hot, ORANGE),
    ):
        tint[mask] = (*(int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)), 0.75)
    axis.imshow(tint, interpolation="nearest")
    y, x = found.centre.y, found.centre.x
    side = max(found.good.shape)
    edge = q_from_angle(settings.pattern.max_angle_mrad, settings.energy_ev)
    for spacing in _CIRCLES_A:
        radius = 1 / spacing / found.pixel_per_A
        if 8 < radius < 0.7 * side and 1 / spacing <= edge * 1.001:
            axis.add_patch(Circle((x, y), radius, fill=False, color=AMBER, linewidth=0.8))
            axis.annotate(
                f"{spacing:g} Å", (x + radius * 0.71, y - radius * 0.71), color=AMBER, fontsize=8
            )
    for radius in found.rings_px:
        axis.add_patch(Circle((x, y), radius, fill=False, color=BLUE, linewidth=1, linestyle="--"))
    axis.plot([x], [y], marker="+", markersize=16, color=ORANGE, markeredgewidth=1.2)
    axis.set(xlim=(-0.5, found.good.shape[1] - 0.5), ylim=(found.good.shape[0] - 0.5, -0.5))
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title("orange: centre and hot, green: dead, blue: stop, grey: masked", fontsize=9)


def _profile(axis: Axes, found: PatternFindings) -> None:
    counts = radial_profile(found.total / found.frames, found.good, found.centre)
    q = np.arange(len(counts)) * found.pixel_per_A
    axis.semilogy(q[2:], np.maximum(counts[2:], 1e-4), color=BLUE)
    for radius in found.rings_px:
        axis.axvline(radius * found.pixel_per_A, color=ORANGE, linewidth=1)
    axis.set(xlabel="spatial frequency q (1/Å)", ylabel="counts a pixel and frame")
    axis.set_title("mean over rings about the centre")
