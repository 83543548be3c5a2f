"""The figures of an evaluation that are pictures: examples, 2D FRC, likeness and differences.

Each takes an evaluation and gives a figure with its caption, or None where the results hold
nothing to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from scipy import ndimage

from diffragan.evaluation.evaluation import Evaluation
from diffragan.evaluation.similarity import DIFFERENCE_THRESHOLD, difference_mask, eight_bit, ssim
from diffragan.fourier.correlation import BAND_EDGES_A, band_means, resolution_at
from diffragan.fourier.grids import resample
from diffragan.report.html import ReportFigure, number_text
from diffragan.report.plotting import (
    INK,
    ORANGE,
    SOFT,
    Array,
    colorbar,
    limits,
    log_pattern,
    picture,
    scale_bar,
    styled,
)

SSIM_REGION = 0.7


@dataclass(frozen=True)
class Example:
    """One item to show; images share `box_A`, the pattern's zero frequency is at the centre."""

    title: str
    box_A: float
    pattern: Array
    pattern_mask: Array
    image: Array
    phased: Array
    target: Array | None = None

    @property
    def log_pattern(self) -> tuple[Array, tuple[float, float]]:
        """log10 of the pattern, nan where masked, and the levels between which to show it."""
        return log_pattern(self.pattern, self.pattern_mask)


@styled
def gallery_figure(evaluation: Evaluation) -> ReportFigure | None:
    """A row per item: pattern (log scale), image, phased projection and, if known, the target."""
    examples = load_examples(evaluation)
    if not examples:
        return None
    has_target = examples[0].target is not None
    columns = ["Pattern (log)", "Image", "Phased", *(["Target"] if has_target else [])]
    size = 2.5
    figure = Figure(
        figsize=(size * len(columns) + 0.3, size * len(examples) + 0.4), layout="constrained"
    )
    axes = figure.subplots(len(examples), len(columns), squeeze=False)
    for row, example in zip(axes, examples, strict=True):
        log, levels = example.log_pattern
        picture(row[0], log, example.box_A, "", levels, cmap="inferno")
        row[0].set_facecolor("#BBBBBB")
        row[0].set_ylabel(example.title, fontsize=9)
        picture(row[1], example.image, example.box_A, "", limits(example.image))
        grey = limits(example.phased if example.target is None else example.target)
        picture(row[2], example.phased, example.box_A, "", grey)
        if example.target is not None:
            picture(row[3], example.target, example.box_A, "", grey)
    scale_bar(axes[0, 1], examples[0].image.shape[-1], examples[0].box_A)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title)
    return ReportFigure(
        "gallery",
        figure,
        "What was measured and what came out, for the best, the median and the worst "
        "image. Phased and target share one grey scale."
        if has_target
        else "What was measured and what came out, for a few images.",
        "Rows of pictures: diffraction pattern on a log scale, noisy image, phased "
        "projection" + (" and target projection." if has_target else "."),
    )


@styled
def frc_2d_figure(evaluation: Evaluation) -> ReportFigure | None:
    """2D FRC over all orientations; the white line encloses correlations of at least 0.5."""
    names = {"wave": "Wave", "projection": "Projection", "image": "Image against target"}
    maps = {
        title: correlation.numpy()
        for name, title in names.items()
        if (correlation := evaluation.scores.map_2d(name)) is not None
    }
    if not maps:
        return None
    box_A, n = evaluation.results.box_A, evaluation.results.n
    figure = Figure(figsize=(3.6 * len(maps) + 0.7, 4.0), layout="constrained")
    axes: Any = figure.subplots(1, len(maps), squeeze=False, sharey=True)[0]
    reach = min(max(values.shape[-1] for values in maps.values()) / 2 / box_A, 1.1)
    for axis, (title, values) in zip(axes, maps.items(), strict=True):
        image = _correlation_map(axis, values, box_A)
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach), facecolor="#DDDDDD")
        axis.set(xlabel="q$_x$ (1/Å)", title=title)
        axis.set_xticks([q for q in (-1, -0.5, 0, 0.5, 1) if abs(q) <= reach])
    axes[0].set_ylabel("q$_y$ (1/Å)")
    colorbar(figure, image, list(axes), f"correlation over {n} images")
    return ReportFigure(
        "frc_2d",
        figure,
        f"Correlation with the truth at each Fourier pixel over all {n} images. "
        "The white line encloses 0.5; dotted circles are the band edges. With n images, "
        f"unrelated data scatter by {1 / np.sqrt(2 * n):.2f} around zero.",
        "Maps of the correlation over the Fourier plane for " + ", ".join(maps).lower() + ".",
    )


