"""Views against a model: how each lies, and in what its pattern differs from what is told.

Every pixel's count is compared with what the model makes of the place where that pixel looks. By
how the expectation changes as this place moves, a few Gauss-Newton steps a view find its turn,
the beam's centre and the camera's length; ellipse, as all views together tell it. Measured counts
are never moved: their statistics stay.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from diffragan.engine.processes import gathered
from diffragan.fourier.slices import Extractor
from diffragan.fourier.volumes import volume_spectrum
from diffragan.microscope.geometry import PROFILE_PARTS, PatternErrors
from diffragan.reconstruction.likelihood.patterns import PatternTarget
from diffragan.reconstruction.likelihood.ring_sums import RingSums
from diffragan.reconstruction.maps.views import Views
from diffragan.rotations import mean_rotation, turned

# By name: how many numbers a view has of it; the most that one step changes; how far off it may
# be, before anything is known.
_EACH = {
    "orientation": (3, math.radians(1.0), math.radians(5.0)),
    "centre": (2, 0.5, 2.0),
    "scale": (1, 0.005, 0.02),
    "background": (1, 0.3, 1.0),
}
_ELLIPSE_STEP = 0.005
_DAMPING = 0.01  # of the normal matrix's diagonal
_MOVE_PX = 0.2  # of a difference quotient, in 1 / field
_LEAST_EXPECTED = 0.05  # of a ring's mean
_FROM_PX = 3.0  # nearer to the beam intensities change too much within a pixel
_LEAST_WIDTH = 0.02  # of the widths above
_TINY = 1e-30


@dataclass(frozen=True)
class Expectation:
    """What is expected of a pixel where a model has intensity m, by pixel (2 k,): by regression
    over all views, so that a ring that the model does not know has no say.

    mean, model: of measured and model's intensities, by part of a ring. slope: of the first over
    the second, by ring. weight: electrons that a pixel counts as; 0 where it is masked.
    """

    mean: Tensor
    model: Tensor
    slope: Tensor
    weight: Tensor

    @classmethod
    def of(cls, target: PatternTarget, sums: RingSums) -> Expectation:
        """That of a target's patterns, from how they compare with the model."""
        each = sums.one.clamp_min(1)
        m, i, mm, mi = (x / each for x in (sums.m, sums.i, sums.mm, sums.mi))
        ring = (torch.arange(len(m), device=m.device) / target.parts + 0.5).long()

        def pooled(values: Tensor) -> Tensor:
            return m.new_zeros(int(ring.max()) + 1).index_add_(0, ring, values * sums.one)

        slope = pooled(mi - m * i) / pooled((mm - m**2).clamp_min(0)).clamp_min(_TINY)
        by_part = (i, m, slope.clamp(0, 1.2)[ring], target.weights().double())
        mean, model, slope, weight = (x.float()[target.rings] for x in by_part)
        geometry = target.geometry
        seen = geometry.valid.reshape(-1) & (geometry.radius >= _FROM_PX).repeat(2)
        return cls(mean, model, slope, weight * seen)

    def __call__(self, m: Tensor) -> Tensor:
        """(b, 2 k) expected intensities, from the model's."""
        expected = self.mean + self.slope * (m - self.model)
        return torch.maximum(expected, _LEAST_EXPECTED * self.mean).clamp_min(_TINY)


