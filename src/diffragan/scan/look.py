"""Every position of a scan looked at: what its pattern is of, and how much lies there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.inspection.findings import PatternFindings
from diffragan.inspection.patterns import inspect_patterns
from diffragan.progress import Progress
from diffragan.scan.hits.background import Excess, counts_a_kda, excess_of, mass_kda
from diffragan.scan.hits.classes import (
    Classifier,
    called,
    features_of,
    of_molecules,
    shipped,
)
from diffragan.scan.hits.rings import RingSums, Values, measure_rings
from diffragan.scan.opened import OpenedScan
from diffragan.settings import Settings


@dataclass(frozen=True)
class Looked:
    """A scan of n positions, of which f have frames.

    shape: rows and columns. frame: (n,) number of a position's frame, -1 where it is missing.
    found: centre, mask and calibration of the detector. sums, excess: of the positions, empty
    where a frame is missing. classes: (n,) with "missing" among them. probability: (n,) of being
    of molecules, one or several.
    """

    shape: tuple[int, int]
    frame: NDArray[np.int64]
    found: PatternFindings
    sums: RingSums
    excess: Excess
    classes: NDArray[np.str_]
    probability: Values

    @property
    def grid(self) -> Values:
        """(rows, columns) counts beyond the background."""
        total: Values = self.excess.rings.sum(1).reshape(self.shape)
        return total


def look(
    opened: OpenedScan, kept: Path, progress: Progress, classifier: Classifier | None = None
) -> Looked:
    """One pass over the frames, then background, features and classes.

    Args:
        kept: file in which an interrupted pass is kept.
        classifier: none: the package's own.

    Raises:
        DiffraganError: no centre or calibration can be told, or no frame can be read.
    """
    settings = opened.settings
    # The scan's own shape may be told by hand, and frames be missing: they are no scan to look at.
    alone = settings.model_copy(
        update={"inspect": settings.inspect.model_copy(update={"scan_shape": None})}
    )
    found = inspect_patterns(opened.frames, alone, progress)
    sums = measure_rings(opened.frames, found, settings.scan.block, kept, progress)
    n = opened.shape[0] * opened.shape[1]
    frame = np.full(n, -1, np.int64)
    frame[opened.numbers] = np.arange(len(opened.numbers))
    sums = _by_position(sums, frame)
    frame = np.where(sums.read, frame, -1)
    excess = excess_of(sums, opened.shape)
    least = settings.scan.excess_sd
    features = features_of(sums, excess, least)
    probabilities = (classifier or shipped()).probabilities(features)
    classes = called(probabilities, excess.z, sums.read, settings.scan.threshold, least)
    classes = np.where(frame >= 0, classes, "missing")
    chance = np.where((frame >= 0) & (excess.z >= least), of_molecules(probabilities), 0.0)
    return Looked(opened.shape, frame, found, sums, excess, classes, chance)


def _by_position(sums: RingSums, frame: NDArray[np.int64]) -> RingSums:
    """Sums of frames as those of positions."""
    there = frame >= 0

    def laid(values: NDArray[Any]) -> NDArray[Any]:
        out = np.zeros((len(frame), *values.shape[1:]), values.dtype)
        out[there] = values[frame[there]]
        return out

    return replace(
        sums, sums=laid(sums.sums), squares=laid(sums.squares), peaks=laid(sums.peaks),
        sectors=laid(sums.sectors), beam=laid(sums.beam), read=laid(sums.read).astype(bool),
    )  # fmt: skip


def dose_of(looked: Looked, beam_area_A2: float, settings: Settings) -> tuple[float, str]:
    """e/Å² of a pattern, as told by hand or by the direct beam and the area that it lights."""
    if settings.pattern.dose_e_per_A2 is not None:
        return settings.pattern.dose_e_per_A2, "by hand"
    counts = looked.found.total[looked.found.good].sum() / looked.found.frames
    electrons = float(counts) / settings.inspect.counts_per_electron
    return electrons / beam_area_A2, "by the direct beam and its diameter"


def weights_of(
    looked: Looked, dose: float, lit: Values, settings: Settings
) -> tuple[Values, Values]:
    """(n,) kDa of what scatters at each position and their standard deviations by counting.

    Args:
        lit: (n,) part of the full beam on it.
    """
    field = 1 / looked.found.pixel_per_A
    electrons = dose * settings.inspect.counts_per_electron
    a_kda = counts_a_kda(looked.sums.pixels, settings.energy_ev, field, electrons)
    mass, deviation = mass_kda(looked.excess.rings, looked.excess.background, a_kda)
    part = np.maximum(lit, 0.05)
    return mass / part, deviation / part