@styled
def ssim_figure(evaluation: Evaluation) -> ReportFigure | None:
    """Target, phased projection and the map of their structural similarity."""
    example = load_median(evaluation)
    if example is None or example.target is None:
        return None
    phased, target = _eight_bit(example.phased, example.target)
    value, full = ssim(phased, target)
    figure = Figure(figsize=(10.6, 3.9), layout="constrained")
    axes = figure.subplots(1, 3)
    grey = limits(target.numpy())
    picture(axes[0], target.numpy(), example.box_A, "Target", grey, bar=True)
    picture(axes[1], phased.numpy(), example.box_A, "Phased", grey)
    above = float((full > SSIM_REGION).float().mean())
    image = picture(
        axes[2], full.numpy(), example.box_A,
        f"SSIM {float(value):.2f}, above {SSIM_REGION:g} in {above:.0%} of the area",
        (0, 1), cmap="viridis",
    )  # fmt: skip
    if 0 < above < 1:
        smooth = ndimage.gaussian_filter(full.numpy(), 2.0)
        axes[2].contour(smooth, levels=[SSIM_REGION], colors="white", linewidths=1.0)
    colorbar(figure, image, axes[2], "local SSIM")
    _heading(figure, example)
    return ReportFigure(
        "ssim",
        figure,
        "Structural similarity of the median image to its target. The white line "
        "encloses values above 0.7. Empty space around the molecule is alike whatever the "
        "phases are, so look at the molecule itself.",
        f"Target, phased projection and their similarity map; the mean over all images "
        f"is {number_text(evaluation['ssim_mean'])}.",
    )


@styled
def difference_figure(evaluation: Evaluation) -> ReportFigure | None:
    """Smoothed absolute difference to the target, and where it exceeds 10 of 255."""
    example = load_median(evaluation)
    if example is None or example.target is None:
        return None
    phased, target = _eight_bit(example.phased, example.target)
    smooth, mask, edges = (x.numpy() for x in difference_mask(phased, target))
    figure = Figure(figsize=(10.6, 3.9), layout="constrained")
    axes = figure.subplots(1, 3)
    grey = limits(target.numpy())
    picture(axes[0], phased.numpy(), example.box_A, "Phased", grey, bar=True)
    image = picture(
        axes[1], smooth, example.box_A, "Smoothed |phased - target|",
        (0, max(2 * DIFFERENCE_THRESHOLD, float(np.percentile(smooth, 99.8)))), cmap="magma",
    )  # fmt: skip
    colorbar(figure, image, axes[1], "8-bit grey levels")
    title = f"Above {DIFFERENCE_THRESHOLD:g} in {mask.mean():.1%} of the area"
    picture(axes[2], target.numpy(), example.box_A, title, grey)
    tint = np.zeros((*mask.shape, 4))
    tint[mask] = to_rgba(ORANGE, 0.22)
    tint[edges] = to_rgba(ORANGE, 1.0)
    axes[2].imshow(tint, origin="lower", interpolation="nearest")
    _heading(figure, example)
    return ReportFigure(
        "difference",
        figure,
        "Where the phased projection of the median image differs from its target: "
        "smoothed absolute difference on an 8-bit scale, and the area above 10 with its "
        "edges over the target.",
        "Phased projection, smoothed difference map, and the outlined area above the threshold.",
    )


