"""The data's projection in 3D: every view's slice goes to its measured amplitudes.

The volume's slices are taken out, their amplitudes corrected, and the *corrections* are merged:
divided by the number of slices that reach a voxel, and added to the volume. So what no view
reaches keeps its value, what already agrees is left alone, and the window's
fall-off never acts on the volume itself.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from diffragan.reconstruct.fourier import (
    Inserter,
    Slices,
    extract,
    frequency_radius,
    radius_px,
    to_half,
    window_gain,
)
from diffragan.reconstruct.start import ImageMap, power_of_half, ring_of
from diffragan.reconstruct.views import Views

BALL = 0.45  # of the box: the volume is kept inside this radius
_MAX_GAIN = 2.0  # limit on undoing the window's fall-off in a correction: more would diverge
FREE_RADIUS = 4.0  # pixels of the pattern
_POOLED = 0.12  # rings this close in q are judged together
_MOST_NOISE = 0.25  # of an intensity's variance, from counting
_LEAST_FREE = 60  # voxels left out that a ring and its neighbours must hold to be judged
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
        slices = counted.half().real
        damping = torch.full_like(slices, self.damping)
        if views.electrons is not None:
            # A correction's noise, 1 / (4 electrons slices), against the signal it corrects.
            signal = power_of_half(self.power, views.n, geometry.padding)
            damping = damping + 0.25 / (views.electrons * signal.clamp_min(1e-30))
        share = 1 / (slices + damping)
        self._share = torch.where((slices > 1e-3) & self._used, share, 0.0)

    def __call__(self, x: Tensor) -> Tensor:
        """The volume after its slices were corrected."""
        views, geometry, n = self.views, self.geometry, self.views.n
        half = to_half(x)
        collected = Inserter(n, x.device)
        for block in views.blocks():
            rotations = views.rotations[block]
            slices = extract(half, rotations, geometry.points)
            change = slices.mul_(self.correction(slices, views.observed(block, geometry)))
            change *= views.weights[block][:, None]
            collected.add(change, rotations, geometry.points)
        step = torch.fft.irfftn(collected.half() * self._share, s=(n, n, n), norm="forward")
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
            factor = observed * torch.rsqrt(_power(slices).clamp_min(1e-30)) - 1
        else:
            model = _power(slices)
            floor = _COUNT_FLOOR * self.power[ring_of(self.views)].clamp_min(1e-30)
            floor = floor.repeat(2) if geometry.curved else floor
            factor = 0.5 * (observed - model) / torch.maximum(model, floor)
        if geometry.curved:
            factor = factor * geometry.valid.reshape(-1)
        return factor


def view_r(volume: Tensor, views: Views, geometry: Slices, count: int | None = None) -> Tensor:
    """(v,) amplitude R of every view against a volume: norm(|P| - A) / norm(A).

    For counts A is the root of counts over electrons, so that R keeps a floor that noise sets.

    Args:
        count: use the first pairs only, out to some resolution.
    """
    half = to_half(volume)
    points = geometry.points if count is None else geometry.inner(count)
    count = len(geometry) if count is None else count
    valid = geometry.valid[:, :count]
    mask = (valid.reshape(-1) if geometry.curved else valid.any(0)).float()
    out = []
    for block in views.blocks():
        model = extract(half, views.rotations[block], points).abs()
        goal = views.observed(block, geometry, count)
        goal = goal.clamp_min(0).sqrt() if views.electrons is not None else goal
        error = torch.linalg.vector_norm((model - goal) * mask, dim=-1)
        out.append(error / torch.linalg.vector_norm(goal * mask, dim=-1).clamp_min(1e-20))
    return torch.cat(out)


def free_balls(
    n: int, padding: float, reach: float, fraction: float, seed: int, inner: float
) -> Tensor:
    """Balls of Fourier space that a run leaves out, (n, n, n // 2 + 1) bool, mates included; on
    the CPU.

    Single pixels would not do: a molecule's transform varies over 1 / diameter, so neighbours tell
    what a pixel holds. A ball of four pixels of the pattern is several such lengths across.

    Args:
        reach, inner: outer and inner limit of the balls' centres, in pixels of the pattern;
            the same balls come out whatever n.
        fraction: of the space between, about.
    """
    from scipy.spatial import cKDTree

    generator = np.random.default_rng([seed, 7])
    count = round(0.5 * fraction * (reach**3 - inner**3) / FREE_RADIUS**3)
    direction = generator.normal(size=(count, 3))
    # More than their share at low frequency, where a shell holds few.
    radius = generator.uniform(inner**2, reach**2, count) ** 0.5
    centres = direction / np.linalg.norm(direction, axis=1, keepdims=True) * radius[:, None]
    centres = padding * np.concatenate((centres, -centres))
    axis = np.fft.fftfreq(n, 1 / n)
    last = np.arange(n // 2 + 1)
    grid = np.stack(np.meshgrid(axis, axis, last, indexing="ij"), -1).reshape(-1, 3)
    near, _ = cKDTree(centres).query(grid, distance_upper_bound=FREE_RADIUS * padding, workers=-1)
    result: Tensor = torch.from_numpy(np.isfinite(near).reshape(n, n, n // 2 + 1))
    return result


def free_correlation(volume: Tensor, step: DataStep, limit: int = 512) -> Tensor:
    """How well a map predicts intensities it has not seen: squared correlation by ring, (rings,),
    on the CPU.

    The correlation between slices of the map and patterns, over the pixels that lie in the balls
    that the map's run left out. For complex Gaussian amplitudes (Wilson's statistics, which
    proteins obey beyond the first rings) it is the square of the complex correlation, so its root
    estimates the FRC with the truth, without a truth. Counting noise adds I / N to the variance of
    an intensity, which is taken off. Sums run over neighbouring rings (± 12 % in q); a ring that
    has too little left out, even so, or too few electrons to tell, is nan.

    Args:
        limit: so many views are used, spread evenly.
    """
    assert step.free is not None
    views, geometry = step.views, step.geometry
    rings = ring_of(views)
    count = int(rings.max()) + 1
    rings = rings.repeat(2) if geometry.curved else rings
    valid = (geometry.valid.reshape(-1) if geometry.curved else geometry.valid.any(0)).double()
    every = geometry.valid.sum(0).clamp_min(1)
    seen = torch.ones(1, device=views.device) if geometry.curved else every
    sums = torch.zeros(7, count, dtype=torch.float64, device=views.device)
    half, core = to_half(volume), step.free.to(torch.complex64)
    blocks = list(views.blocks(16))
    for block in blocks[:: max(1, len(views) // limit)]:
        turn = views.rotations[block]
        inside = extract(core, turn, geometry.points).real > 0.95
        model = _power(extract(half, turn, geometry.points)).double()
        goal = views.observed(block, geometry).double()
        goal = goal if views.electrons is not None else goal**2
        share = views.weights[block][:, None].double() * valid * inside
        noise = goal / (seen * views.electrons) if views.electrons is not None else 0 * goal
        one = torch.ones_like(goal)
        terms = (one, model, goal, model**2, goal**2 - noise, model * goal, noise)
        for total, term in zip(sums, terms, strict=True):
            total.index_add_(0, rings, (share * term).sum(0))
    return _correlation(sums.cpu(), _free_voxels(step, count).cpu())


def _free_voxels(step: DataStep, count: int) -> Tensor:
    """(count,) voxels left out around each ring."""
    assert step.free is not None
    padding = step.geometry.padding
    radius = frequency_radius(step.views.n, step.free.device)
    rings = (radius[step.free] / padding + 0.5).long()
    found = torch.bincount(rings, minlength=count)[:count].double()
    return found / padding**3


def _correlation(sums: Tensor, free: Tensor) -> Tensor:
    """Correlation by ring from weighted sums of 1, m, g, m², g², m g and g's noise, pooled."""
    weight = sums[0].clamp_min(1e-30)
    m, g, mm, gg, mg, noise = (x / weight for x in sums[1:])
    # Within each ring first, so that the fall of intensity with q does not count as agreement;
    # each ring is scaled to its own mean before rings are pooled.
    scale_m, scale_g = m.clamp_min(1e-30), g.clamp_min(1e-30)
    parts = torch.stack(
        (
            (mg - m * g) / (scale_m * scale_g),
            (mm - m**2) / scale_m**2,
            (gg - g**2) / scale_g**2,
            noise / scale_g**2,
        )
    )
    q = torch.arange(len(m), dtype=torch.float64)
    window = ((q[None, :] - q[:, None]).abs() <= _POOLED * q[:, None]).double()
    near = window * sums[0]
    cov, var_m, var_g, counting = (near @ part for part in parts)
    found = cov / (var_m.clamp_min(0) * var_g.clamp_min(0)).sqrt().clamp_min(1e-30)
    # With few electrons the halves' noise is their own, and their FSC tells more than this.
    quiet = counting <= _MOST_NOISE * var_g
    told = (near.sum(1) > 0) & (window @ free >= _LEAST_FREE) & quiet
    return torch.where(told, found.clamp(-1, 1), torch.nan).float()


def _power(x: Tensor) -> Tensor:
    return x.real * x.real + x.imag * x.imag
