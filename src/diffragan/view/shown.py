"""Pictures and charts by their names: what the page shows, and what `--picture` writes.

`pair/12/pattern` (or image, phased, phase, target, trust), `map/z/40` and `half1/z/40`, `fsc`; of a
scan `overview`, `dark_field`, `bright_field` and `position/1234`.
"""

from __future__ import annotations

from diffragan.errors import DiffraganError
from diffragan.view.curves import Chart, chart_png
from diffragan.view.opened import Opened
from diffragan.view.pictures import Picture, figure_png, pixels_png


def charts_of(opened: Opened) -> list[Chart]:
    """The charts of the whole."""
    return list(opened.charts)


def picture_of(opened: Opened, name: str) -> Picture:
    """A picture by its name.

    Raises:
        DiffraganError: there is none of this name, or its file is damaged.
    """
    match name.split("/"):
        case ["pair", row, kind] if row.isdigit() and opened.items is not None:
            return opened.items.picture(int(row), kind)
        case [volume, axis, index] if index.isdigit() and opened.map is not None:
            return opened.map.section(volume, axis, int(index))
        case ["position", number] if number.isdigit() and opened.scan is not None:
            return opened.scan.frame(int(number))
        case [layer] if opened.scan is not None and layer in opened.scan.layers:
            return opened.scan.picture(layer)
    raise DiffraganError(f"There is no picture “{name}” here; {_names(opened)}.")


def png_of(opened: Opened, name: str, *, figure: bool) -> bytes:
    """A picture or chart as PNG: pixels for the page, or a figure to keep; errors as
    `picture_of`."""
    for chart in charts_of(opened):
        if chart.name == name:
            return chart_png(chart)
    match name.split("/"):
        case ["pair", row, "trust"] if row.isdigit() and opened.items is not None:
            trust = opened.items.trust(int(row))
            if trust is None:
                raise DiffraganError("These results tell no trust.")
            return chart_png(trust)
    shown = picture_of(opened, name)
    return figure_png(shown) if figure else pixels_png(shown)


def _names(opened: Opened) -> str:
    """The names that there are, by example."""
    names = [chart.name for chart in opened.charts]
    if opened.items is not None:
        names += [f"pair/0/{kind}" for kind in opened.items.kinds]
    if opened.scan is not None:
        names += [*opened.scan.layers, "position/0"]
    if opened.map is not None:
        names += [f"{volume}/z/{opened.map.n // 2}" for volume in opened.map.files]
    return f"names are {', '.join(names)}" if names else "there are none"
