"""The box that waves are simulated in: its side, depth and grids, and whether molecules fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.fourier.grids import even_fast_length
from diffragan.settings import SimulationSettings

if TYPE_CHECKING:
    from diffragan.molecules.structure import Structure


@dataclass(frozen=True)
class Field:
    """The box a simulation runs in: side, depth and grids."""

    box_A: float
    depth_A: float
    grid_px: int
    slices: int
    stored_px: int

    @property
    def slice_A(self) -> float:
        """Thickness of one slice, Å."""
        return self.depth_A / self.slices

    @property
    def centre_to_exit_A(self) -> float:
        """From the molecule's centre plane to the exit face, Å.

        An atom is projected onto the entrance of its slice and then propagated by the whole
        slice, so on average it lies half a slice further from the exit than its coordinate says.
        """
        return (self.depth_A + self.slice_A) / 2


def plan_field(diameters_A: Sequence[float], settings: SimulationSettings) -> Field:
    """The box for molecules of the given diameters: as set, or by the default rule.

    By default the side is twice the largest diameter, rounded up to an even stored grid that
    FFTs fast; the depth is 70 Å, or the largest diameter + 4 Å if that is more.

    Raises:
        DiffraganError: the set depth is less than the largest diameter.
    """
    largest = max(diameters_A)
    depth = settings.depth_A or max(70.0, largest + 4.0)
    if depth < largest:
        raise DiffraganError(
            f"A depth of {depth:g} Å is less than the largest molecule's diameter, "
            f"{largest:.1f} Å; set simulate.depth_A to {math.ceil(largest + 4)} or leave it out."
        )
    nyquist = 2 * settings.keep_q_per_A
    if settings.box_A is None:
        stored = even_fast_length(2 * largest * nyquist)
        box = stored / nyquist
    else:
        box = settings.box_A
        stored = even_fast_length(box * nyquist)
    grid = max(even_fast_length(box / settings.sampling_A), stored)
    return Field(box, depth, grid, max(1, round(depth / settings.slice_A)), stored)


def outside_fraction(
    positions_A: NDArray[np.float64], rotations: NDArray[np.float64], box_A: float
) -> NDArray[np.float64]:
    """Fraction of atoms (n,) outside the square field in each orientation (n, 3, 3)."""
    radius = np.linalg.norm(positions_A, axis=1)
    far = positions_A[radius > box_A / 2]
    if not len(far):
        return np.zeros(len(rotations))
    xy = np.einsum("nij,aj->nai", rotations[:, :2], far)
    counts: NDArray[np.float64] = (np.abs(xy) > box_A / 2).any(-1).sum(-1) / len(positions_A)
    return counts


def check_fit(
    structures: Sequence[Structure], rotations: NDArray[np.float64], field: Field, limit: float
) -> list[str]:
    """Warnings for molecules that cross the box's edge in some orientation (n, 3, 3).

    Raises:
        DiffraganError: more than `limit` of a molecule's atoms lie outside; names a box that holds
            it.
    """
    warnings = []
    for s in structures:
        outside = outside_fraction(s.positions_A, rotations, field.box_A)
        worst = float(outside.max())
        if worst > limit:
            fits = math.ceil(s.diameter_A / 2) * 2
            raise DiffraganError(
                f"{s.stem} is {s.diameter_A:.1f} Å across and {worst:.1%} of its atoms leave the "
                f"{field.box_A:g} Å box in one orientation; a box of {fits} Å would hold it "
                f"(--box-A {fits})."
            )
        if worst > 0:
            warnings.append(
                f"{s.stem}: atoms cross the edge of the {field.box_A:g} Å box in "
                f"{int((outside > 0).sum())} of {len(rotations)} orientations, {worst:.2%} at "
                "worst; they are left out there."
            )
    return warnings
