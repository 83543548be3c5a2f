"""The data's projection in 3D: every view's slice goes to its measured amplitudes.

The volume's slices are taken out, their amplitudes corrected, and the *corrections* are merged:
divided by the number of slices that reach a voxel, and added to the volume. So what no view
reaches keeps its value, what already agrees is left alone, and the window's
fall-off never acts on the volume itself.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffragan.fourier.slices import Inserter, Slices, extract
from diffragan.fourier.volumes import frequency_radius, radius_px, volume_spectrum, window_gain
from diffragan.reconstruction.maps.image_map import ImageMap, power_by_voxel, ring_of
from diffragan.reconstruction.maps.views import Views

BALL = 0.45  # of the box: the volume is kept inside this radius


_MAX_GAIN = 2.0  # limit on undoing the window's fall-off in a correction: more would diverge


_COUNT_FLOOR = 0.2  # of a ring's mean intensity: a fainter expectation is not divided by


@dataclass
class DataStep:
    """P_M for volumes (n, n, n) in FFT order; `geometry` is `views.flat` or `views.curved`.

    power: mean intensity by ring. free: (n, n, n // 2 + 1) bool, voxels left out, or None.
    hold: an image map that pulls with `strength` times its `known`.
    """

    views: Views
    geometry: Slices
    power: Tensor
    damping: float
    free: Tensor | None = None
    hold: ImageMap | None = None
    strength: float = 0.0
    _used: Tensor = field(init=False)
    _ball: Tensor = field(init=False)
    _gain: Tensor = field(init=False)
    _share: Tensor = field(init=False)
    _band: Tensor = field(init=False)

    def __post_init__(self) -> None:
        padding, n, device = self.geometry.padding, self.views.n, self.views.device
        radius = frequency_radius(n, device)
        self._band = radius <= (float(self.geometry.radius.max()) + 0.5) * padding
        self._used = self._band if self.free is None else self._band & ~self.free
        self._ball = radius_px(n, device) <= BALL * n
        self._gain = window_gain(n, _MAX_GAIN, device) * self._ball
        self.reweigh()

    def to(self, device: torch.device) -> DataStep:
        """The same on a device, nothing counted anew."""
        moved = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor | Views | Slices | ImageMap):
                setattr(moved, name, value.to(device))
        return moved

    def reweigh(self) -> None:
        """Count the slices at every voxel anew: after views' weights or orientations changed."""
        views, geometry = self.views, self.geometry
        counted = Inserter(views.n, self.power.device)
        valid = geometry.valid.float()
        each = valid.reshape(-1) if geometry.curved else valid.any(0).float()
        for block in views.blocks():
            weight = views.weights[block][:, None] * each + 0j
            counted.add(weight, views.rotations[block], geometry.points)
        slices = counted.spectrum().real
        damping = torch.full_like(slices, self.damping)
        if views.electrons is not None:
            # A correction's noise, 1 / (4 electrons slices), against the signal it corrects.
            signal = power_by_voxel(self.power, views.n, geometry.padding)
            damping = damping + 0.25 / (views.electrons * signal.clamp_min(1e-30))
        share = 1 / (slices + damping)
        self._share = torch.where((slices > 1e-3) & self._used, share, 0.0)

    def __call__(self, x: Tensor) -> Tensor:
        """The volume after its slices were corrected."""
        views, geometry, n = self.views, self.geometry, self.views.n
        half = volume_spectrum(x)
        collected = Inserter(n, x.device)
        for block in views.blocks():
            rotations = views.rotations[block]
            slices = extract(half, rotations, geometry.points)
            change = slices.mul_(self.correction(slices, views.observed(block, geometry)))
            change *= views.weights[block][:, None]
            collected.add(change, rotations, geometry.points)
        step = torch.fft.irfftn(collected.spectrum() * self._share, s=(n, n, n), norm="forward")
        # Undoing the fall-off spreads a correction in Fourier space; not into what is left out.
        spectrum = torch.fft.rfftn(step * self._gain, norm="forward") * self._used
        spectrum += torch.fft.rfftn(x, norm="forward") * self._band
        if self.hold is not None and self.strength > 0:
            pull = (self.strength * self.hold.known * self._used).to(spectrum.dtype)
            spectrum = torch.lerp(spectrum, self.hold.half, pull)
        result: Tensor = torch.fft.irfftn(spectrum, s=(n, n, n), norm="forward") * self._ball
        return result

    def correction(self, slices: Tensor, observed: Tensor) -> Tensor:
        """(b, k) factor on each slice value whose product with it is the correction; 0 at masked
        pixels.

        Exact amplitudes A: A / |P| - 1. Counts c with expectation mu = |P|² N: (c - mu) / 2 mu,
        mu floored: without bias, and of the same noise, 1 / (4 N), at every frequency, so that
        plain averaging over views is right.
        """
        geometry = self.geometry
        if self.views.electrons is None:
            factor = observed * torch.rsqrt(abs_squared(slices).clamp_min(1e-30)) - 1
        else:
            model = abs_squared(slices)
            floor = _COUNT_FLOOR * self.power[ring_of(self.views)].clamp_min(1e-30)
            floor = floor.repeat(2) if geometry.curved else floor
            factor = 0.5 * (observed - model) / torch.maximum(model, floor)
        if geometry.curved:
            factor = factor * geometry.valid.reshape(-1)
        return factor


def abs_squared(x: Tensor) -> Tensor:
    """|x|² of a complex tensor of any shape, without the root of `abs`."""
    return x.real * x.real + x.imag * x.imag
