"""Views against a map's slices: what is expected of each measured value, and how far it is off.

A pattern's amplitudes do not change when the particle shifts, so they tell the orientation alone;
the image tells the shift, and helps with the orientation to its aperture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffragan.engine.processes import summed
from diffragan.fourier.slices import Extractor
from diffragan.reconstruction.maps.image_map import ring_of
from diffragan.reconstruction.maps.views import Views
from diffragan.rotations import turned

_FLOOR = 0.01  # of a ring's variance: the least misfit that weights are made for
_STEP_PX = 0.3  # how far a difference quotient moves the outermost point, in 1 / box
_LEAST_EXPECTED = 0.2  # of a ring's mean: the least expectation a count is weighted by


def pixel_count(views: Views, resolution_A: float) -> int:
    """How many leading pairs lie inside a resolution."""
    return int((views.flat.radius <= views.optics.box_A / resolution_A + 0.5).sum())


@dataclass(frozen=True)
class Regression:
    """How measurements follow from a map's slices, by regression over all views.

    A measured value y (an amplitude, or an intensity where electrons are counted) is expected to
    be y_mean + slope (x - x_mean), x the slice's: a ring that the map does not know has slope 0
    and no say, and one whose power is damped is scaled. All (k,), by pair.

    spread: variance that the regression leaves; for counts, in units of the mean expectation.
    agreement: squared correlation of x and y. y_var, x_var: variances.
    map_error: (ki,) power of the map's error inside the aperture, as the images see it.
    """

    x_mean: Tensor
    y_mean: Tensor
    x_var: Tensor
    y_var: Tensor
    slope: Tensor
    spread: Tensor
    agreement: Tensor
    map_error: Tensor

    def expected(self, x: Tensor) -> Tensor:
        return self.y_mean + self.slope * (x - self.x_mean)

    def mean_weight(self, *, counts: bool) -> Tensor:
        """(k,) one over the variance of a measured value, in the mean of its ring."""
        mean = self.y_mean.clamp_min(1e-30) if counts else 1.0
        return 1 / (self.spread * mean)


class Comparison:
    """Pairs of some views, and what a map's slices say to them."""

    def __init__(self, spectrum: Tensor, views: Views, block: slice, count: int) -> None:
        self.views, self._extracted = views, Extractor(spectrum)
        self.points = views.points(block, views.flat, count)
        self.counts = views.electrons is not None
        self.observed = views.observed(block, views.flat, count)
        self.contrast = views.spectra(block)[:, :count]
        self.transfer = views.transfer.leading(count).of(block)
        self.inside = self.transfer.shape[1]
        told = views.flat.points[:count]
        self.inner = told[: self.inside, :2] * (2 * math.pi / views.volume_box_A)
        self.noise = views.image_noise[block][:, None]
        self.reach = float(torch.linalg.vector_norm(told[-1]).clamp_min(1))

    def slices(self, rotations: Tensor) -> Tensor:
        """(b, count) complex64."""
        points, times = self.points, len(rotations) // len(self.observed)
        return self._extracted(
            rotations, points if points.ndim == 2 else points.repeat(times, 1, 1)
        )

    def slopes(self, rotations: Tensor) -> tuple[Tensor, Tensor]:
        """Central differences by the three angles: of what the pattern shows (3, b, count), and of
        the slices inside the aperture (3, b, ki)."""
        step = _STEP_PX / self.reach
        turns = torch.eye(3, device=rotations.device).repeat_interleave(len(rotations), 0) * step
        both = torch.cat(
            (turned(rotations.repeat(3, 1, 1), turns), turned(rotations.repeat(3, 1, 1), -turns))
        )
        values = self.slices(both).reshape(2, 3, len(rotations), -1)
        observable, inner = self.observable(values), values[..., : self.inside]
        return (observable[0] - observable[1]) / (2 * step), (inner[0] - inner[1]) / (2 * step)

    def observable(self, slices: Tensor) -> Tensor:
        """What a pattern shows of slices: amplitudes, or intensities where electrons count."""
        size = slices.abs()
        return size * size if self.counts else size

    def image_weight(self, regression: Regression | None) -> Tensor:
        """(b, ki) one over the variance of an image frequency."""
        power = self.contrast.abs().square().mean()
        error = 0 if regression is None else self.transfer**2 * regression.map_error
        return 1 / (self.noise + error).clamp_min(1e-3 * float(power) + 1e-30)

    def residual(self, slices: Tensor, shift: Tensor) -> Tensor:
        """(b, ki) the image, its molecule moved to the centre, less transfer x slice."""
        phase = shift @ self.inner.T
        ramp = torch.polar(torch.ones_like(phase), phase)
        return self.contrast * ramp - self.transfer * slices[:, : self.inside]

    def pattern_weight(self, slices: Tensor, regression: Regression) -> Tensor:
        """(b, count) one over the variance of a measured value, at most."""
        if not self.counts:
            return (1 / regression.spread).expand(len(slices), -1)
        expected = regression.expected(self.observable(slices))
        floor = _LEAST_EXPECTED * regression.y_mean
        return 1 / (regression.spread * torch.maximum(expected, floor)).clamp_min(1e-30)

    def best_shift(
        self, slices: Tensor, start: Tensor, reach_A: float, regression: Regression | None
    ) -> Tensor:
        """(b, 2) shift with the highest correlation of image and transfer x slice: a grid about
        `start`, then Newton steps from its best point."""
        model = self.transfer * slices[:, : self.inside]
        product = self.image_weight(regression) * self.contrast * model.conj()
        device = start.device
        line = torch.arange(-math.ceil(reach_A), math.ceil(reach_A) + 1.0, device=device)
        grid = torch.cartesian_prod(line, line)
        phase = start @ self.inner.T
        product = product * torch.polar(torch.ones_like(phase), phase)
        waves = grid @ self.inner.T
        match = product.real @ waves.cos().T - product.imag @ waves.sin().T
        move, eye = grid[match.argmax(1)], torch.eye(2, device=device)
        for _ in range(4):
            phase = move @ self.inner.T
            shifted = product * torch.polar(torch.ones_like(phase), phase)
            uphill = -(shifted.imag @ self.inner)
            bend = torch.einsum("bk,ki,kj->bij", shifted.real, self.inner, self.inner)
            bend = bend + 1e-6 * eye * bend.abs().amax((1, 2), keepdim=True) + 1e-30 * eye
            step = torch.linalg.solve(bend, uphill)
            good = (torch.linalg.det(bend) > 0) & (bend[:, 0, 0] > 0)
            move = move + torch.where(good[:, None], step.clamp(-0.5, 0.5), 0.0)
        return start + move

    def misfit(
        self, slices: Tensor, shift: Tensor, weight: Tensor, regression: Regression, images: bool
    ) -> Tensor:
        """(b,) weighted squares that a step is judged by."""
        deviation = self.observed - regression.expected(self.observable(slices))
        total = (weight * deviation.square()).sum(1)
        if images:
            error = self.residual(slices, shift).abs().square()
            total = total + 2 * (self.image_weight(regression) * error).sum(1)
        return total

    def normal(
        self,
        rotations: Tensor,
        slices: Tensor,
        shift: Tensor,
        weight: Tensor,
        regression: Regression,
        images: bool,
    ) -> tuple[Tensor, Tensor]:
        """Normal matrix (b, 3, 3) and right side (b, 3) of the three angles."""
        by_angle, inner = self.slopes(rotations)
        by_angle = by_angle * regression.slope
        deviation = self.observed - regression.expected(self.observable(slices))
        matrix = torch.einsum("abk,cbk,bk->bac", by_angle, by_angle, weight)
        right = torch.einsum("abk,bk->ba", by_angle, weight * deviation)
        if images:
            trust = 2 * self.image_weight(regression)
            inner = inner * self.transfer
            error = trust * self.residual(slices, shift)
            matrix = matrix + torch.einsum("abk,cbk,bk->bac", inner.conj(), inner, trust + 0j).real
            right = right + torch.einsum("abk,bk->ba", inner.conj(), error).real
        return matrix, right

    def score(self, slices: Tensor, regression: Regression) -> Tensor:
        """(b,) correlation of measured and expected, rings weighted by how well they are known."""
        x = (self.observable(slices) - regression.x_mean) / regression.x_var.clamp_min(1e-30).sqrt()
        y = (self.observed - regression.y_mean) / regression.y_var.clamp_min(1e-30).sqrt()
        w = regression.agreement
        norm = ((w * x * x).sum(1) * (w * y * y).sum(1)).sqrt()
        return (w * x * y).sum(1) / norm.clamp_min(1e-30)


