"""Views of several small molecules, shuffled, with which of them each shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from diffragan.reconstruction.maps.views import Views
from synthetic_views import make_views, molecule

_PER_VIEW = ("measured", "contrast", "image_noise", "rotations", "shifts_A", "weights")
_HINGE_A = 3.0  # x of the hinge's axis, which runs along y


def bent(positions: NDArray[np.float64], degrees: float) -> NDArray[np.float64]:
    """A molecule whose atoms beyond the hinge are turned about it."""
    out, beyond = positions.copy(), positions[:, 0] > _HINGE_A
    axis = np.array([_HINGE_A, 0, 0])
    turn = Rotation.from_rotvec([0, np.deg2rad(degrees), 0])
    out[beyond] = turn.apply(out[beyond] - axis) + axis
    return out


def two_molecules() -> list[NDArray[np.float64]]:
    """Two molecules of one weight."""
    return [molecule(1), molecule(2)]


def mixed_views(
    molecules: Sequence[NDArray[np.float64]],
    counts: Sequence[int],
    dose: float | None = None,
    seed: int = 0,
) -> tuple[Views, Tensor]:
    """So many views of each molecule in one, in no order, and (v,) int64 which each shows."""
    parts = [
        make_views(positions, count, seed=seed + k, dose=dose)
        for k, (positions, count) in enumerate(zip(molecules, counts, strict=True))
    ]
    truth = torch.arange(len(parts)).repeat_interleave(torch.tensor(counts))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(truth)))
    joined: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts])[order] for name in _PER_VIEW
    }
    return replace(parts[0], **joined, items=np.arange(len(truth))), truth[order]


def right(of: Tensor, truth: Tensor) -> float:
    """Part of views in the class that most views of their molecule are in."""
    kinds = [of[truth == k] for k in range(int(truth.max()) + 1)]
    return sum(int((kind == kind.mode().values).sum()) for kind in kinds) / len(truth)
