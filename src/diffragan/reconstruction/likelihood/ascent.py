"""Scatterers climb the likelihood of patterns and images.

No amplitude is ever set to a measured one, so that sparse counts are as good as dense ones: every
pixel pulls as hard as its count allows. The views are taken a part at a time, which makes many
steps of one pass over the data, and the noise of these steps helps over false summits. The
scatterers begin blurred and grow sharp on the way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffragan.optimisation.adam import Adam
from diffragan.reconstruction.likelihood.beside import PARTS
from diffragan.reconstruction.likelihood.images import ImageTarget
from diffragan.reconstruction.likelihood.patterns import PatternTarget, pattern_target
from diffragan.reconstruction.likelihood.scatterers import ScattererGrid
from diffragan.reconstruction.maps.views import Views

_PARTS, _LEAST_VIEWS = 8, 32  # that the views are taken in, and the least that one holds
_BLURRED_B_A2, _SHARP_B_A2 = 15.0, 3.0  # of scatterers at the start, and from here on:
_SHARP_FROM = 0.8  # of the climb
_RATE, _LAST_RATE = 0.02, 0.1  # carbons a step, and the part of it at the end
_FALLS_FROM = 0.5  # of the climb
_BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class Ascent:
    """Where a climb is.

    weights: (n, n, n) carbons at every voxel, FFT order. mean, square: the same shape, Adam's means
    of the gradient and its square (Kingma & Ba 2015). steps: so far.
    """

    weights: Tensor
    mean: Tensor
    square: Tensor
    steps: int = 0

    @classmethod
    def at(cls, weights: Tensor) -> Ascent:
        """A climb that begins at these weights."""
        return cls(weights, torch.zeros_like(weights), torch.zeros_like(weights))


@dataclass(frozen=True)
class Stage:
    """A place in a climb, 0 at its start and 1 at its end."""

    done: float

    @property
    def b_A2(self) -> float:
        """B factor of the scatterers."""
        return _BLURRED_B_A2 + (_SHARP_B_A2 - _BLURRED_B_A2) * min(1.0, self.done / _SHARP_FROM)

    @property
    def rate(self) -> float:
        """Adam's step, in carbons."""
        late = max(0.0, self.done - _FALLS_FROM) / (1 - _FALLS_FROM)
        return _RATE * (_LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * late)))


def parts_of_ring(views: Views) -> int:
    """Parts of a ring that have an intercept of their own."""
    return 1 if views.background is None else PARTS


@dataclass(frozen=True)
class Slope:
    """What a climb follows: patterns, images, and where scatterers may be.

    free: (n, n, n // 2 + 1) bool, voxels whose data are left out, or None. inside: (n, n, n) bool.
    """

    views: Views
    images: ImageTarget
    inside: Tensor
    free: Tensor | None = None

    def parts(self) -> list[Views]:
        """The views, a part of them each."""
        count = max(1, min(_PARTS, len(self.views) // _LEAST_VIEWS))
        return [self.views.every(count, k) for k in range(count)]

    def target(self, part: Views, spectrum: Tensor) -> PatternTarget:
        """The patterns of a part, weighted by what a model's spectrum leaves unexplained."""
        return pattern_target(part, self.free, parts_of_ring(self.views)).adapted(spectrum)

    def climb(self, ascent: Ascent, stage: Stage, seed: int) -> Ascent:
        """One pass over all views, a step of Adam for each part of them."""
        grid = ScattererGrid.of(self.views, stage.b_A2)
        parts = self.parts()
        generator = torch.Generator().manual_seed(seed + ascent.steps)
        order = torch.randperm(len(parts), generator=generator).tolist()
        weights = ascent.weights.clone().requires_grad_()
        optimizer = Adam([weights], _BETAS)
        if ascent.steps:
            optimizer.steps = [torch.tensor(float(ascent.steps))]
            optimizer.means, optimizer.squares = [ascent.mean.clone()], [ascent.square.clone()]
        target = self.target(parts[order[0]], grid.spectrum(ascent.weights))
        for k in order:
            spectrum = grid.spectrum(weights)
            patterns = replace(target, views=parts[k]).misfit(spectrum)
            torch.autograd.backward(len(parts) * patterns + self.images.misfit(spectrum))
            optimizer.step([stage.rate])
            with torch.no_grad():
                weights.clamp_(min=0).mul_(self.inside)
        steps = ascent.steps + len(parts)
        return Ascent(weights.detach(), optimizer.means[0], optimizer.squares[0], steps)
