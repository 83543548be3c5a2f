"""Free atoms and the bonds between them: what everything about a molecule is read from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from diffragan.atoms.model.hydrogens import bonded

LONGEST_BOND_A = 1.86  # half way between a bond and the shortest distance across an angle
SHORTEST_BOND_A = 1.0
SULPHUR_FROM = 1.6  # carbons


@dataclass(frozen=True, eq=False)
class AtomGraph:
    """n atoms other than hydrogen, and which of them are bonded.

    places_A: (n, 3). weights: (n,) in carbons. b_A2: (n,). sure: (n,) bool, those that both half
    sets confirm. noise_A: standard deviation of a place along each axis. inferred: what
    the last ones are, N+, CA or C of the main chain, where the map shows none.
    """

    places_A: NDArray[np.float64]
    weights: NDArray[np.float64]
    b_A2: NDArray[np.float64]
    sure: NDArray[np.bool_]
    noise_A: float = 0.05
    inferred: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.places_A)

    @cached_property
    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """Bonded atoms of each: distances that noise may have stretched, none across an angle."""
        window = (SHORTEST_BOND_A, LONGEST_BOND_A)
        return tuple(map(tuple, bonded(self.places_A, self.weights, window)))

    @cached_property
    def sulphur(self) -> NDArray[np.bool_]:
        """(n,) those that scatter like sulphur."""
        result: NDArray[np.bool_] = self.weights >= SULPHUR_FROM
        return result

    def apart_A(
        self, one: NDArray[np.int64] | int, other: NDArray[np.int64] | int
    ) -> NDArray[np.float64]:
        """Distances between atoms by index."""
        out: NDArray[np.float64] = np.linalg.norm(
            self.places_A[one] - self.places_A[other], axis=-1
        )
        return out

    def volume_A3(self, centre: int, arms: tuple[int, int, int]) -> float:
        """Signed volume of three arms: positive for N, C, CB about CA of an L-amino acid."""
        a, b, c = (self.places_A[k] - self.places_A[centre] for k in arms)
        return float(a @ np.cross(b, c))

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """(n,) those that are not inferred."""
        result: NDArray[np.bool_] = np.arange(len(self)) < len(self) - len(self.inferred)
        return result

    def with_inferred(self, places_A: NDArray[np.float64], kinds: tuple[str, ...]) -> AtomGraph:
        """The same with atoms (m, 3) that the map does not show, and what they are."""
        m = len(places_A)
        return AtomGraph(
            np.concatenate((self.places_A, places_A)),
            np.concatenate((self.weights, np.full(m, np.median(self.weights)))),
            np.concatenate((self.b_A2, np.full(m, np.median(self.b_A2)))),
            np.concatenate((self.sure, np.zeros(m, dtype=bool))),
            self.noise_A,
            (*self.inferred, *kinds),
        )

    def mirrored(self) -> AtomGraph:
        """The other hand, by inversion."""
        return replace(self, places_A=-self.places_A)

    def groups(self) -> list[list[int]]:
        """Atoms joined by bonds, directly or through others; largest group first."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        pairs = np.array([(k, j) for k, near in enumerate(self.neighbours) for j in near])
        one, other = pairs.reshape(-1, 2).astype(int).T
        shape = (len(self), len(self))
        count, label = connected_components(coo_array((np.ones(len(one)), (one, other)), shape))
        found = [np.flatnonzero(label == g).tolist() for g in range(count)]
        return sorted(found, key=lambda group: (-len(group), group[0]))
