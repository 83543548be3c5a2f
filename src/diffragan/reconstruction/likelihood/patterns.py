"""Patterns as a target: the likelihood of their counts for a model's volume, with its gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffragan.engine.processes import summed
from diffragan.fourier.slices import Extractor, Inserter, Slices, volume_gradient
from diffragan.fourier.volumes import volume_spectrum
from diffragan.reconstruction.likelihood.beside import weighed_beside
from diffragan.reconstruction.likelihood.ring_sums import RingSums
from diffragan.reconstruction.maps.views import Views

_TINY = 1e-30


@dataclass(frozen=True)
class PatternTarget:
    """Patterns through slices on the curved sphere, with the likelihood of counts.

    A pixel's expectation is |P|² + e, e what the model leaves unexplained in its ring; its misfit
    that of a Poisson count of 1 / (1 / N + 2 e) electrons, N those of the exposure (exact patterns:
    infinitely many). So rings count by what they can still tell, with any number of electrons.

    views, geometry: as the reconstruction has them. unexplained: (rings,) e.
    free: (n, n, n // 2 + 1) bool, voxels that what is measured there does not pull, or None.
    beyond: (v, 2 k) complex64, what multiple scattering adds to every slice, or None. It is held
        fast while a model moves: its own slope is of second order.
    parts: of a ring, each with an intercept of its own (`beside.py`); `rings` are then these.
    shared: (rings,) what the model's error adds to 1 / N + 2 e where a view is the sum of several
        molecules' exposures, or None.
    """

    views: Views
    geometry: Slices
    unexplained: Tensor
    free: Tensor | None = None
    beyond: Tensor | None = None
    parts: int = 1
    shared: Tensor | None = None

    @property
    def rings(self) -> Tensor:
        """(2 k,) ring of 1 / field, or part of one, of every pixel."""
        return (self.parts * self.geometry.radius + 0.5).long().repeat(2)

    def by_part(self, values: float | Tensor | None) -> Tensor | None:
        """(rings,) means of (k,) values, or one value for all."""
        if values is None:
            return None
        rings = (self.parts * self.geometry.radius + 0.5).long()
        each = torch.as_tensor(values, dtype=torch.float32, device=rings.device).expand(len(rings))
        count = torch.bincount(rings)
        return each.new_zeros(len(count)).index_add_(0, rings, each) / count.clamp_min(1)

    def misfit(self, spectrum: Tensor) -> Tensor:
        result: Tensor = _PatternMisfit.apply(spectrum, self)  # type: ignore[no-untyped-call]
        return result

    def difference(self, spectrum: Tensor) -> Tensor:
        return -self.evaluate(spectrum)[1]

    def adapted(self, spectrum: Tensor) -> PatternTarget:
        return self.weighted_by(self.sums(spectrum))

    def weighted_by(self, sums: RingSums) -> PatternTarget:
        """The same patterns, weighted by what a model with these sums leaves unexplained."""
        if self.parts == 1:
            return replace(self, unexplained=sums.unexplained.float())
        views = self.views
        electrons, beside = self.by_part(views.electrons_by_pair), self.by_part(views.background)
        assert beside is not None
        unexplained, shared = weighed_beside(sums, electrons, beside)
        alone = views.molecules == 1
        return replace(self, unexplained=unexplained, shared=None if alone else shared)

    def weights(self) -> Tensor:
        """(rings,) electrons that a ring's pixels count as; the direct beam's ring has none."""
        views = self.views
        electrons = views.electrons_by_ring
        if self.parts > 1 and isinstance(electrons, Tensor):
            electrons = self.by_part(views.electrons_by_pair)
        each = 0.0 if electrons is None else 1 / electrons
        # Of several molecules' exposures in one view, as they would count one by one.
        spread = each + 2 * self.unexplained / views.molecules
        weight = 1 / (spread if self.shared is None else spread + self.shared)
        weight[: self.parts // 2 + 1] = 0
        return weight

    def evaluate(self, spectrum: Tensor) -> tuple[float, Tensor]:
        """The misfit, and its gradient in the volume (n, n, n), FFT order."""
        views, geometry, rings = self.views, self.geometry, self.rings
        valid = geometry.valid.reshape(-1).float()
        unexplained, weight = self.unexplained[rings], self.weights()[rings] * valid
        n = spectrum.shape[0]
        volume = torch.fft.irfftn(spectrum, s=(n, n, n), norm="forward")
        sliced = Extractor(volume_spectrum(volume))
        collected = Inserter(n, spectrum.device)
        total = 0.0
        for block in views.own_blocks():
            rotations = views.rotations[block]
            slices = self.slices(sliced, block)
            model = slices.real**2 + slices.imag**2 + unexplained
            observed = self.intensities(block)
            each = weight * views.weights[block][:, None]
            total += float((each * (model - observed * torch.log(model))).sum(dtype=torch.float64))
            pull = slices * (2 * each * (1 - observed / model))
            collected.add(pull.contiguous(), rotations, views.points(block, geometry))
        gradient = summed(collected.spectrum())
        total = float(summed(torch.tensor(total, dtype=torch.float64, device=spectrum.device)))
        return total, volume_gradient(gradient if self.free is None else gradient * ~self.free)

    def sums(self, spectrum: Tensor) -> RingSums:
        """How these patterns compare with a model, by ring."""
        views, geometry, rings = self.views, self.geometry, self.rings
        valid = geometry.valid.reshape(-1).double()
        n = spectrum.shape[0]
        volume = torch.fft.irfftn(spectrum, s=(n, n, n), norm="forward")
        sliced = Extractor(volume_spectrum(volume))
        by_pixel = torch.zeros(7, len(rings), dtype=torch.float64, device=spectrum.device)
        for block in views.own_blocks():
            slices = self.slices(sliced, block)
            m = slices.real**2 + slices.imag**2
            i = self.intensities(block)
            share = views.weights[block]
            by_pixel[0] += share.sum()
            terms = (m, i, m * m, m * i, i * i, (m * i).clamp_min_(0).sqrt_())
            for row, term in zip(by_pixel[1:], terms, strict=True):
                row += share @ term
        sums = torch.zeros(7, int(rings.max()) + 1, dtype=torch.float64, device=spectrum.device)
        sums.index_add_(1, rings, summed(by_pixel) * valid)
        return RingSums(*sums)

    def slices(self, sliced: Extractor, block: slice) -> Tensor:
        """(b, 2 k) values of a model's pixels, mates conjugated, from its `volume_spectrum`."""
        points = self.views.points(block, self.geometry)
        single = sliced(self.views.rotations[block], points)
        return single if self.beyond is None else single + self.beyond[block]

    def intensities(self, block: slice) -> Tensor:
        """(b, 2 k) measured intensities in units of the plane wave."""
        observed = self.views.observed(block, self.geometry)
        return observed if self.views.electrons is not None else observed**2


class _PatternMisfit(torch.autograd.Function):
    """The misfit as one step of autograd: slices are too many to be kept for a backward pass."""

    @staticmethod
    def forward(ctx: Any, spectrum: Tensor, target: PatternTarget) -> Tensor:
        total, gradient = target.evaluate(spectrum.detach())
        n = gradient.shape[0]
        # Of a real volume's spectrum, whose inner planes stand for their mates too.
        back = torch.fft.rfftn(gradient)
        back[..., 1 : (n + 1) // 2] *= 2
        ctx.save_for_backward(back)
        return torch.tensor(total, dtype=torch.float64, device=spectrum.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (back,) = ctx.saved_tensors
        return back * gradients[0].float(), None


def pattern_target(views: Views, free: Tensor | None = None, parts: int = 1) -> PatternTarget:
    """Patterns as a target; before a model has been seen, all of a ring's intensity counts as
    unexplained.

    Args:
        free: (n, n, n // 2 + 1) bool, voxels that are left out. parts: that rings have.
    """
    none = torch.ones(0, device=views.device)
    blank = PatternTarget(views, views.curved, none, free, parts=parts)
    rings = blank.rings
    count = int(rings.max()) + 1
    total = torch.zeros(count, dtype=torch.float64, device=views.device)
    for block in views.own_blocks():
        total.index_add_(0, rings, blank.intensities(block).double().sum(0))
    mean = summed(total) / (torch.bincount(rings) * len(views)).clamp_min(1)
    return replace(blank, unexplained=mean.float().clamp_min(_TINY))
