"""How likely each of several maps makes each view, by its image and by its pattern.

Everything that a likelihood needs is summed by ring once: squared misfits of the images, and the
moments of measured against expected amplitudes. So what a map leaves unexplained, which all maps
share, may be told from the sums, and the likelihood with it, without looking at a view again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffragan.fourier.slices import Extractor
from diffragan.reconstruction.maps.image_map import ring_of
from diffragan.reconstruction.maps.views import Views

_COARSEST_A = 30.0  # of what is compared: below, second order and the field's edge rule
_TINY = 1e-30
_FLOOR = 1e-3  # of a ring's power: no map explains more exactly
_ANSCOMBE = 0.375  # of a count, added before its root, which makes its noise even


@dataclass(frozen=True)
class RingSums:
    """Sums over the frequencies of each ring, float64.

    misfit: (v, maps, rings) squared misfit of the images, per unit of counting noise left in.
    power: (v, rings) squared images. inside: (rings,) frequencies of the images.
    x, xx, xy: (v, maps, rings) of expected amplitudes x and measured y; y, yy: (v, rings).
    pixels: (rings,) pixels of the patterns. noise: (v,) power of one image frequency.
    """

    misfit: Tensor
    power: Tensor
    inside: Tensor
    x: Tensor
    xx: Tensor
    xy: Tensor
    y: Tensor
    yy: Tensor
    pixels: Tensor
    noise: Tensor

    def interleaved(self, odd: RingSums) -> RingSums:
        """The sums of these views at even places and of others at odd ones."""
        count = len(self.noise) + len(odd.noise)
        both = {}
        for name in ("misfit", "power", "x", "xx", "xy", "y", "yy", "noise"):
            even = getattr(self, name)
            both[name] = even.new_empty((count, *even.shape[1:]))
            both[name][0::2], both[name][1::2] = even, getattr(odd, name)
        return replace(self, **both)


@dataclass(frozen=True)
class Spread:
    """What maps leave unexplained, by ring (rings,).

    image: power of the images beyond their noise. slope, offset: of measured on expected
    amplitudes. pattern: variance of the measured ones about that line. y_mean, y_var: of these by
    themselves.
    """

    image: Tensor
    slope: Tensor
    offset: Tensor
    pattern: Tensor
    y_mean: Tensor
    y_var: Tensor


def ring_sums(spectra: Sequence[Tensor], views: Views) -> RingSums:
    """The sums of some views, limited to the resolution to be compared at, against maps.

    Args:
        spectra: of each map, from `volume_spectrum`.
    """
    rings = ring_of(views)
    first = int((views.flat.radius < views.optics.box_A / _COARSEST_A).sum())
    count, ki = int(rings.max()) + 1, views.contrast.shape[1]
    used = torch.zeros(len(rings), dtype=torch.bool, device=views.device)
    used[first:] = True
    by_image = _Rings(rings[:ki], used[:ki], count)
    by_pattern = _Rings(rings, used & views.flat.valid.any(0), count)
    parts: list[tuple[Tensor, ...]] = []
    maps = [Extractor(spectrum) for spectrum in spectra]
    for block in views.blocks():
        image = views.spectra(block) * views.image_phase_ramp(block)
        y = amplitudes(views, block)
        transfer = views.transfer.of(block)
        by_map = []
        for extracted in maps:
            slices = extracted(views.rotations[block], views.flat.points)
            x = slices.abs()
            error = (image - transfer * slices[:, :ki]).abs().square()
            by_map.append(
                (by_image.sum(error), by_pattern.sum(x), by_pattern.sum(x * x),
                 by_pattern.sum(x * y))
            )  # fmt: skip
        each = [torch.stack(column, 1) for column in zip(*by_map, strict=True)]
        own = (by_image.sum(image.abs().square()), by_pattern.sum(y), by_pattern.sum(y * y))
        parts.append((*each, *own))
    misfit, x, xx, xy, power, y, yy = (torch.cat(c) for c in zip(*parts, strict=True))
    return RingSums(
        misfit, power, by_image.size, x, xx, xy, y, yy, by_pattern.size, views.image_noise.double()
    )


def amplitudes(views: Views, block: slice) -> Tensor:
    """(b, k) measured amplitudes on the flat slice; of counts the roots, their noise made even."""
    observed = views.observed(block, views.flat)
    if views.electrons is None:
        return observed
    valid = views.flat.valid.sum(0).clamp_min(1)
    added = _ANSCOMBE / (views.electrons * valid)
    return (observed.clamp_min(0) + added).sqrt()


@dataclass(frozen=True)
class _Rings:
    """Sums by ring over the frequencies that are used."""

    rings: Tensor
    used: Tensor
    count: int

    @property
    def size(self) -> Tensor:
        """(count,) frequencies of each."""
        return torch.bincount(self.rings[self.used], minlength=self.count).double()

    def sum(self, values: Tensor) -> Tensor:
        """(b, count) of values (b, k)."""
        out = torch.zeros(len(values), self.count, dtype=torch.float64, device=values.device)
        return out.index_add_(1, self.rings, (values * self.used).double())


def spread_of(sums: RingSums, share: Tensor) -> Spread:
    """What the maps leave unexplained of views that belong to them by parts `share` (v, maps)."""
    w = share.double()
    views = w.sum().clamp_min(_TINY)
    each = views * sums.inside.clamp_min(1)
    beyond = torch.einsum("vm,vmr->r", w, sums.misfit) - (w.sum(1) @ (
        sums.noise[:, None] * sums.inside
    ))  # fmt: skip
    power = (w.sum(1) @ sums.power) / each
    image = torch.maximum(beyond / each, _FLOOR * power)
    total = views * sums.pixels.clamp_min(1)
    x, xx, xy = (torch.einsum("vm,vmr->r", w, s) / total for s in (sums.x, sums.xx, sums.xy))
    y, yy = ((w.sum(1) @ s) / total for s in (sums.y, sums.yy))
    y_var = (yy - y * y).clamp_min(_TINY)
    slope = (xy - x * y).clamp_min(0) / (xx - x * x).clamp_min(_TINY)
    left = y_var - slope * (xy - x * y)
    return Spread(image, slope, y - slope * x, torch.maximum(left, _FLOOR * yy), y, y_var)


def likelihood(sums: RingSums, spread: Spread, independent: float = 1.0) -> Tensor:
    """(v, maps) logarithm of how likely each map makes each view.

    Args:
        independent: part of the frequencies that tell something of their own; a molecule that is
            half as wide as its field shows everything four times.
    """
    by_image = image_likelihood(sums, spread, independent)
    return by_image + pattern_likelihood(sums, spread, independent)


def image_likelihood(sums: RingSums, spread: Spread, independent: float = 1.0) -> Tensor:
    """(v, maps) the same by the images alone."""
    variance = sums.noise[:, None] + spread.image
    by_image = -(sums.misfit / variance[:, None]).sum(-1)
    return independent * (by_image - _image_widths(sums, variance)[:, None])


def pattern_likelihood(sums: RingSums, spread: Spread, independent: float = 1.0) -> Tensor:
    """(v, maps) the same by the patterns alone."""
    a, b = spread.offset, spread.slope
    squares = (
        sums.yy[:, None]
        - 2 * (a * sums.y[:, None] + b * sums.xy)
        + a * a * sums.pixels
        + 2 * a * b * sums.x
        + b * b * sums.xx
    )
    by_pattern = -0.5 * (squares / spread.pattern).sum(-1)
    return independent * (by_pattern - _pattern_widths(sums, spread.pattern))


def by_no_map(sums: RingSums, spread: Spread, independent: float = 1.0) -> Tensor:
    """(v,) the same for views that no map explains: of every ring the mean power is known, and no
    more."""
    power = (sums.power.mean(0) / sums.inside.clamp_min(1))[None]
    variance = torch.maximum(power, sums.noise[:, None])
    by_image = -(sums.power / variance).sum(-1)
    m = spread.y_mean
    squares = sums.yy - 2 * m * sums.y + m * m * sums.pixels
    by_pattern = -0.5 * (squares / spread.y_var).sum(-1)
    widths = _image_widths(sums, variance) + _pattern_widths(sums, spread.y_var)
    return independent * (by_image + by_pattern - widths)


def _image_widths(sums: RingSums, variance: Tensor) -> Tensor:
    """(v,) logarithm of the normal distributions' widths over all frequencies of an image, of
    variances (v, rings)."""
    return ((math.pi * variance.clamp_min(_TINY)).log() * sums.inside).sum(-1)


def _pattern_widths(sums: RingSums, variance: Tensor) -> Tensor:
    """The same over all pixels of a pattern, of variances (rings,): one number."""
    return 0.5 * ((2 * math.pi * variance).log() * sums.pixels).sum()


def pattern_fit(sums: RingSums, spread: Spread) -> Tensor:
    """(v, maps) in [-1, 1]: correlation of measured and expected amplitudes, the rings' means taken
    out, rings weighted by how well maps know them. A view of another molecule stays near 0."""
    n = sums.pixels.clamp_min(1)
    known = ((spread.y_var - spread.pattern) / spread.y_var).clamp(0, 1) / spread.y_var
    x, y = sums.x / n, (sums.y / n)[:, None]
    xy = known * (sums.xy - n * x * y)
    xx = spread.slope.square() * known * (sums.xx - n * x * x)
    yy = known * (sums.yy[:, None] - n * y * y)
    return (spread.slope * xy).sum(-1) / (xx.sum(-1) * yy.sum(-1)).clamp_min(_TINY).sqrt()
