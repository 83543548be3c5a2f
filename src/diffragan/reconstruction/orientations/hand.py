"""A map's hand, from the difference of Friedel mates.

Flat slices cannot tell a map V(r) from its mirror image V(-r) with every view half a turn about
the beam. The Ewald sphere is curved: the mates (x, y, -s) and (x, y, +s) are different points of
the map, and the mirror image exchanges them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffragan.fourier.slices import extract
from diffragan.reconstruction.maps.image_map import ring_of
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.matching.match_views import pixel_count

_LEAST_SIGMA = 4.0  # standard errors from which the hand is decided


@dataclass(frozen=True)
class Hand:
    """What the difference of Friedel mates says about a map's hand.

    score_this, score_other: correlation of the measured difference of mates with that of the map
        and of its mirror image (which only changes the sign).
    sigma: mean over its standard error, from the scatter between views.
    decision: "this", "other", or "open" where it is not significant.
    """

    score_this: float
    score_other: float
    sigma: float
    decision: Literal["this", "other", "open"]


def hand_of(spectrum: Tensor, views: Views, *, resolution_A: float | None = None) -> Hand:
    """The hand of a map whose views are oriented.

    Args:
        spectrum: (n, n, n // 2 + 1) from `volume_spectrum`.
    """
    count = len(views.curved) if resolution_A is None else pixel_count(views, resolution_A)
    both = (views.curved.valid[0] & views.curved.valid[1])[:count]
    rings = ring_of(views)[:count]
    bins = int(rings.max()) + 1
    products = torch.zeros(3, len(views), bins, device=views.device)
    for block in views.blocks():
        measured = views.observed(block, views.curved, count)
        points = views.points(block, views.curved, count)
        size = extract(spectrum, views.rotations[block], points).abs()
        size = size * size if views.electrons is not None else size
        x = (size[:, :count] - size[:, count:]) * both
        y = (measured[:, :count] - measured[:, count:]) * both
        for row, term in enumerate((x * y, x * x, y * y)):
            products[row, block].index_add_(1, rings, term)
    w = views.weights[:, None]
    xx, yy = (w * products[1]).sum(0), (w * products[2]).sum(0)
    xy = products[0] / (xx * yy).sqrt().clamp_min(1e-30) * (yy > 0)
    ring_match = (w * xy).sum(0)
    n = torch.bincount(rings, both.float(), minlength=bins)
    trust = n * ((yy > 0) & (n > 0))
    by_view = (w * xy * trust).sum(1) * len(views) / trust.sum().clamp_min(1e-30)
    correlation = float((ring_match * trust).sum() / trust.sum().clamp_min(1e-30))
    error = float(by_view.std() / math.sqrt(len(views)))
    sigma = float(by_view.mean()) / error if error > 0 else 0.0
    decision: Literal["this", "other", "open"] = "open"
    if abs(sigma) > _LEAST_SIGMA:
        decision = "this" if sigma > 0 else "other"
    return Hand(correlation, -correlation, sigma, decision)


def mirror_image(volume: Tensor) -> Tensor:
    """V(-r) of a volume (n, n, n) in FFT order."""
    return torch.roll(volume.flip(0, 1, 2), (1, 1, 1), (0, 1, 2))
