"""Sets of rotations, and the angles other programs want.

A rotation R acts on column vectors, r' = R r, about the centre of mass; projection is along z.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# The positive root of x⁴ = x + 4, with sqrt(2) the pair of irrational turns of the
# super-Fibonacci spiral (Alexa, Super-Fibonacci Spirals, CVPR 2022).
_PSI = 1.533751168755204288118041


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


def write_relion_angles(path: Path, rotations: NDArray[np.float64]) -> None:
    """A STAR file with one row of RELION angles per orientation."""
    import pandas as pd
    import starfile

    names = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    table = pd.DataFrame(np.round(relion_angles(rotations), 6), columns=names)
    temporary = path.with_name(path.name + ".tmp")
    starfile.write({"particles": table}, temporary, overwrite=True)
    temporary.replace(path)
