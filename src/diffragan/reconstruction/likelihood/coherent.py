"""How much of a molecule's scattering is coherent, by what its patterns have in common.

A map that climbs takes on what damage did to its patterns, and errors that two half maps share
look like scattering: neither tells it. But where two slices cross in Fourier space both patterns
show the same intensity of the molecule, and nothing else alike: counting noise, ice and what has
faded differ from one to the other. So the covariance of their counts there is f² V, V the variance
of the true intensities and f what is left of them. By Wilson's statistics the root of V is the mean
intensity, which a molecule's weight tells beyond 5 Å.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import curve_fit
from torch import Tensor

from diffragan.engine.processes import summed
from diffragan.microscope.effective_dose import (
    FOLDED_FROM_PER_A,
    folded_part,
    protein_intensity,
)
from diffragan.reconstruction.likelihood.beside import PARTS
from diffragan.reconstruction.maps.views import Views

_CELL_PX = 0.6  # side, in 1 / field, of the cells in which pixels of two patterns count as one
_TINY = 1e-30
_PASSES = 3  # of a fit, each weighted by the one before
_UNLIKE = 0.1  # by which a protein's squared mean intensities differ from the profile of all
_LEAST_SURE_A2 = 4.0  # a B with a larger standard error is not told


def ring_intensity(views: Views, mass_kda: float) -> Tensor:
    """(rings,) float64, mean intensity of an undamaged protein of this weight, right beyond 5 Å; in
    units of the plane wave."""
    last = int((views.flat.radius + 0.5).long().max())
    q = torch.arange(last + 1, dtype=torch.float64) / views.optics.box_A
    return folded_part(q) * protein_intensity(q, views.optics, mass_kda)


@dataclass(frozen=True)
class Coherent:
    """Squared coherent intensity that patterns show, over that of a molecule, by ring (rings,),
    with its standard error; what damage is told to leave is taken off before. q: 1/Å."""

    q: Tensor
    squared: Tensor
    error: Tensor

    @property
    def part(self) -> Tensor:
        """(rings,) coherent intensity over that of a molecule: 1 if damage is told rightly."""
        return self.squared.clamp_min(0).sqrt()

    def rows(self) -> list[dict[str, float]]:
        """The rings from the first on where patterns cross, with their resolution."""
        known = self.error.isfinite() & (self.q > 0)
        part = self.part[known]
        # Of a root, and where nothing is seen of the least that would have been.
        error = self.error[known]
        error = torch.minimum(error / (2 * part).clamp_min(_TINY), error.sqrt())
        columns = (self.q[known], 1 / self.q[known], part, error)
        values = zip(*(column.tolist() for column in columns), strict=True)
        names = ("q_per_A", "resolution_A", "coherent", "standard_error")
        return [dict(zip(names, row, strict=True)) for row in values]

    def b_A2(self) -> float | None:
        """B by which what is found falls faster than was told, as exp(-B q² / 2), Å²; negative
        where it falls less. None where patterns tell it to no better than 4 Å²."""
        told = (self.q >= FOLDED_FROM_PER_A) & self.error.isfinite()
        if int(told.sum()) < 5:
            return None
        x, y, error = (v[told].numpy() for v in (self.q**2 / 2, self.squared, self.error))

        def fallen(x: NDArray[np.float64], level: float, b: float) -> NDArray[np.float64]:
            return np.asarray(level * np.exp(-2 * b * x))

        found, sure = np.array([1.0, 0.0]), np.diag([math.inf, math.inf])
        for _ in range(_PASSES):
            sigma = np.hypot(error, _UNLIKE * fallen(x, *found))
            try:
                found, sure = curve_fit(fallen, x, y, found, sigma, absolute_sigma=True)
            except RuntimeError:  # no fit: nothing is told
                return None
        return float(found[1]) if math.sqrt(sure[1, 1]) < _LEAST_SURE_A2 else None


def coherent_part(views: Sequence[Views], own: Tensor) -> Coherent:
    """What is coherent in the counts of sets of views, beside any background.

    Within a cell intensities change a little, so it looks less by some per cent, alike in all
    rings; more so far out, if orientations are not known as well.

    Args:
        own: (rings,) mean intensity of the molecule, undamaged (`ring_intensity`).
    """
    first = views[0]
    reach = int(float(first.flat.radius.max()) / _CELL_PX) + 2
    side = 2 * reach + 1
    shape = (reach + 1, side, side)
    cells = torch.zeros(4, math.prod(shape), device=first.device)
    for one in views:
        for cell, off, weight in _by_cell(one, reach):
            for row, term in zip(cells, (off, off * off, weight, weight * weight), strict=True):
                row.index_add_(0, cell, term)
    off, squares, weight, alone = summed(cells).cpu().double()
    axes = (torch.arange(reach + 1), torch.arange(side) - reach, torch.arange(side) - reach)
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    ring = (_CELL_PX * (z**2 + y**2 + x**2).double().sqrt() + 0.5).long().flatten()
    inside = ring < len(own)

    def by_ring(values: Tensor) -> Tensor:
        return own.new_zeros(len(own)).index_add_(0, ring[inside], values[inside])

    own = own.double().cpu().clamp_min(_TINY)
    pairs = by_ring(weight**2 - alone)
    each = by_ring(squares) / by_ring(alone).clamp_min(_TINY)
    crossed = pairs > 0.5
    squared = torch.where(crossed, by_ring(off**2 - squares) / pairs.clamp_min(0.5), torch.nan)
    error = torch.where(crossed, each * (2 / pairs.clamp_min(0.5)).sqrt(), torch.inf)
    q = torch.arange(len(own), dtype=torch.float64) / first.optics.box_A
    return Coherent(q, squared / own**2, error / own**2)


def _by_cell(views: Views, reach: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of runs of views: the cells that each view's pixels fall in, and the weighted sums of what
    was counted there beyond the mean of all at that distance from the beam, and of the weights."""
    geometry, side = views.curved, 2 * reach + 1
    fine = (PARTS * geometry.radius + 0.5).long().repeat(2)
    seen = geometry.valid.reshape(-1)
    total, count = torch.zeros(2, int(fine.max()) + 1, dtype=torch.float64, device=views.device)
    for block in views.own_blocks(16):
        share = views.weights[block].double()
        total.index_add_(0, fine, (share @ views.observed(block, geometry).double()) * seen)
        count.index_add_(0, fine, share.sum() * seen)
    mean = (summed(total) / summed(count).clamp_min(_TINY))[fine].float()
    for block in views.own_blocks(16):
        points = views.points(block, geometry) / geometry.padding / _CELL_PX
        lies = points @ views.rotations[block]
        lies = lies[:, seen] * torch.where(lies[:, seen, 2:] < 0, -1, 1)  # mates are one
        z, y, x = (lies + 0.5).floor().long().flip(-1).unbind(-1)
        cell = (z * side + y + reach) * side + x + reach
        weight = views.weights[block][:, None].expand_as(cell)
        off = (views.observed(block, geometry) - mean)[:, seen] * weight
        own_cells = (reach + 1) * side * side
        view = torch.arange(len(cell), device=cell.device)[:, None]
        names, place = torch.unique((view * own_cells + cell).flatten(), return_inverse=True)
        sums = [off.new_zeros(len(names)).index_add_(0, place, v.flatten()) for v in (off, weight)]
        yield names % own_cells, sums[0], sums[1]
