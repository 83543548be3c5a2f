"""Where the positions of a scan lie in the overview: the patterns' excess against the particles.

First turned and moved as a whole, by correlation; then an affine by single hits and the particles
nearest them, without those that disagree (RANSAC; Fischler & Bolles, Commun. ACM 24, 381, 1981);
then affine and drift by how much of the beam each particle gets at each position.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial import cKDTree

from diffragan.errors import DiffraganError
from diffragan.microscope.session.raster import Beam, Raster
from diffragan.progress import Progress
from diffragan.scan.placing.beam_on_particles import Lit, fit_raster
from diffragan.scan.placing.particles import Particles

_SHOWN = 0.7  # of a scan that the overview must show
_LEAST = 6  # hits and particles that can tell a place
_REACH_STEPS = 2.5  # after the coarse search, hits look for their particle so far

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Registration:
    """How scan and overview lie to each other.

    raster: the scan in the overview's frame. beam: as it was fitted. weights: (k,) of each
    particle, in the excess's units: what it scatters in a full beam. likeness: correlation of
    measured and expected excess. coarse: the correlation of the search. ahead: that over the next
    best turn's. matched: hits with a particle, of so many. residual_A: median misfit of these.
    """

    raster: Raster
    beam: Beam
    weights: Values
    likeness: float
    coarse: float
    ahead: float
    matched: tuple[int, int]
    residual_A: float


def register(
    excess: Values,
    classes: NDArray[np.str_],
    particles: Particles,
    step_A: float,
    beam: Beam,
    turn_deg: float,
    progress: Progress,
) -> Registration:
    """Lay a scan on its overview.

    Args:
        excess: (rows, columns) counts beyond the background. classes: (rows, columns) of patterns.
        turn_deg: largest angle that is tried.

    Raises:
        DiffraganError: too few hits or particles.
    """
    rows, columns = excess.shape
    particles_A = particles.places_A
    usable = np.isin(classes, ("molecule", "several", "empty"))
    lit = excess[classes == "molecule"]
    # Half of the molecules' patterns are of one that gets only a part of the beam.
    bright = max(1.5 * float(np.median(lit)), 1e-9) if lit.size else 1.0
    signal = np.where(usable, (excess / bright).clip(-0.3, 2.0), 0.0)
    hits = int((signal > 0.3).sum())
    if hits < _LEAST or len(particles_A) < _LEAST:
        raise DiffraganError(
            f"The scan has {hits} hits and the overview {len(particles_A)} particles; "
            f"{_LEAST} of each are needed to lay one on the other."
        )
    turn, flip, shift, coarse, ahead = _search(
        signal, usable, particles, step_A, beam, turn_deg, progress
    )
    matrix = step_A * _turned(turn, flip)
    raster = Raster(rows, columns, shift, matrix)
    raster, matched, residual = _by_hits(signal, usable, particles_A, raster, step_A)
    fit: Lit | None = None
    for edge in (0.8 * beam.diameter_A, 0.4 * beam.diameter_A, beam.edge_A):
        soft = Beam(beam.diameter_A, max(edge, 1.0))
        fit = fit_raster(signal, usable, particles_A, raster, soft, fit)
        raster = fit.raster
        progress("affine and drift", 1)
    assert fit is not None
    return Registration(
        raster, fit.beam, fit.weights * bright, fit.likeness, coarse, ahead, matched, residual
    )


def _turned(turn: float, flip: bool) -> Values:
    """Unit steps of row and column (columns of the matrix, as y and x), turned and perhaps
    mirrored."""
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return rotation @ np.diag((1.0, -1.0 if flip else 1.0))


def _search(
    signal: Values,
    usable: NDArray[np.bool_],
    particles: Particles,
    step_A: float,
    beam: Beam,
    turn_deg: float,
    progress: Progress,
) -> tuple[float, bool, Values, float, float]:
    """Turn, mirror and origin of the best correlation; its value, and over the next best turn."""
    span = float(np.hypot(*signal.shape))
    step_deg = min(math.degrees(0.7 * beam.diameter_A / step_A / span), 3.0)
    count = max(1, 2 * math.ceil(turn_deg / step_deg))
    turns = np.radians(np.linspace(-turn_deg, turn_deg, count, endpoint=turn_deg < 179))
    fine = 1 if beam.diameter_A > 1.2 * step_A else 2  # pixels of the search in a step
    grid = np.repeat(np.repeat(signal.clip(max=1.0), fine, 0), fine, 1)
    mask = np.repeat(np.repeat(usable.astype(float), fine, 0), fine, 1)
    grid = np.where(mask > 0, grid - grid[mask > 0].mean(), 0.0)
    middle = particles.places_A.mean(0)
    reach = float(np.abs(particles.places_A - middle).max()) * math.sqrt(2) / step_A * fine
    # Room for the scan anywhere over the particles.
    size = fft.next_fast_len(int(2 * reach + 1.2 * max(grid.shape)), real=True)
    sigma = 0.35 * beam.diameter_A / step_A * fine
    spectra = tuple(np.conj(fft.rfft2(part, (size, size))) for part in (grid, mask, grid**2))
    places = np.argwhere(np.ones((size, size), bool)) - size / 2
    tried: list[tuple[float, float, bool, Values]] = []
    for k, turn in enumerate(turns):
        for flip in (False, True):
            steps = step_A / fine * _turned(float(turn), flip)
            at = (particles.places_A - middle) @ np.linalg.inv(steps).T + size / 2
            shown = ~particles.on_film(middle + places @ steps.T).reshape(size, size)
            density = _density(at, size, sigma)
            value, place = _correlate(
                density, shown.astype(float), spectra, _SHOWN * float(mask.sum())
            )
            # The middle of a step's pixels is the position itself.
            first = place + (fine - 1) / 2 - size / 2
            tried.append((value, float(turn), flip, middle + steps @ first))
        progress("turns tried", k + 1, len(turns))
    tried.sort(key=lambda one: -one[0])
    best = tried[0]
    apart = [
        one[0]
        for one in tried
        if one[2] != best[2] or abs(math.remainder(one[1] - best[1], math.tau)) > 0.15
    ]
    ahead = best[0] / max(apart[0], 1e-9) if apart else math.inf
    return best[1], best[2], best[3], best[0], ahead


def _density(at: Values, size: int, sigma: float) -> Values:
    """Particles at pixels (k, 2), spread as the beam spreads them."""
    density = np.zeros((size, size))
    index = np.rint(at).astype(int) % size
    np.add.at(density, (index[:, 0], index[:, 1]), 1.0)
    spread: Values = ndimage.gaussian_filter(density, sigma, mode="wrap")
    return spread


def _correlate(
    density: Values, shown: Values, spectra: tuple[NDArray[np.complex128], ...], least: float
) -> tuple[float, Values]:
    """Largest correlation of the scan with a density of particles, and where it is.

    Only what the overview shows of a scan takes part, and it must show most of it.
    """
    size = len(density)
    signal, usable, squared = spectra

    def over(values: Values, kernel: NDArray[np.complex128]) -> Values:
        result: Values = fft.irfft2(fft.rfft2(values) * kernel, (size, size))
        return result

    pixels = over(shown, usable)
    sums = over(density * shown, usable)
    squares = over(density**2 * shown, usable)
    product = over(density * shown, signal)
    # The signal's mean is about 0 wherever the overview shows most of it.
    power = over(shown, squared)
    variance = squares - sums**2 / np.maximum(pixels, 1)
    floor = 0.05 * float(variance.max()) + 1e-12
    value = product / np.sqrt(np.maximum(variance, floor) * np.maximum(power, 1e-12))
    value[pixels < least] = -1.0
    place = np.unravel_index(int(value.argmax()), value.shape)
    return float(value[place]), np.array(place, dtype=np.float64)


def _by_hits(
    signal: Values,
    usable: NDArray[np.bool_],
    particles_A: Values,
    raster: Raster,
    step_A: float,
) -> tuple[Raster, tuple[int, int], float]:
    """The affine by hits that stand alone, each with the particle nearest to it."""
    from skimage.feature import peak_local_max
    from skimage.measure import ransac
    from skimage.transform import AffineTransform

    peaks = peak_local_max(  # type: ignore[no-untyped-call]
        signal, min_distance=1, threshold_abs=0.25, exclude_border=False
    )
    peaks = peaks[usable[peaks[:, 0], peaks[:, 1]]]
    places = np.array([_peak_centre(signal, int(y), int(x)) for y, x in peaks]).reshape(-1, 2)
    expected = places @ raster.matrix_A.T + raster.origin_A
    distance, nearest = cKDTree(particles_A).query(expected)
    near = distance < _REACH_STEPS * step_A
    if near.sum() < _LEAST:
        return raster, (0, len(places)), math.inf
    source, target = places[near], particles_A[nearest[near]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # samples of points on a line
        model, good = ransac(  # type: ignore[no-untyped-call]
            (source, target), AffineTransform, min_samples=3, residual_threshold=0.6 * step_A,
            max_trials=2000, rng=0,
        )  # fmt: skip
    if not model or good is None or good.sum() < _LEAST:
        return raster, (0, len(places)), math.inf
    matrix, origin = np.asarray(model.params)[:2, :2], np.asarray(model.params)[:2, 2]
    # A wild affine is no scan: its steps are near what is told.
    sizes = np.linalg.svd(matrix / step_A, compute_uv=False)
    if sizes.min() < 0.85 or sizes.max() > 1.18:
        return raster, (0, len(places)), math.inf
    left = np.linalg.norm(model(source)[good] - target[good], axis=1)
    found = Raster(raster.rows, raster.columns, origin, matrix)
    return found, (int(good.sum()), len(places)), float(np.median(left))


def _peak_centre(signal: Values, y: int, x: int) -> tuple[float, float]:
    """Centre of mass of a hit and its neighbours, in rows and columns."""
    top, left = max(y - 1, 0), max(x - 1, 0)
    near = signal[top : y + 2, left : x + 2].clip(min=0)
    iy, ix = np.indices(near.shape)
    total = max(float(near.sum()), 1e-12)
    return top + float((iy * near).sum()) / total, left + float((ix * near).sum()) / total
