"""Gaussians on a periodic grid, one for each atom, and the way back from the grid to the atoms.

On the CPU by compiled loops, which hold nothing of the size of all atoms' voxels; elsewhere by
gathers and scatters of torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.atoms.model.spread_loops import gather_loop, spread_loop
from diffragan.fourier.compiled import run_loop


@dataclass(frozen=True)
class Lines:
    """Gaussians as the products of three lines: (n, 3, w) float32 values along x, y, z.

    first: (n, 3) int64, the voxel that each line starts at, x, y, z. away_A: (n, 3, w), from the
    atom's place. value: of the Gaussian, whose sum over all voxels is 1.
    """

    first: Tensor
    away_A: Tensor
    value: Tensor
    variance_A2: Tensor
    side: int

    def parts(self) -> Tensor:
        """(n, 3, 3, w): by axis the values, their derivative in the atom's place, and that in the
        variance."""
        v = self.variance_A2[:, None, None]
        slope = self.value * self.away_A / v
        wider = self.value * (self.away_A**2 / v - 1) / (2 * v)
        return torch.stack((self.value, slope, wider), 2).contiguous()

    def filled(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Planes (z) and rows (y) that hold every Gaussian, in order."""
        steps = torch.arange(self.value.shape[-1], device=self.first.device)
        z, y = (
            torch.unique((self.first[:, k, None] + steps) % self.side).cpu().numpy() for k in (2, 1)
        )
        return z, y

    def voxels(self) -> Tensor:
        """(n, w, w, w) int64 flat places, z, y, x."""
        steps = torch.arange(self.value.shape[-1], device=self.first.device)
        x, y, z = ((self.first[..., None] + steps) % self.side).unbind(1)
        rows = z[:, :, None] * self.side + y[:, None, :]
        return rows[..., None] * self.side + x[:, None, None, :]


def lines(places_A: Tensor, variances_A2: Tensor, side: int, voxel_A: float, reach: int) -> Lines:
    """The lines of Gaussians at places (n, 3) with variances (n,), `reach` voxels each way."""
    nearest = torch.round(places_A / voxel_A)
    steps = torch.arange(-reach, reach + 1, device=places_A.device)
    away = (nearest[..., None] + steps) * voxel_A - places_A[..., None]
    value = torch.exp(-(away**2) / (2 * variances_A2[:, None, None]))
    value = value * (voxel_A / torch.sqrt(2 * math.pi * variances_A2))[:, None, None]
    return Lines((nearest.long() - reach) % side, away, value, variances_A2, side)


def spread(line: Lines, weights: Tensor) -> Tensor:
    """(side, side, side) sums of the Gaussians, each of its weight (n,) in all."""
    if weights.device.type != "cpu":
        return spread_by_torch(line, weights)
    grid = torch.zeros((line.side,) * 3, dtype=line.value.dtype)
    run_loop(spread_loop, line.first.numpy(), line.value.numpy(), weights.numpy(), grid.numpy())
    return grid


def spread_by_torch(line: Lines, weights: Tensor) -> Tensor:
    """`spread` on any device; holds every voxel of every atom."""
    grid = torch.zeros(line.side**3, dtype=line.value.dtype, device=weights.device)
    x, y, z = line.value.unbind(1)
    planes = weights[:, None, None] * z[:, :, None] * y[:, None, :]
    values = planes[..., None] * x[:, None, None, :]
    grid.index_add_(0, line.voxels().flatten(), values.flatten())
    return grid.reshape((line.side,) * 3)


def gather(line: Lines, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of a grid over each atom's voxels, weighted by its Gaussian's derivatives: in its place
    (n, 3), by the Gaussian itself (n,), and in its variance (n,)."""
    if grid.device.type == "cpu":
        parts, out = line.parts(), torch.empty((len(line.first), 5), dtype=grid.dtype)
        run_loop(gather_loop, line.first.numpy(), parts.numpy(), grid.numpy(), out.numpy())
    else:
        out = gather_by_torch(line, grid)
    return out[:, :3], out[:, 3], out[:, 4]


def gather_by_torch(line: Lines, grid: Tensor) -> Tensor:
    """(n, 5), the sums of `gather` side by side, on any device."""
    x, y, z = line.parts().unbind(1)
    windows = grid.flatten()[line.voxels()]
    along_x = torch.einsum("nzyx,nix->nzyi", windows, x)
    along_y = torch.einsum("nzyi,njy->nzij", along_x, y)
    kinds = torch.einsum("nzij,nkz->nijk", along_y, z)
    first_order = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0))
    wide = kinds[:, 2, 0, 0] + kinds[:, 0, 2, 0] + kinds[:, 0, 0, 2]
    return torch.stack([kinds[:, i, j, k] for i, j, k in first_order] + [wide], -1)
