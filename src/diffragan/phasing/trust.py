"""What to make of several starts: choice by R, trust, solved or not; and which R stand out.

Spectra here are whole planes (..., m, m), zero frequency first, of the object o of `solvers`.
Nothing reads a truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.fourier.correlation import SOLVED_BAND_A, ring_index
from diffragan.phasing.proposals import Proposal
from diffragan.phasing.starts import concentration, placement_variance_A2

_TINY = 1e-20
_MODEL_R = 0.025  # of right answers without noise: a real object is not quite what was measured

_LISTED = 5  # items that a warning names
# An R is far above its peers beyond both of these. (A pattern one pixel off its centre triples the
# R of 0.025 that counted patterns of the bundled example give; a wrong image leaves it as it is.)
_FAR_DEVIATIONS = 6.0
_FAR_FACTOR = 2.0


@dataclass(frozen=True)
class Verdict:
    """One answer from several starts.

    phase: (b, m, m) unit phases, the mean over starts that R believes. trust: (b, m, m), the
    expected cosine of their error. solved: (b,) bool, whether the trust averages at least 0.5
    from 2.2 to 1.8 Å (or the finest octave of the band, where it ends before).
    """

    phase: Tensor
    trust: Tensor
    solved: Tensor


def mean_phase(spectra: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean unit phase over answers, and what chance alone would make of its length.

    Args:
        spectra: (b, answers, m, m), aligned; only their phases count.
        weight: (b, answers), 0 to leave an answer out.

    Returns:
        the mean (b, m, m), whose modulus is the phase retrieval transfer function (Chapman et al.
        2006), and the expectation of its square under random phases, (b,).
    """
    share = weight / weight.sum(1, keepdim=True).clamp_min(_TINY)
    mean = (share[..., None, None] * torch.sgn(spectra)).sum(1)
    return mean, (share**2).sum(1)


@dataclass(frozen=True)
class ToldByRing:
    """What starts tell of themselves, before any calibration.

    mean: (b, m, m) their mean phase. features: (b, rings, 7), whose logistic function the trust is.
    factor: (b, rings), by which it falls where the object's place is unsure, or foreign to the
        image.
    """

    mean: Tensor
    features: Tensor
    factor: Tensor


def told_by_ring(
    spectra: Tensor,
    r: Tensor,
    image: Proposal,
    proposal: Proposal,
    mask: Tensor,
    box_A: float,
    noise_r: Tensor,
) -> ToldByRing:
    """Arguments as `verdict`; `benchmarks/verdict_fit.py` fits the calibration to these."""
    lowest = r.min(1).values
    weight = torch.exp(-10 * (r / lowest[:, None].clamp_min(_TINY) - 1))
    mean, chance = mean_phase(spectra, weight)
    rings = _Rings(mask, box_A)
    concord = _concord(mean, chance, rings)
    if spectra.shape[1] == 1:
        concord = torch.full_like(concord, 0.5)  # nothing to compare with
    features = _features(
        concord, lowest, noise_r, rings.mean(proposal.trust), rings, drawn=proposal.drawn
    )
    # An object placed with error sigma has its phases turned by 2 pi q sigma.
    turned = (2 * math.pi * rings.q) ** 2 * placement_variance_A2(image.trust, box_A)[:, None]
    factor = _fits(spectra, r, image)[:, None] * torch.exp(-turned / 2)
    return ToldByRing(mean, features, factor)


def verdict(
    spectra: Tensor,
    r: Tensor,
    image: Proposal,
    proposal: Proposal,
    mask: Tensor,
    box_A: float,
    noise_r: Tensor,
) -> Verdict:
    """Mean phases of the starts, with a trust calibrated on simulated proteins.

    Starts count by exp(-10 (R / lowest R - 1)). The trust of a ring is a logistic function of
    their agreement there and beyond 4 Å, of the lowest R, of the R that counting noise explains,
    of the proposal's own trust and of q; docs/phasing.md tells how its numbers were found. Where
    the best start fits the image less well than the image's trust promises, the image is of
    something else or the object is out of place, and the trust falls with the fit.

    Args:
        spectra: (b, starts, m, m) aligned spectra of the object, zero frequency first.
        r: (b, starts) amplitude R of each.
        image: what the image alone tells: the proposal itself, or what a network drew it from. (A
            network also drew from the pattern, so its own phases say less of whether both belong
            together.)
        proposal: that the starts began with.
        mask: (m, m) bool, valid pixels, zero frequency first.
        noise_r: (b,) the R of perfect amplitudes against the measured ones, 0 without noise.
    """
    told = told_by_ring(spectra, r, image, proposal, mask, box_A, noise_r)
    calibration = CALIBRATION_DRAWN if proposal.drawn else _CALIBRATION
    logit = told.features @ torch.tensor(calibration, dtype=r.dtype, device=r.device)
    by_ring = torch.sigmoid(logit) * told.factor
    mean, rings = told.mean, _Rings(mask, box_A)
    solved_rings = rings.between(*SOLVED_BAND_A)
    if not bool(solved_rings.any()):
        solved_rings = rings.q >= rings.q[rings.count > 0].max() / 2
    solved = (by_ring * solved_rings).sum(-1) / solved_rings.sum() >= 0.5
    # Inside a ring the trust follows the pixels' own mean phase.
    length = mean.abs()
    relative = length / rings.spread(rings.mean(length)).clamp_min(1e-6)
    trust = (rings.spread(by_ring) * relative).clamp(0, 1) * mask
    return Verdict(torch.sgn(mean), trust, solved)


