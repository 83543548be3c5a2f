"""A density of free scatterers: a weight, never negative, at every voxel, which scatters like
carbon.

It is the density that atoms would have before their number is known: its transform is the weights'
own, times carbon's form factor. So what is not negative is the map *deconvolved*, which says far
more than that the map itself is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffragan.fourier.volumes import frequency_radius
from diffragan.microscope.exit_waves.form_factors import CARBON, form_factor_A, phase_shift_per_A
from diffragan.reconstruction.maps.views import Views

# Of the start: what is spread over the mask at random, so that no gradient begins at zero.
_AT_RANDOM = 0.3


@dataclass(frozen=True)
class ScattererGrid:
    """Scatterers at the voxels of a volume (n, n, n) in FFT order.

    factor: (n, n, n // 2 + 1) what one carbon at the origin puts into the object o, in units of
        the plane wave; 0 beyond the patterns' edge.
    """

    n: int
    factor: Tensor

    @classmethod
    def of(cls, views: Views, b_A2: float) -> ScattererGrid:
        """The grid of the views' volume, every scatterer blurred by a B factor."""
        radius = frequency_radius(views.n, views.device)
        q2 = (radius.double() / views.volume_box_A) ** 2
        shape = form_factor_A(CARBON, q2) * torch.exp(-b_A2 * q2 / 4)
        optics = views.optics
        scale = phase_shift_per_A(optics.energy_ev, optics.box_A)
        edge = (float(views.flat.radius.max()) + 0.5) * views.flat.padding
        return cls(views.n, (scale * shape * (radius <= edge)).float())

    def spectrum(self, weights: Tensor) -> Tensor:
        """The plain `rfftn` (n, n, n // 2 + 1), norm "forward", of weights (n, n, n)."""
        result: Tensor = torch.fft.rfftn(weights) * self.factor
        return result

    def volume(self, weights: Tensor) -> Tensor:
        """The potential (n, n, n) of weights (n, n, n)."""
        n = self.n
        result: Tensor = torch.fft.irfftn(self.spectrum(weights), s=(n, n, n), norm="forward")
        return result

    def weights_of(self, volume: Tensor, inside: Tensor, seed: int) -> Tensor:
        """Weights (n, n, n) to start from: a volume deconvolved and cut at zero, a part of it
        spread at random over `inside` (n, n, n), bool."""
        n = self.n
        ratio = torch.where(self.factor > 0, 1 / self.factor, 0.0)
        spectrum = torch.fft.rfftn(volume, norm="forward") * ratio
        sharp = torch.fft.irfftn(spectrum, s=(n, n, n)).clamp_min(0) * inside
        # Drawn on the CPU, so that a seed means the same start on every device.
        drawn = torch.rand((n, n, n), generator=torch.Generator().manual_seed(seed))
        spread = 2 * drawn.to(inside.device) * inside * (sharp.sum() / inside.sum().clamp_min(1))
        result: Tensor = (1 - _AT_RANDOM) * sharp + _AT_RANDOM * spread
        return result
