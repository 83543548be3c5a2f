"""How every figure of the pages looks: colours, style, axes by resolution, pictures.

Nothing here touches pyplot or the screen. Colours are those of Okabe & Ito and perceptually even
maps, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from diffragan.fourier.correlation import BAND_EDGES_A

Array = NDArray[Any]

BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00",
)  # fmt: skip

INK, SOFT = "#222222", "#767676"

BAND_TINTS = {"image": "#E3EEF6", "diffraction": "#E6F3EC", "extrapolated": "#F8ECDF"}

TICKS_A = (10, 5, 3, 2, 1.5, 1.25, 1, 0.8)

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

P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw in the style of the pages, whatever the user's own matplotlib style is."""

    @wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return inner


def frc_axes(axis: Axes, end_A: float) -> None:
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
    top_axis(axis, (0, end))


def top_axis(axis: Axes, limits: tuple[float, float]) -> None:
    """Resolutions in Å along the top of axes in 1/Å."""
    top = axis.twiny()
    ticks = [d for d in TICKS_A if limits[0] < 1 / d <= limits[1] + 1e-6]
    top.set_xlim(*limits)
    top.set_xticks([1 / d for d in ticks], [f"{d:g}" for d in ticks])
    top.set_xlabel("resolution (Å)")


def legend(axis: Axes) -> None:
    """Below the axes, where it hides no curve."""
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, columnspacing=1.6)


def limits(image: Array) -> tuple[float, float]:
    """Grey levels that leave a few outliers to black and white."""
    low, high = np.percentile(image, [0.5, 99.8])
    return float(low), float(max(high, low + 1e-6))


def log_pattern(pattern: Array, mask: Array) -> tuple[Array, tuple[float, float]]:
    """log10 of a pattern, nan where masked, and the levels between which to show it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.where(mask & (pattern > 0), np.log10(pattern), np.nan)
    some = log[np.isfinite(log)]
    low, high = np.percentile(some, [10, 99.7]) if len(some) else (0.0, 1.0)
    return np.where(mask & np.isnan(log), low, log), (float(low), float(high))


def picture(
    axis: Axes, image: Array, box_A: float, title: str, limits: tuple[float, float],
    *, cmap: str = "gray", bar: bool = False,
) -> Any:  # fmt: skip
    """An image (y, x) of side `box_A` between two grey levels, without ticks; y points up."""
    drawn = axis.imshow(
        image, vmin=limits[0], vmax=limits[1], cmap=cmap, origin="lower", interpolation="nearest"
    )
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    if title:
        axis.set_title(title)
    if bar:
        scale_bar(axis, image.shape[-1], box_A)
    return drawn


def scale_bar(axis: Axes, n_px: int, box_A: float, length_A: float = 20.0) -> None:
    """A bar in the lower left corner."""
    length, margin = length_A * n_px / box_A, 0.2 * length_A * n_px / box_A
    start, y = margin, 1.125 * margin
    axis.plot([start, start + length], [y, y], color="black", linewidth=5.0,
              solid_capstyle="butt")  # fmt: skip
    axis.plot([start, start + length], [y, y], color="white", linewidth=3.0,
              solid_capstyle="butt")  # fmt: skip
    outline = [patheffects.withStroke(linewidth=2, foreground="black")]
    words = f"{length_A:g} Å"
    axis.annotate(words, (start + length / 2, y), xytext=(0, 5), color="white", ha="center",
                  textcoords="offset points", fontsize=8.5, path_effects=outline)  # fmt: skip


def colorbar(figure: Figure, image: Any, axis: Axes | list[Axes], label: str) -> None:
    """The scale of an image, right of the axes."""
    bar = figure.colorbar(image, ax=axis, shrink=0.85, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)
