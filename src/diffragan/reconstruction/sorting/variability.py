"""How views differ from one map: the directions in which they vary together, and how far each view
lies along them.

Map i is V0 + sum z_i V (probabilistic principal components over projections; Punjani & Fleet,
J. Struct. Biol. 213, 107702 (2021)), by turns: coordinates z from what the mean leaves of each
image, then directions V from coordinates. As in `sort`, a view's coordinate is told by the maps of
the other half of the views alone, so that nothing grows but what both halves share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffragan.fourier.slices import Inserter, extract
from diffragan.fourier.volumes import spectrum_volume, volume_spectrum
from diffragan.reconstruction.maps.image_map import image_map, power_by_voxel, wiener
from diffragan.reconstruction.maps.mask import envelope
from diffragan.reconstruction.maps.views import Views

_BLUR_A, _MARGIN_A = 5.0, 8.0  # of the mean map squared: what moves may stand out of it
_VARIES = 0.3  # of the object's power: what one direction may take
_TINY = 1e-12


@dataclass(frozen=True)
class Direction:
    """A way in which views vary.

    coordinate: (v,) of each view, float64, of mean 0 and variance 1 within each half.
    halves: (n, n, n) each, FFT order: what a unit of it changes, by the even views and by the odd.
    agreement: correlation of the two; near 0 for a direction that is noise.
    """

    coordinate: Tensor
    halves: tuple[Tensor, Tensor]
    agreement: float


@dataclass(frozen=True)
class _Leftover:
    """What is left of every image: (v, ki) complex64, centred. mask: (n, n, n) bool, where things
    may vary. signal: (n, n, n // 2 + 1) power that a direction may take."""

    views: Views
    left: Tensor
    mask: Tensor
    signal: Tensor

    def direction(self, half: int, coordinate: Tensor) -> Tensor:
        """(n, n, n) the change by a unit of a coordinate (v,), as one half's images tell it."""
        own = self.views.every_second(half)
        left, z = self.left[half::2], coordinate[half::2].float() * own.weights
        points, n = own.flat.points[: self.left.shape[1]], own.n
        total, weight = (Inserter(n, points.device) for _ in range(2))
        for block in own.blocks():
            transfer, noise = own.transfer.of(block), self.noise(own, block)
            factor = z[block, None] * transfer / noise
            total.add((left[block] * factor).contiguous(), own.rotations[block], points)
            again = factor * transfer * z[block, None] + 0j
            weight.add(again.contiguous(), own.rotations[block], points)
        merged = wiener(total.spectrum(), weight.spectrum().real, self.signal)
        return spectrum_volume(merged) * self.mask

    def coordinate(self, half: int, change: Tensor) -> Tensor:
        """(v / 2,) float64 how far one half's views lie along a change (n, n, n)."""
        own = self.views.every_second(half)
        left, spectrum = self.left[half::2], volume_spectrum(change)
        out = torch.empty(len(own), dtype=torch.float64, device=own.device)
        for block in own.blocks():
            model, noise = self.shown(own, block, spectrum), self.noise(own, block)
            along = ((left[block] * model.conj()).real / noise).sum(1)
            out[block] = (along / ((model.abs().square() / noise).sum(1) + 1)).double()
        return out

    def without(self, found: Direction) -> _Leftover:
        """The same less a direction, each half by the other's."""
        left = self.left.clone()
        for half in (0, 1):
            own, spectrum = self.views.every_second(half), volume_spectrum(found.halves[1 - half])
            z = found.coordinate[half::2].float()
            for block in own.blocks():
                rows = slice(2 * block.start + half, 2 * block.stop + half, 2)
                left[rows] -= z[block, None] * self.shown(own, block, spectrum)
        return replace(self, left=left)

    def shown(self, own: Views, block: slice, spectrum: Tensor) -> Tensor:
        """(b, ki) a map as the images show it."""
        points = own.flat.points[: self.left.shape[1]]
        return own.transfer.of(block) * extract(spectrum, own.rotations[block], points)

    def noise(self, own: Views, block: slice) -> Tensor:
        """(b, 1) power of noise of one frequency, never nothing."""
        floor = 1e-6 * float(self.signal.max())
        return own.image_noise[block].clamp_min(floor)[:, None]


def _leftover(views: Views, power: Tensor, mass_kda: float | None) -> _Leftover:
    """Images less the mean map of the other half."""
    ki = views.contrast.shape[1]
    left = torch.empty(len(views), ki, dtype=torch.complex64, device=views.device)
    masks = []
    for half in (0, 1):
        volume = image_map(views.every_second(1 - half), power).volume
        mask = envelope(volume**2, views.volume_box_A, mass_kda, blur_A=_BLUR_A, margin_A=_MARGIN_A)
        masks.append(mask)
        own, spectrum = views.every_second(half), volume_spectrum(volume * mask)
        points = own.flat.points[:ki]
        for block in own.blocks():
            rows = slice(2 * block.start + half, 2 * block.stop + half, 2)
            centred = own.spectra(block) * own.image_phase_ramp(block)
            shown = own.transfer.of(block) * extract(spectrum, own.rotations[block], points)
            left[rows] = centred - shown
    signal = _VARIES * power_by_voxel(power, views.n, views.flat.padding)
    return _Leftover(views, left, masks[0] | masks[1], signal)


def directions_of(
    views: Views,
    power: Tensor,
    mass_kda: float | None,
    count: int,
    *,
    resolution_A: float,
    turns: int = 25,
    seed: int = 0,
) -> list[Direction]:
    """The ways in which views vary, the strongest first, as images show them to a resolution.

    Args:
        power: `ring_power` of the views. mass_kda: molecular weight, None where it is not known.
    """
    last = float(views.flat.radius[views.contrast.shape[1] - 1])
    limited = views.limited(max(resolution_A, views.optics.box_A / last))
    leftover = _leftover(limited, power, mass_kda)
    generator = torch.Generator().manual_seed(seed)
    found: list[Direction] = []
    for _ in range(count):
        drawn = torch.randn(len(views), generator=generator, dtype=torch.float64)
        found.append(_strongest(leftover, drawn.to(views.device), turns))
        leftover = leftover.without(found[-1])
    return found


def _strongest(leftover: _Leftover, z: Tensor, turns: int) -> Direction:
    z = z.clone()
    changes = [leftover.mask.float()] * 2
    for _ in range(turns):
        for maker, judged in ((0, 1), (1, 0)):
            changes[maker] = leftover.direction(maker, z)
            told = leftover.coordinate(judged, changes[maker])
            weight = leftover.views.weights[judged::2].double()
            z[judged::2] = _normed(told, weight)
    even, odd = changes
    both = float(even.norm() * odd.norm())
    agreement = float((even * odd).sum()) / both if both > 0 else 0.0
    return Direction(z, (even, odd), agreement)


def _normed(values: Tensor, weight: Tensor) -> Tensor:
    """Values of mean 0 and variance 1 over weights."""
    total = weight.sum().clamp_min(_TINY)
    away = values - (weight * values).sum() / total
    return away / ((weight * away * away).sum() / total).sqrt().clamp_min(_TINY)
