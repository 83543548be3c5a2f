"""What a reconstruction found, and what that says in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.evaluation.map_model import ResidueMatch
from diffragan.files.mrc import as_array
from diffragan.fourier.correlation import (
    BAND_EDGES_A,
    COARSEST_A,
    HALF_SET_THRESHOLD,
    TRUTH_THRESHOLD,
    resolution_at,
)

# Half maps that agree this much further than the truth allows share an error.
SHARED_ERROR = 1.25


@dataclass(frozen=True)
class MapReport:
    """A reconstructed map and how it was reached.

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
    residues: Sequence[ResidueMatch] = ()

    @property
    def failed(self) -> bool:
        """Whether the metrics say that it did not converge, as a bool of any kind."""
        converged = self.metrics.get("converged")
        return converged is not None and not converged

    @property
    def half_A(self) -> float | None:
        """Where the half maps' FSC falls below 0.143."""
        return self._at("fsc_0p143_A", self.fsc_half, HALF_SET_THRESHOLD)

    @property
    def truth_A(self) -> float | None:
        """Where the FSC with the truth falls below 0.5."""
        return self._at("truth_fsc_0p5_A", self.fsc_truth, TRUTH_THRESHOLD)

    @property
    def end_A(self) -> float:
        """The finest shell of the curves."""
        return 1 / float(self.q[-1])

    @property
    def volume(self) -> NDArray[Any]:
        """The map as an array."""
        return as_array(self.map)

    @property
    def inside(self) -> NDArray[np.bool_] | None:
        """The mask as an array, where there is one."""
        return None if self.mask is None else as_array(self.mask).astype(bool)

    @property
    def warnings(self) -> list[str]:
        """What the run warns of."""
        given = self.metrics.get("warnings") or []
        return [given] if isinstance(given, str) else list(given)

    @property
    def edge_A(self) -> float:
        """Where the patterns end."""
        return finite(self.metrics.get("measured_to_A")) or BAND_EDGES_A[1]

    def _at(self, key: str, curve: Tensor | None, threshold: float) -> float | None:
        given = finite(self.metrics.get(key))
        if given is not None or curve is None:
            return given
        try:
            return resolution_at(curve, self.q, threshold)
        except DiffraganError:  # shells that end before 10 Å tell no resolution
            return None


def describe_map(report: MapReport) -> list[str]:
    """What was reached and what that means, in plain sentences; failure comes first."""
    metrics = report.metrics
    sentences = []
    if report.failed:
        rounds = metrics.get("rounds")
        after = f" after {rounds} rounds" if rounds is not None else ""
        sentences.append(
            f"The reconstruction did not converge{after}. Don't interpret this map: its detail "
            "is not to be trusted, whatever the figures below say."
        )
    sentences += _half_sentences(report)
    sentences += _truth_sentences(report)
    return sentences


def numbers(report: MapReport) -> dict[str, str]:
    """The page's table: what it is, and its value in words; unknown ones are left out."""
    metrics = report.metrics
    n = report.map.shape[0]
    converged = {True: "yes", False: "no"}.get(metrics.get("converged", ""), "not said")
    mass_da = finite(metrics.get("mass_da"))
    model: Mapping[str, Any] = metrics.get("model") or {}
    rows = {
        "resolution claimed": _angstrom(finite(metrics.get("resolution_A"))),
        "half maps agree to (FSC 0.143)": _angstrom(report.half_A),
        "map agrees with the truth to (FSC 0.5)": _angstrom(report.truth_A),
        "patterns end at": _angstrom(report.edge_A),
        "converged": converged,
        "rounds": metrics.get("rounds"),
        "views": metrics.get("n_views", len(report.rotations)),
        "method": metrics.get("method"),
        "molecule": metrics.get("molecule"),
        "mass": None if mass_da is None else f"{mass_da / 1000:.1f} kDa",
        "hand": metrics.get("hand"),
        "map agrees with the model to (FSC 0.5)": _angstrom(finite(model.get("fsc_0p5_A"))),
        "residues of the model outside the density": ", ".join(model.get("unmatched", ())),
        "map": f"{n} x {n} x {n} voxels of {report.voxel_A:.4g} Å",
        "time": _duration(finite(metrics.get("seconds"))),
    }
    return {name: str(value) for name, value in rows.items() if value not in (None, "")}


def finite(value: Any) -> float | None:
    """A number, or None for what is missing, NaN or infinite."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return None
    return float(value) if math.isfinite(value) else None


def _half_sentences(report: MapReport) -> list[str]:
    at = report.half_A
    if at is None:
        return ["The half maps' FSC gives no resolution."]
    if at >= COARSEST_A:
        return [
            "Two maps made from separate halves of the data do not agree even at "
            f"{COARSEST_A:g} Å (FSC 0.143): nothing here is a reproducible map."
        ]
    end = report.end_A
    if report.failed:
        meaning = "That agreement alone does not make it right."
    elif report.truth_A is None:
        meaning = (
            "Detail coarser than that is reproducible; whether it is right, the halves alone "
            "can't tell, as both may share an error."
        )
    else:
        meaning = "Detail coarser than that is reproducible."
    how = "to the end of the data at" if at <= end * 1.0001 else "to"
    sentences = [
        f"Two maps made from separate halves of the data agree {how} {at:.2f} Å (FSC 0.143). "
        + meaning
    ]
    claimed = finite(report.metrics.get("resolution_A"))
    if claimed is not None and not report.failed:
        sentences.append(
            f"The resolution claimed is {claimed:.2f} Å: to there this map is expected to "
            "correlate by 0.5 or more with the truth, judged by how far the halves agree and, "
            "where electrons allow, by how well their maps predict intensities that they were "
            "never shown."
        )
    return sentences


def _truth_sentences(report: MapReport) -> list[str]:
    at, half = report.truth_A, report.half_A
    if at is None:
        return []
    if at >= COARSEST_A:
        sentences = [f"The map does not agree with the truth even at {COARSEST_A:g} Å (FSC 0.5)."]
    else:
        how = "to the end of the data at" if at <= report.end_A * 1.0001 else "to"
        sentences = [f"The map agrees with the truth {how} {at:.2f} Å (FSC 0.5)."]
    if half is not None and at > SHARED_ERROR * half:
        sentences.append(
            "The halves agree further than the map does with the truth: they share an error, and "
            "the truth is the figure to go by."
        )
    return sentences


def _angstrom(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f} Å"


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
