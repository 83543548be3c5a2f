"""How far counts are believed where something scatters beside the molecule.

Ice has rings that rise and fall within one ring of 1 / field, by many times the molecule's own
intensity. So beside a background a ring has parts, each with an intercept of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffragan.reconstruction.likelihood.ring_sums import RingSums

PARTS = 8  # of a ring
_LEAST_ERROR = 0.02  # of a ring's own intensity: the model is never thought more exact than this
_TINY = 1e-30
_LEAST_KNOWN = 2.0  # standard errors by which a ring's variance must exceed that of counting


def weighed_beside(
    sums: RingSums, electrons: Tensor | None, beside: Tensor
) -> tuple[Tensor, Tensor]:
    """What a model leaves unexplained by part of a ring, and what its own error adds to a count's
    variance: (bins,) each, float32.

    With m the expected intensity a pixel's variance is m (1 / N + 2 e / M), e what lies beside the
    model, which differs from molecule to molecule of the M in a view. The error of the model itself
    is the same for all of them, so that more of them do not make it smaller: 2 I d, with I the
    molecule's mean intensity and d what of it the model has wrong. Believed to their counts alone,
    6,700 exposures in a view throw a map that images began far off in the first pass. It counts by
    the square of the part of all intensity that lies beside: with damage alone, where no such thing
    happened, the whole of it cost detail (docs/experiment.md).

    Args:
        sums: by part of a ring. electrons: (bins,) of an exposure, None for exact intensities.
        beside: (bins,) intensity that lies beside the molecule, as far as it is known.
    """
    count = sums.one.clamp_min(1)
    m, i, mm, mi, ii = (x / count for x in (sums.m, sums.i, sums.mm, sums.mi, sums.ii))
    ring = (torch.arange(len(m), device=m.device) / PARTS + 0.5).long()
    rings = int(ring.max()) + 1

    def pooled(values: Tensor) -> Tensor:
        """Mean by ring of values by part."""
        total = m.new_zeros(rings).index_add_(0, ring, values * sums.one)
        return total / m.new_zeros(rings).index_add_(0, ring, sums.one).clamp_min(1)

    covariance, spread = pooled(mi - m * i), pooled((mm - m**2).clamp_min(0))
    slope = (covariance / spread.clamp_min(_TINY)).clamp(0, 1.2)
    unexplained = torch.maximum(i - slope[ring] * m, _LEAST_ERROR * i).clamp_min(_TINY)
    noise = 0 * i if electrons is None else i / electrons.clamp_min(1)
    every = m.new_zeros(rings).index_add_(0, ring, sums.one).clamp_min(1)
    excess = pooled(ii - i**2 - noise) - _LEAST_KNOWN * pooled(ii - i**2) * (2 / every).sqrt()
    own = torch.maximum(pooled(i - beside), excess.clamp_min(0).sqrt()).clamp_min(_TINY)
    alike = (covariance / (spread.sqrt() * own).clamp_min(_TINY)).clamp(0, 1 - _LEAST_ERROR)
    outside = (beside / i.clamp_min(_TINY)).clamp(0, 1)
    shared = outside**2 * (2 * own**2 * (1 - alike))[ring] / unexplained
    return unexplained.float(), shared.float()
