"""Riding hydrogens: where the geometry of free atoms leaves no doubt, a hydrogen sits.

Electrons see hydrogens well, and an atom without its own is pulled towards them. Nothing is known
of the chemistry here: bonds are short distances, and what an atom carries follows from how many
bonds it has, how long they are and how they lie. Groups that turn freely get none but methyls,
which are staggered.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.atoms.model.atoms import Atoms, Riding, no_hydrogens

_BOND_A = (1.10, 1.72)  # C, N and O among themselves
_SULPHUR_BOND_A = (1.60, 2.20)
_SULPHUR_FROM = 1.6  # carbons
# A sulphur of a protein has a carbon at 1.8 Å; what binds a metal is at 2.0 Å or more.
_TO_SULPHUR_A, _LIGAND_A, _HEAVY_APART_A = 1.92, 2.6, 2.65
_CARBON_H_A, _NITROGEN_H_A = 1.09, 1.01
_OUT_OF_PLANE_A = 0.27  # of three neighbours' plane: flatter is sp2, ideal sp3 has 0.5
_METHYLENE_BOND_A = 1.46  # mean of two bonds: shorter ones are aromatic or a peptide's N
_METHYL_BOND_A = 1.475
_METHYLENE_DEG = 107.0  # between its hydrogens
_METHYL_DEG = 109.5


def riding_hydrogens(atoms: Atoms) -> Riding:
    """The hydrogens that the geometry of atoms (heavy ones only) tells."""
    places = atoms.positions_A.detach().cpu().double().numpy()
    weights = atoms.weights.detach().cpu().numpy()
    neighbours = bonded(places, weights)
    binding = _binds(places, weights)
    parents: list[int] = []
    offsets: list[NDArray[np.float64]] = []
    for k, near in enumerate(neighbours):
        if float(weights[k]) >= _SULPHUR_FROM or binding[k]:
            continue
        for offset in _carried(k, near, places, neighbours):
            parents.append(k)
            offsets.append(offset)
    if not parents:
        return no_hydrogens()
    device = atoms.weights.device
    return Riding(
        torch.tensor(parents, device=device),
        torch.from_numpy(np.array(offsets)).float().to(device),
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
    k: int, near: list[int], places: NDArray[np.float64], neighbours: list[list[int]]
) -> list[NDArray[np.float64]]:
    """Offsets of the hydrogens that atom k carries."""
    bonds = places[near] - places[k]
    lengths = np.linalg.norm(bonds, axis=1) if len(near) else np.zeros(0)
    units = bonds / lengths[:, None] if len(near) else bonds
    if len(near) == 3:
        return _tertiary(bonds, units)
    if len(near) == 2:
        return _secondary(lengths, units)
    if len(near) == 1 and lengths[0] > _METHYL_BOND_A:
        return _methyl(units[0], k, near[0], places, neighbours)
    return []


def _tertiary(bonds: NDArray[np.float64], units: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """A pyramid of three bonds carries one hydrogen at its tip; a flat star none."""
    normal = np.cross(bonds[1] - bonds[0], bonds[2] - bonds[0])
    height = abs(bonds[0] @ normal) / max(np.linalg.norm(normal), 1e-9)
    if height < _OUT_OF_PLANE_A:
        return []
    return [-_CARBON_H_A * _unit(units.sum(0))]


def _secondary(
    lengths: NDArray[np.float64], units: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Two long bonds: a methylene's two hydrogens; shorter ones: one in their plane."""
    outward = -_unit(units.sum(0))
    if lengths.mean() < _METHYLENE_BOND_A:
        return [_NITROGEN_H_A * outward] if units[0] @ units[1] > -0.8 else []
    across = _unit(np.cross(units[0], units[1]))
    half = math.radians(_METHYLENE_DEG / 2)
    return [
        _CARBON_H_A * (math.cos(half) * outward + sign * math.sin(half) * across)
        for sign in (1, -1)
    ]


def _methyl(
    bond: NDArray[np.float64],
    k: int,
    parent: int,
    places: NDArray[np.float64],
    neighbours: list[list[int]],
) -> list[NDArray[np.float64]]:
    """Three hydrogens, staggered against the other bonds of the atom that carries the methyl."""
    others = [j for j in neighbours[parent] if j != k]
    if not others:
        return []
    sideways = places[others[0]] - places[parent]
    sideways = _unit(sideways - (sideways @ bond) * bond)
    upright = np.cross(bond, sideways)
    tilt = math.radians(180 - _METHYL_DEG)
    out = []
    for turn in (60, 180, 300):
        angle = math.radians(turn)
        ring = math.cos(angle) * sideways + math.sin(angle) * upright
        out.append(_CARBON_H_A * (-math.cos(tilt) * bond + math.sin(tilt) * ring))
    return out


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = vector / max(float(np.linalg.norm(vector)), 1e-9)
    return result
