"""Orientations and shifts of views against a map.

A pattern's amplitudes do not change when the particle shifts, so they tell the orientation alone;
the image tells the shift, and helps with the orientation to its aperture. Small turns are rotation
vectors in the frame of the detector: view v turns from R to exp([w]x) R.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffragan.engine.processes import gathered
from diffragan.fourier.volumes import volume_spectrum
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.maps.image_map import image_map, ring_power
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.matching.match_views import (
    Comparison,
    Regression,
    pixel_count,
    regress,
)
from diffragan.rotations import angle_deg, turned

SCHEDULE_A = (12.0, 10.0, 8.0, 8.0, 7.0, 6.0, 6.0, 5.0, 5.0, 5.0)


@dataclass(frozen=True)
class Alignment:
    """Orientations after a refinement.

    rotations: (v, 3, 3) float32. shifts_A: (v, 2) float32, x and y.
    score: (v,) float32 in [-1, 1], correlation of the measured pattern with the map's, ring means
        taken out; a pattern of another molecule stays near 0.
    turned_deg: (v,) float32, how far each view was turned.
    """

    rotations: Tensor
    shifts_A: Tensor
    score: Tensor
    turned_deg: Tensor

    def put_into(self, views: Views) -> Views:
        """The views with these orientations and shifts."""
        return replace(views, rotations=self.rotations, shifts_A=self.shifts_A)


def refine_orientations(
    spectrum: Tensor,
    views: Views,
    *,
    resolution_A: float,
    max_step_deg: float,
    rounds: int = 3,
    shift_reach_A: float = 6.0,
    images: bool = True,
) -> Alignment:
    """Turn every view to where a map explains it best.

    Levenberg-Marquardt in three small angles; a step is kept only if the view's misfit falls.
    Measured amplitudes (of counts: intensities, weighted by their expectation) are compared with
    the slice's, each ring weighted by what the map leaves unexplained there, and images with
    transfer x slice, weighted by their noise and the map's error.

    Args:
        spectrum: (n, n, n // 2 + 1) from `volume_spectrum`.
        resolution_A: the finest resolution compared.
        max_step_deg: the largest turn of one round.
        shift_reach_A: how far from their present value shifts are looked for; 0 keeps them.
        images: whether images have a say in the orientation (they always tell the shift).
    """
    count = pixel_count(views, resolution_A)
    regression, shifts = regress(spectrum, views, count, shift_reach_A)
    search = LocalSearch(regression, max_step_deg, rounds, shift_reach_A, images)
    rotations, score = views.rotations.clone(), torch.empty(len(views), device=views.device)
    for block in views.own_blocks():
        comparison = Comparison(spectrum, views, block, count)
        found = search.descend(comparison, rotations[block], shifts[block])
        rotations[block], shifts[block] = found.rotations, found.shifts_A
        score[block] = comparison.score(found.slices, regression)
    rotations, shifts, score = gathered(rotations), gathered(shifts), gathered(score)
    return Alignment(rotations, shifts, score, angle_deg(rotations, views.rotations))


@dataclass(frozen=True)
class Placed:
    """Where b views came to lie, and the slices (b, k) of the map there."""

    rotations: Tensor
    shifts_A: Tensor
    slices: Tensor


@dataclass(frozen=True)
class LocalSearch:
    """Levenberg-Marquardt in three small angles a view, as `refine_orientations` says."""

    regression: Regression
    max_step_deg: float
    rounds: int
    shift_reach_A: float
    images: bool

    def descend(self, comparison: Comparison, rotation: Tensor, shift: Tensor) -> Placed:
        """From orientations (b, 3, 3) and shifts (b, 2) of the comparison's views down to where
        their misfit is least."""
        regression, images = self.regression, self.images
        damping = torch.full((len(rotation),), 1e-2, device=rotation.device)
        slices = comparison.slices(rotation)
        if self.rounds == 0 and self.shift_reach_A > 0:
            # Where the map is wrong shifts must not follow it, also if nothing is turned.
            shift = comparison.best_shift(slices, shift, self.shift_reach_A, regression)
        for _ in range(self.rounds):
            if self.shift_reach_A > 0:
                shift = comparison.best_shift(slices, shift, self.shift_reach_A, regression)
            weight = comparison.pattern_weight(slices, regression)
            matrix, right = comparison.normal(rotation, slices, shift, weight, regression, images)
            scale = torch.diagonal(matrix, dim1=-2, dim2=-1)
            ridge = damping[:, None] * scale + 1e-6 * scale.mean(1, keepdim=True) + 1e-30
            step = torch.linalg.solve(matrix + torch.diag_embed(ridge), right)
            length = torch.linalg.vector_norm(step, dim=-1, keepdim=True)
            step = step * (math.radians(self.max_step_deg) / length.clamp_min(1e-12)).clamp(max=1)
            trial = turned(rotation, step)
            trial_slices = comparison.slices(trial)
            before = comparison.misfit(slices, shift, weight, regression, images)
            better = comparison.misfit(trial_slices, shift, weight, regression, images) < before
            rotation = torch.where(better[:, None, None], trial, rotation)
            slices = torch.where(better[:, None], trial_slices, slices)
            damping = torch.where(better, damping / 4, damping * 10).clamp(1e-4, 1e4)
        return Placed(rotation, shift, slices)


def align_to_images(
    views: Views,
    *,
    schedule_A: Sequence[float] = SCHEDULE_A,
    max_step_deg: float = 5.0,
    rounds: int = 3,
    shift_reach_A: float = 6.0,
    prepare: Callable[[Tensor], Tensor] | None = None,
    progress: Progress = no_progress,
) -> Alignment:
    """Orientations and shifts that agree with the images' own map: map, refine, and again.

    Args:
        schedule_A: the resolution of each turn of the loop, coarse to fine.
        prepare: applied to each map (n, n, n) before slices are taken, such as a mask.
    """
    power = ring_power(views)
    start, refined = views.rotations, None
    for done, resolution_A in enumerate(schedule_A, 1):
        volume = image_map(views, power).volume
        refined = refine_orientations(
            volume_spectrum(volume if prepare is None else prepare(volume)),
            views,
            resolution_A=resolution_A,
            max_step_deg=max_step_deg,
            rounds=rounds,
            shift_reach_A=shift_reach_A,
        )
        views = refined.put_into(views)
        progress("aligning views to images", done, len(schedule_A))
    score = torch.zeros(len(views), device=views.device) if refined is None else refined.score
    return Alignment(views.rotations, views.shifts_A, score, angle_deg(views.rotations, start))


def image_agreement(spectrum: Tensor, views: Views, resolution_A: float) -> Tensor:
    """(v,) correlation of each image with the map's at the best shift within 10 Å.

    Args:
        spectrum: (n, n, n // 2 + 1) from `volume_spectrum`.
    """
    count = pixel_count(views, resolution_A)
    out = torch.empty(len(views), device=views.device)
    for block in views.blocks():
        comparison = Comparison(spectrum, views, block, count)
        slices = comparison.slices(views.rotations[block])
        shift = comparison.best_shift(slices, views.shifts_A[block], 10.0, None)
        error = comparison.residual(slices, shift)
        model = comparison.transfer * slices[:, : comparison.inside]
        image = error + model
        size = torch.linalg.vector_norm(image, dim=1) * torch.linalg.vector_norm(model, dim=1)
        out[block] = (image * model.conj()).sum(1).real / size.clamp_min(1e-30)
    return out
