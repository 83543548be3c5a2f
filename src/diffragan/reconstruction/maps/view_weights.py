"""What each view is worth to a map: its R, and its say."""

from __future__ import annotations

import torch
from torch import Tensor

from diffragan.engine.processes import gathered
from diffragan.fourier.slices import Slices, extract
from diffragan.fourier.volumes import (
    volume_spectrum,
)
from diffragan.reconstruction.maps.views import Views


def view_r(volume: Tensor, views: Views, geometry: Slices, count: int | None = None) -> Tensor:
    """(v,) amplitude R of every view against a volume: norm(|P| - A) / norm(A).

    For counts A is the root of counts over electrons, so that R keeps a floor that noise sets.

    Args:
        count: use the first pairs only, out to some resolution.
    """
    half = volume_spectrum(volume)
    count = len(geometry) if count is None else count
    valid = geometry.valid[:, :count]
    mask = (valid.reshape(-1) if geometry.curved else valid.any(0)).float()
    out = torch.empty(len(views), device=views.device)
    for block in views.own_blocks():
        points = views.points(block, geometry, count)
        model = extract(half, views.rotations[block], points).abs()
        goal = views.observed(block, geometry, count)
        goal = goal.clamp_min(0).sqrt() if views.electrons is not None else goal
        error = torch.linalg.vector_norm((model - goal) * mask, dim=-1)
        out[block] = error / torch.linalg.vector_norm(goal * mask, dim=-1).clamp_min(1e-20)
    return gathered(out)


_STRAY = (3.0, 6.0)  # robust deviations of R between which a view's say falls to nothing


def view_weights(r: Tensor) -> Tensor:
    """Weights in [0, 1] from the views' R: 1 up to three robust standard deviations above the
    median, 0 from six on."""
    middle = r.median()
    spread = (1.4826 * (r - middle).abs().median()).clamp_min(0.02 * middle)
    low, high = _STRAY
    return (1 - ((r - middle) / spread - low) / (high - low)).clamp(0, 1)
