"""Sections of a map through its best and worst atoms, for paper and for where nothing turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffragan.report.html import ReportFigure
from diffragan.report.plotting import GREEN, ORANGE, SKY, Array, limits, styled
from diffragan.report.viewer.scene import ShownAtoms, residue_names

_HALF_A, _STEP_A = 4.5, 0.1
_IN_PLANE_A = 0.8
_APART_A = 5.0
_CONTOURS = (2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Place:
    """A plane to look at: through `centre_A`, spanned by `right` and `up`, each (3,), x, y, z."""

    title: str
    centre_A: Array
    right: Array
    up: Array


@styled
def close_ups(volume: Array, voxel_A: float, atoms: ShownAtoms, each: int = 3) -> ReportFigure:
    """The map around the residues, or without residues the atoms, that fit it best and worst.

    Args:
        volume: (n, n, n), [z, y, x], rotation centre at [n // 2] * 3. each: how many of both.
    """
    from scipy.ndimage import spline_filter

    best, worst = places(atoms, each)
    columns = max(len(best), len(worst), 1)
    figure = Figure(figsize=(3.4 * columns, 7.4), layout="constrained")
    axes: Any = figure.subplots(2, columns, squeeze=False)
    sigma = float(volume.std())
    smooth = spline_filter(np.asarray(volume, dtype=np.float64), order=3, mode="grid-wrap")
    for row, some in zip(axes, (best, worst), strict=True):
        for axis in row:
            axis.set_axis_off()
        for axis, place in zip(row, some, strict=False):
            section = _section(smooth, voxel_A, place) / (sigma or 1.0)
            _draw(axis, section, atoms, place)
    what = "residues" if atoms.residues else "atoms"
    return ReportFigure(
        "close_ups",
        figure,
        f"The measured map around the {what} that fit it best (above) and worst (below): sections "
        f"of {2 * _HALF_A:g} Å, contours at {', '.join(f'{c:g}' for c in _CONTOURS)} standard "
        "deviations of the whole map. Circles are atoms within 0.8 Å of the section, green where "
        "both half sets confirm them and orange where not; lines are bonds. Fit is the correlation "
        "of map and atoms within 1.5 Å of an atom.",
        f"Sections of the map through its best and worst {what}.",
    )


def places(atoms: ShownAtoms, each: int) -> tuple[list[Place], list[Place]]:
    """The best and the worst fitting residues or atoms, 5 Å apart at least, each in its own
    plane."""
    if atoms.residues:
        groups = [np.array(one.atoms, dtype=int) for one in atoms.residues if one.atoms]
        every = zip(atoms.residues, residue_names(atoms.residues), strict=True)
        names = [name for one, name in every if one.atoms]
    else:
        groups = [np.array([k]) for k in range(len(atoms))]
        names = [f"atom {k + 1}" for k in range(len(atoms))]
    fits = np.array([mean_known(atoms.fit[group]) for group in groups])
    known = np.flatnonzero(np.isfinite(fits))
    rising = known[np.argsort(fits[known], kind="stable")]
    chosen = []
    for order in (rising[::-1], rising):
        some: list[Place] = []
        for k in order:
            centre = atoms.positions_A[groups[k]].mean(0)
            if all(np.linalg.norm(centre - other.centre_A) >= _APART_A for other in some):
                title = f"{names[k]}, fit {fits[k]:.2f}"
                some.append(Place(title, centre, *_plane(atoms.positions_A, groups[k])))
            if len(some) == each:
                break
        chosen.append(some)
    return chosen[0], chosen[1]


def mean_known(values: Array) -> float:
    """The mean of what is a number; nan where nothing is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _plane(positions_A: Array, group: Array) -> tuple[Array, Array]:
    """Two directions of the plane in which most of a group lies; of one atom, in which its two
    nearest neighbours lie too."""
    if len(group) < 3:
        nearest = np.argsort(np.linalg.norm(positions_A - positions_A[group].mean(0), axis=1))
        group = nearest[:3]
    apart = positions_A[group] - positions_A[group].mean(0)
    axes = np.linalg.svd(np.vstack((apart, np.zeros((3, 3)))))[2]
    return axes[0], axes[1]


def _section(smooth: Array, voxel_A: float, place: Place) -> Array:
    """The map on the plane, from its spline's coefficients."""
    from scipy.ndimage import map_coordinates

    line = np.arange(-_HALF_A, _HALF_A + _STEP_A / 2, _STEP_A)
    points = (
        place.centre_A[:, None, None]
        + place.right[:, None, None] * line
        + place.up[:, None, None] * line[:, None]
    )
    index = points[::-1] / voxel_A + smooth.shape[0] // 2
    result: Array = map_coordinates(smooth, index, order=3, mode="grid-wrap", prefilter=False)
    return result


def _draw(axis: Axes, section: Array, atoms: ShownAtoms, place: Place) -> None:
    extent = (-_HALF_A, _HALF_A, -_HALF_A, _HALF_A)
    low, high = limits(section)
    axis.imshow(section, cmap="gray_r", origin="lower", extent=extent, vmin=low, vmax=high)
    levels = [level for level in _CONTOURS if section.min() < level < section.max()]
    if levels:
        axis.contour(section, levels=levels, colors=SKY, linewidths=0.9, extent=extent)
    apart = atoms.positions_A - place.centre_A
    x, y = apart @ place.right, apart @ place.up
    height = np.abs(apart @ np.cross(place.right, place.up))
    near = (height <= _IN_PLANE_A) & (np.abs(x) < _HALF_A) & (np.abs(y) < _HALF_A)
    for i, j in atoms.bonds:
        if near[i] or near[j]:
            axis.plot(x[[i, j]], y[[i, j]], color="#222222", linewidth=1.2, zorder=2)
    for which, colour in ((atoms.confirmed, GREEN), (~atoms.confirmed, ORANGE)):
        some = near & which
        axis.scatter(x[some], y[some], s=42, color=colour, edgecolor="white", zorder=3)
    axis.set(xlim=extent[:2], ylim=extent[2:], aspect="equal")
    axis.set_title(place.title)
