"""Starts, and what to make of them: alignment to the proposal, choice by R, trust, solved or not.

Spectra here are whole planes (..., m, m), zero frequency first, of the object o of `solvers`.
Nothing reads a truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffragan.phasing.solvers import Model, friedel_mate

_TINY = 1e-20


def random_starts(
    amplitude: Tensor, phase: Tensor, trust: Tensor, seeds: Sequence[int], starts: int, model: Model
) -> Tensor:
    """Objects (b, starts, m, m) around a proposal: where it is trusted they follow it.

    Each frequency is A (t p + sqrt(1 - t²) u), with p the proposed phase, t its trust and u a
    random phase, drawn on the CPU from the item's seed and the start's number alone.
    """
    out = []
    for a, p, t, seed in zip(amplitude, phase, trust, seeds, strict=True):
        rows = []
        for k in range(starts):
            generator = torch.Generator().manual_seed((seed + 1_000_003 * k) % 2**63)
            angle = 2 * math.pi * torch.rand(a.shape, generator=generator)
            u = torch.polar(torch.ones_like(angle), angle).to(p)
            rows.append(a * (t * p + (1 - t**2).clamp_min(0).sqrt() * u))
        out.append(torch.stack(rows))
    objects = torch.fft.ifft2(torch.stack(out), norm="forward")
    return objects.real.contiguous() if model == "real" else objects


def concentration(trust: Tensor) -> Tensor:
    """kappa of the von Mises law whose mean cosine is `trust` (Banerjee et al. 2005, eq. 4.4)."""
    return trust * (2 - trust**2) / (1 - trust**2).clamp_min(1e-3)


def align(
    spectrum: Tensor, phase: Tensor, weight: Tensor, *, twins: bool = True
) -> tuple[Tensor, Tensor]:
    """Shift each spectrum (..., m, m), or its twin, to where its phases fit best.

    A pattern knows neither where the object is nor which of the twins o(r), o(-r) it is; the
    image does. The fit is sum(weight cos(phase difference)), the log-likelihood of the shift when
    `weight` is `concentration(trust)`; its maximum is found to 1/64 pixel.

    Returns:
        the aligned spectra, and the fit over the sum of weights, (...), at most 1.
    """
    best, fit = _shift_to_fit(spectrum, phase, weight)
    if twins:
        # Inversion through pixel [0, 0]; the shift that follows puts it in its place.
        other, other_fit = _shift_to_fit(friedel_mate(spectrum), phase, weight)
        better = other_fit > fit
        best = torch.where(better[..., None, None], other, best)
        fit = torch.maximum(fit, other_fit)
    total = weight.sum((-2, -1)).clamp_min(_TINY)
    return best, fit / total


def _shift_to_fit(spectrum: Tensor, phase: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    m = spectrum.shape[-1]
    unit = torch.sgn(spectrum)
    cross = weight * phase * unit.conj()
    correlation = torch.fft.ifft2(cross, norm="forward").real
    place = correlation.flatten(-2).argmax(-1)
    y, x = (place // m).double(), (place % m).double()
    f = torch.fft.fftfreq(m, 1 / m, dtype=torch.float64, device=spectrum.device)
    # e^{2 pi i q r} summed on ever finer 9 x 9 grids about the peak.
    for step in (1 / 4, 1 / 16, 1 / 64):
        offsets = torch.arange(-4, 5, device=f.device) * step
        rows = _turn((y[..., None] + offsets)[..., None] * f, m).to(cross.dtype)
        columns = _turn((x[..., None] + offsets)[..., None] * f, m).to(cross.dtype)
        fine = (rows @ cross @ columns.transpose(-1, -2)).real.flatten(-2)
        value, j = fine.max(-1)
        y, x = y + offsets[j // 9], x + offsets[j % 9]
    shift = _turn(-(y[..., None, None] * f[:, None] + x[..., None, None] * f[None, :]), m)
    return spectrum * shift.to(spectrum.dtype), value


def _turn(cycles: Tensor, m: int) -> Tensor:
    return torch.polar(torch.ones_like(cycles), 2 * math.pi / m * cycles)


def agreement(phases: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean phase over answers and its length, the phase retrieval transfer function.

    Args:
        phases: (b, answers, m, m) spectra; only their phases count.
        weight: (b, answers), 0 to leave an answer out.

    Returns:
        unit phases (b, m, m), and the length of the mean unit phase (b, m, m), corrected for its
        expectation under random phases: 0 for unrelated answers, 1 for equal ones.
    """
    unit = torch.sgn(phases)
    if weight is None:
        weight = torch.ones(unit.shape[:2], dtype=unit.real.dtype, device=unit.device)
    share = weight / weight.sum(1, keepdim=True).clamp_min(_TINY)
    mean = (share[..., None, None] * unit).sum(1)
    chance = (share**2).sum(1)[:, None, None]
    # E|mean|² = chance + (1 - chance) t² where the answers scatter about a common phase.
    squared = ((mean.abs() ** 2 - chance) / (1 - chance).clamp_min(1e-6)).clamp(0, 1)
    alone = (chance > 1 - 1e-6).expand_as(squared)
    return torch.sgn(mean), torch.where(alone, 1.0, squared.sqrt())


def verdict(spectrum: Tensor, r: Tensor, amplitude: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One answer from the starts: phases, trust, and whether it is solved."""
    weight = torch.exp(-(r / r.min(1, keepdim=True).values.clamp_min(_TINY) - 1) / 0.1)
    phase, length = agreement(spectrum, weight)
    return phase, length, r.min(1).values < 0.03
