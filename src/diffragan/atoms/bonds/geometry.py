"""How proteins are built: lengths, angles and flat groups measured from known structures, and how
much an observed distance speaks for one of them.

The numbers stand in `data/residue_geometry.json`; `benchmarks/residue_geometry.py` measures them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.molecules.clean import HEAVY_ATOMS

_WRONG = 0.01  # of distances tell nothing: a wrong atom, or geometry like none of the table's
# Over so many Å bonds, distances across an angle, and longer ones spread where nothing is known.
_SPANS_A = ((1.95, 0.7), (2.75, 0.6), (np.inf, 1.4))
SULPHUR_SPAN_A = 0.5


@dataclass(frozen=True)
class Distance:
    """A distance to an earlier atom: its name, mean and standard deviation in Å."""

    to: str
    mean_A: float
    sd_A: float


@dataclass(frozen=True)
class Step:
    """An atom of a side chain, placed by up to three distances to atoms before it; the first one
    is a bond."""

    atom: str
    distances: tuple[Distance, ...]


@dataclass(frozen=True)
class Centre:
    """Four atoms whose signed volume (Å³) tells left from right: a centre and three arms."""

    atoms: tuple[str, str, str, str]
    mean_A3: float
    sd_A3: float


@dataclass(frozen=True)
class Geometry:
    """The table.

    fractions: of residues, by name. steps: side-chain atoms of each residue, in order. centres:
    chiral ones of each. peptide: (10,) names, means and deviations among CA, C, O, N+, CA+, for
    trans and cis. classes: of atoms, by name: fraction, mean and deviation of their shape (degrees
    for two bonds, height in Å over the plane of three). bonds: count, mean and deviation of lengths
    by the classes of both ends.
    """

    fractions: dict[str, float]
    steps: dict[str, tuple[Step, ...]]
    centres: dict[str, tuple[Centre, ...]]
    peptide: dict[str, tuple[tuple[str, str, float, float], ...]]
    classes: dict[str, tuple[float, float, float]]
    bonds: dict[tuple[str, str], tuple[int, float, float]]


@cache
def geometry() -> Geometry:
    """The table that comes with the package."""
    file = resources.files("diffragan").joinpath("data", "residue_geometry.json")
    table: dict[str, Any] = json.loads(file.read_text("utf-8"))
    centres: dict[str, list[Centre]] = {name: [] for name in HEAVY_ATOMS}
    for name, a, b, c, d, mean, sd in table["centres"]:
        centres[name].append(Centre((a, b, c, d), mean, sd))
    residues = table["residues"]
    return Geometry(
        {name: residues[name]["fraction"] for name in HEAVY_ATOMS},
        {
            name: tuple(
                Step(atom, tuple(Distance(*row) for row in rows))
                for atom, rows in residues[name]["atoms"]
            )
            for name in HEAVY_ATOMS
        },
        {name: tuple(found) for name, found in centres.items()},
        {kind: tuple(tuple(row) for row in rows) for kind, rows in table["peptide"].items()},
        {name: tuple(row) for name, row in table["atoms"].items()},
        {(one, other): (n, mean, sd) for one, other, n, mean, sd in table["bonds"]},
    )


def evidence(
    value: NDArray[np.float64] | float,
    mean: NDArray[np.float64] | float,
    sd: NDArray[np.float64] | float,
    span: NDArray[np.float64] | float,
) -> NDArray[np.float64]:
    """Log-likelihood ratio of a value under a Gaussian against an even spread over `span`; one
    value in a hundred is allowed to be wrong."""
    sd = np.asarray(sd, dtype=float)
    density = np.exp(-0.5 * ((np.asarray(value) - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))
    out: NDArray[np.float64] = np.log((1 - _WRONG) * density * span + _WRONG)
    return out


def distance_evidence(
    value_A: NDArray[np.float64] | float,
    mean_A: NDArray[np.float64] | float,
    sd_A: NDArray[np.float64] | float,
    noise_A: float,
) -> NDArray[np.float64]:
    """Evidence of a distance between two atoms, each misplaced by `noise_A` along each axis."""
    return evidence(value_A, mean_A, np.hypot(sd_A, np.sqrt(2) * noise_A), span_A(mean_A))


def span_A(mean_A: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Over how many Å a distance of about `mean_A` may lie where nothing is known of it."""
    mean = np.asarray(mean_A, dtype=float)
    return np.select([mean < end for end, _ in _SPANS_A], [span for _, span in _SPANS_A])