def regress(
    spectrum: Tensor, views: Views, count: int, reach_A: float
) -> tuple[Regression, Tensor]:
    """The regression of measurements on a map's slices, and shifts (v, 2) found on the way, which
    of several processes each finds for its own views."""
    rings = ring_of(views)[:count]
    inner = rings[: len(views.transfer)]
    bins = int(rings.max()) + 1
    sums = torch.zeros(6, bins, dtype=torch.float64, device=views.device)
    image = torch.zeros(2, bins, dtype=torch.float64, device=views.device)
    shifts = views.shifts_A.clone()
    for block in views.own_blocks():
        comparison = Comparison(spectrum, views, block, count)
        slices = comparison.slices(views.rotations[block])
        if reach_A > 0:
            shifts[block] = comparison.best_shift(slices, shifts[block], reach_A, None)
        x, y = comparison.observable(slices).double(), comparison.observed.double()
        w = views.weights[block].double()[:, None].expand_as(x)
        for row, term in enumerate((w, w * x, w * y, w * x * x, w * y * y, w * x * y)):
            sums[row].index_add_(0, rings, term.sum(0))
        error = comparison.residual(slices, shifts[block]).abs().square() - comparison.noise
        own = w[:, :1] * comparison.transfer**2
        image[0].index_add_(0, inner, (w[:, :1] * error).sum(0).double())
        image[1].index_add_(0, inner, own.sum(0).double())
    sums, image = summed(sums), summed(image)
    total = sums[0].clamp_min(1e-12)
    x, y = sums[1] / total, sums[2] / total
    x_var = (sums[3] / total - x * x).clamp_min(0)
    y_var = (sums[4] / total - y * y).clamp_min(0)
    cross = sums[5] / total - x * y
    slope = cross.clamp_min(0) / x_var.clamp_min(1e-30)
    agreement = (cross.clamp_min(0) ** 2 / (x_var * y_var).clamp_min(1e-40)).clamp(max=1)
    spread = y_var * (1 - agreement).clamp_min(_FLOOR)
    if views.electrons is not None:
        spread = spread / y.clamp_min(1e-30)
    floor = _FLOOR * (x * x + x_var if views.electrons is None else x)
    error = torch.maximum(image[0] / image[1].clamp_min(1e-30), floor)
    by_ring = {
        "x_mean": x,
        "y_mean": y,
        "x_var": x_var,
        "y_var": y_var,
        "slope": slope,
        "spread": spread.clamp_min(1e-30),
        "agreement": agreement,
    }
    by_pair = {name: row.float()[rings] for name, row in by_ring.items()}
    return Regression(**by_pair, map_error=error.float()[inner]), shifts
