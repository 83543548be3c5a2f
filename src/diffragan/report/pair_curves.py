"""The figures of an evaluation that are curves: FRC, trust, structures, R-factors.

Each takes an evaluation and gives a figure with its caption, or None where the results hold
nothing to draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from diffragan.evaluation.evaluation import Evaluation
from diffragan.evaluation.scores import PROJECTION_END_A, Scores
from diffragan.fourier.correlation import COARSEST_A, SOLVED_BAND_A
from diffragan.report.html import ReportFigure
from diffragan.report.pair_words import describe_evaluation
from diffragan.report.plotting import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    SOFT,
    colorbar,
    frc_axes,
    legend,
    styled,
    top_axis,
)

MOST_LINES = 6
TRUST_CAPTION = (
    " The green line is what the method expects of its own phases without knowing the truth."
)


@styled
def frc_figure(evaluation: Evaluation) -> ReportFigure | None:
    """Mean FRC with its 10th to 90th percentile: the wave, and the projection beside the image."""
    if evaluation["frc_of"] is None:
        return None
    has_wave = evaluation["frc_of"] == "wave"
    figure = Figure(figsize=(10.6 if has_wave else 6.4, 4.5), layout="constrained")
    axes: Any = figure.subplots(1, 2 if has_wave else 1, sharey=True, squeeze=False)[0]
    if has_wave:
        frc_axes(axes[0], evaluation["measured_to_A"])
        _spread_line(axes[0], evaluation, BLUE, "phased wave")
        _trust_line(axes[0], evaluation)
        axes[0].set_title("Wave, over measured frequencies", pad=10)
        legend(axes[0])
    last = axes[-1]
    frc_axes(last, PROJECTION_END_A)
    if evaluation["image_frc"]["frc"] is not None:
        _spread_line(last, evaluation["image_frc"], ORANGE, "image alone", "--")
    if evaluation["projection_frc"]["frc"] is not None:
        _spread_line(last, evaluation["projection_frc"], BLUE, "phased projection")
    last.set_title("Projection, against the target", pad=10)
    legend(last)
    axes[0].set_ylabel("Fourier ring correlation")
    return ReportFigure(
        "frc",
        figure,
        "Fourier ring correlation with the truth: mean over all images, and the range "
        "from the 10th to the 90th percentile. Shading marks what the image measures, "
        "what the pattern measures, and what nothing measures. The projection's own "
        "transfer function has a zero inside the measured band, so its curve dips "
        "where a perfect wave would not."
        + (TRUST_CAPTION if has_wave and evaluation["trust"] else ""),
        "Line plot of Fourier ring correlation against spatial frequency. "
        + " ".join(describe_evaluation(evaluation)[1:3]),
    )


@styled
def trust_figure(evaluation: Evaluation) -> ReportFigure | None:
    """What a method expects of its own phases, by resolution, where no truth shows it beside."""
    if evaluation["trust"] is None or evaluation["frc_of"] is not None:
        return None
    figure = Figure(figsize=(6.4, 4.5), layout="constrained")
    axis = figure.subplots()
    frc_axes(axis, evaluation["measured_to_A"])
    _trust_line(axis, evaluation)
    axis.set_title("Trust in the phases, without a truth", pad=10)
    axis.set_ylabel("expected cosine of the phase error")
    return ReportFigure(
        "trust",
        figure,
        "The method's own estimate of how right its phases are, by resolution: the "
        "expected cosine of their error, in the mean over all images.",
        "Line plot of trust against spatial frequency.",
    )


@styled
def structures_figure(evaluation: Evaluation) -> ReportFigure | None:
    """Mean FRC of each structure over all its orientations: lines, or rows if there are many."""
    blocks = {k: v for k, v in evaluation["structures"].items() if v["frc"] is not None}
    if not blocks:
        return None
    order = sorted(blocks, key=lambda stem: -float(np.mean(blocks[stem]["frc"]["mean"])))
    blocks = {stem: blocks[stem] for stem in order}
    of = evaluation["frc_of"]
    title = f"Mean FRC of the {of} by structure"
    if len(blocks) <= MOST_LINES:
        end_A = evaluation["measured_to_A"] if of == "wave" else PROJECTION_END_A
        figure = _structure_lines(blocks, end_A, title)
    else:
        figure = _structure_rows(blocks, title)
    return ReportFigure(
        "structures",
        figure,
        "Mean FRC of each structure over all its orientations.",
        "Mean Fourier ring correlation by structure; the table of structures holds the numbers.",
    )


def _structure_lines(blocks: Mapping[str, Any], end_A: float, title: str) -> Figure:
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axis = figure.subplots()
    frc_axes(axis, end_A)
    colours = (BLUE, ORANGE, GREEN, PURPLE, AMBER, INK)
    for (stem, block), colour in zip(blocks.items(), colours, strict=False):
        label = f"{stem}: {_cut(block)} ({block['n']})"
        q = 1 / np.array(block["frc"]["resolution_A"])
        axis.plot(q, block["frc"]["mean"], color=colour, label=label)
    legend(axis)
    axis.set_ylabel("Fourier ring correlation")
    axis.set_title(title, pad=10)
    return figure


def _structure_rows(blocks: Mapping[str, Any], title: str) -> Figure:
    figure = Figure(figsize=(7.6, 1.4 + 0.24 * len(blocks)), layout="constrained")
    axis = figure.subplots()
    first = next(iter(blocks.values()))
    q = 1 / np.array(first["frc"]["resolution_A"])
    rows = np.array([block["frc"]["mean"] for block in blocks.values()])
    picture = axis.imshow(
        rows, aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest",
        extent=(q[0], q[-1], len(blocks) - 0.5, -0.5),
    )  # fmt: skip
    cut = [1 / block["frc_0p5_A"] for block in blocks.values()]
    axis.plot(cut, range(len(blocks)), "|", color="white", markersize=11, markeredgewidth=2)
    axis.set_yticks(range(len(blocks)), list(blocks), fontsize=8.5)
    axis.set_xlabel("spatial frequency q (1/Å)")
    axis.set_title(title, pad=10)
    top_axis(axis, (q[0], q[-1]))
    colorbar(figure, picture, axis, "mean FRC; white mark: falls below 0.5")
    return figure


@styled
def r_factor_figure(evaluation: Evaluation) -> ReportFigure | None:
    """R of every image; with a truth, against its FRC from 2.2 to 1.8 Å."""
    values = evaluation.results.r_factor
    if values is None or not np.isfinite(values).any():
        return None
    frc_at_2A = _frc_at_2A(evaluation.scores)
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axis = figure.subplots()
    axis.spines["top"].set_visible(False)
    if frc_at_2A is None:
        axis.hist(values[np.isfinite(values)], bins=30, color=BLUE)
        axis.set_ylabel("images")
        axis.set_title("R-factor")
        alt = "Histogram of R-factors."
    else:
        axis.axhline(0.5, color=SOFT, linewidth=0.9, linestyle=":")
        axis.scatter(values, frc_at_2A, s=16, color=BLUE, alpha=0.6, linewidth=0)
        axis.set(ylim=(-0.3, 1.02), ylabel="mean FRC, 2.2 to 1.8 Å")
        axis.set_title("R-factor against the truth")
        alt = "R-factor against FRC, a dot per image."
    axis.set_xlabel("R (amplitude, measured band)")
    return ReportFigure(
        "r_factor",
        figure,
        "Amplitude R-factor of every image: how far the constrained model is from the "
        "measured amplitudes. It needs no truth, and says nothing of unmeasured detail.",
        alt,
    )


def _frc_at_2A(scores: Scores) -> NDArray[Any] | None:
    """(n,) mean FRC in the band by which an image counts as solved; None where it is not known."""
    curves = scores.primary
    if curves is None or curves.q[-1] < 1 / SOLVED_BAND_A[1]:
        return None
    use = (curves.q >= 1 / SOLVED_BAND_A[0]) & (curves.q <= 1 / SOLVED_BAND_A[1])
    return curves.values[:, use].mean(1).numpy() if bool(use.any()) else None


def _spread_line(
    axis: Axes, block: Mapping[str, Any], colour: str, label: str, style: str = "-"
) -> None:
    curve = block["frc"]
    q = 1 / np.array(curve["resolution_A"])
    axis.fill_between(q, curve["p10"], curve["p90"], color=colour, alpha=0.16, linewidth=0)
    axis.plot(q, curve["mean"], style, color=colour, label=f"{label}: {_cut(block)}")
    if "0.5 at" in _cut(block):
        cut = 1 / block["frc_0p5_A"]
        axis.plot([cut], [0.5], "o", color=colour, markersize=5, markeredgecolor="white")


def _trust_line(axis: Axes, metrics: Mapping[str, Any]) -> None:
    trust = metrics["trust"]
    if trust is not None:
        q = 1 / np.array(trust["resolution_A"])
        axis.plot(q, trust["mean"], "-.", color=GREEN, linewidth=1.4, label="trust, without truth")


def _cut(block: Mapping[str, Any]) -> str:
    """Where the mean curve crosses 0.5, in the words of a legend."""
    at = block["frc_0p5_A"]
    if at >= COARSEST_A:
        return f"below 0.5 from {COARSEST_A:g} Å"
    stays = at <= block["frc"]["resolution_A"][-1] * 1.0001
    return f"above 0.5 to {at:.2f} Å" if stays else f"0.5 at {at:.2f} Å"
