"""What ice and the beam put into each ring where nothing lies, and what patterns hold beyond it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from diffragan.microscope.exit_waves.form_factors import CARBON, form_factor_A, phase_shift_per_A
from diffragan.optics import Optics
from diffragan.scan.hits.rings import EDGES_PER_A, RINGS, RingSums, Values

_LEAST_EMPTY = 12
_WINDOW = 15  # positions over which the level of the background may change
# Carbon atoms that scatter as a kDa of protein does beyond 3 Å: 68 to 70 atoms beside hydrogen, of
# which nitrogen and oxygen scatter less (1DUR and 1UBQ by multislice).
_ATOMS_A_KDA = 64.0
# From 3 Å on a protein's mean intensity is its atoms' one by one (Wilson, Nature 150, 152, 1942).
_WILSON_PER_A = 0.33


@dataclass(frozen=True)
class Excess:
    """What n patterns hold beyond the background.

    background: (n, RINGS) counts. rings: (n, RINGS) counts beyond it. z: (n,) how many standard
    deviations all rings together stand above it, weighted as free atoms scatter. empty: (n,) where
    the background was taken.
    """

    background: Values
    rings: Values
    z: Values
    empty: NDArray[np.bool_]


def excess_of(sums: RingSums, shape: tuple[int, int]) -> Excess:
    """The background of a scan of this shape (rows, columns), and what exceeds it.

    Most patterns of a scan are empty, or at least more alike than others: the shortest interval
    that holds half of them, again and again, ends at their level (half-sample mode; Robertson &
    Cryer, J. Am. Stat. Assoc. 69, 1012, 1974). The level may change slowly over the scan.
    """
    total = sums.all_rings
    read = sums.read
    level = half_sample_mode(total[read])
    below = total[read & (total <= level)] - level
    spread = max(float(np.sqrt(np.mean(below**2))) if len(below) > 2 else 0.0, np.sqrt(level + 1))
    empty = read & (np.abs(total - level) < 3 * spread)
    if empty.sum() < _LEAST_EMPTY:
        order = np.argsort(np.where(read, np.abs(total - level), np.inf))
        empty = np.zeros(len(total), bool)
        empty[order[: min(_LEAST_EMPTY, int(read.sum()))]] = True
    mean = sums.sums[empty].mean(0)
    background = mean * _level_map(total, empty, shape)[:, None]
    rings = np.where(read[:, None], sums.sums - background, 0.0)
    shared = np.maximum(sums.sums[empty].var(0, ddof=1) if empty.sum() > 1 else mean, mean + 1 / 12)
    # Free atoms over the background: the weights by which a sum tells them best.
    weight = free_atoms(sums.pixels) / shared
    # What counts for the noise is the background's, and the counts' own where there is none.
    deviation = np.sqrt((weight**2 * np.maximum(shared, background)).sum(1))
    z = (rings * weight).sum(1) / np.maximum(deviation, 1e-12)
    return Excess(background, rings, z, empty)


def half_sample_mode(values: Values) -> float:
    """Where values lie densest."""
    ordered = np.sort(values)
    while len(ordered) > 3:
        half = (len(ordered) + 1) // 2
        widths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
        start = int(widths.argmin())
        ordered = ordered[start : start + half]
    return float(ordered.mean())


def _level_map(total: Values, empty: NDArray[np.bool_], shape: tuple[int, int]) -> Values:
    """(n,) level of the background about each position, in parts of its mean; where it holds too
    few counts to tell, 1."""
    n, (rows, columns) = len(total), shape
    mean = float(total[empty].mean())
    if mean < 25 or min(shape) < 2 or n < 4 * _WINDOW:
        return np.ones(n)
    filled = np.full(rows * columns, mean)
    filled[:n] = np.where(empty, total, mean)
    smooth = median_filter(filled.reshape(shape), size=_WINDOW, mode="nearest").ravel()[:n]
    level: Values = smooth / mean
    return level


def free_atoms(pixels: Values) -> Values:
    """(RINGS,) squared form factor of carbon in Å², summed over so many pixels of each ring."""
    middle = torch.from_numpy((EDGES_PER_A[1:] + EDGES_PER_A[:-1]) / 2)
    values: Values = (form_factor_A(CARBON, middle**2) ** 2).numpy() * pixels
    return values


def counts_a_kda(
    pixels: Values, energy_ev: float, field_A: float, electrons_per_A2: float
) -> Values:
    """(RINGS,) counts of 1 kDa of protein as free atoms, in each ring.

    Args:
        pixels: of 1 / field each, in a ring. electrons_per_A2: counted of an undiminished beam.
    """
    optics = Optics(energy_ev, field_A, 0.0)
    scale = phase_shift_per_A(optics.energy_ev, field_A) ** 2 * field_A**2 * electrons_per_A2
    counts: Values = scale * _ATOMS_A_KDA * free_atoms(pixels)
    return counts


def mass_kda(rings: Values, background: Values, a_kda: Values) -> tuple[Values, Values]:
    """Weight of what scattered (n,), as free atoms of protein in a full beam, from the rings beyond
    3 Å; and its standard deviation by counting.

    Args:
        rings: (n, RINGS) counts beyond the background. a_kda: `counts_a_kda`.
    """
    fine = np.arange(RINGS) >= np.searchsorted(EDGES_PER_A, _WILSON_PER_A)
    expected = a_kda * fine
    # Weights as of a molecule of 5 kDa, whatever the pattern holds, so that none favours itself.
    weight = expected / np.maximum(background + 5 * expected, 1e-6)
    norm = np.maximum((weight * expected).sum(1), 1e-12)
    counted = np.maximum(rings + background, 0)
    mass: Values = (weight * rings).sum(1) / norm
    deviation: Values = np.sqrt((weight**2 * counted).sum(1)) / norm
    return mass, deviation
