"""Places of atoms: the peaks of a map, or of a difference map."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from diffragan.fourier.grids import even_fast_length
from diffragan.fourier.volumes import resized

APART_A = 0.9  # no two atoms lie closer: the shortest bond without hydrogen is 1.2 Å
_FINE_VOXEL_A = 0.32
_ALONE_A = 0.6  # radius of the ball that a peak is the highest voxel of


def peaks(
    volume: Tensor,
    box_A: float,
    count: int,
    *,
    apart_A: float = APART_A,
    away_from: Tensor | None = None,
    inside: Tensor | None = None,
) -> Tensor:
    """Places (k, 3), x, y, z in Å, of up to `count` highest positive peaks, highest first.

    Peaks are local maxima on a grid of about 0.3 Å, moved to the vertex of the parabola through
    their neighbours; one closer than `apart_A` to a higher one, or to a place of `away_from`, is
    left out.

    Args:
        volume: (n, n, n) in FFT order, side `box_A`.
        away_from: (m, 3) places in Å. inside: (n, n, n) bool, where peaks may lie.
    """
    from scipy.ndimage import maximum_filter
    from scipy.spatial import cKDTree

    fine_px = even_fast_length(box_A / _FINE_VOXEL_A)
    fine_px = max(fine_px, volume.shape[-1])
    voxel = box_A / fine_px
    fine = resized(volume, fine_px).cpu().numpy()
    # Few voxels are the highest of their 26 neighbours, and only those are held against a ball.
    at = np.argwhere((fine == maximum_filter(fine, size=3, mode="wrap")) & (fine > 0))
    if inside is not None:
        side = inside.shape[-1]
        coarse = np.rint(at * (side / fine_px)).astype(int) % side
        at = at[inside.cpu().numpy()[tuple(coarse.T)]]
    reach = math.ceil(_ALONE_A / voxel)
    steps = np.argwhere(np.ones((2 * reach + 1,) * 3)) - reach
    highest = fine[tuple(at.T)]
    for step in steps[np.linalg.norm(steps, axis=1) * voxel <= _ALONE_A]:
        still = highest >= fine[tuple(((at + step) % fine_px).T)]
        at, highest = at[still], highest[still]
    at = at[np.argsort(-fine[tuple(at.T)], kind="stable")]
    # Only so many are looked at: each refused one lies near one that was taken.
    places = (_vertex(fine, at[: 20 * count + 100]) * voxel + box_A / 2) % box_A - box_A / 2
    places = places[:, ::-1]
    if away_from is not None and len(away_from) and len(places):
        known = cKDTree(away_from.detach().cpu().numpy())
        places = places[known.query(places)[0] > apart_A]
    taken: list[int] = []
    near = cKDTree(places).query_ball_point(places, apart_A) if len(places) else []
    refused = np.zeros(len(places), dtype=bool)
    for k in range(len(places)):
        if len(taken) == count:
            break
        if not refused[k]:
            taken.append(k)
            refused[near[k]] = True
    return torch.from_numpy(np.ascontiguousarray(places[taken])).float()


def heights(volume: Tensor, box_A: float, places_A: Tensor) -> Tensor:
    """(k,) float32 values of a map (n, n, n) in FFT order at places (k, 3), Å."""
    from scipy.ndimage import map_coordinates

    index = places_A.cpu().numpy()[:, ::-1].T / box_A * volume.shape[-1]
    values = map_coordinates(volume.cpu().numpy(), index, order=3, mode="grid-wrap")
    return torch.from_numpy(values).float()


def _vertex(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Voxel coordinates (k, 3) of maxima, between voxels: a parabola along each axis."""
    side, out = values.shape[0], at.astype(float)
    peak = values[tuple(at.T)]
    for axis in range(3):
        before, after = at.copy(), at.copy()
        before[:, axis] = (at[:, axis] - 1) % side
        after[:, axis] = (at[:, axis] + 1) % side
        low, high = values[tuple(before.T)], values[tuple(after.T)]
        bend = 2 * peak - low - high
        out[:, axis] += np.where(bend > 0, 0.5 * (high - low) / np.where(bend > 0, bend, 1), 0)
    return out
