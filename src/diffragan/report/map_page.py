"""One HTML page about a reconstructed map: how far it reaches, the map to turn, every figure."""

from __future__ import annotations

import json
from pathlib import Path

from markupsafe import Markup

from diffragan import __version__
from diffragan.report.html import ReportFigure, write_page
from diffragan.report.map_figures import (
    fsc,
    history,
    orientations,
    projections,
    sections,
    weights,
)
from diffragan.report.map_report import MapReport, describe_map, finite, numbers
from diffragan.report.surfaces import Surface, surfaces

# In the order of the page; each gives None where the run holds nothing for it.
FIGURES = (fsc, sections, projections, history, orientations, weights)


def write_map_report(out: Path, report: MapReport, command: str) -> Path:
    """Writes report.html and figures/*.png into `out` and returns the page's path.

    Args:
        out: folder, made if missing; files of the same names are replaced one by one.
        command: the command line, for the page's end; "" leaves it out.
    """
    meshes = surfaces(report.volume, report.voxel_A, finite(report.metrics.get("mass_da")))
    # "</" inside a script would end it.
    packed = json.dumps([mesh.packed() for mesh in meshes], allow_nan=False).replace("</", "<\\/")
    return write_page(
        out,
        "map.html",
        draw(report),
        molecule=report.metrics.get("molecule"),
        summary=describe_map(report),
        failed=report.failed,
        warnings=report.warnings,
        surfaces=Markup(packed),
        buttons=[(mesh.label, _about(mesh)) for mesh in meshes],
        numbers=numbers(report),
        provenance={"command": command or None, "software": f"diffragan {__version__}"},
        conditions={},
        run="reconstruction",
        settings=report.settings_toml,
    )


def draw(report: MapReport) -> list[ReportFigure]:
    """The figures that these results allow, in the order of the page."""
    return [made for figure in FIGURES if (made := figure(report)) is not None]


def _about(mesh: Surface) -> str:
    return (
        f"Contour at {mesh.level_sigma:.1f} sigma, enclosing {mesh.volume_A3:,.0f} Å³, drawn with "
        f"{len(mesh.triangles):,} triangles on a grid of {mesh.grid_A:.2f} Å."
    )
