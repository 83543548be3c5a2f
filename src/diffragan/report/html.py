"""What the pages share: figures as data of a page."""

from __future__ import annotations

import io
from dataclasses import dataclass

from matplotlib.figure import Figure

FIGURE_DPI = 150


@dataclass(frozen=True)
class ReportFigure:
    """A figure with its file name, caption and text for those who don't see it."""

    name: str
    figure: Figure
    caption: str
    alt: str


def png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=FIGURE_DPI)
    return stream.getvalue()
