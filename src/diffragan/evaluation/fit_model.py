"""A known model laid on atoms or on a map, from any frame and either hand.

The molecule's outline turns first: the model's low-resolution density is compared with that of the
atoms, or with the map, over a grid of rotations, all translations at once by FFT; the best few are
then refined by matching atoms, or by climbing the map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.fourier.grids import even_fast_length
from diffragan.fourier.volumes import centred, low_pass, resized
from diffragan.optimisation.adam import Adam
from diffragan.rotations import quasi_uniform

_ROTATIONS = 3000  # about 17 degrees apart
_BLUR_A = 3.0
_VOXEL_A = 3.0
_BEST = 12
_SCHEDULE_A = (4.0, 3.0, 2.0, 1.5, 1.0, 1.0, 0.8, 0.8)
# Blur of the map in Å, steps, and the first step's length in Å.
_CLIMBS = ((2.0, 60, 0.4), (1.0, 40, 0.15), (0.5, 40, 0.05))
_FITS = 0.3  # of the model's atoms: a fit that puts fewer on atoms is none


@dataclass(frozen=True)
class Fit:
    """How a model lies on atoms: r' = turn r + shift, after r -> - r where it is mirrored.

    turn: (3, 3). shift_A: (3,). covered: part of the model's atoms with an atom within 0.8 Å; on a
    map, as `fit_to_map` says.
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
        for start in _starts(model_A, _of_atoms(model_A, atoms_A), mirrored)
    ]
    best = max(fits, key=lambda fit: fit.covered)
    if best.covered < _FITS:
        raise DiffraganError(
            f"The model does not fit: at best {best.covered:.0%} of its atoms lie on atoms of the "
            "map; check that it is the same molecule, and one chain."
        )
    return best


def fit_to_map(model_A: NDArray[np.float64], volume: Tensor, box_A: float) -> tuple[Fit, Fit]:
    """The rigid fits of a model's heavy atoms (m, 3), Å, to a map (n, n, n) in FFT order: as it is
    and mirrored, the better one first. `covered` is the mean density at its atoms over the map's
    root mean square.
    """
    goal_A = max(_VOXEL_A, box_A / volume.shape[-1])
    side = even_fast_length(box_A / goal_A)
    coarse = resized(volume.cpu().double(), side)
    goal = np.conj(np.fft.fftn(coarse.numpy().transpose(2, 1, 0)))
    fits = []
    for mirrored in (False, True):
        starts = _starts(model_A, _Outline(goal, box_A / side, np.zeros(3)), mirrored)
        starts.append(Fit(np.eye(3), np.zeros(3), mirrored, 0.0))
        fits.append(_climbed(starts, model_A, volume.cpu(), box_A))
    first, second = sorted(fits, key=lambda fit: -fit.covered)
    return first, second


@dataclass(frozen=True)
class _Outline:
    """What rotations are compared with: the conjugate spectrum (side, side, side), as x, y, z, of
    a density whose origin lies at `middle_A` of the atoms' frame."""

    goal: NDArray[np.complex128]
    voxel_A: float
    middle_A: NDArray[np.float64]


def _of_atoms(model_A: NDArray[np.float64], atoms_A: NDArray[np.float64]) -> _Outline:
    middle = atoms_A.mean(0)
    spread = np.linalg.norm(model_A - model_A.mean(0), axis=1).max()
    reach = max(spread, np.ptp(atoms_A, axis=0).max() / 2)
    side = int(2 ** np.ceil(np.log2(2 * (reach + 4 * _BLUR_A) / _VOXEL_A)))
    goal = np.conj(np.fft.fftn(_binned(atoms_A - middle, side, _VOXEL_A)))
    return _Outline(goal, _VOXEL_A, middle)


