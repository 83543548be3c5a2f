"""Starts around a proposal, and results laid back on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffragan.phasing.modulus import ObjectModel, friedel_mate

_TINY = 1e-20


def random_starts(
    amplitude: Tensor,
    phase: Tensor,
    trust: Tensor,
    seeds: Sequence[int],
    starts: int,
    model: ObjectModel,
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
    objects: Tensor = torch.fft.ifft2(torch.stack(out), norm="forward")
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


def placement_variance_A2(trust: Tensor, box_A: float) -> Tensor:
    """(b,) variance along each axis, Å², of a shift found by `align` against phases of this trust.

    The inverse of the Fisher information sum(kappa t (2 pi q_x)²); mates of a real image measure
    the same thing and count once. Zero where there is no proposal.
    """
    m = trust.shape[-1]
    f = torch.fft.fftfreq(m, box_A / m, dtype=torch.float64, device=trust.device)
    q2 = f[:, None] ** 2 + f[None, :] ** 2
    each = (concentration(trust.double()) * trust * (2 * math.pi) ** 2 * q2 / 2).sum((-2, -1)) / 2
    return torch.where(each > 0, 1 / each.clamp_min(_TINY), 0.0).to(trust.dtype)


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