def load_examples(evaluation: Evaluation) -> list[Example]:
    """The best, the median and the worst image by FRC in the diffraction band, or by R."""
    order, ranks = _ranking(evaluation)
    last = len(order) - 1
    places = list(dict.fromkeys((0, (last + 1) // 2, last))) if last >= 0 else []
    return _load(evaluation, order[places], ranks if len(places) > 2 else ranks[::2])


def load_median(evaluation: Evaluation) -> Example | None:
    """The image in the middle of that order."""
    order, ranks = _ranking(evaluation)
    if not len(order):
        return None
    rank = ranks[1] if len(order) > 2 else ranks[2] if len(order) == 2 else ranks[0]
    return _load(evaluation, order[[len(order) // 2]], (rank,))[0]


def _ranking(evaluation: Evaluation) -> tuple[Array, tuple[str, str, str]]:
    """(n,) results from the best to the worst, and what the first, middle and last are called."""
    results, curves = evaluation.results, evaluation.scores.primary
    if curves is not None:
        means = band_means(curves.values, curves.q)
        by = means["image"] if means["diffraction"] is None else means["diffraction"]
        if by is not None:
            return np.argsort(-by.numpy(), kind="stable"), ("best", "median", "worst")
    elif results.r_factor is not None:
        return np.argsort(results.r_factor), ("lowest R", "median R", "highest R")
    return np.arange(results.n), ("", "", "")


def _load(evaluation: Evaluation, chosen: Array, ranks: Sequence[str]) -> list[Example]:
    results, pairs, curves = evaluation.results, evaluation.pairs, evaluation.scores.primary
    items = results.items[chosen]
    pattern, image = pairs.pattern(items), pairs.image(items)
    phased = torch.as_tensor(results.projection(chosen))
    true = pairs.truth_projection(items) if pairs.has_truth else None
    target = None if true is None else resample(torch.as_tensor(true), phased.shape[-1])
    examples = []
    for k, (index, rank) in enumerate(zip(chosen, ranks, strict=False)):
        lines = [f"{evaluation.stems[index] or '?'}, item {items[k]}"]
        if rank:
            lines.append(rank)
        if curves is not None:
            at_A = resolution_at(curves.values[index], curves.q)
            lines[-1] += f": FRC 0.5 at {at_A:.2f} Å"
        examples.append(
            Example(
                title="\n".join(lines),
                box_A=results.box_A,
                pattern=np.asarray(pattern[k]),
                pattern_mask=np.asarray(pairs.pattern_mask, dtype=bool),
                image=np.asarray(image[k]),
                phased=phased[k].numpy(),
                target=None if target is None else target[k].numpy(),
            )
        )
    return examples


def _eight_bit(phased: Array, target: Array) -> tuple[torch.Tensor, torch.Tensor]:
    """Phased projection and target on the 256 px, 8-bit grid that SSIM uses."""
    return eight_bit(torch.as_tensor(phased), torch.as_tensor(target))


def _correlation_map(axis: Axes, values: Array, box_A: float) -> Any:
    """A 2D FRC (n, n), nothing where it is 0, with its 0.5 line and the edges of the bands."""
    side = values.shape[-1]
    low, high = (-(side // 2) - 0.5) / box_A, (side - side // 2 - 0.5) / box_A
    image = axis.imshow(
        np.where(values == 0, np.nan, values), vmin=0, vmax=1, cmap="viridis",
        extent=(low, high, low, high), origin="lower", interpolation="nearest",
    )  # fmt: skip
    inside = ndimage.gaussian_filter(values, 1.0)
    if inside.max() > 0.5:
        q = (np.arange(side) - side // 2) / box_A
        axis.contour(q, q, inside, levels=[0.5], colors="white", linewidths=1.3)
    for edge_A in BAND_EDGES_A:
        if 1 / edge_A < high:
            _circle(axis, 1 / edge_A, f"{edge_A:.3g} Å")
    return image


def _circle(axis: Axes, radius: float, label: str) -> None:
    angle = np.linspace(0, 2 * np.pi, 361)
    axis.plot(radius * np.cos(angle), radius * np.sin(angle), ":", color="white", linewidth=0.9)
    outline = [patheffects.withStroke(linewidth=2, foreground=INK)]
    axis.text(0, radius + 0.012, label, ha="center", va="bottom", fontsize=8, color="white",
              path_effects=outline)  # fmt: skip


def _heading(figure: Figure, example: Example) -> None:
    title = example.title.replace("\n", ", ")
    figure.suptitle(title, x=0.005, ha="left", fontsize=9.5, color=SOFT)
