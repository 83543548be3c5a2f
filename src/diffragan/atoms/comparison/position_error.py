"""How well each atom is placed, told without a truth: by how far apart the half sets put it.

Two half sets know nothing of each other's errors, so half the distance of their atoms, along each
axis, is the error of their mean. The atom of all views is better placed than that mean where half
of the data do worse than their share; by how much follows from its distance to theirs (Hausman,
Econometrica 46, 1251, 1978: what an efficient estimate lacks to another is independent of its own
error). One atom's distance is three numbers; so what atoms of the same B factor and weight show
counts too, each by how much it is worth. What both half sets have wrong alike (hydrogens that were
left out, scattering that was taken as single) does not show.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.atoms.model.atoms import Atoms

_FEW = 30  # atoms: with fewer all are given the same error
_STEPS = 30
_AXES = 3
_GAINS = (0.3, 1.5)  # what is believed: sets that share what is wrong differ too little


def position_errors(all_views: Atoms, halves: tuple[Atoms, Atoms], confirmed: Tensor) -> Tensor:
    """(n,) standard uncertainty of each coordinate in Å; nan for atoms that are not confirmed.

    A mean square by B factor and weight (a gamma regression with logarithmic link, McCullagh &
    Nelder 1989) is mixed with the atom's own, by how much the squares vary beyond chance (a scaled
    inverse chi-square prior; Smyth, Stat. Appl. Genet. Mol. Biol. 3, 3, 2004).

    Args:
        confirmed: (n,) bool.
    """
    out = torch.full((len(all_views),), torch.nan)
    sure = confirmed.numpy()
    if not sure.any():
        return out
    places = all_views.positions_A.numpy()[sure]
    first, second = (_nearest_places(places, half.positions_A.numpy()) for half in halves)
    # Of the mean of both halves, along an axis.
    square = ((first - second) ** 2).sum(1) / (4 * _AXES)
    square = np.maximum(square, 1e-8) * _gain(places, first, second)
    b, weight = (x.numpy()[sure] for x in (all_views.b_A2, all_views.weights))
    usual = _usual(square, b, weight)
    worth = _worth(square / usual)
    mixed = ((worth - 2) * usual + _AXES * square) / (worth - 2 + _AXES)
    out[confirmed] = torch.from_numpy(np.sqrt(mixed)).float()
    return out


def _gain(
    places: NDArray[np.float32], first: NDArray[np.float64], second: NDArray[np.float64]
) -> float:
    """Mean square error of the atoms of all views over that of the half sets' means."""
    between = ((first - second) ** 2).mean()
    beyond = 0.5 * (((first - places) ** 2).mean() + ((second - places) ** 2).mean())
    return float(np.clip((between / 2 - beyond) / max(between / 4, 1e-12), *_GAINS))


def _usual(
    square: NDArray[np.float64], b_A2: NDArray[np.float64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean square of atoms of this B factor and weight."""
    if len(square) < _FEW:
        return np.full(len(square), square.mean())
    columns = [b_A2, np.log(np.maximum(weight, 0.1))]
    terms = np.stack([np.ones(len(square))] + [x - x.mean() for x in columns], 1)
    factor = np.zeros(terms.shape[1])
    factor[0] = np.log(square.mean())
    for _ in range(_STEPS):
        usual = np.exp(terms @ factor)
        factor += np.linalg.lstsq(terms, square / usual - 1, rcond=None)[0].clip(-1, 1)
    result: NDArray[np.float64] = np.exp(terms @ factor)
    return result


def _worth(ratio: NDArray[np.float64]) -> float:
    """Degrees of freedom that the usual square counts as; many where squares vary as chance has it.

    A ratio of `_AXES` squares to their mean varies by 2 / 3; what is beyond comes from atoms whose
    own mean squares differ by as much.
    """
    beyond = (ratio.var() - 2 / _AXES) / (1 + 2 / _AXES)
    return float(4 + 2 / max(beyond, 0.02))


def _nearest_places(
    places: NDArray[np.float32], others: NDArray[np.float32]
) -> NDArray[np.float64]:
    from scipy.spatial import cKDTree

    found: NDArray[np.float64] = others[cKDTree(others).query(places)[1]].astype(np.float64)
    return found
