"""The figures of an evaluation, after Figures 3 to 7 of Matinyan et al. (2024).

Each function returns a matplotlib Figure; none touches pyplot or the screen. Colours are those of
Okabe & Ito and perceptually even maps, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from diffragan.evaluation.similarity import DIFFERENCE_THRESHOLD, difference_mask, eight_bit, ssim
from diffragan.fourier.correlation import BAND_EDGES_A, COARSEST_A

Array = NDArray[Any]


BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00",
)  # fmt: skip


INK, SOFT = "#222222", "#767676"


BAND_TINTS = {"image": "#E3EEF6", "diffraction": "#E6F3EC", "extrapolated": "#F8ECDF"}


TICKS_A = (10, 5, 3, 2, 1.5, 1.25, 1, 0.8)


SSIM_REGION = 0.7


MOST_LINES = 6


STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


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


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    @wraps(draw)
    def inner(*args: Any, **kwargs: Any) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return inner


@_styled
def frc_figure(metrics: Mapping[str, Any]) -> Figure:
    """Mean FRC with its 10th to 90th percentile: the wave, and the projection beside the image."""
    has_wave = metrics["frc_of"] == "wave"
    figure = Figure(figsize=(10.6 if has_wave else 6.4, 4.5), layout="constrained")
    axes: Any = figure.subplots(1, 2 if has_wave else 1, sharey=True, squeeze=False)[0]
    if has_wave:
        _frc_axes(axes[0], metrics["measured_to_A"])
        _spread_line(axes[0], metrics, BLUE, "phased wave")
        _trust_line(axes[0], metrics)
        axes[0].set_title("Wave, over measured frequencies", pad=10)
        _legend(axes[0])
    last = axes[-1]
    _frc_axes(last, 0.8)
    if metrics["image_frc"]["frc"] is not None:
        _spread_line(last, metrics["image_frc"], ORANGE, "image alone", "--")
    if metrics["projection_frc"]["frc"] is not None:
        _spread_line(last, metrics["projection_frc"], BLUE, "phased projection")
    last.set_title("Projection, against the target", pad=10)
    _legend(last)
    axes[0].set_ylabel("Fourier ring correlation")
    return figure


@_styled
def trust_figure(metrics: Mapping[str, Any]) -> Figure:
    """What a method expects of its own phases, by resolution."""
    figure = Figure(figsize=(6.4, 4.5), layout="constrained")
    axis = figure.subplots()
    _frc_axes(axis, metrics["measured_to_A"])
    _trust_line(axis, metrics)
    axis.set_title("Trust in the phases, without a truth", pad=10)
    axis.set_ylabel("expected cosine of the phase error")
    return figure


@_styled
def frc_2d_figure(maps: Mapping[str, Array], box_A: float, n: int) -> Figure:
    """2D FRC over all orientations; the white line encloses correlations of at least 0.5."""
    figure = Figure(figsize=(3.6 * len(maps) + 0.7, 4.0), layout="constrained")
    axes: Any = figure.subplots(1, len(maps), squeeze=False, sharey=True)[0]
    reach = min(max(values.shape[-1] for values in maps.values()) / 2 / box_A, 1.1)
    for axis, (title, values) in zip(axes, maps.items(), strict=True):
        side = values.shape[-1]
        low, high = (-(side // 2) - 0.5) / box_A, (side - side // 2 - 0.5) / box_A
        shown = axis.imshow(
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
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach), facecolor="#DDDDDD")
        axis.set(xlabel="q$_x$ (1/Å)", title=title)
        axis.set_xticks([q for q in (-1, -0.5, 0, 0.5, 1) if abs(q) <= reach])
    axes[0].set_ylabel("q$_y$ (1/Å)")
    _colorbar(figure, shown, list(axes), f"correlation over {n} images")
    return figure


@_styled
def ssim_figure(example: Example) -> Figure:
    """Target, phased projection and the map of their structural similarity."""
    phased, target = _pair(example)
    value, full = ssim(phased, target)
    figure = Figure(figsize=(10.6, 3.9), layout="constrained")
    axes = figure.subplots(1, 3)
    limits = _limits(target.numpy())
    _picture(axes[0], target.numpy(), example.box_A, "Target", limits, bar=True)
    _picture(axes[1], phased.numpy(), example.box_A, "Phased", limits)
    above = float((full > SSIM_REGION).float().mean())
    shown = _picture(
        axes[2], full.numpy(), example.box_A,
        f"SSIM {float(value):.2f}, above {SSIM_REGION:g} in {above:.0%} of the area",
        (0, 1), cmap="viridis",
    )  # fmt: skip
    if 0 < above < 1:
        smooth = ndimage.gaussian_filter(full.numpy(), 2.0)
        axes[2].contour(smooth, levels=[SSIM_REGION], colors="white", linewidths=1.0)
    _colorbar(figure, shown, axes[2], "local SSIM")
    _heading(figure, example)
    return figure


@_styled
def difference_figure(example: Example) -> Figure:
    """Smoothed absolute difference to the target, and where it exceeds 10 of 255."""
    phased, target = _pair(example)
    found = difference_mask(phased, target)
    figure = Figure(figsize=(10.6, 3.9), layout="constrained")
    axes = figure.subplots(1, 3)
    limits = _limits(target.numpy())
    _picture(axes[0], phased.numpy(), example.box_A, "Phased", limits, bar=True)
    difference = found.difference.numpy()
    shown = _picture(
        axes[1], difference, example.box_A, "Smoothed |phased - target|",
        (0, max(2 * DIFFERENCE_THRESHOLD, float(np.percentile(difference, 99.8)))), cmap="magma",
    )  # fmt: skip
    _colorbar(figure, shown, axes[1], "8-bit grey levels")
    part = float(found.mask.float().mean())
    title = f"Above {DIFFERENCE_THRESHOLD:g} in {part:.1%} of the area"
    _picture(axes[2], target.numpy(), example.box_A, title, limits)
    tint = np.zeros((*found.mask.shape, 4))
    tint[found.mask.numpy()] = to_rgba(ORANGE, 0.22)
    tint[found.edges.numpy()] = to_rgba(ORANGE, 1.0)
    axes[2].imshow(tint, origin="lower", interpolation="nearest")
    _heading(figure, example)
    return figure


@_styled
def gallery_figure(examples: Sequence[Example]) -> Figure:
    """A row per item: pattern (log scale), image, phased projection and, if known, the target."""
    columns = ["Pattern (log)", "Image", "Phased"]
    columns += ["Target"] if any(e.target is not None for e in examples) else []
    size = 2.5
    figure = Figure(
        figsize=(size * len(columns) + 0.3, size * len(examples) + 0.4), layout="constrained"
    )
    axes = figure.subplots(len(examples), len(columns), squeeze=False)
    for row, example in zip(axes, examples, strict=True):
        with np.errstate(divide="ignore"):
            log = np.where(
                example.pattern_mask & (example.pattern > 0), np.log10(example.pattern), np.nan
            )
        some = log[np.isfinite(log)]
        span = tuple(np.percentile(some, [10, 99.7])) if len(some) else (0.0, 1.0)
        log = np.where(example.pattern_mask & np.isnan(log), span[0], log)
        _picture(row[0], log, example.box_A, "", span, cmap="inferno")
        row[0].set_facecolor("#BBBBBB")
        row[0].set_ylabel(example.title, fontsize=9)
        _picture(row[1], example.image, example.box_A, "", _limits(example.image))
        reference = example.phased if example.target is None else example.target
        limits = _limits(reference)
        _picture(row[2], example.phased, example.box_A, "", limits)
        if example.target is not None:
            _picture(row[3], example.target, example.box_A, "", limits)
        elif len(columns) == 4:
            row[3].set_visible(False)
    _scale_bar(axes[0, 1], axes[0, 1].images[0].get_array().shape[-1], examples[0].box_A)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title)
    return figure


@_styled
def structures_figure(metrics: Mapping[str, Any]) -> Figure:
    """Mean FRC of each structure over all its orientations: lines, or rows if there are many."""
    found = {k: v for k, v in metrics["structures"].items() if v["frc"] is not None}
    of = "wave" if metrics["frc_of"] == "wave" else "projection"
    order = sorted(found, key=lambda stem: -float(np.mean(found[stem]["frc"]["mean"])))
    if len(found) <= MOST_LINES:
        figure = Figure(figsize=(6.8, 4.2), layout="constrained")
        axis = figure.subplots()
        _frc_axes(axis, metrics["measured_to_A"] if of == "wave" else 0.8)
        colours = (BLUE, ORANGE, GREEN, PURPLE, AMBER, INK)
        for stem, colour in zip(order, colours, strict=False):
            block = found[stem]
            label = f"{stem}: {_cut(block)} ({block['n']})"
            q = 1 / np.array(block["frc"]["resolution_A"])
            axis.plot(q, block["frc"]["mean"], color=colour, label=label)
        _legend(axis)
        axis.set_ylabel("Fourier ring correlation")
        axis.set_title(f"Mean FRC of the {of} by structure", pad=10)
        return figure
    figure = Figure(figsize=(7.6, 1.4 + 0.24 * len(order)), layout="constrained")
    axis = figure.subplots()
    q = 1 / np.array(found[order[0]]["frc"]["resolution_A"])
    rows = np.array([found[stem]["frc"]["mean"] for stem in order])
    shown = axis.imshow(
        rows, aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest",
        extent=(q[0], q[-1], len(order) - 0.5, -0.5),
    )  # fmt: skip
    cut = [1 / found[stem]["frc_0p5_A"] for stem in order]
    axis.plot(cut, range(len(order)), "|", color="white", markersize=11, markeredgewidth=2)
    axis.set_yticks(range(len(order)), order, fontsize=8.5)
    axis.set_xlabel("spatial frequency q (1/Å)")
    axis.set_title(f"Mean FRC of the {of} by structure", pad=10)
    _top_axis(axis, (q[0], q[-1]))
    _colorbar(figure, shown, axis, "mean FRC; white mark: falls below 0.5")
    return figure


@_styled
def r_factor_figure(r_factor: Array, frc_at_2A: Array | None) -> Figure:
    """R of every image; with a truth, against its FRC from 2.2 to 1.8 Å."""
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axis = figure.subplots()
    axis.spines["top"].set_visible(False)
    if frc_at_2A is None:
        axis.hist(r_factor[np.isfinite(r_factor)], bins=30, color=BLUE)
        axis.set_ylabel("images")
        axis.set_title("R-factor")
    else:
        axis.axhline(0.5, color=SOFT, linewidth=0.9, linestyle=":")
        axis.scatter(r_factor, frc_at_2A, s=16, color=BLUE, alpha=0.6, linewidth=0)
        axis.set(ylim=(-0.3, 1.02), ylabel="mean FRC, 2.2 to 1.8 Å")
        axis.set_title("R-factor against the truth")
    axis.set_xlabel("R (amplitude, measured band)")
    return figure


def _frc_axes(axis: Axes, end_A: float) -> None:
    """Frequency axes with the bands shaded, the 0.5 line and resolutions along the top."""
    end = 1 / end_A
    edges = [0.0, *(1 / edge for edge in BAND_EDGES_A if 1 / edge < end - 0.02), end]
    for (name, tint), low, high in zip(BAND_TINTS.items(), edges, edges[1:], strict=False):
        axis.axvspan(low, high, color=tint, linewidth=0, zorder=0)
        axis.text((low + high) / 2, 1.035, name, ha="center", va="center", fontsize=8.5,
                  color=SOFT)  # fmt: skip
    axis.axhline(0.5, color=SOFT, linewidth=0.9, linestyle=":", zorder=1)
    axis.axhline(0, color=SOFT, linewidth=0.6, zorder=1)
    axis.set(xlim=(0, end), ylim=(-0.22, 1.08), xlabel="spatial frequency q (1/Å)")
    axis.set_yticks(np.arange(-0.2, 1.01, 0.2))
    _top_axis(axis, (0, end))


def _top_axis(axis: Axes, limits: tuple[float, float]) -> None:
    top = axis.twiny()
    ticks = [d for d in TICKS_A if limits[0] < 1 / d <= limits[1] + 1e-6]
    top.set_xlim(*limits)
    top.set_xticks([1 / d for d in ticks], [f"{d:g}" for d in ticks])
    top.set_xlabel("resolution (Å)")


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


def _legend(axis: Axes) -> None:
    """Below the axes, where it hides no curve."""
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, columnspacing=1.6)


def _circle(axis: Axes, radius: float, label: str) -> None:
    angle = np.linspace(0, 2 * np.pi, 361)
    axis.plot(radius * np.cos(angle), radius * np.sin(angle), ":", color="white", linewidth=0.9)
    outline = [patheffects.withStroke(linewidth=2, foreground=INK)]
    axis.text(0, radius + 0.012, label, ha="center", va="bottom", fontsize=8, color="white",
              path_effects=outline)  # fmt: skip


def _pair(example: Example) -> tuple[torch.Tensor, torch.Tensor]:
    """Phased projection and target on the 256 px, 8-bit grid that SSIM uses."""
    if example.target is None:
        raise ValueError("an example without a target has nothing to be compared with")
    return eight_bit(torch.as_tensor(example.phased), torch.as_tensor(example.target))


def _limits(image: Array) -> tuple[float, float]:
    low, high = np.percentile(image, [0.5, 99.8])
    return float(low), float(max(high, low + 1e-6))


def _picture(
    axis: Axes, image: Array, box_A: float, title: str, limits: tuple[float, float],
    *, cmap: str = "gray", bar: bool = False,
) -> Any:  # fmt: skip
    shown = axis.imshow(
        image, vmin=limits[0], vmax=limits[1], cmap=cmap, origin="lower", interpolation="nearest"
    )
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    if title:
        axis.set_title(title)
    if bar:
        _scale_bar(axis, image.shape[-1], box_A)
    return shown


def _scale_bar(axis: Axes, n_px: int, box_A: float) -> None:
    """A 20 Å bar in the lower left corner."""
    pixel = n_px / box_A
    start, y = 4 * pixel, 4.5 * pixel
    axis.plot([start, start + 20 * pixel], [y, y], color="black", linewidth=5.0,
              solid_capstyle="butt")  # fmt: skip
    axis.plot([start, start + 20 * pixel], [y, y], color="white", linewidth=3.0,
              solid_capstyle="butt")  # fmt: skip
    outline = [patheffects.withStroke(linewidth=2, foreground="black")]
    axis.annotate("20 Å", (start + 10 * pixel, y), xytext=(0, 5), color="white", ha="center",
                  textcoords="offset points", fontsize=8.5, path_effects=outline)  # fmt: skip


def _colorbar(figure: Figure, shown: Any, axis: Axes | list[Axes], label: str) -> None:
    bar = figure.colorbar(shown, ax=axis, shrink=0.85, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)


def _heading(figure: Figure, example: Example) -> None:
    title = example.title.replace("\n", ", ")
    figure.suptitle(title, x=0.005, ha="left", fontsize=9.5, color=SOFT)
