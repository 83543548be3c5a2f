"""What an HTML page of a report would load and show."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
from numpy.typing import NDArray


def ball(
    n: int, radius_A: float, voxel_A: float, at_A: tuple[float, float, float]
) -> NDArray[np.float64]:
    """A soft-edged ball, [z, y, x], at x, y, z in Å from the centre."""
    axis = (np.arange(n) - n // 2) * voxel_A
    x, y, z = at_A
    squares = (axis[:, None, None] - z) ** 2 + (axis[None, :, None] - y) ** 2 + (axis - x) ** 2
    found: NDArray[np.float64] = 1 / (1 + np.exp((np.sqrt(squares) - radius_A) / 0.8))
    return found


def own_text(page: str) -> str:
    """A page without its scripts: what it says, and how that looks."""
    return re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)


class Page(HTMLParser):
    """What a page would load, the texts for its pictures, its scripts, and its viewer's data."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.alts: list[str] = []
        self.scripts = 0
        self.data = ""
        self._in_data = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data") and value:
                self.loaded.append(value)
        self.scripts += tag in ("script", "link", "iframe")
        if tag == "img":
            self.alts.append(dict(attrs).get("alt") or "")
        self._in_data = ("type", "application/json") in attrs

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data += data
            self._in_data = False
