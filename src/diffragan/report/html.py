"""What the pages share: figures with their captions, and one page that holds all inside itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from diffragan.files.atomic import write_atomically

FIGURE_DPI = 150


@dataclass(frozen=True)
class ReportFigure:
    """A figure with its file name, caption and text for those who don't see it."""

    name: str
    figure: Figure
    caption: str
    alt: str


def write_page(out: Path, template: str, figures: Sequence[ReportFigure], **values: object) -> Path:
    """Writes report.html and figures/*.png into `out` and returns the page's path.

    The page holds its figures inside itself and loads nothing, so that it opens offline and can be
    mailed.

    Args:
        out: folder, made if missing; files of the same names are replaced one by one.
        template: a file of this package. values: what it shows, beside the figures.
    """
    pngs = {one.name: png(one.figure) for one in figures}
    page = render(
        template,
        figures=[
            {
                "name": one.name,
                "uri": "data:image/png;base64," + base64.b64encode(pngs[one.name]).decode(),
                "caption": one.caption,
                "alt": one.alt,
            }
            for one in figures
        ],
        **values,
    )
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for name, data in pngs.items():
        write_atomically(out / "figures" / f"{name}.png", data)
    write_atomically(out / "report.html", page.encode())
    return out / "report.html"


def render(template: str, **values: object) -> str:
    """A template of this package filled in; its text is escaped, and a missing value is an error.

    Templates have the filters `num` and `percent` and the function `file`, which gives another file
    of this package as it is.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("diffragan", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["num"] = number_text
    environment.filters["percent"] = percent_text
    environment.globals["file"] = lambda name: Markup(_source(environment, name))
    return environment.get_template(template).render(**values)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    stream = io.BytesIO()
    # `savefig` would draw it twice, first for its layout, which drawing sees to anyway.
    figure.set_dpi(FIGURE_DPI)
    FigureCanvasAgg(figure).print_png(stream)  # type: ignore[no-untyped-call]
    return stream.getvalue()


def number_text(value: float | None, form: str = ".2f", unit: str = "") -> str:
    """A number in a format and its unit, a dash where there is none."""
    return "–" if value is None else f"{value:{form}} {unit}".rstrip()


def percent_text(value: float | None) -> str:
    """A fraction in whole per cent, a dash where there is none."""
    return number_text(value, ".0%")


def _source(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    text: Any = environment.loader.get_source(environment, name)[0]
    return str(text)