def _starts(model_A: NDArray[np.float64], outline: _Outline, mirrored: bool) -> list[Fit]:
    """The rotations whose blurred density correlates best with an outline."""
    from scipy.fft import irfftn, rfftn

    sign = -1.0 if mirrored else 1.0
    centre, voxel = model_A.mean(0), outline.voxel_A
    side = outline.goal.shape[0]
    axis = np.fft.fftfreq(side, 1 / side)
    q2 = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
    blur = np.exp(-2 * (np.pi * _BLUR_A / (side * voxel)) ** 2 * q2)
    blur[0, 0, 0] = 0
    goal = (outline.goal * blur**2)[..., : side // 2 + 1]
    rows = []
    for turn in quasi_uniform(_ROTATIONS):
        turned = sign * (model_A - centre) @ turn.T
        match = irfftn(rfftn(_binned(turned, side, voxel)) * goal, s=(side,) * 3)
        top = int(match.argmax())
        rows.append((float(match.flat[top]), top, turn))
    rows.sort(key=lambda row: -row[0])
    out = []
    for _, top, turn in rows[:_BEST]:
        # conj(goal) x model peaks where the model must be moved back by so much.
        shift = np.array([axis[k] for k in np.unravel_index(top, (side,) * 3)]) * voxel
        place = outline.middle_A - shift - sign * turn @ centre
        out.append(Fit(turn, place, mirrored, 0.0))
    return out


def _climbed(starts: list[Fit], model_A: NDArray[np.float64], volume: Tensor, box_A: float) -> Fit:
    """The start that ends highest when each climbs the density at its atoms, in ever sharper
    maps."""
    from scipy.spatial.transform import Rotation

    sign = -1.0 if starts[0].mirrored else 1.0
    model = torch.from_numpy(sign * model_A).float()
    middle = model.mean(0)
    turns = torch.from_numpy(np.array([fit.turn for fit in starts])).float()
    places = torch.from_numpy(np.array([fit.shift_A for fit in starts])).float()
    places = places + turns @ middle  # of the model's middle
    small = torch.zeros(len(starts), 3, requires_grad=True)
    places.requires_grad_(True)
    height = torch.zeros(len(starts))
    reach = float((model - middle).norm(dim=1).max())
    for blur, steps, rate in _CLIMBS:
        blurred = low_pass(volume.float(), box_A, blur)
        field = centred(blurred / blurred.square().mean().sqrt())[None, None]
        climb = Adam([small, places])
        for _ in range(steps):
            laid = (model - middle) @ (_small_turns(small) @ turns).mT + places[:, None]
            height = _density_at(field, laid, box_A).mean(1)
            (-height.sum()).backward()  # type: ignore[no-untyped-call]
            climb.step([rate / reach, rate])
    best = int(height.argmax())
    turn = (_small_turns(small) @ turns)[best].detach().double().numpy()
    turn = Rotation.from_matrix(turn).as_matrix()
    place = places[best].detach().double().numpy() - turn @ middle.double().numpy()
    return Fit(turn, place, starts[0].mirrored, float(height[best].detach()))


def _small_turns(vectors: Tensor) -> Tensor:
    """Rotation matrices (s, 3, 3) of rotation vectors (s, 3), rad."""
    x, y, z = vectors.unbind(1)
    zero = torch.zeros_like(x)
    rows = (zero, -z, y, z, zero, -x, -y, x, zero)
    turns: Tensor = torch.linalg.matrix_exp(torch.stack(rows, 1).reshape(-1, 3, 3))
    return turns


def _density_at(field: Tensor, places_A: Tensor, box_A: float) -> Tensor:
    """(s, m) density of a centred map (1, 1, n, n, n) at places (s, m, 3), Å, trilinear."""
    n = field.shape[-1]
    # `grid_sample` counts from -1 to 1 between the middles of the outermost voxels.
    at = 2 * (places_A / box_A * n + n // 2) / (n - 1) - 1
    sampled = torch.nn.functional.grid_sample(field, at[None, :, :, None], align_corners=True)
    return sampled[0, 0, :, :, 0]


def _binned(places_A: NDArray[np.float64], side: int, voxel_A: float) -> NDArray[np.float64]:
    """Counts (side, side, side) of places on a grid, origin at [0, 0, 0], as x, y, z."""
    x, y, z = (np.rint(places_A / voxel_A).astype(int) % side).T
    counts = np.bincount((x * side + y) * side + z, minlength=side**3)
    return counts.reshape(side, side, side).astype(float)


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
