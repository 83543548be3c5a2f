"""The data's projection in 3D: every view's slice goes to its measured amplitudes.

The volume's slices are taken out, their amplitudes corrected, and the *corrections* are merged:
divided by the number of slices that reach a voxel, and added to the volume. So what no view
reaches keeps its value, what already agrees is left alone, and the window's
fall-off never acts on the volume itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffragan.engine.processes import summed
from diffragan.fourier.slices import Extractor, Inserter, Slices
from diffragan.fourier.volumes import frequency_radius, radius_px, volume_spectrum, window_gain
from diffragan.reconstruction.maps.image_map import ImageMap, power_by_voxel, ring_of
from diffragan.reconstruction.maps.views import Views

BALL = 0.45  # of the box: the volume is kept inside this radius


_MAX_GAIN = 2.0  # limit on undoing the window's fall-off in a correction: more would diverge


_COUNT_FLOOR = 0.2  # of a ring's mean intensity: a fainter expectation is not divided by


@dataclass(frozen=True)
class DataStep:
    """P_M for volumes (n, n, n) in FFT order; `geometry` is `views.flat` or `views.curved`.

    The views' weights and orientations are those that the step was made with; for others
    `dataclasses.replace` makes another.

    power: mean intensity by ring. damping: slices that a voxel must hold before it follows them
    fully. free: (n, n, n // 2 + 1) bool, voxels left out, or None.
    image: the image map that frequencies may be drawn to.
    """

    views: Views
    geometry: Slices
    power: Tensor
    damping: float
    free: Tensor | None = None
    image: ImageMap | None = None
    _used: Tensor = field(init=False)
    _ball: Tensor = field(init=False)
    _gain: Tensor = field(init=False)
    _share: Tensor = field(init=False)
    _band: Tensor = field(init=False)

    def __post_init__(self) -> None:
        padding, n, device = self.geometry.padding, self.views.n, self.views.device
        radius = frequency_radius(n, device)
        band = radius <= (float(self.geometry.radius.max()) + 0.5) * padding
        used = band if self.free is None else band & ~self.free
        ball = radius_px(n, device) <= BALL * n
        derived = {
            "_band": band,
            "_used": used,
            "_ball": ball,
            "_gain": window_gain(n, _MAX_GAIN, device) * ball,
            "_share": self._shares() * used,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def _shares(self) -> Tensor:
        """(n, n, n // 2 + 1) what the sum of corrections at a voxel is multiplied by: one over the
        slices that reach it, damped; 0 where none does."""
        views, geometry = self.views, self.geometry
        counted = Inserter(views.n, self.power.device)
        valid = geometry.valid.float()
        each = valid.reshape(-1) if geometry.curved else valid.any(0).float()
        for block in views.own_blocks():
            weight = views.weights[block][:, None] * each + 0j
            points = views.points(block, geometry)
            for rotations in views.equivalents(views.rotations[block]):
                counted.add(weight, rotations, points)
        slices = summed(counted.spectrum().real)
        damping = torch.full_like(slices, self.damping)
        if views.electrons is not None:
            # A correction's noise, 1 / (4 electrons slices), against the signal it corrects.
            signal = power_by_voxel(self._counted_power(), views.n, geometry.padding)
            damping = damping + 0.25 / (views.electrons * signal.clamp_min(1e-30))
        return torch.where(slices > 1e-3, 1 / (slices + damping), 0.0)

    def _counted_power(self) -> Tensor:
        """(rings,) the power that would be as well told by `electrons` if nothing had faded and
        nothing lay beside it."""
        views = self.views
        if views.background is None and views.fade is None:
            return self.power
        rings = ring_of(views)
        size = torch.bincount(rings, minlength=len(self.power)).clamp_min(1)
        blank = torch.zeros_like(rings, dtype=torch.float32)
        beside, left = (
            torch.zeros_like(self.power).index_add_(0, rings, values) / size
            for values in (
                blank if views.background is None else views.background,
                blank + 1 if views.fade is None else views.fade,
            )
        )
        return left * self.power**2 / (self.power + beside).clamp_min(1e-30)

    def __call__(self, x: Tensor, image_weight: float = 0.0) -> Tensor:
        """The volume after its slices were corrected.

        Args:
            image_weight: how far what images know is drawn to their map, times their `known`.
        """
        views, geometry, n = self.views, self.geometry, self.views.n
        sliced = Extractor(volume_spectrum(x))
        collected = Inserter(n, x.device)
        for block in views.own_blocks():
            rotations = views.rotations[block]
            points = views.points(block, geometry)
            slices = sliced(rotations, points)
            change = slices.mul_(self.correction(slices, views.observed(block, geometry)))
            change *= views.weights[block][:, None]
            for equivalent in views.equivalents(rotations):
                collected.add(change, equivalent, points)
        merged = summed(collected.spectrum())
        step = torch.fft.irfftn(merged * self._share, s=(n, n, n), norm="forward")
        # Undoing the fall-off spreads a correction in Fourier space; not into what is left out.
        spectrum = torch.fft.rfftn(step * self._gain, norm="forward") * self._used
        spectrum += torch.fft.rfftn(x, norm="forward") * self._band
        if self.image is not None and image_weight > 0:
            pull = (image_weight * self.image.known * self._used).to(spectrum.dtype)
            spectrum = torch.lerp(spectrum, self.image.spectrum, pull)
        result: Tensor = torch.fft.irfftn(spectrum, s=(n, n, n), norm="forward") * self._ball
        return result

    def correction(self, slices: Tensor, observed: Tensor) -> Tensor:
        """(b, k) factor on each slice value whose product with it is the correction; 0 at masked
        pixels.

        Exact amplitudes A: A / |P| - 1. Counts c with expectation mu = |P|² N: (c - mu) / 2 mu,
        mu floored: without bias, and of the same noise, 1 / (4 N), at every frequency, so that
        plain averaging over views is right. Beside a background b mu is (|P|² + b) N.
        """
        geometry = self.geometry
        if self.views.electrons is None:
            factor = observed * torch.rsqrt(abs_squared(slices).clamp_min(1e-30)) - 1
        else:
            model = abs_squared(slices)
            floor = _COUNT_FLOOR * self.power[ring_of(self.views)].clamp_min(1e-30)
            floor = floor.repeat(2) if geometry.curved else floor
            expected = model
            if self.views.background is not None:
                beside = self.views.background
                expected = model + (beside.repeat(2) if geometry.curved else beside)
            factor = 0.5 * (observed - expected) / torch.maximum(model, floor)
        if geometry.curved:
            factor = factor * geometry.valid.reshape(-1)
        return factor


def abs_squared(x: Tensor) -> Tensor:
    """|x|² of a complex tensor of any shape, without the root of `abs`."""
    return x.real * x.real + x.imag * x.imag