@dataclass(frozen=True)
class ViewFit:
    """Gauss-Newton steps of all views of a target against a model's spectrum.

    what: names of `_EACH` and "ellipse".
    """

    sliced: Extractor
    target: PatternTarget
    expectation: Expectation
    what: Collection[str]

    @property
    def own(self) -> list[str]:
        """What each view has for itself."""
        return [name for name in _EACH if name in self.what]

    def by_view(self, column: int) -> Tensor:
        """(p,) of every number of a view, a column of `_EACH`: its largest step, or its width."""
        values = [_EACH[name][column] for name in self.own for _ in range(int(_EACH[name][0]))]
        return torch.tensor(values, device=self.target.views.device)

    def misfit(self, views: Views, block: slice) -> Tensor:
        """(b,) of views as they are now, minus the log-likelihood of their counts."""
        m = self.sliced(views.rotations[block], views.points(block, views.curved)).abs().square()
        expected, off = self.compared(views, block, m)
        each = expected - (expected + off) * expected.log()
        return (self.expectation.weight * each).sum(1)

    def compared(self, views: Views, block: slice, m: Tensor) -> tuple[Tensor, Tensor]:
        """(b, 2 k) what is expected of a view's pixels, with all that lies beside its molecule, and
        by how much more was counted; m what the model makes of them."""
        expected = self.expectation(m)
        off = replace(self.target, views=views).intensities(block) - expected
        assert views.errors is not None
        excess = views.errors.some(block).excess(views.curved, len(views.curved))
        return (expected + excess).clamp_min(_TINY), off

    def normal(self, views: Views, block: slice) -> tuple[Tensor, Tensor]:
        """Normal matrix (b, p + 2, p + 2) and right side (b, p + 2) of a view's own numbers and of
        the ellipse."""
        e, geometry = self.expectation, views.curved
        points, rotations = views.points(block, geometry), views.rotations[block]
        points = points.expand(len(rotations), -1, -1).contiguous()
        by_place = self.gradient(rotations, points) * e.slope[:, None]
        m = self.sliced(rotations, points).abs().square()
        assert views.errors is not None
        errors, padding = views.errors.some(block), geometry.padding
        turn = torch.linalg.cross(by_place, points)
        x, y = points[..., 0], points[..., 1]
        in_plane = by_place[..., :2]
        if errors.profile is not None:
            in_plane = in_plane + self.background_slope(errors, points, padding)
        columns: dict[str, list[Tensor]] = {"orientation": list(turn.unbind(-1))}
        side = torch.ones(points.shape[1], device=points.device)
        side[len(geometry) :] = -1
        gx, gy = in_plane.unbind(-1)
        columns["centre"] = [-padding * side * gx, -padding * side * gy]
        columns["scale"] = [-(x * gx + y * gy)]
        columns["background"] = [self.beside(errors, points, padding)]
        slopes = [column for name in self.own for column in columns[name]]
        both = torch.stack((*slopes, -(x * gx - y * gy), -(y * gx + x * gy)), 1)
        expected, off = self.compared(views, block, m)
        weight = e.weight / expected
        matrix = torch.einsum("bpk,bqk,bk->bpq", both, both, weight)
        return matrix.double(), torch.einsum("bpk,bk->bp", both, weight * off).double()

    def gradient(self, rotations: Tensor, points: Tensor) -> Tensor:
        """(b, 2 k, 3) change of the model's intensity as a point moves in its view's frame."""
        step = _MOVE_PX * self.target.geometry.padding
        found = []
        for move in step * torch.eye(3, device=points.device):
            ahead, behind = (
                self.sliced(rotations, p.contiguous()).abs().square()
                for p in (points + move, points - move)
            )
            found.append((ahead - behind) / (2 * step))
        return torch.stack(found, -1)

    def beside(self, errors: PatternErrors, points: Tensor, padding: float) -> Tensor:
        """(b, 2 k) mean intensity beside the molecule at points."""
        if errors.profile is None:
            return torch.zeros_like(points[..., 0])
        return errors.profile_at(torch.linalg.vector_norm(points[..., :2], dim=-1) / padding)

    def background_slope(self, errors: PatternErrors, points: Tensor, padding: float) -> Tensor:
        """(b, 2 k, 2) change of what lies beside the molecule as a point moves in the plane."""
        plane = points[..., :2]
        length = torch.linalg.vector_norm(plane, dim=-1, keepdim=True).clamp_min(_TINY)
        step = 1.0 / PROFILE_PARTS
        radius = length[..., 0] / padding
        rise = errors.profile_at(radius + step) - errors.profile_at((radius - step).clamp_min(0))
        rise = errors.beside[:, None] * rise / (2 * step * padding)
        result: Tensor = plane / length * rise[..., None]
        return result


def refine_views(
    volume: Tensor, target: PatternTarget, sums: RingSums, what: Collection[str], rounds: int = 3
) -> Views:
    """The target's views with orientations and errors that explain their patterns best.

    A model's own scale and turn can't be told from those of all views: their means stay as they
    are. How far the views are off as a whole is learnt from them: where counts tell little of a
    view, it stays near what is told of all.

    Args:
        volume: (n, n, n), FFT order. sums: how the patterns compare with it.
        what: names, as `many_views.refine_views` has them.
    """
    views = target.views
    errors = views.errors or PatternErrors.none(len(views), views.device)
    if views.background is not None:
        errors = replace(errors, profile=_profile(target, sums))
    views = replace(views, errors=errors)
    fit = ViewFit(Extractor(volume_spectrum(volume)), target, Expectation.of(target, sums), what)
    share = torch.ones_like(views.weights)
    for _ in range(rounds):
        views, kept = _stepped(fit, views, share)
        share = torch.where(kept, (2 * share).clamp(max=1), 0.25 * share)
    return views


def _profile(target: PatternTarget, sums: RingSums) -> Tensor:
    """(bins,) what lies beside the model by part of a ring; parts without a pixel by the nearest
    ones."""
    assert target.parts == PROFILE_PARTS
    filled = torch.nonzero(sums.one > 0)[:, 0].cpu().numpy()
    known = target.weighted_by(sums).unexplained.cpu().numpy()[filled]
    profile = np.interp(np.arange(len(sums.one)), filled, known)
    return torch.from_numpy(profile).float().to(target.views.device)


