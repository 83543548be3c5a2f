"""The map of images that lie at given places: maximisation, at once or turn by turn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from diffragan.fourier.slices import Inserter
from diffragan.fourier.volumes import spectrum_volume
from diffragan.reconstruction.maps.image_map import wiener
from diffragan.reconstruction.orientations.matching.match_images import (
    ImageSearch,
    Model,
    Places,
    Stage,
    compare,
    shift_ramps,
)

# Of a map's sums, from one turn's draw of images to the next. With 1AUP at -3000 Å and 100 of 500
# images a turn, .8 left one start of two wrong; .5, .2 and 0 came right each time.
_KEPT = 0.2
_INSERTED = 256  # images merged together


@dataclass(frozen=True)
class Merged:
    """Images merged at their places: the sums over views of transfer x image / variance (total)
    and of transfer² / variance (information), both (n, n, n // 2 + 1)."""

    total: Tensor
    information: Tensor

    def times(self, factor: float) -> Merged:
        """The same of less or more images."""
        return Merged(factor * self.total, factor * self.information)

    def __add__(self, other: Merged) -> Merged:
        return Merged(self.total + other.total, self.information + other.information)

    def model(self, search: ImageSearch, unexplained: Tensor) -> Model:
        """Their map, damped where noise rules."""
        merged = wiener(self.total, self.information, search.signal)
        return Model(spectrum_volume(merged), unexplained)


def random_places(search: ImageSearch, chosen: Tensor, seed: int) -> Places:
    """The chosen images (v,) at random orientations, unshifted."""
    drawn = Rotation.random(len(chosen), rng=np.random.default_rng([seed, 3]))
    rotations = torch.from_numpy(drawn.as_matrix()).float().to(search.views.device)
    unshifted = rotations.new_zeros(len(chosen), 2)
    weight = unshifted.new_ones(len(chosen))
    return Places(chosen.to(search.views.device), weight, rotations, unshifted)


def merge(search: ImageSearch, places: Places, unexplained: Tensor) -> Merged:
    """Images merged at given places.

    Args:
        unexplained: (ki,) power that is not the map's, beside each image's noise.
    """
    views, n = search.views, search.views.n
    points = views.flat.points[: len(search.transfer)]
    total, weight = (Inserter(n, points.device) for _ in range(2))
    for start in range(0, len(places.item), _INSERTED):
        item, share, rotations, shifts = (x[start : start + _INSERTED] for x in places)
        variance = search.noise[item][:, None] + unexplained
        transfer = search.transfer.of(item)
        factor = share[:, None] * transfer / variance
        images = views.contrast[item.cpu()].to(views.device)[:, : len(search.transfer)]
        images = ((images * shift_ramps(search, shifts, points)) * factor).contiguous()
        for turned in views.equivalents(rotations):
            total.add(images, turned, points)
            weight.add((factor * transfer + 0j).contiguous(), turned, points)
    return Merged(total.spectrum(), weight.spectrum().real)


def turn(search: ImageSearch, chosen: Tensor, model: Model, stage: Stage, grid: Tensor) -> Model:
    """One turn: the chosen images compared with the map, and merged anew."""
    matches = compare(search, chosen, model, stage, grid)
    return merge(search, matches.places, matches.unexplained).model(search, matches.unexplained)


@dataclass(frozen=True)
class Descent:
    """A map on its way from a random start.

    merged: of the images so far, older ones fading. model: their map. draw: where images are
    drawn from.
    """

    merged: Merged
    model: Model
    draw: torch.Generator

    @classmethod
    def begin(cls, search: ImageSearch, chosen: Tensor, seed: int) -> Descent:
        """The chosen images (v,) at random orientations."""
        merged = merge(search, random_places(search, chosen, seed), search.expected)
        model = merged.model(search, search.expected)
        return cls(merged, model, torch.Generator().manual_seed(seed))

    def step(self, search: ImageSearch, chosen: Tensor, stage: Stage, grid: Tensor) -> Descent:
        """One turn with some of the chosen images (v,), drawn anew.

        A map of all images holds each where it was put the last time, and so draws it there again;
        in one that others made it is free to move. That is why few images a turn find what all
        together do not.
        """
        count = min(stage.images or len(chosen), max(1, len(chosen) // 3))
        some = chosen[torch.randperm(len(chosen), generator=self.draw)[:count]]
        matches = compare(search, some, self.model, stage, grid)
        unexplained = 0.5 * (self.model.unexplained + matches.unexplained)
        merged = merge(search, matches.places, unexplained)
        merged = self.merged.times(_KEPT) + merged
        return Descent(merged, merged.model(search, unexplained), self.draw)
