"""Where the beam stands on the specimen, and how it lights it.

Places are (y, x) in Å in the overview's frame, whose first pixel is 0, 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.float64]

_DRIFT_ORDERS = (2, 3, 4)  # what is linear in time is part of the affine


@dataclass(frozen=True)
class Raster:
    """A scan row by row: position (row, column) lies at origin + matrix @ (row, column) + drift.

    rows, columns: of the scan. origin_A: (2,) y, x of the first position. matrix_A: (2, 2), its
    columns the steps from row to row and from column to column. drift_A: (3, 2) coefficients of
    Legendre polynomials of the second to fourth order in time, which runs from -1 to 1 over the
    scan; what is linear in time is part of the matrix.
    """

    rows: int
    columns: int
    origin_A: NDArray[np.float64]
    matrix_A: NDArray[np.float64]
    drift_A: NDArray[np.float64] = field(default_factory=lambda: np.zeros((len(_DRIFT_ORDERS), 2)))

    def positions(self) -> Places:
        """(rows x columns, 2) places in the order of the scan."""
        return self.design() @ self.parameters

    def design(self) -> NDArray[np.float64]:
        """(n, 6) what each parameter moves each position by, the same for y and x."""
        n = self.rows * self.columns
        row, column = np.divmod(np.arange(n), self.columns)
        time = np.linspace(-1, 1, n) if n > 1 else np.zeros(1)
        drift = [np.polynomial.legendre.Legendre.basis(k)(time) for k in _DRIFT_ORDERS]
        return np.stack((np.ones(n), row, column, *drift), -1)

    @property
    def parameters(self) -> NDArray[np.float64]:
        """(6, 2): origin, steps from row to row and column to column, drift; each y, x."""
        result: NDArray[np.float64] = np.concatenate(
            (self.origin_A[None], self.matrix_A.T, self.drift_A)
        )
        return result

    @classmethod
    def of(cls, rows: int, columns: int, parameters: NDArray[np.float64]) -> Raster:
        """The raster of these `parameters` (6, 2)."""
        return cls(rows, columns, parameters[0], parameters[1:3].T, parameters[3:])

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "origin_A": self.origin_A.tolist(),
            "matrix_A": self.matrix_A.tolist(),
            "drift_A": self.drift_A.tolist(),
            "drift_orders": list(_DRIFT_ORDERS),
        }


@dataclass(frozen=True)
class Beam:
    """A disc with a soft edge: full inside, half at its radius, nothing beyond.

    diameter_A: to half the intensity. edge_A: from full to nothing.
    """

    diameter_A: float
    edge_A: float

    @property
    def reach_A(self) -> float:
        """Distance from its middle beyond which nothing is lit."""
        return (self.diameter_A + self.edge_A) / 2

    @cached_property
    def area_A2(self) -> float:
        """The area that full intensity would have to light."""
        r = np.linspace(0, self.reach_A, 4001)
        return float(np.trapezoid(self.intensity(r) * 2 * math.pi * r, r))

    def intensity(self, distance_A: NDArray[np.float64]) -> NDArray[np.float64]:
        """Part of the full intensity at distances from the middle."""
        within = (self.reach_A - distance_A) / max(self.edge_A, 1e-6)
        part: NDArray[np.float64] = np.sin(0.5 * math.pi * np.clip(within, 0, 1)) ** 2
        return part

    def amplitude(self, distance_A: NDArray[np.float64]) -> NDArray[np.float64]:
        """The root of `intensity`."""
        within = (self.reach_A - distance_A) / max(self.edge_A, 1e-6)
        part: NDArray[np.float64] = np.sin(0.5 * math.pi * np.clip(within, 0, 1))
        return part


def distances(positions: Places, place: Sequence[float] | NDArray[np.float64]) -> Places:
    """(n,) of positions (n, 2) from a place."""
    result: Places = np.hypot(positions[:, 0] - place[0], positions[:, 1] - place[1])
    return result
