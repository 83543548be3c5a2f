"""How well the map shows each atom: correlation of map and model around it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RADIUS_A = 1.5


def local_fit(
    positions_A: Tensor, measured: Tensor, model: Tensor, box_A: float, radius_A: float = RADIUS_A
) -> Tensor:
    """(n,) real-space correlation coefficient of two maps in a ball around each place (Branden &
    Jones, Nature 343, 687, 1990); nan where one of them is flat.

    Args:
        positions_A: (n, 3), x, y, z from the rotation centre. measured, model: (n, n, n) in FFT
            order, side `box_A`.
    """
    side = measured.shape[-1]
    voxel = box_A / side
    reach = math.ceil(radius_A / voxel)
    axis = torch.arange(-reach, reach + 1)
    offsets = torch.cartesian_prod(axis, axis, axis)
    offsets = offsets[offsets.double().norm(dim=1) * voxel <= radius_A]
    centres = (positions_A.cpu() / voxel).round().long().flip(1)
    at = (centres[:, None] + offsets) % side
    values = []
    for volume in (measured, model):
        around = volume.cpu()[at[..., 0], at[..., 1], at[..., 2]].double()
        values.append(around - around.mean(1, keepdim=True))
    one, other = values
    norm = (one.square().sum(1) * other.square().sum(1)).sqrt()
    fit = (one * other).sum(1) / norm.clamp_min(1e-300)
    return torch.where(norm > 0, fit, torch.nan)
