"""The page of several classes: how large they are, how surely views lie in them, who was thrown
out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from diffragan import __version__
from diffragan.reconstruction.classes.sorted_views import SortedViews
from diffragan.report.html import ReportFigure, write_page
from diffragan.report.plotting import AMBER, BLUE, GREEN, ORANGE, PURPLE, SKY, SOFT, styled
from diffragan.settings import Settings, settings_to_toml

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER)


def write_classes_page(
    out: Path, found: SortedViews, metrics: dict[str, Any], settings: Settings, command: str
) -> Path:
    """Writes report.html and figures/*.png into `out` and returns the page's path."""
    figures = [odds_figure(found, metrics["foreign_below"]), probability_figure(found)]
    if len(found.means) > 1:
        figures.append(number_figure(found))
    return write_page(
        out,
        "classes.html",
        figures,
        classes=metrics["classes"],
        summary=metrics["summary"],
        failed=not metrics["converged"],
        warnings=metrics["warnings"],
        provenance={"command": command or None, "software": f"diffragan {__version__}"},
        conditions={},
        run="reconstruction",
        settings=settings_to_toml(settings),
    )


def _names(found: SortedViews) -> list[tuple[int, str, str]]:
    """Number, name and colour of every class and of what was thrown out."""
    classes = [
        (k, f"class {k}", _COLOURS[(k - 1) % len(_COLOURS)]) for k in range(1, found.classes + 1)
    ]
    return [*classes, (0, "thrown out", SOFT)]


@styled
def odds_figure(found: SortedViews, threshold: float) -> ReportFigure:
    """Odds of every view's class against no map."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axis = figure.subplots()
    odds, number = found.odds.numpy(), found.number.numpy()
    low, high = (float(x) for x in np.quantile(odds, (0.005, 0.995)))
    bins = np.linspace(low, max(high, low + 1), 41).tolist()
    for k, name, colour in _names(found):
        axis.hist(odds[number == k].clip(bins[0], bins[-1]), bins=bins, color=colour, label=name)
    axis.axvline(threshold, color="black", lw=1, ls="--")
    axis.set(xlabel="logarithm of the odds, class against no map", ylabel="views")
    axis.legend(frameon=False)
    return ReportFigure(
        "odds",
        figure,
        "How much likelier its class makes every view than no map at all, by image and pattern. "
        "Views left of the line (classes.foreign_below) were thrown out.",
        "Histogram of the odds of the views, by class.",
    )


@styled
def probability_figure(found: SortedViews) -> ReportFigure:
    """Probability of every view's class."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axis = figure.subplots()
    top, number = found.probability.max(1).values.numpy(), found.number.numpy()
    for k, name, colour in _names(found)[:-1]:
        own = np.sort(top[number == k])[::-1]
        axis.plot(np.linspace(0, 1, len(own)), own, color=colour, label=name)
    axis.set(xlabel="part of the class's views", ylabel="probability of the class", ylim=(0, 1.03))
    axis.legend(frameon=False, loc="lower left")
    return ReportFigure(
        "probability",
        figure,
        "Probability of each view's class, the surest first. It is near 1 where classes differ "
        "clearly at the images' resolution.",
        "Curves of the class probability over the views of each class.",
    )


@styled
def number_figure(found: SortedViews) -> ReportFigure:
    """What another class gains, by views that its maps never saw."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.plot(range(1, len(found.means) + 1), found.means, "o-", color=BLUE)
    axis.set(
        xlabel="classes asked for",
        ylabel="mean log-likelihood",
        xticks=range(1, len(found.means) + 1),
    )
    return ReportFigure(
        "number",
        figure,
        "Mean logarithm of a view's likelihood by maps made without it. A class too many gains "
        "nothing: it empties, or its maps explain views of the other half no better.",
        "Curve of the likelihood over the number of classes.",
    )