def _stepped(fit: ViewFit, views: Views, share: Tensor) -> tuple[Views, Tensor]:
    """A part (v,) of a step of every view, kept where its misfit falls, and one of the ellipse; and
    (v,) bool, which were kept."""
    count = len(fit.by_view(0))
    right = torch.zeros(len(views), count + 2, dtype=torch.float64, device=views.device)
    matrix, gain = torch.diag_embed(right), torch.zeros_like(views.weights)
    for block in views.own_blocks():
        matrix[block], right[block] = fit.normal(views, block)
        gain[block] = fit.misfit(views, block)
    matrix, right = gathered(matrix), gathered(right)
    step, ellipse = _solved(fit, views, matrix, right)
    step = step * share[:, None]
    trial = _moved(fit, views, step, ellipse)
    for block in views.own_blocks():
        gain[block] -= fit.misfit(trial, block)
    better = gathered(gain) > 0
    kept = _moved(fit, views, step * better[:, None], ellipse)
    return _centred(fit, kept, views), better


def _solved(fit: ViewFit, views: Views, matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Steps of the views' own numbers (v, p), and of the ellipse (2,), float32."""
    p = matrix.shape[1] - 2
    present = _present(fit, views).double()
    own, cross, right_own = matrix[:, :p, :p], matrix[:, :p, p:], right[:, :p]
    width = fit.by_view(2).double()
    floor = torch.diag_embed((width**-2).expand(len(views), p))
    damped = own + torch.diag_embed(_DAMPING * torch.diagonal(own, dim1=1, dim2=2))
    told = torch.linalg.inv(damped + floor)
    ellipse = right.new_zeros(2)
    if "ellipse" in fit.what:
        # What the views' own numbers leave of the shared ones (Schur's complement).
        shared = (matrix[:, p:, p:] - cross.mT @ told @ cross).sum(0)
        left = right[:, p:] - (cross.mT @ told @ right_own[..., None])[..., 0]
        ellipse = torch.linalg.solve(shared, left.sum(0))
        ellipse = ellipse.clamp(-_ELLIPSE_STEP, _ELLIPSE_STEP)
        right_own = right_own - cross @ ellipse
    alone = present + (told @ right_own[..., None])[..., 0]
    variance = torch.diagonal(told, dim1=1, dim2=2)
    pull = _tied(fit, alone, variance)
    both = damped + torch.diag_embed(pull.expand(len(views), p))
    step = torch.linalg.solve(both, right_own - pull * present)
    most = fit.by_view(1).double()
    return step.clamp(-most, most).float(), ellipse.float()


def _tied(fit: ViewFit, alone: Tensor, variance: Tensor) -> Tensor:
    """(p,) one over the variance of each number among the views: what single views show (v, p),
    less its error's."""
    width = fit.by_view(2).double()
    seen = (alone.square() - variance).mean(0)
    start = 0
    for name in fit.own:
        span = slice(start, start + int(_EACH[name][0]))
        start = span.stop
        seen[span] = seen[span].mean()
    return 1 / torch.minimum(torch.maximum(seen, (_LEAST_WIDTH * width) ** 2), width**2)


def _present(fit: ViewFit, views: Views) -> Tensor:
    """(v, p) the views' own numbers, as differences from what is told of all."""
    errors = views.errors
    assert errors is not None
    values = {
        "orientation": errors.turn,
        "centre": errors.centre_px,
        "scale": errors.scale[:, None],
        "background": errors.beside[:, None] - 1,
    }
    nothing = errors.turn[:, :0]  # where the ellipse alone is asked for
    return torch.cat([nothing, *(values[name] for name in fit.own)], 1)


def _moved(fit: ViewFit, views: Views, step: Tensor, ellipse: Tensor) -> Views:
    """The views, their own numbers (v, p) and the ellipse (2,) changed by a step."""
    errors, start = views.errors, 0
    assert errors is not None
    errors, rotations = replace(errors, ellipse=errors.ellipse + ellipse), views.rotations
    for name in fit.own:
        part = step[:, start : start + int(_EACH[name][0])]
        start += int(_EACH[name][0])
        if name == "orientation":
            rotations = turned(rotations, part)
            errors = replace(errors, turn=errors.turn + part)
        elif name == "centre":
            errors = replace(errors, centre_px=errors.centre_px + part)
        elif name == "scale":
            errors = replace(errors, scale=errors.scale + part[:, 0])
        else:
            errors = replace(errors, beside=(errors.beside + part[:, 0]).clamp_min(0))
    return replace(views, errors=errors, rotations=rotations)


def _centred(fit: ViewFit, views: Views, before: Views) -> Views:
    """The views without what they have changed by together, which the model can't tell."""
    errors = views.errors
    assert errors is not None
    if "scale" in fit.what:
        errors = replace(errors, scale=errors.scale - errors.scale.mean())
    if "background" in fit.what:
        errors = replace(errors, beside=errors.beside / errors.beside.mean())
    rotations = views.rotations
    if "orientation" in fit.what:
        rotations = rotations @ mean_rotation(before.rotations.mT @ rotations).mT
    return replace(views, errors=errors, rotations=rotations)
