"""Hydrogens of atoms with one bond: methyls, hydroxyls, amines; told apart by that bond's length.

Places that a hydrogen takes in turn each hold its share of the time, and so do places of groups
that the length leaves open: a hydroxyl that is read as a methyl would otherwise be pulled to where
a methyl lies.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

CARBON_H_A, NITROGEN_H_A, _OXYGEN_H_A = 1.09, 1.01, 0.96
_OUT_OF_PLANE_A = 0.27  # of three neighbours' plane: flatter is sp2, ideal sp3 has 0.5
# Lengths in the middle between two kinds of bonds, and how they blur: C-OH 1.42 and C-CH3 1.52;
# C=O 1.24 and C-NH2 1.33; C=O 1.24 and a ring's C-OH 1.37.
_METHYL_FROM_A, _AMINE_FROM_A, _PHENOL_FROM_A = 1.475, 1.285, 1.305
_BLUR_A = 0.015
_LEAST_SHARE = 0.02
_TETRAHEDRAL_DEG, _FLAT_DEG = 109.5, 120.0

Hydrogens = list[tuple[float, NDArray[np.float64]]]


def at_end(k: int, places: NDArray[np.float64], neighbours: list[list[int]]) -> Hydrogens:
    """Hydrogens of atom k, which has one bond: each one's share and its offset (3,) in Å.

    Args:
        places: (n, 3) in Å. neighbours: of each atom, those bonded to it.
    """
    parent = neighbours[k][0]
    others = [j for j in neighbours[parent] if j != k]
    if not others:
        return []
    bond = places[parent] - places[k]
    length = float(np.linalg.norm(bond))
    sideways = places[others[0]] - places[parent]
    frame = _frame(bond / length, sideways)
    if len(others) == 2 and is_flat(places[[k, *others]] - places[parent]):
        return _on_flat(length, frame, ends=any(len(neighbours[j]) == 1 for j in others))
    methyl = _above(length, _METHYL_FROM_A)
    third = (1 - methyl) / 3
    return _kept(
        [(methyl, _at(frame, CARBON_H_A, _TETRAHEDRAL_DEG, turn)) for turn in (60, 180, 300)]
        + [(third, _at(frame, _OXYGEN_H_A, _TETRAHEDRAL_DEG, turn)) for turn in (60, 180, 300)]
    )


def is_flat(bonds_A: NDArray[np.float64]) -> bool:
    """Whether an atom lies in the plane of its three neighbours, at bonds (3, 3) from it."""
    normal = np.cross(bonds_A[1] - bonds_A[0], bonds_A[2] - bonds_A[0])
    height = abs(bonds_A[0] @ normal) / max(float(np.linalg.norm(normal)), 1e-9)
    return bool(height < _OUT_OF_PLANE_A)


def unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """A vector of length 1."""
    result: NDArray[np.float64] = vector / max(float(np.linalg.norm(vector)), 1e-9)
    return result


def _on_flat(length: float, frame: NDArray[np.float64], *, ends: bool) -> Hydrogens:
    """On a flat atom: with another end beside it an amine, which has two hydrogens in the plane;
    with none a ring's hydroxyl, which has one of two. A methyl where the bond is as long as one's.

    Args:
        ends: another neighbour of the flat atom has no other bond either.
    """
    methyl = _above(length, _METHYL_FROM_A)
    start, reach = (_AMINE_FROM_A, NITROGEN_H_A) if ends else (_PHENOL_FROM_A, _OXYGEN_H_A)
    share = _above(length, start) * (1 - methyl) * (1 if ends else 0.5)
    degrees = _FLAT_DEG if ends else _TETRAHEDRAL_DEG
    return _kept(
        [(methyl, _at(frame, CARBON_H_A, _TETRAHEDRAL_DEG, turn)) for turn in (60, 180, 300)]
        + [(share, _at(frame, reach, degrees, turn)) for turn in (0, 180)]
    )


def _above(length_A: float, middle_A: float) -> float:
    """How surely a bond is the longer one of two kinds."""
    return 1 / (1 + math.exp((middle_A - length_A) / _BLUR_A))


def _kept(hydrogens: Hydrogens) -> Hydrogens:
    return [row for row in hydrogens if row[0] > _LEAST_SHARE]


def _frame(bond: NDArray[np.float64], sideways: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3): along the bond to the parent, across it on the side of another neighbour of the
    parent, and upright on both."""
    across = unit(sideways - (sideways @ bond) * bond)
    return np.stack((bond, across, np.cross(bond, across)))


def _at(
    frame: NDArray[np.float64], reach_A: float, degrees: float, turn_deg: float
) -> NDArray[np.float64]:
    """(3,) Å: at an angle with the bond, turned about it from where the other neighbour lies."""
    tilt, turn = math.radians(180 - degrees), math.radians(turn_deg)
    sideways = math.sin(tilt)
    along = (-math.cos(tilt), sideways * math.cos(turn), sideways * math.sin(turn))
    result: NDArray[np.float64] = reach_A * np.array(along) @ frame
    return result