# Least squares of the cosine on the features of `_features`: 106 pairs of 43 proteins, 52 of
# them in a box of twice the diameter at SNR 0.8 or 0.2, 24 in a 70 Å box, 30 with a dose of 2,000
# to 100,000 e/Å² on the pattern.
_CALIBRATION = (-0.2538, 0.6515, 1.1634, -3.7895, 1.6321, 3.3988, -2.1388)
# The same of starts from phases that a network drew, which agree more than they are right, with the
# R beyond what counting explains: 506 runs of `hybrid` on the 14 proteins that the network was
# validated on, 70 Å box, SNR 0.1 to 3, 10,000 e/Å² on the pattern to no counts, before outlines
# were drawn too. On 504 runs since, a fit to these judges proteins it has not seen no better
# (docs/networks.md).
CALIBRATION_DRAWN = (-1.4846, 0.7378, 0.8663, -1.4192, -1.3813, 1.947, 0.0158)


def _concord(mean: Tensor, chance: Tensor, rings: _Rings) -> Tensor:
    """(b, rings) how far the answers agree: t of E|mean|² = chance + (1 - chance) t², which holds
    where they scatter about a common phase. `mean` and `chance` as `mean_phase` gives them."""
    chance = chance.clamp(max=0.95)[:, None]
    return ((rings.mean(mean.abs() ** 2) - chance) / (1 - chance)).clamp(0, 1).sqrt()


def _features(
    concord: Tensor,
    lowest_r: Tensor,
    noise_r: Tensor,
    proposal_trust: Tensor,
    rings: _Rings,
    *,
    drawn: bool,
) -> Tensor:
    """(b, rings, 7) what a ring's trust is told by, from concord and proposal trust (b, rings) and
    the lowest R and that of noise (b,)."""
    excess = torch.log(lowest_r.clamp_min(1e-4) / _MODEL_R).clamp_min(-0.1)
    if drawn:
        excess = (excess - 0.5 * torch.log1p((noise_r / _MODEL_R) ** 2)).clamp_min(-0.3)
    fine = rings.between(4.0, 1 / 0.6)
    beyond = (concord * fine).sum(-1) / fine.sum().clamp_min(1)
    t = concord.clamp(0.01, 0.99)
    ones = torch.ones_like(t)
    return torch.stack(
        [
            ones,
            torch.log(t / (1 - t)),
            beyond[:, None] * ones,
            excess[:, None] * ones,
            torch.log1p(noise_r / _MODEL_R)[:, None] * ones,
            proposal_trust,
            rings.q.to(t) * ones,
        ],
        -1,
    )


def _fits(spectra: Tensor, r: Tensor, image: Proposal) -> Tensor:
    """(b,) 1 where the best start fits the image at least 0.9 times as well as is expected, 0
    where it reaches less than 0.6; right answers lie within 0.97 to 1.03.

    The fit is the mean cosine of phases, by the weights that `align` uses.
    """
    weight = concentration(image.trust)
    total = weight.sum((-2, -1)).clamp_min(_TINY)
    expected = (weight * image.trust).sum((-2, -1)) / total
    best = spectra[torch.arange(len(r), device=r.device), r.argmin(1)]
    phase = image.phase / 1j  # of the object: wave = beam + i o
    fit = (weight * (torch.sgn(best) * phase.conj()).real).sum((-2, -1)) / total
    kept = ((fit / expected.clamp_min(1e-6) - 0.6) / 0.3).clamp(0, 1)
    return torch.where(expected > 0.01, kept, 1.0)


class _Rings:
    """Means over the valid pixels of rings k / L, of arrays (b, m, m), zero frequency first."""

    def __init__(self, mask: Tensor, box_A: float) -> None:
        m = mask.shape[-1]
        self.index = torch.fft.ifftshift(ring_index(m, device=mask.device))
        self.n = int(self.index.max()) + 1
        self.mask = mask
        self.count = torch.bincount(self.index[mask], minlength=self.n)
        self.q = torch.arange(self.n, device=mask.device) / box_A

    def mean(self, values: Tensor) -> Tensor:
        sums = values.new_zeros(len(values), self.n)
        sums.index_add_(-1, self.index[self.mask], values[:, self.mask])
        result: Tensor = sums / self.count.clamp_min(1)
        return result

    def spread(self, by_ring: Tensor) -> Tensor:
        return by_ring[:, self.index]

    def between(self, coarse_A: float, fine_A: float) -> Tensor:
        return (self.q >= 1 / coarse_A) & (self.q <= 1 / fine_A) & (self.count > 0)


def r_outliers(r: NDArray[np.float64]) -> NDArray[np.int64]:
    """Places of the R factors (n,) that are above 1, or far above their peers.

    Far is 6 robust standard deviations (1.4826 x the median absolute deviation) above the median,
    and twice the median. An R above 1 fits worse than no object at all.
    """
    median = float(np.median(r))
    deviation = 1.4826 * float(np.median(np.abs(r - median)))
    limit = min(1.0, max(median + _FAR_DEVIATIONS * deviation, _FAR_FACTOR * median))
    return np.flatnonzero(~(r <= limit))


def r_warning(r: NDArray[np.float64], items: NDArray[np.int64]) -> str | None:
    """A sentence on results whose R stands out, with its likely causes; None where none does.

    Args:
        r: (n,) R factors. items: (n,) their numbers in the input.
    """
    far = r_outliers(r)
    if not len(far):
        return None
    named = ", ".join(str(items[place]) for place in far[:_LISTED])
    noun = "item" if len(far) == 1 else "items"
    more = ", ..." if len(far) > _LISTED else ""
    return (
        f"R is above 1 or far above that of the others in {len(far)} of {len(r)} results "
        f"({noun} {named}{more}); look there for a wrong centre, mask, sign of defocus or dose, "
        "or a flipped image."
    )
