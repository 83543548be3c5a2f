"""What a run's map says of patterns that it has not seen: parts of Fourier space that it leaves
out, and the other half set's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffragan.engine.processes import joined, summed
from diffragan.fourier.slices import Slices, extract
from diffragan.fourier.volumes import frequency_radius, volume_spectrum
from diffragan.reconstruction.maps.data_step import DataStep, abs_squared
from diffragan.reconstruction.maps.image_map import ring_of, ring_power
from diffragan.reconstruction.maps.views import Views

FREE_RADIUS = 4.0  # pixels of the pattern


_POOLED = 0.12  # rings this close in q are judged together


_MOST_NOISE = 0.25  # of an intensity's variance, from counting


_LEAST_FREE = 60  # voxels left out that a ring and its neighbours must hold to be judged


_FINE = 8  # parts of a ring that have a mean of their own: ice's rings are steep


def free_balls(
    n: int,
    padding: float,
    reach: float,
    fraction: float,
    seed: int,
    inner: float,
    symmetry: Tensor | None = None,
) -> Tensor:
    """Balls of Fourier space that a run leaves out, (n, n, n // 2 + 1) bool, mates included; on
    the CPU.

    Single pixels would not do: a molecule's transform varies over 1 / diameter, so neighbours tell
    what a pixel holds. A ball of four pixels of the pattern is several such lengths across.

    Args:
        reach, inner: outer and inner limit of the balls' centres, in pixels of the pattern;
            the same balls come out whatever n.
        fraction: of the space between, about.
        symmetry: (g, 3, 3) rotations that leave the molecule as it is: what one ball holds, its
            equivalents tell, so that they are left out with it.
    """
    from scipy.spatial import cKDTree

    generator = np.random.default_rng([seed, 7])
    group = np.eye(3)[None] if symmetry is None else symmetry.double().cpu().numpy()
    count = 0.5 * fraction * (reach**3 - inner**3) / FREE_RADIUS**3
    count = max(1, round(count / len(group)))
    direction = generator.normal(size=(count, 3))
    # More than their share at low frequency, where a shell holds few.
    radius = generator.uniform(inner**2, reach**2, count) ** 0.5
    centres = direction / np.linalg.norm(direction, axis=1, keepdims=True) * radius[:, None]
    turned = np.einsum("gij,cj->gci", group, centres[:, ::-1])  # a volume's axes are z, y, x
    centres = turned.reshape(-1, 3)[:, ::-1]
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
    electrons = views.electrons_by_pair
    if geometry.curved and isinstance(electrons, Tensor):
        electrons = electrons.repeat(2)
    measurements = torch.ones(1, device=views.device) if geometry.curved else every
    sums = torch.zeros(7, count, dtype=torch.float64, device=views.device)
    half, core = volume_spectrum(volume), step.free.to(torch.complex64)
    blocks = list(views.blocks(16))[:: max(1, len(views) // limit)]
    for block in blocks[joined().share(len(blocks))]:
        turn = views.rotations[block]
        points = views.points(block, geometry)
        inside = extract(core, turn, points).real > 0.95
        model = abs_squared(extract(half, turn, points)).double()
        goal = views.observed(block, geometry).double()
        goal = goal if views.electrons is not None else goal**2
        share = views.weights[block][:, None].double() * valid * inside
        noise = 0 * goal if electrons is None else goal / (measurements * electrons)
        one = torch.ones_like(goal)
        terms = (one, model, goal, model**2, goal**2 - noise, model * goal, noise)
        for total, term in zip(sums, terms, strict=True):
            total.index_add_(0, rings, (share * term).sum(0))
    return _correlation(summed(sums).cpu(), _free_voxels(step, count).cpu())


def _free_voxels(step: DataStep, count: int) -> Tensor:
    """(count,) voxels left out around each ring."""
    assert step.free is not None
    padding = step.geometry.padding
    radius = frequency_radius(step.views.n, step.free.device)
    rings = (radius[step.free] / padding + 0.5).long()
    voxels = torch.bincount(rings, minlength=count)[:count].double()
    return voxels / padding**3


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
    correlation = cov / (var_m.clamp_min(0) * var_g.clamp_min(0)).sqrt().clamp_min(1e-30)
    # With few electrons the halves' noise is their own, and their FSC tells more than this.
    quiet = counting <= _MOST_NOISE * var_g
    enough = (near.sum(1) > 0) & (window @ free >= _LEAST_FREE) & quiet
    return torch.where(enough, correlation.clamp(-1, 1), torch.nan).float()


def other_half_correlation(volume: Tensor, views: Views, geometry: Slices) -> Tensor:
    """A map's squared correlation with the truth by patterns of views that had no part in it,
    through whatever scatters beside the molecule, and its standard error: (2, rings), on the CPU.

    Half maps may agree in what neither has from its patterns: a density that is not negative, or
    the same image band made sharp, has high frequencies of its own. Patterns of the other half know
    nothing of these. The covariance of their intensities with the map's is that of the true ones,
    whose variance is their mean squared (Wilson's statistics; beyond 5 Å, that of atoms). Counting
    noise and what scatters beside the molecule, even in steep rings, add to its error alone. A map
    made to fit intensities may have these right and phases wrong, so it is an upper limit.

    Args:
        volume: (n, n, n), FFT order. views: that the map was made without.
    """
    fine = (_FINE * geometry.radius + 0.5).long()
    valid = geometry.valid.double()
    if geometry.curved:
        fine, valid = fine.repeat(2), valid.reshape(-1)
    else:
        valid = valid.any(0).double()
    sums = torch.zeros(6, int(fine.max()) + 1, dtype=torch.float64, device=views.device)
    half = volume_spectrum(volume)
    for block in views.own_blocks(16):
        points = views.points(block, geometry)
        model = abs_squared(extract(half, views.rotations[block], points)).double()
        goal = views.observed(block, geometry).double()
        goal = goal if views.electrons is not None else goal**2
        share = views.weights[block][:, None].double() * valid
        terms = (torch.ones_like(goal), model, goal, model**2, model * goal, goal**2)
        for total, term in zip(sums, terms, strict=True):
            total.index_add_(0, fine, (share * term).sum(0))
    return _told_by_others(summed(sums).cpu(), ring_power(views).double().cpu())


def _told_by_others(sums: Tensor, own: Tensor) -> Tensor:
    """The correlation and its error by ring from weighted sums of 1, m, g, m², m g and g² by parts
    of a ring.

    Args:
        own: (rings,) mean intensity of the molecule.
    """
    weight = sums[0].clamp_min(1e-30)
    m, g, mm, mg, gg = (x / weight for x in sums[1:])
    ring = (torch.arange(len(m), dtype=torch.float64) / _FINE + 0.5).long().clamp_max(len(own) - 1)
    own = own.clamp_min(1e-30)
    cov, var_m, var_g, count = (
        torch.zeros_like(own).index_add_(0, ring, sums[0] * x)
        for x in (mg - m * g, (mm - m**2).clamp_min(0), (gg - g**2).clamp_min(0), m * 0 + 1)
    )
    q = torch.arange(len(own), dtype=torch.float64)
    near = ((q[None, :] - q[:, None]).abs() <= _POOLED * q[:, None]).double()
    cov, var_m, var_g = (near @ (x / own**2) for x in (cov, var_m, var_g))
    count = (near @ count).clamp_min(1e-30)
    found = cov / (var_m * count).sqrt().clamp_min(1e-30)
    error = var_g.sqrt() / count
    return torch.where(var_m > 0, torch.stack((found, error)), torch.nan).float()
