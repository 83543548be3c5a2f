"""A known model laid on atoms, from any frame and either hand.

The molecule's outline turns first: the model's low-resolution density is compared with that of the
atoms over a grid of rotations, all translations at once by FFT; the best few are then refined by
matching atoms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.rotations import quasi_uniform

_ROTATIONS = 3000  # about 17 degrees apart
_BLUR_A = 3.0
_VOXEL_A = 3.0
_BEST = 12
_SCHEDULE_A = (4.0, 3.0, 2.0, 1.5, 1.0, 1.0, 0.8, 0.8)
_FITS = 0.3  # of the model's atoms: a fit that puts fewer on atoms is none


@dataclass(frozen=True)
class Fit:
    """How a model lies on atoms: r' = turn r + shift, after r -> - r where it is mirrored.

    turn: (3, 3). shift_A: (3,). covered: part of the model's atoms with an atom within 0.8 Å.
    """

    turn: NDArray[np.float64]
    shift_A: NDArray[np.float64]
    mirrored: bool
    covered: float

    def __call__(self, places_A: NDArray[np.float64]) -> NDArray[np.float64]:
        """The model's places (n, 3) in the atoms' frame."""
        sign = -1.0 if self.mirrored else 1.0
        moved: NDArray[np.float64] = sign * places_A @ self.turn.T + self.shift_A
        return moved


def fit_model(
    model_A: NDArray[np.float64],
    atoms_A: NDArray[np.float64],
    *,
    same_frame: bool = False,
) -> Fit:
    """The rigid fit of a model (m, 3) on atoms (n, 3), both in Å; hydrogens left out of both.

    Args:
        same_frame: the model is known to be turned alike, as where orientations were given; only
            its place, by less than 2 Å, is then looked for.

    Raises:
        DiffraganError: no rotation lays the model on the atoms.
    """
    if same_frame:
        centred = Fit(np.eye(3), np.zeros(3), False, 0.0)
        return _refined(centred, model_A, atoms_A, turns=False)
    fits = [
        _refined(start, model_A, atoms_A, turns=True)
        for mirrored in (False, True)
        for start in _starts(model_A, atoms_A, mirrored)
    ]
    best = max(fits, key=lambda fit: fit.covered)
    if best.covered < _FITS:
        raise DiffraganError(
            f"The model does not fit: at best {best.covered:.0%} of its atoms lie on atoms of the "
            "map; check that it is the same molecule, and one chain."
        )
    return best


def _starts(
    model_A: NDArray[np.float64], atoms_A: NDArray[np.float64], mirrored: bool
) -> list[Fit]:
    """The rotations whose blurred density correlates best with that of the atoms."""
    sign = -1.0 if mirrored else 1.0
    centre, middle = model_A.mean(0), atoms_A.mean(0)
    reach = max(np.linalg.norm(model_A - centre, axis=1).max(), np.ptp(atoms_A, axis=0).max() / 2)
    side = int(2 ** np.ceil(np.log2(2 * (reach + 4 * _BLUR_A) / _VOXEL_A)))
    axis = np.fft.fftfreq(side, 1 / side)
    q2 = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
    blur = np.exp(-2 * (np.pi * _BLUR_A / (side * _VOXEL_A)) ** 2 * q2)
    blur[0, 0, 0] = 0
    goal = np.conj(np.fft.fftn(_binned(atoms_A - middle, side)) * blur**2)
    rows = []
    for turn in quasi_uniform(_ROTATIONS):
        turned = sign * (model_A - centre) @ turn.T
        match = np.fft.ifftn(np.fft.fftn(_binned(turned, side)) * goal).real
        top = int(match.argmin() if match.size == 0 else match.argmax())
        rows.append((float(match.flat[top]), top, turn))
    rows.sort(key=lambda row: -row[0])
    out = []
    for _, top, turn in rows[:_BEST]:
        # conj(goal) x model peaks where the model must be moved back by so much.
        shift = np.array([axis[k] for k in np.unravel_index(top, (side,) * 3)]) * _VOXEL_A
        place = middle - shift - sign * turn @ centre
        out.append(Fit(turn, place, mirrored, 0.0))
    return out


def _binned(places_A: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Counts (side, side, side) of places on a grid, origin at [0, 0, 0], as x, y, z."""
    grid = np.zeros((side,) * 3)
    at = np.rint(places_A / _VOXEL_A).astype(int) % side
    np.add.at(grid, tuple(at.T), 1.0)
    return grid


def _refined(
    fit: Fit, model_A: NDArray[np.float64], atoms_A: NDArray[np.float64], *, turns: bool
) -> Fit:
    """Rigid fit to the nearest atoms within a reach that shrinks (Kabsch 1976; Besl & McKay
    1992)."""
    from scipy.spatial import cKDTree
    from scipy.spatial.transform import Rotation

    tree = cKDTree(atoms_A)
    for reach in _SCHEDULE_A if turns else _SCHEDULE_A[2:]:
        placed = fit(model_A)
        apart, nearest = tree.query(placed, distance_upper_bound=reach)
        near = np.isfinite(apart)
        if near.sum() < 4:
            return Fit(fit.turn, fit.shift_A, fit.mirrored, 0.0)
        goal, some = atoms_A[nearest[near]], placed[near]
        extra = np.eye(3)
        if turns:
            rotation, _ = Rotation.align_vectors(goal - goal.mean(0), some - some.mean(0))
            extra = rotation.as_matrix()
        turn = extra @ fit.turn
        shift = extra @ (fit.shift_A - some.mean(0)) + goal.mean(0)
        fit = Fit(turn, shift, fit.mirrored, 0.0)
    apart, _ = tree.query(fit(model_A))
    return Fit(fit.turn, fit.shift_A, fit.mirrored, float((apart <= 0.8).mean()))
