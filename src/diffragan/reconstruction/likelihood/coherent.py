"""How much of a molecule's scattering is coherent, by what two half maps and their patterns say.

A map that climbs takes on what damage did to its patterns: its own scale tells nothing. The
covariance of one half's counts with the other half's map is f a V, V the variance of the true
intensities, f what is left of them and a the map's scale; that of the two maps is a² V. So the
first over the root of the second is f times the root of V, whatever the scale: and that root is the
mean intensity (Wilson's statistics), which a molecule's weight tells beyond 5 Å.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffragan.engine.processes import summed
from diffragan.fourier.slices import Slices, extract
from diffragan.fourier.volumes import volume_spectrum
from diffragan.reconstruction.likelihood.beside import PARTS
from diffragan.reconstruction.maps.data_step import abs_squared
from diffragan.reconstruction.maps.views import Views

_FROM_PER_A = 0.2  # nearer to the beam a molecule's shape shows
_LEAST_RATIO = 3.0  # of what is found to its error, for a ring to count in a fit
_TINY = 1e-30


@dataclass(frozen=True)
class Coherent:
    """Coherent intensity that patterns show, over what a molecule scatters, by ring (rings,), with
    its standard error; what damage is told to leave is taken off before. q: 1/Å."""

    q: Tensor
    part: Tensor
    error: Tensor

    def rows(self) -> list[dict[str, float]]:
        """The rings from the first on that tell anything, with their resolution."""
        known = self.part.isfinite() & (self.q > 0)
        columns = (self.q[known], 1 / self.q[known], self.part[known], self.error[known])
        values = zip(*(column.tolist() for column in columns), strict=True)
        names = ("q_per_A", "resolution_A", "coherent", "standard_error")
        return [dict(zip(names, row, strict=True)) for row in values]

    def b_A2(self) -> float | None:
        """B by which what is found falls faster than was told, as exp(-B q² / 2), Å²; negative
        where it falls less. None where fewer than five rings tell."""
        told = (self.q >= _FROM_PER_A) & (self.part > _LEAST_RATIO * self.error)
        if int(told.sum()) < 5:
            return None
        x, y = 0.5 * self.q[told] ** 2, self.part[told].log()
        weight = (self.part / self.error)[told] ** 2
        x, y = x - (weight * x).sum() / weight.sum(), y - (weight * y).sum() / weight.sum()
        return -float((weight * x * y).sum() / (weight * x * x).sum())


def coherent_part(
    maps: tuple[Tensor, Tensor], views: tuple[Views, Views], geometry: Slices, own: Tensor
) -> Coherent:
    """What is coherent in the patterns of two half sets, beside any background.

    Errors that both maps have alike make it look less.

    Args:
        maps: (n, n, n) each, FFT order. views: that each was made of.
        own: (rings,) mean intensity of the molecule, undamaged, in units of the plane wave.
    """
    rings = len(own)
    total = torch.zeros(4, rings, dtype=torch.float64, device=views[0].device)
    spectra = [volume_spectrum(volume) for volume in maps]
    for half, mine, other in zip(views, spectra, reversed(spectra), strict=True):
        total += _sums(half, geometry, mine, other, rings)
    found, maps_alike, error, count = total.cpu()
    own = own.double().cpu().clamp_min(_TINY)
    root = (maps_alike.clamp_min(0) * count).sqrt()
    part = torch.where(maps_alike > 0, found / root.clamp_min(_TINY) / own, torch.nan)
    sigma = torch.where(maps_alike > 0, error.sqrt() / root.clamp_min(_TINY) / own, torch.nan)
    q = torch.arange(rings, dtype=torch.float64) / views[0].optics.box_A
    return Coherent(q, part, sigma)


def _sums(views: Views, geometry: Slices, mine: Tensor, other: Tensor, rings: int) -> Tensor:
    """(4, rings) sums over pixels: of the covariance of counts with the other half's map, that of
    the two maps, the first one's variance, and 1; all about the means of parts of a ring."""
    fine = (PARTS * geometry.radius + 0.5).long()
    fine = fine.repeat(2) if geometry.curved else fine
    valid = geometry.valid
    seen = (valid.reshape(-1) if geometry.curved else valid.any(0)).double()
    sums = torch.zeros(8, int(fine.max()) + 1, dtype=torch.float64, device=views.device)
    for block in views.own_blocks(16):
        turn, points = views.rotations[block], views.points(block, geometry)
        a, b = (abs_squared(extract(s, turn, points)).double() for s in (mine, other))
        i = views.observed(block, geometry).double()
        i = i if views.electrons is not None else i**2
        share = views.weights[block][:, None].double() * seen
        for row, term in zip(sums, (a * 0 + 1, a, b, i, i * b, a * b, b * b, i * i), strict=True):
            row.index_add_(0, fine, (share * term).sum(0))
    sums = summed(sums)
    one = sums[0].clamp_min(_TINY)
    a, b, i, ib, ab, bb, ii = (row / one for row in sums[1:])
    spread = (bb - b * b).clamp_min(0) * (ii - i * i).clamp_min(0)
    ring = (torch.arange(len(one), device=one.device) / PARTS + 0.5).long().clamp_max(rings - 1)
    terms = torch.stack((ib - i * b, ab - a * b, spread, torch.ones_like(one)))
    return one.new_zeros(4, rings).index_add_(1, ring, terms * sums[0])
