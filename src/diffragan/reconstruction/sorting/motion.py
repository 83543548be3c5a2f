"""One molecule that moves: views ordered along one coordinate, and maps along it.

The strongest direction in which the views vary (`variability`) orders them first. A motion is no
straight line in the space of maps: what swings leaves one place and comes to another. So maps at
places along the order follow, each from the views near it, and every view is placed anew by how
likely they make it, by image and pattern (a principal curve: Hastie & Stuetzle, J. Am. Stat. Assoc.
84, 502 (1989)). As in `sort`, a view is only judged by maps that the other half made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffragan.fourier.volumes import volume_spectrum
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.maps.image_map import image_map, ring_power
from diffragan.reconstruction.maps.mask import envelope
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.sorting.evidence import (
    RingSums,
    image_likelihood,
    pattern_likelihood,
    ring_sums,
    spread_of,
)
from diffragan.reconstruction.sorting.variability import directions_of

_LOOK_A = 7.0  # resolution at which the direction is looked for
_PLACES = 11  # along the order, at which there are maps
_NEAR = 0.2  # of the order: standard deviation of the views' weights about a place
_TURNS = 3
_INNER = 3  # looks at what is left unexplained, for one look at the views
_BLUR_A, _MARGIN_A = 5.0, 8.0  # of a map squared, for its mask: what moves stands out


@dataclass(frozen=True)
class Motion:
    """Views along a motion, which way round is chance.

    place: (v,) float64 in [0, 1], the part of the views that lie before each. error: (v,) its
    standard error. by_image, by_pattern: (v,) places by images or by patterns alone, which share
    no noise. agreement: the correlation of their ranks. sure: whether that is beyond chance.
    """

    place: Tensor
    error: Tensor
    by_image: Tensor
    by_pattern: Tensor

    @property
    def agreement(self) -> float:
        return rank_correlation(self.by_image, self.by_pattern)

    @property
    def sure(self) -> bool:
        # Four standard errors of a rank correlation that is none.
        return bool(self.agreement > 4 / max(1, len(self.place)) ** 0.5)


def order_views(
    views: Views,
    mass_kda: float | None,
    *,
    finest_A: float = 5.0,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Motion:
    """Views of known orientation ordered along what they vary in most.

    Args:
        mass_kda: molecular weight, for the maps' masks; None where it is not known.
    """
    power = ring_power(views)
    (first,) = directions_of(views, power, mass_kda, 1, resolution_A=_LOOK_A, seed=seed)
    place = ranks(first.coordinate)
    last = float(views.flat.radius[views.contrast.shape[1] - 1])
    limited = views.limited(max(finest_A, views.optics.box_A / last))
    mask = _mask(image_map(limited, power).volume, limited, mass_kda)
    independent = min(1.0, float(mask.float().mean()) ** (2 / 3))
    knots = torch.linspace(0, 1, _PLACES, dtype=torch.float64, device=views.device)
    error = by_image = by_pattern = place
    for turn in range(_TURNS):
        columns = torch.zeros(4, len(views), dtype=torch.float64, device=views.device)
        for judged in (1, 0):
            makers, own = limited.every_second(1 - judged), slice(judged, None, 2)
            spectra = _maps(makers, place[1 - judged :: 2], knots, power, mask)
            sums = ring_sums(spectra, limited.every_second(judged))
            columns[:, own] = _placed(sums, place[own], knots, independent)
            # Ranks are of one half; the other half's lie on the same curve, as it made it.
            place = place.clone()
            place[own] = ranks(columns[0, own])
        _, error, by_image, by_pattern = columns
        progress("ordering views", turn + 1, _TURNS)
    return Motion(place, error, by_image, by_pattern)


def frames_of(views: Views, place: Tensor, count: int, mass_kda: float | None) -> list[Tensor]:
    """Maps (n, n, n), FFT order, at so many places from one end of a motion to the other, as the
    images of the views near each show them."""
    power = ring_power(views)
    mask = _mask(image_map(views, power).volume, views, mass_kda)
    knots = torch.linspace(0, 1, count, dtype=torch.float64, device=views.device)
    return [_map(views, place, float(knot), power) * mask for knot in knots]


def ranks(values: Tensor) -> Tensor:
    """(v,) float64 ranks in (0, 1)."""
    order = values.argsort(stable=True)
    out = torch.empty(len(values), dtype=torch.float64, device=values.device)
    out[order] = (torch.arange(len(values), device=values.device).double() + 0.5) / len(values)
    return out


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's, of values (v,)."""
    both = torch.stack((ranks(a), ranks(b)))
    return float(torch.corrcoef(both)[0, 1])


def _near(place: Tensor, knot: float) -> Tensor:
    """(v,) float32 weights of views at places about one of them."""
    return torch.exp(-0.5 * ((place - knot) / _NEAR) ** 2).float()


def _map(views: Views, place: Tensor, knot: float, power: Tensor) -> Tensor:
    weighted = replace(views, weights=views.weights * _near(place, knot))
    return image_map(weighted, power).volume


def _maps(views: Views, place: Tensor, knots: Tensor, power: Tensor, mask: Tensor) -> list[Tensor]:
    return [
        volume_spectrum(_map(views, place, float(knot), power) * mask) for knot in knots.tolist()
    ]


def _mask(volume: Tensor, views: Views, mass_kda: float | None) -> Tensor:
    return envelope(volume**2, views.volume_box_A, mass_kda, blur_A=_BLUR_A, margin_A=_MARGIN_A)


def _placed(sums: RingSums, place: Tensor, knots: Tensor, independent: float) -> Tensor:
    """(4, v) mean place of each view, its standard error, and means by images and by patterns."""
    share = torch.exp(-0.5 * ((place[:, None] - knots) / _NEAR) ** 2)
    share = share / share.sum(1, keepdim=True)
    for _ in range(_INNER):
        spread = spread_of(sums, share)
        by_image = image_likelihood(sums, spread, independent).softmax(1)
        by_pattern = pattern_likelihood(sums, spread, independent).softmax(1)
        share = by_image * by_pattern
        share = share / share.sum(1, keepdim=True).clamp_min(1e-300)
    mean = share @ knots
    error = (share @ knots.square() - mean.square()).clamp_min(0).sqrt()
    return torch.stack((mean, error, by_image @ knots, by_pattern @ knots))
