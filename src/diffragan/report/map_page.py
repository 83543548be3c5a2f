"""One HTML page about a reconstructed map: how far it reaches, the map to turn, every figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffragan import __version__
from diffragan.report.html import ReportFigure, write_page
from diffragan.report.map_figures import (
    fsc_figure,
    history_figure,
    orientations_figure,
    projections_figure,
    residues_figure,
    sections_figure,
    view_weights_figure,
)
from diffragan.report.map_report import MapReport, describe_map, finite, numbers
from diffragan.report.plotting import AMBER, PURPLE, SKY, Array
from diffragan.report.viewer.density import (
    VOLUME_PER_DA_A3,
    Crop,
    crop_of,
    level_enclosing,
    packed,
    smoothed,
)
from diffragan.report.viewer.scene import Scene, Surface, scene_text

# Parts of the molecule's volume, and multiples of sigma where no mass is known.
VOLUME_PARTS = {"densest 35 %": 0.35, "densest 15 %": 0.15}
SIGMAS = {"2 σ": 2.0, "3 σ": 3.0, "5 σ": 5.0}
# At atomic resolution the space between atoms is as empty as solvent, so the surface around the
# whole molecule is that of the map at 4 Å.
ENVELOPE_A = 4.0

# In the order of the page; each gives None where the run holds nothing for it.
FIGURES = (
    fsc_figure,
    residues_figure,
    sections_figure,
    projections_figure,
    history_figure,
    orientations_figure,
    view_weights_figure,
)


def write_map_report(out: Path, report: MapReport, command: str) -> Path:
    """Writes report.html and figures/*.png into `out` and returns the page's path.

    Args:
        out: folder, made if missing; files of the same names are replaced one by one.
        command: the command line, for the page's end; "" leaves it out.
    """
    scene = map_scene(report)
    return write_page(
        out,
        "map.html",
        draw(report),
        molecule=report.metrics.get("molecule"),
        summary=describe_map(report),
        failed=report.failed,
        warnings=report.warnings,
        scene=scene,
        scene_text=scene_text(scene),
        numbers=numbers(report),
        provenance={"command": command or None, "software": f"diffragan {__version__}"},
        conditions={},
        run="reconstruction",
        settings=report.settings_toml,
    )


def draw(report: MapReport) -> list[ReportFigure]:
    """The figures that these results allow, in the order of the page."""
    return [made for figure in FIGURES if (made := figure(report)) is not None]


def map_scene(report: MapReport) -> Scene:
    """The map as surfaces: itself, its outline at 4 Å, its mask; a flat map has none.

    With a mass contours enclose parts of the volume that it implies (1.21 Å3/Da), without one they
    lie at 2, 3 and 5 sigma.
    """
    volume, voxel_A, mask = report.volume, report.voxel_A, report.inside
    crop = crop_of(np.zeros(volume.shape, bool) if mask is None else mask, voxel_A)
    mass_da = finite(report.metrics.get("mass_da"))
    density = packed(volume, voxel_A, crop)
    if density is None:
        return Scene(())
    levels = _levels(volume, voxel_A, mass_da)
    start = levels.get("densest 35 %") or levels.get("3 σ") or next(iter(levels.values()), 3.0)
    surfaces = [Surface("map, measured", density, SKY, start, levels)]
    if mass_da is not None:
        outline = smoothed(volume, voxel_A, ENVELOPE_A)
        size_A3 = VOLUME_PER_DA_A3 * mass_da
        surfaces += _smooth_surface("outline at 4 Å", outline, voxel_A, crop, size_A3)
    if mask is not None and mask.any():
        edge = smoothed(mask, voxel_A, ENVELOPE_A / 2)
        size_A3 = float(mask.sum()) * voxel_A**3
        surfaces += _smooth_surface("mask", edge, voxel_A, crop, size_A3)
    return Scene(surfaces, fallback="sections")


def _smooth_surface(
    label: str, volume: Array, voxel_A: float, crop: Crop, volume_A3: float
) -> list[Surface]:
    """A coarse surface around a volume, not shown at first; none where it would enclose nothing."""
    level = level_enclosing(volume, voxel_A, volume_A3)
    density = packed(volume, voxel_A, crop, finest_A=ENVELOPE_A / 4)
    if level is None or density is None:
        return []
    if label == "mask":
        about = "where the reconstruction allowed density"
        return [Surface(label, density, PURPLE, level, {}, "mesh", False, True, about)]
    about = "the map smoothed to 4 Å, at first around the volume that the mass implies"
    presets = {"volume of the mass": level}
    return [Surface(label, density, AMBER, level, presets, "clear", False, False, about)]


def _levels(volume: Array, voxel_A: float, mass_da: float | None) -> dict[str, float]:
    """Contours by their words."""
    if mass_da is None:
        largest = float((volume.max() - volume.mean()) / volume.std())
        return {name: level for name, level in SIGMAS.items() if level < largest}
    levels = {
        name: level_enclosing(volume, voxel_A, part * VOLUME_PER_DA_A3 * mass_da)
        for name, part in VOLUME_PARTS.items()
    }
    return {name: level for name, level in levels.items() if level is not None}
