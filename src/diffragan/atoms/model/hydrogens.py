"""Riding hydrogens: where the geometry of free atoms leaves no doubt, a hydrogen sits.

Electrons see hydrogens well, and an atom without its own is pulled towards them. Nothing is known
of the chemistry here: bonds are short distances, and what an atom carries follows from how many
bonds it has, how long they are and how they lie. A hydrogen that turns freely is spread over its
cone (`hydrogens_at_ends.py`).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.atoms.model.atoms import Atoms, Riding, no_hydrogens
from diffragan.atoms.model.hydrogens_at_ends import (
    CARBON_H_A,
    NITROGEN_H_A,
    at_end,
    is_flat,
    unit,
)

_BOND_A = (1.10, 1.72)  # C, N and O among themselves
_SULPHUR_BOND_A = (1.60, 2.20)
_SULPHUR_FROM = 1.6  # carbons
# A sulphur of a protein has a carbon at 1.8 Å; what binds a metal is at 2.0 Å or more.
_TO_SULPHUR_A, _LIGAND_A, _HEAVY_APART_A = 1.92, 2.6, 2.65
_METHYLENE_BOND_A = 1.46  # mean of two bonds: shorter ones are aromatic or a peptide's N
_METHYLENE_DEG = 107.0  # between its hydrogens


def riding_hydrogens(atoms: Atoms) -> Riding:
    """The hydrogens that the geometry of atoms (heavy ones only) tells."""
    places = atoms.positions_A.detach().cpu().double().numpy()
    weights = atoms.weights.detach().cpu().numpy()
    neighbours = bonded(places, weights)
    binding = _binds(places, weights)
    parents: list[int] = []
    offsets: list[NDArray[np.float64]] = []
    shares: list[float] = []
    for k in range(len(neighbours)):
        if float(weights[k]) >= _SULPHUR_FROM or binding[k]:
            continue
        for share, offset in _carried(k, places, neighbours):
            parents.append(k)
            offsets.append(offset)
            shares.append(share)
    if not parents:
        return no_hydrogens()
    device = atoms.weights.device
    return Riding(
        torch.tensor(parents, device=device),
        torch.from_numpy(np.array(offsets)).float().to(device),
        torch.tensor(shares, device=device),
    )


def bonded(
    places_A: NDArray[np.float64],
    weights: NDArray[np.float64],
    window_A: tuple[float, float] = _BOND_A,
) -> list[list[int]]:
    """For each atom (n, 3) those at the distance of a bond; sulphurs, by weight, reach further.
    Metals and what else is `inorganic` have none.

    Args:
        window_A: shortest and longest bond of other atoms than sulphur.
    """
    from scipy.spatial import cKDTree

    tree = cKDTree(places_A)
    heavy, apart = weights >= _SULPHUR_FROM, inorganic(places_A, weights)
    out: list[list[int]] = [[] for _ in range(len(places_A))]
    for i, j in sorted(tree.query_pairs(_SULPHUR_BOND_A[1])):
        if apart[i] or apart[j]:
            continue
        low, high = _SULPHUR_BOND_A if heavy[i] or heavy[j] else window_A
        if low <= np.linalg.norm(places_A[i] - places_A[j]) <= high:
            out[i].append(j)
            out[j].append(i)
    return out


def inorganic(places_A: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) bool: metals, and sulphides between them. They scatter like sulphur or more, no light
    atom is bonded to them, and they are alone or among others of their kind; two heavy atoms with
    nothing else near are a disulphide."""
    from scipy.spatial import cKDTree

    out = np.zeros(len(weights), dtype=bool)
    heavy = np.flatnonzero(weights >= _SULPHUR_FROM)
    if not len(heavy):
        return out
    near = cKDTree(places_A).query_ball_point(places_A[heavy], _HEAVY_APART_A)
    for k, some in zip(heavy.tolist(), near, strict=True):
        others = [j for j in some if j != k]
        apart = np.linalg.norm(places_A[others] - places_A[k], axis=1)
        is_heavy = weights[others] >= _SULPHUR_FROM
        light = apart[~is_heavy]
        # Noise may move a cysteine's carbon out to where a metal's nitrogen would be, but a metal
        # has more of those, or other sulphurs.
        one = int((light < _SULPHUR_BOND_A[1]).sum()) == 1 and int(is_heavy.sum()) < 3
        carbon = one or bool((light < _TO_SULPHUR_A).any())
        bond = bool((apart[is_heavy] < _SULPHUR_BOND_A[1]).any())
        out[k] = not carbon and (len(others) > 1 or not bond)
    return out


def _binds(places_A: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) bool, those with a metal so near that they have no room for a hydrogen between."""
    from scipy.spatial import cKDTree

    metals = places_A[inorganic(places_A, weights)]
    if not len(metals):
        return np.zeros(len(weights), dtype=bool)
    result: NDArray[np.bool_] = cKDTree(metals).query(places_A)[0] < _LIGAND_A
    return result


def _carried(
    k: int, places: NDArray[np.float64], neighbours: list[list[int]]
) -> list[tuple[float, NDArray[np.float64]]]:
    """The hydrogens that atom k carries: the share of one, and its offset."""
    near = neighbours[k]
    bonds = places[near] - places[k]
    lengths = np.linalg.norm(bonds, axis=1) if len(near) else np.zeros(0)
    units = bonds / lengths[:, None] if len(near) else bonds
    if len(near) == 3:
        return [(1.0, offset) for offset in _tertiary(bonds, units)]
    if len(near) == 2:
        return [(1.0, offset) for offset in _secondary(lengths, units)]
    if len(near) == 1:
        return at_end(k, places, neighbours)
    return []


def _tertiary(bonds: NDArray[np.float64], units: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """A pyramid of three bonds carries one hydrogen at its tip; a flat star none."""
    if is_flat(bonds):
        return []
    return [-CARBON_H_A * unit(units.sum(0))]


def _secondary(
    lengths: NDArray[np.float64], units: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Two long bonds: a methylene's two hydrogens; shorter ones: one in their plane."""
    outward = -unit(units.sum(0))
    if lengths.mean() < _METHYLENE_BOND_A:
        return [NITROGEN_H_A * outward] if units[0] @ units[1] > -0.8 else []
    across = unit(np.cross(units[0], units[1]))
    half = math.radians(_METHYLENE_DEG / 2)
    return [
        CARBON_H_A * (math.cos(half) * outward + sign * math.sin(half) * across) for sign in (1, -1)
    ]
