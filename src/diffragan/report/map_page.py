"""One HTML page about a reconstructed map: how far it reaches, the map to turn, every figure.

Like the page of an evaluation it holds everything inside itself and loads nothing.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray
from torch import Tensor

from diffragan import __version__
from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.fourier.correlation import BAND_EDGES_A, COARSEST_A, resolution_at
from diffragan.report import map_figures as figures
from diffragan.report.html import ReportFigure, png
from diffragan.report.surfaces import Surface, surfaces

HALF_THRESHOLD, TRUTH_THRESHOLD = 0.143, 0.5


# Half maps that agree this much further than the truth allows share an error.
SHARED_ERROR = 1.25


@dataclass(frozen=True)
class VolumeReport:
    """What a reconstruction found.

    map: (n, n, n), [z, y, x], rotation centre at voxel [n // 2] * 3; protein is positive.
    voxel_A: side of a voxel. mask: (n, n, n) bool, or None.
    q: (s,) 1/Å, the measured shells from shell 0. fsc_half: (s,) between independent half maps.
    fsc_truth: (s,) of the map with the truth, or None.
    history: rows with iteration, half, r_factor, resolution_A; a value may be missing or None.
    rotations: (v, 3, 3). weights: (v,) of the views in the map.
    metrics: fsc_0p143_A, truth_fsc_0p5_A, converged, rounds, n_views, seconds, voxel_A, molecule,
        hand, warnings, and where known method, mass_da, measured_to_A; any may be missing.
    settings_toml: the settings as written beside the map.
    others: further curves (s,) to draw, by their names in `map_figures.EXTRA_CURVES`; nan where one
        can't be told.
    """

    map: Tensor | NDArray[Any]
    voxel_A: float
    mask: Tensor | NDArray[Any] | None
    q: Tensor
    fsc_half: Tensor
    fsc_truth: Tensor | None
    history: Sequence[Mapping[str, Any]]
    rotations: NDArray[Any]
    weights: NDArray[Any]
    metrics: Mapping[str, Any]
    settings_toml: str
    others: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the metrics say that it did not converge, as a bool of any kind."""
        converged = self.metrics.get("converged")
        return converged is not None and not converged

    @property
    def half_A(self) -> float | None:
        """Where the half maps' FSC falls below 0.143."""
        return self._at("fsc_0p143_A", self.fsc_half, HALF_THRESHOLD)

    @property
    def truth_A(self) -> float | None:
        """Where the FSC with the truth falls below 0.5."""
        return self._at("truth_fsc_0p5_A", self.fsc_truth, TRUTH_THRESHOLD)

    @property
    def edge_A(self) -> float:
        """Where the patterns end."""
        return _finite(self.metrics.get("measured_to_A")) or BAND_EDGES_A[1]

    def _at(self, key: str, curve: Tensor | None, threshold: float) -> float | None:
        given = _finite(self.metrics.get(key))
        if given is not None or curve is None:
            return given
        try:
            return resolution_at(curve, self.q, threshold)
        except DiffraganError:  # shells that end before 10 Å tell no resolution
            return None


def write_volume_report(out: Path, found: VolumeReport, command: str) -> Path:
    """Writes report.html and figures/*.png into `out` and returns the page's path.

    Args:
        out: folder, made if missing; files of the same names are replaced one by one.
        command: the command line, for the page's end; "" leaves it out.
    """
    drawn = draw_volume(found)
    pngs = {one.name: png(one.figure) for one in drawn}
    meshes = surfaces(_array(found.map), found.voxel_A, _finite(found.metrics.get("mass_da")))
    page = render_volume(found, drawn, pngs, meshes, command)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for name, data in pngs.items():
        write_atomically(out / "figures" / f"{name}.png", data)
    write_atomically(out / "report.html", page.encode())
    return out / "report.html"


def opening(found: VolumeReport) -> list[str]:
    """What was reached and what that means, in plain sentences; failure comes first."""
    metrics = found.metrics
    said = []
    if found.failed:
        rounds = metrics.get("rounds")
        after = f" after {rounds} rounds" if rounds is not None else ""
        said.append(
            f"The reconstruction did not converge{after}. Don't interpret this map: its detail "
            "is not to be trusted, whatever the figures below say."
        )
    said += _half_sentences(found)
    said += _truth_sentences(found)
    return said


def draw_volume(found: VolumeReport) -> list[ReportFigure]:
    """The figures that these results allow, in the order of the page."""
    volume = _array(found.map)
    mask = None if found.mask is None else _array(found.mask).astype(bool)
    truth = None if found.fsc_truth is None else _array(found.fsc_truth)
    others = {name: _array(curve) for name, curve in found.others.items()}
    # A run that left nothing out has no such curve to show.
    others = {name: curve for name, curve in others.items() if np.isfinite(curve).any()}
    further = "".join(f" {figures.EXTRA_CURVES[name].said}" for name in others)
    outlined = "" if mask is None else " The orange line is the mask."
    with_truth = (
        ""
        if truth is None
        else ", and of the whole map with the truth: half maps at 0.143 and a map against the "
        "truth at 0.5 mean the same resolution, if nothing but noise parts them"
    )
    drawn = [
        ReportFigure(
            "fsc",
            figures.fsc_figure(
                _array(found.q), _array(found.fsc_half), truth, others,
                half_A=found.half_A, truth_A=found.truth_A, edge_A=found.edge_A,
            ),
            f"Fourier shell correlation of two maps from separate halves of the data{with_truth}."
            f"{further} Shading marks what the images and what the patterns measure.",
            "Line plot of Fourier shell correlation against spatial frequency. "
            + " ".join(opening(found)[:2]),
        ),
        ReportFigure(
            "sections",
            figures.sections_figure(volume, found.voxel_A, mask),
            f"The three sections through the centre, on one grey scale.{outlined}",
            "Three central sections of the map.",
        ),
        ReportFigure(
            "projections",
            figures.projections_figure(volume, found.voxel_A, mask),
            "The map summed along its three axes.",
            "Three projections of the map.",
        ),
    ]  # fmt: skip
    if found.history:
        drawn.append(
            ReportFigure(
                "history",
                figures.history_figure(found.history),
                "Each half of the data by iteration: the amplitude R-factor, which needs no "
                "truth, and the resolution. Halves that part ways fit noise.",
                "R-factor and resolution against iteration.",
            )
        )
    if len(found.rotations):
        drawn.append(
            ReportFigure(
                "orientations",
                figures.orientations_figure(found.rotations),
                "From where the molecule was seen, in its own frame, each region of the sphere "
                "at its true area. Views crowded around one direction and its opposite leave "
                "the map blurred along it.",
                "Equal-area map of the viewing directions.",
            )
        )
    weights = np.asarray(found.weights, dtype=float)
    if len(weights) and np.ptp(weights) > 0:
        drawn.append(
            ReportFigure(
                "weights",
                figures.weights_figure(weights),
                "How much each view counts in the map.",
                "Histogram of the weights of the views.",
            )
        )
    return drawn


def render_volume(
    found: VolumeReport,
    drawn: Sequence[ReportFigure],
    pngs: Mapping[str, bytes],
    meshes: Sequence[Surface],
    command: str,
) -> str:
    """The page as one HTML text, with figures, surfaces and viewer inside it."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    package = resources.files("diffragan.report")
    template = package.joinpath("volume_template.html").read_text("utf-8")
    # "</" inside a script would end it.
    packed = json.dumps([mesh.packed() for mesh in meshes], allow_nan=False).replace("</", "<\\/")
    warnings = found.metrics.get("warnings") or []
    molecule = found.metrics.get("molecule")
    return environment.from_string(template).render(
        title=f"Map of {molecule}" if molecule else "Map",
        style=Markup(shared_style()),
        viewer=Markup(package.joinpath("volume_viewer.js").read_text("utf-8")),
        surfaces=Markup(packed),
        buttons=[(mesh.label, _about(mesh)) for mesh in meshes],
        opening=opening(found),
        failed=found.failed,
        warnings=[warnings] if isinstance(warnings, str) else list(warnings),
        numbers=numbers(found),
        settings=found.settings_toml,
        provenance={"command": command, "software": f"diffragan {__version__}"},
        figures=[
            {
                "name": one.name,
                "uri": "data:image/png;base64," + base64.b64encode(pngs[one.name]).decode(),
                "caption": one.caption,
                "alt": one.alt,
            }
            for one in drawn
        ],
    )


def numbers(found: VolumeReport) -> list[tuple[str, str]]:
    """Rows of the page's table: what it is, and its value in words."""
    metrics = found.metrics
    n = found.map.shape[0]
    reached = {True: "yes", False: "no"}.get(metrics.get("converged", ""), "not said")
    seconds = _finite(metrics.get("seconds"))
    rows = [
        ("resolution claimed", _unit(_finite(metrics.get("resolution_A")), "Å")),
        ("half maps agree to (FSC 0.143)", _unit(found.half_A, "Å")),
        ("map agrees with the truth to (FSC 0.5)", _unit(found.truth_A, "Å")),
        ("patterns end at", _unit(found.edge_A, "Å")),
        ("converged", reached),
        ("rounds", _plain(metrics.get("rounds"))),
        ("views", _plain(metrics.get("n_views", len(found.rotations)))),
        ("method", _plain(metrics.get("method"))),
        ("molecule", _plain(metrics.get("molecule"))),
        ("mass", _unit(_thousandth(metrics.get("mass_da")), "kDa", ".1f")),
        ("hand", _plain(metrics.get("hand"))),
        ("map", f"{n} x {n} x {n} voxels of {found.voxel_A:.4g} Å"),
        ("time", _duration(seconds)),
    ]
    return [(name, value) for name, value in rows if value]


def shared_style() -> str:
    """The style sheet of the evaluation's page, so that both look alike."""
    text = resources.files("diffragan.report").joinpath("template.html").read_text("utf-8")
    return text.partition("<style>")[2].partition("</style>")[0]


def _half_sentences(found: VolumeReport) -> list[str]:
    at = found.half_A
    if at is None:
        return ["The half maps' FSC gives no resolution."]
    if at >= COARSEST_A:
        return [
            "Two maps made from separate halves of the data do not agree even at "
            f"{COARSEST_A:g} Å (FSC 0.143): nothing here is a reproducible map."
        ]
    end = _end_A(found)
    if found.failed:
        meaning = "That agreement alone does not make it right."
    elif found.truth_A is None:
        meaning = (
            "Detail coarser than that is reproducible; whether it is right, the halves alone "
            "can't tell, as both may share an error."
        )
    else:
        meaning = "Detail coarser than that is reproducible."
    how = "to the end of the data at" if at <= end * 1.0001 else "to"
    said = [
        f"Two maps made from separate halves of the data agree {how} {at:.2f} Å (FSC 0.143). "
        + meaning
    ]
    claimed = _finite(found.metrics.get("resolution_A"))
    if claimed is not None and not found.failed:
        said.append(
            f"The resolution claimed is {claimed:.2f} Å: to there this map is expected to "
            "correlate by 0.5 or more with the truth, judged by how far the halves agree and, "
            "where electrons allow, by how well their maps predict intensities that they were "
            "never shown."
        )
    return said


def _truth_sentences(found: VolumeReport) -> list[str]:
    at, half = found.truth_A, found.half_A
    if at is None:
        return []
    if at >= COARSEST_A:
        said = [f"The map does not agree with the truth even at {COARSEST_A:g} Å (FSC 0.5)."]
    else:
        how = "to the end of the data at" if at <= _end_A(found) * 1.0001 else "to"
        said = [f"The map agrees with the truth {how} {at:.2f} Å (FSC 0.5)."]
    if half is not None and at > SHARED_ERROR * half:
        said.append(
            "The halves agree further than the map does with the truth: they share an error, and "
            "the truth is the figure to go by."
        )
    return said


def _end_A(found: VolumeReport) -> float:
    return 1 / float(found.q[-1])


def _about(mesh: Surface) -> str:
    return (
        f"Contour at {mesh.level_sigma:.1f} sigma, enclosing {mesh.volume_A3:,.0f} Å³, drawn with "
        f"{len(mesh.triangles):,} triangles on a grid of {mesh.grid_A:.2f} Å."
    )


def _array(values: Any) -> NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _finite(value: Any) -> float | None:
    """A number, or None for what is missing, NaN or infinite."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return None
    return float(value) if math.isfinite(value) else None


def _thousandth(value: Any) -> float | None:
    number = _finite(value)
    return None if number is None else number / 1000


def _unit(value: float | None, unit: str, form: str = ".2f") -> str:
    return "" if value is None else f"{value:{form}} {unit}"


def _plain(value: Any) -> str:
    return "" if value is None else str(value)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
