"""Sets of rotations, and the angles other programs want.

A rotation R acts on column vectors, r' = R r, about the centre of mass; projection is along z.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# The positive root of x⁴ = x + 4, with sqrt(2) the pair of irrational turns of the
# super-Fibonacci spiral (Alexa, Super-Fibonacci Spirals, CVPR 2022).
_PSI = 1.533751168755204288118041

# Views that are compared each with each: beyond, every so many of them.
_MOST_COMPARED = 2000
_FEW_COMPARED = 100  # the same where each has equivalents


def quasi_uniform(n: int, seed: int = 0) -> NDArray[np.float64]:
    """`n` rotation matrices (n, 3, 3), evenly spread over SO(3); the seed turns the whole set.

    Super-Fibonacci spiral (Alexa 2022), multiplied by one random rotation.
    """
    from scipy.spatial.transform import Rotation

    s = np.arange(n) + 0.5
    t = s / n
    alpha, beta = 2 * math.pi * s / math.sqrt(2), 2 * math.pi * s / _PSI
    r, big_r = np.sqrt(t), np.sqrt(1 - t)
    quaternions = np.stack(
        [r * np.sin(alpha), r * np.cos(alpha), big_r * np.sin(beta), big_r * np.cos(beta)], -1
    )
    turn = Rotation.random(rng=np.random.default_rng(seed))
    matrices: NDArray[np.float64] = (turn * Rotation.from_quat(quaternions)).as_matrix()
    return matrices


def relion_angles(rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """RELION's (rot, tilt, psi) in degrees, (n, 3), of rotations (n, 3, 3)."""
    from scipy.spatial.transform import Rotation

    angles: NDArray[np.float64] = (
        Rotation.from_matrix(rotations).inv().as_euler("ZYZ", degrees=True)
    )
    return angles


def rotations_from_relion(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotations (n, 3, 3) of RELION's (rot, tilt, psi) in degrees, (n, 3)."""
    from scipy.spatial.transform import Rotation

    matrices: NDArray[np.float64] = (
        Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()
    )
    return matrices


def turned(rotations: Tensor, vectors: Tensor) -> Tensor:
    """Rotations (v, 3, 3) turned in the detector's frame by rotation vectors (v, 3) in rad."""
    x, y, z = vectors.double().unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).reshape(-1, 3, 3)
    result: Tensor = (torch.linalg.matrix_exp(skew) @ rotations.double()).float()
    return result


def angle_deg(a: Tensor, b: Tensor) -> Tensor:
    """(v,) angle between rotations (v, 3, 3), exact for small ones."""
    half_sine = torch.linalg.matrix_norm(a.double() - b.double()) / math.sqrt(8)
    result: Tensor = torch.rad2deg(2 * torch.asin(half_sine.clamp(max=1))).float()
    return result


def common_turn(estimate: Tensor, true: Tensor) -> Tensor:
    """(3, 3) the one turn of a whole map, estimate = true @ turn, that best lays two sets of
    rotations (v, 3, 3) on each other (a few wrong views do not bend it)."""
    relative = true.double().mT @ estimate.double()
    some = relative[:: 1 + len(relative) // _MOST_COMPARED]
    gap = torch.linalg.matrix_norm(some[:, None] - some[None])
    turn = some[gap.median(1).values.argmin()]
    for _ in range(20):
        weight = 1 / (torch.linalg.matrix_norm(relative - turn) + 0.02)
        u, _, vh = torch.linalg.svd((weight[:, None, None] * relative).sum(0))
        u[:, -1] *= torch.linalg.det(u @ vh)
        turn = u @ vh
    return turn


def misorientation_deg(estimate: Tensor, true: Tensor, symmetry: Tensor | None = None) -> Tensor:
    """(v,) angles between two sets of rotations (v, 3, 3) after their `common_turn`.

    Args:
        symmetry: (g, 3, 3) rotations of the molecule, in the frame of `true`: of its equivalents
            each view's nearest counts.
    """
    if symmetry is not None:
        true = _nearest(estimate, true, symmetry)
    return angle_deg(true.double() @ common_turn(estimate, true), estimate)


def _nearest(estimate: Tensor, true: Tensor, symmetry: Tensor) -> Tensor:
    """The equivalents (v, 3, 3) of `true` that one common turn best lays on the estimates."""
    every = true.double()[:, None] @ symmetry.double()
    relative = every.mT @ estimate.double()[:, None]
    some = relative[:: 1 + len(relative) // _FEW_COMPARED, 0]
    gap = torch.linalg.matrix_norm(some[:, None, None] - relative[None]).min(2).values
    turn = some[gap.median(1).values.argmin()]
    best = torch.linalg.matrix_norm(turn - relative).argmin(1)
    return every[torch.arange(len(every)), best]


def part_along(turn: Tensor, free: Tensor) -> Tensor:
    """(3, 3) what of a turn (3, 3) less than half way round is about the directions that a
    projector `free` (3, 3) keeps."""
    from scipy.spatial.transform import Rotation

    vector = Rotation.from_matrix(turn.double().cpu().numpy()).as_rotvec()
    kept = Rotation.from_rotvec(free.double().cpu().numpy() @ vector).as_matrix()
    return torch.from_numpy(kept).to(turn)


def mean_rotation(rotations: Tensor) -> Tensor:
    """(3, 3) the rotation that most of (v, 3, 3) lie around; a few wrong ones do not bend it."""
    middle = rotations.double().median(0).values
    for _ in range(10):
        weight = 1 / (torch.linalg.matrix_norm(rotations.double() - middle) + 0.005)
        u, _, vh = torch.linalg.svd((weight[:, None, None] * rotations.double()).sum(0))
        u[:, -1] *= torch.linalg.det(u @ vh)
        middle = u @ vh
    result: Tensor = middle.float()
    return result


def mirrored(rotations: Tensor) -> Tensor:
    """Rotations (v, 3, 3) under which the mirror image V(-r) has the same flat slices."""
    return half_about_beam(rotations)


def half_about_beam(rotations: Tensor) -> Tensor:
    """Rotations (..., 3, 3) turned half about the beam: amplitudes of flat slices are the same."""
    return torch.tensor([-1.0, -1.0, 1.0], device=rotations.device)[:, None] * rotations


def apart_deg(estimate: Tensor, true: Tensor, symmetry: Tensor | None = None) -> Tensor:
    """(v,) angles between two sets of orientations (v, 3, 3), in the hand and after the turn of the
    whole map that suit best; `symmetry` as `misorientation_deg` has it."""
    hands = (misorientation_deg(estimate, hand, symmetry) for hand in (true, mirrored(true)))
    return min(hands, key=lambda angle: float(angle.median()))
