"""How much of the beam each particle gets at each position, and the raster that explains the excess
so: least squares over affine, drift, the beam's width and each particle's weight in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from diffragan.microscope.session.raster import Beam, Raster

Values = NDArray[np.float64]

_ROUNDS = 3
_WIDER = 20.0  # per cent by which the beam may differ from what is told
_NEAR_MEAN = 0.15  # how firmly weights are held near their mean, in parts of a lit position
_REACH_A = 120.0  # beyond the beam that pairs of position and particle are looked for


@dataclass(frozen=True)
class Lit:
    """A raster that was fitted.

    weights: (k,) what each particle scatters in a full beam, in the signal's units. likeness: the
    correlation of the signal with what is expected.
    """

    raster: Raster
    beam: Beam
    weights: Values
    likeness: float


@dataclass(frozen=True)
class _Near:
    """Pairs (p,) of a position and a particle that may get some of its beam."""

    position: NDArray[np.int64]
    particle: NDArray[np.int64]


def illumination(raster: Raster, beam: Beam, particles_A: Values, wider_A: float = 0.0) -> Any:
    """(n, k) sparse: part of the beam on each particle at each position.

    Args:
        wider_A: how much nearer (or, below 0, farther) each particle is taken to be: the part on
            its near, or far, side.
    """
    positions = raster.positions()
    near = _near(positions, particles_A, beam.reach_A + max(wider_A, 0))
    off = positions[near.position] - particles_A[near.particle]
    distance = (np.hypot(off[:, 0], off[:, 1]) - wider_A).clip(min=0)
    parts = beam.intensity(distance)
    shape = (len(positions), len(particles_A))
    return csr_matrix((parts, (near.position, near.particle)), shape=shape)


def fit_raster(
    signal: Values,
    usable: NDArray[np.bool_],
    particles_A: Values,
    raster: Raster,
    beam: Beam,
    before: Lit | None = None,
) -> Lit:
    """The raster, near the one given, that best explains a signal (rows, columns) by particles.

    Args:
        before: an earlier fit, whose weights it begins with.
    """
    rows, columns = signal.shape
    data, use = signal.ravel(), usable.ravel()
    design = raster.design()
    start = raster.parameters
    # Each parameter in units that move the scan's far end by about an Å.
    size = np.maximum(np.abs(design).max(0), 1e-9)
    weights = np.full(len(particles_A), 0.8) if before is None else before.weights
    x = np.concatenate((np.zeros(start.size), [0.0]))

    def laid(x: Values) -> tuple[Values, Beam]:
        moved = start + x[:-1].reshape(start.shape) / size[:, None]
        diameter = beam.diameter_A * float(np.exp(0.01 * x[-1]))
        return moved, Beam(diameter, beam.edge_A)

    for _ in range(_ROUNDS):
        moved, wide = laid(x)
        near = _near(design @ moved, particles_A, wide.reach_A + _REACH_A)

        def misfit(x: Values, near: _Near = near, weights: Values = weights) -> Values:
            moved, wide = laid(x)
            expected = _expected(design @ moved, wide, particles_A, near, weights)
            # The beam's width is known to some per cent.
            return np.append((data - expected)[use], 0.02 * x[-1])

        free = np.full(x.size, np.inf)
        free[-1] = _WIDER
        found = least_squares(
            misfit, x, bounds=(-free, free), loss="soft_l1", f_scale=0.3, max_nfev=25
        )
        x = found.x
        moved, wide = laid(x)
        weights = _weights(data, use, design @ moved, wide, particles_A)
    moved, wide = laid(x)
    near = _near(design @ moved, particles_A, wide.reach_A)
    expected = _expected(design @ moved, wide, particles_A, near, weights)
    likeness = _correlation(data[use], expected[use])
    return Lit(Raster.of(rows, columns, moved), wide, weights, likeness)


def _near(positions: Values, particles_A: Values, reach_A: float) -> _Near:
    found = cKDTree(positions).sparse_distance_matrix(
        cKDTree(particles_A), reach_A, output_type="coo_matrix"
    )
    return _Near(found.row.astype(np.int64), found.col.astype(np.int64))


def _expected(
    positions: Values, beam: Beam, particles_A: Values, near: _Near, weights: Values
) -> Values:
    """(n,) signal of particles of these weights."""
    off = positions[near.position] - particles_A[near.particle]
    parts = beam.intensity(np.hypot(off[:, 0], off[:, 1])) * weights[near.particle]
    signal: Values = np.bincount(near.position, parts, len(positions)).astype(np.float64)
    return signal


def _weights(
    data: Values, use: NDArray[np.bool_], positions: Values, beam: Beam, particles_A: Values
) -> Values:
    """(k,) weights that explain the signal best, not negative, and near their mean where the scan
    does not tell them."""
    from scipy.sparse import identity, vstack
    from scipy.sparse.linalg import lsqr

    near = _near(positions, particles_A, beam.reach_A)
    off = positions[near.position] - particles_A[near.particle]
    parts = beam.intensity(np.hypot(off[:, 0], off[:, 1])) * use[near.position]
    k = len(particles_A)
    lit = csr_matrix((parts, (near.position, near.particle)), shape=(len(positions), k))
    seen = np.asarray(lit.sum(0)).ravel()
    mean = float(data[use].clip(min=0).sum()) / max(float(seen.sum()), 1e-9)
    both = vstack([lit, _NEAR_MEAN * identity(k)])
    right = np.concatenate((np.where(use, data, 0.0), np.full(k, _NEAR_MEAN * mean)))
    weights: Values = lsqr(both.tocsr(), right)[0]
    return weights.clip(min=0)


def _correlation(a: Values, b: Values) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / size if size > 0 else 0.0
