"""Point groups by RELION's names: Cn, Dn, T, O, I.

The axes lie as RELION has them (its `symmetries.cpp`): that of Cn and Dn along z, Dn's twofold ones
across it along x; a threefold of T, a fourfold of O and a twofold of I along z. I is RELION's I2,
and I1, I3 and I4 are other settings of the same group, which are not offered.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffragan.errors import DiffraganError

if TYPE_CHECKING:  # settings check names, and a command's --help waits for no arrays
    import numpy as np
    from numpy.typing import NDArray

Axis = tuple[int, Sequence[float]]
_MOST = 24  # the highest fold: beyond, no slice to 5 Å tells it from another
# Fold and direction of the axes that make the group.
_GENERATED_BY: dict[str, tuple[Axis, ...]] = {
    "T": ((3, (0, 0, 1)), (2, (0, math.sqrt(2 / 3), math.sqrt(1 / 3)))),
    "O": ((3, (1, 1, 1)), (4, (0, 0, 1))),
    "I": (
        (2, (0, 0, 1)),
        (5, (0.5257311121, 0, 0.8506508084)),
        (3, (0, 0.3568220898, 0.9341723590)),
    ),
}


def group_of(name: str) -> NDArray[np.float64]:
    """The rotations (g, 3, 3) of a point group, the identity first.

    Raises:
        DiffraganError: no such group.
    """
    return closure([about(axis, 360 / fold) for fold, axis in _axes(name)])


def group_name(name: str) -> str:
    """The name of a point group as RELION writes it, such as C2 for c2.

    Raises:
        DiffraganError: no such group.
    """
    word = name.strip().upper()
    found = re.fullmatch(r"[CD](\d+)", word)
    if word in _GENERATED_BY or (found is not None and 1 <= int(found[1]) <= _MOST):
        return word
    raise DiffraganError(
        f"There is no symmetry '{name}'; give C1 to C{_MOST}, D1 to D{_MOST}, T, O or I, as RELION "
        "names them."
    )


def _axes(name: str) -> tuple[Axis, ...]:
    word = group_name(name)
    if word in _GENERATED_BY:
        return _GENERATED_BY[word]
    around: Axis = (int(word[1:]), (0, 0, 1))
    return (around,) if word[0] == "C" else (around, (2, (1, 0, 0)))


def about(axis: Sequence[float] | NDArray[np.float64], angle_deg: float) -> NDArray[np.float64]:
    """The rotation matrix (3, 3) about an axis (3,) of any length, or (a, 3, 3) about several."""
    import numpy as np
    from scipy.spatial.transform import Rotation

    direction = np.asarray(axis, dtype=np.float64)
    length = np.linalg.norm(direction, axis=-1, keepdims=True)
    vector = direction / length * np.deg2rad(angle_deg)
    matrix: NDArray[np.float64] = Rotation.from_rotvec(vector).as_matrix()
    return matrix


def closure(makers: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """All products (g, 3, 3) of some rotations of finite order, the identity first."""
    import numpy as np

    group = np.eye(3)[None]
    fresh = group
    while len(fresh):
        products = np.concatenate([fresh @ maker for maker in makers])
        kept: list[NDArray[np.float64]] = []
        for product in products:
            near = np.concatenate((group, np.array(kept).reshape(-1, 3, 3)))
            if np.abs(near - product).max((1, 2)).min() > 1e-4:
                kept.append(product)
        fresh = np.array(kept).reshape(-1, 3, 3)
        group = np.concatenate((group, fresh))
    return group


def one_of_each(rotations: NDArray[np.float64], group: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(v,) which of some orientations (v, 3, 3) are those of their equivalents R S that are turned
    least: one for each that the symmetry makes alike, but for ties."""
    import numpy as np

    trace = np.einsum("vij,gji->vg", rotations, group)
    least: NDArray[np.bool_] = trace[:, 0] >= trace.max(1) - 1e-12
    return least
