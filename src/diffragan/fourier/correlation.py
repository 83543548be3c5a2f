"""Agreement in Fourier space: pure functions on tensors, any leading batch dimensions.

Images are [..., y, x] on a square grid of side L; ring k holds the Fourier pixels whose distance
from the origin rounds to k / L. Arrays in Fourier space, masks among them, have zero frequency at
pixel n // 2 of each axis, as patterns do. Names with `_A` are in Å, q is in 1/Å.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffragan.errors import DiffraganError

BAND_EDGES_A = (5.02, 1.254)


# Of the FSC between independent halves, and with the truth.
HALF_SET_THRESHOLD, TRUTH_THRESHOLD = 0.143, 0.5


SOLVED_BAND_A = (2.2, 1.8)


COARSEST_A = 10.0


# Rings below this part of the whole power hold only the rounding of single precision.
_NO_POWER = 1e-13


class CorrelationSums(NamedTuple):
    """Sums over pairs of Fourier transforms, per Fourier pixel; float64, shape (n, n)."""

    cross: Tensor
    power_a: Tensor
    power_b: Tensor


def ring_index(n_px: int, dims: int = 2, device: torch.device | None = None) -> Tensor:
    """Ring (shell, for dims=3) of every Fourier pixel: distance from pixel n // 2, rounded.

    Shape (n_px,) * dims, int64. Ring k lies at q = k / L. The largest useful ring is n_px // 2;
    pixels in the corners have larger numbers and belong to no ring.
    """
    axis = torch.arange(n_px, device=device) - n_px // 2
    squares = torch.zeros((1,) * dims, dtype=torch.int64, device=device)
    for d in range(dims):
        squares = squares + (axis**2).reshape([-1 if i == d else 1 for i in range(dims)])
    return torch.floor(squares.double().sqrt() + 0.5).long()


def ring_q(n_px: int, box_A: float) -> Tensor:
    """Spatial frequencies q = k / L (1/Å) of the rings 0 to n_px // 2. Shape (rings,), float64."""
    return torch.arange(n_px // 2 + 1, dtype=torch.float64) / box_A


def ring_counts(n_px: int, mask: Tensor | None = None, dims: int = 2) -> Tensor:
    """Number of (unmasked) Fourier pixels in each ring. Shape (..., rings), float32."""
    ones = torch.ones((n_px,) * dims, device=None if mask is None else mask.device)
    return _ring_sums(ones if mask is None else ones * mask, dims)


def frc(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Fourier ring correlation of two images (van Heel 1987; Saxton & Baumeister 1982).

    Args:
        a, b: real or complex images in real space, (..., n, n).
        mask: Fourier pixels that count, bool (..., n, n), zero frequency at n // 2; None: all.

    Returns:
        (..., n // 2 + 1): real part of the complex correlation in rings 0 to Nyquist. A ring
        where either image has no power, or that the mask empties, is 0. Differentiable.

    Raises:
        DiffraganError: shapes differ or are not square; the message has both.
    """
    same_shape(a, b)
    return frc_fourier(centred_fourier(a, 2), centred_fourier(b, 2), mask)


def frc_fourier(fa: Tensor, fb: Tensor, mask: Tensor | None = None) -> Tensor:
    """`frc` of two Fourier transforms (..., n, n) whose zero frequency is at n // 2."""
    same_shape(fa, fb)
    return _correlate(fa, fb, mask, 2)


def fsc(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Fourier shell correlation of two volumes (..., n, n, n); otherwise as `frc`."""
    same_shape(a, b, 3)
    return _correlate(centred_fourier(a, 3), centred_fourier(b, 3), mask, 3)


def frc_2d_accumulate(
    fa: Tensor, fb: Tensor, sums: CorrelationSums | None = None
) -> CorrelationSums:
    """Adds pairs of Fourier transforms (..., n, n) to the sums that `frc_2d` divides.

    Raises:
        DiffraganError: shapes differ, from each other or from the sums'.
    """
    same_shape(fa, fb)
    fa, fb = (f.reshape(-1, *f.shape[-2:]) for f in (fa, fb))
    cross = (fa * fb.conj()).real.double().sum(0)
    new = CorrelationSums(cross, _power(fa).double().sum(0), _power(fb).double().sum(0))
    return new if sums is None else joined_sums(sums, new)


def joined_sums(sums: CorrelationSums, more: CorrelationSums) -> CorrelationSums:
    """The sums over the pairs of both.

    Raises:
        DiffraganError: their shapes differ.
    """
    same_shape(sums.cross, more.cross)
    return CorrelationSums(*(old + new for old, new in zip(sums, more, strict=True)))


def frc_2d(sums: CorrelationSums) -> Tensor:
    """Correlation per Fourier pixel over many pairs: the 2D FRC of Matinyan et al. (2024).

    Re sum(F1 conj F2) / sqrt(sum |F1|² sum |F2|²), (n, n), zero frequency at n // 2; 0 where
    there is no power. Its expectation for unrelated pairs is 0 ± 1 / sqrt(2 pairs).
    """
    return _ratio(sums.cross, sums.power_a, sums.power_b, sums.power_a.sum(), sums.power_b.sum())


def patch_frc(a: Tensor, b: Tensor, patch_px: int) -> Tensor:
    """FRC of patches of two images (..., n, n): where they agree, and not only how finely.

    Patches are squares that overlap by half, less their mean, under a Hann window; the window joins
    neighbouring rings, so a ring of a patch is told by fewer numbers than it has pixels.

    Returns:
        (..., rows, columns, patch_px // 2 + 1); ring k lies at k over the side of a patch.

    Raises:
        DiffraganError: shapes differ or are not square, or a patch is larger than the images.
    """
    same_shape(a, b)
    if patch_px > a.shape[-1]:
        raise DiffraganError(
            f"A patch of {patch_px} pixels is larger than images of {a.shape[-1]}."
        )
    window = torch.hann_window(patch_px + 2, periodic=False, dtype=a.dtype, device=a.device)[1:-1]
    window = window[:, None] * window

    def cut(x: Tensor) -> Tensor:
        step = patch_px // 2
        patches = x.unfold(-2, patch_px, step).unfold(-2, patch_px, step)
        mean = (patches * window).sum((-2, -1), keepdim=True) / window.sum()
        return (patches - mean) * window

    return frc(cut(a), cut(b))


def half_bit_curve(n_pixels: Tensor) -> Tensor:
    """Half-bit threshold for rings of `n_pixels` independent pixels (van Heel & Schatz 2005)."""
    root = n_pixels.double().clamp(min=1).sqrt()
    return (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)


def one_bit_curve(n_pixels: Tensor) -> Tensor:
    """One-bit threshold for rings of `n_pixels` independent pixels (van Heel & Schatz 2005)."""
    root = n_pixels.double().clamp(min=1).sqrt()
    return (0.5 + 2.4142 / root) / (1.5 + 1.4142 / root)


def smooth_curve(curve: Tensor, q: Tensor, fraction: float = 0.05) -> Tensor:
    """Mean of `curve` (..., rings) over the rings within ± `fraction` of each ring's q."""
    near = (q[None, :] - q[:, None]).abs() <= fraction * q[:, None] + 1e-12
    weights = near.to(curve.dtype) / near.sum(1, keepdim=True).to(curve.dtype)
    return curve @ weights.to(curve.device).T


def resolution_at(frc_mean: Tensor, q: Tensor, threshold: float = 0.5) -> float:
    """Resolution in Å where the mean curve first falls below `threshold`, from 10 Å outward.

    The curve is smoothed over ± 5 % in q; between rings the crossing is interpolated linearly.

    Args:
        frc_mean: (rings,), the measured rings only.
        q: (rings,), increasing, 1/Å.

    Returns:
        10 if the curve starts below, the finest measured resolution if it never falls below.

    Raises:
        DiffraganError: no ring lies at 10 Å or beyond, or the lengths differ.
    """
    _same_rings(frc_mean, q)
    x = q.double().cpu().numpy()
    start = 1 / COARSEST_A
    if not len(x) or x[-1] < start - 1e-9:
        raise DiffraganError(
            f"The FRC ends at {1 / x[-1] if len(x) else math.inf:.3g} Å; a resolution needs "
            f"rings beyond {COARSEST_A:g} Å."
        )
    y = smooth_curve(frc_mean.detach().double().cpu(), q.double().cpu()).numpy()
    outward = x > start + 1e-9
    xs = np.concatenate(([start], x[outward]))
    ys = np.concatenate(([np.interp(start, x, y)], y[outward]))
    below = np.flatnonzero(ys < threshold)
    if not len(below):
        return float(1 / xs[-1])
    k = int(below[0])
    if k == 0:
        return COARSEST_A
    part = (ys[k - 1] - threshold) / (ys[k - 1] - ys[k])
    return float(1 / (xs[k - 1] + part * (xs[k] - xs[k - 1])))


def band_rings(q: Tensor, edges_A: tuple[float, float] = BAND_EDGES_A) -> Mapping[str, Tensor]:
    """Which rings lie in the bands image, diffraction and extrapolated. Each (rings,), bool.

    Ring 0 is in none: it holds the mean of an image or the direct beam.
    """
    coarse, fine = 1 / edges_A[0], 1 / edges_A[1]
    return {
        "image": (q > 0) & (q < coarse),
        "diffraction": (q >= coarse) & (q <= fine),
        "extrapolated": q > fine,
    }


def band_means(
    curve: Tensor, q: Tensor, edges_A: tuple[float, float] = BAND_EDGES_A
) -> dict[str, Tensor | None]:
    """Mean of `curve` (..., rings) over the rings of each band: (...), or None without a ring."""
    _same_rings(curve, q)
    rings = band_rings(q, edges_A)
    return {
        name: curve[..., use.to(curve.device)].mean(-1) if bool(use.any()) else None
        for name, use in rings.items()
    }


def solved(curve: Tensor, q: Tensor) -> Tensor:
    """Whether the FRC (..., rings) averages at least 0.5 from 2.2 to 1.8 Å. Shape (...), bool.

    A curve that ends before 1.8 Å is not solved.
    """
    _same_rings(curve, q)
    coarse, fine = (1 / d for d in SOLVED_BAND_A)
    use = (q >= coarse) & (q <= fine)
    if not bool(use.any()) or not bool((q >= fine - 1e-9).any()):
        return torch.zeros(curve.shape[:-1], dtype=torch.bool, device=curve.device)
    return curve[..., use.to(curve.device)].mean(-1) >= 0.5


def phase_error_deg(f_est: Tensor, f_true: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute phase error in degrees by ring, weighted with the true amplitude.

    90 is what random phases give. A pixel where the estimate is zero has no phase and counts as
    90; so does a ring without true amplitude or unmasked pixels.

    Args:
        f_est, f_true: Fourier transforms, (..., n, n), zero frequency at n // 2.
        mask: Fourier pixels that count, bool (..., n, n); None: all.

    Returns:
        (..., n // 2 + 1), from 0 to 180.
    """
    same_shape(f_est, f_true)
    weight = f_true.abs() if mask is None else f_true.abs() * mask
    # Phases are compared at unit amplitude, so that faint pixels don't underflow.
    error = torch.rad2deg(torch.angle(torch.sgn(f_est) * torch.sgn(f_true).conj()).abs())
    error = torch.where(f_est.abs() > 0, error, 90.0)
    total = _ring_sums(weight, 2)
    mean = _ring_sums(weight * error, 2) / torch.where(total > 0, total, torch.ones_like(total))
    return torch.where(total > 0, mean, 90.0)


def centred_fourier(x: Tensor, dims: int = 2) -> Tensor:
    """Fourier transform over the last `dims` axes with zero frequency at n // 2."""
    axes = tuple(range(-dims, 0))
    if not (x.is_complex() or x.dtype == torch.float64):
        x = x.float()
    centred: Tensor = torch.fft.fftshift(torch.fft.fftn(x, dim=axes), dim=axes)
    return centred


def _power(x: Tensor) -> Tensor:
    return x.real**2 + x.imag**2 if x.is_complex() else x**2


@lru_cache(maxsize=8)
def _flat_rings(n_px: int, dims: int, device: torch.device) -> Tensor:
    """`ring_index`, flat, the corners in one ring more; kept, as every batch asks for it."""
    # A tensor first made in inference mode could not serve a gradient later.
    with torch.inference_mode(False):
        return ring_index(n_px, dims, device).flatten().clamp(max=n_px // 2 + 1)


def _ring_sums(x: Tensor, dims: int) -> Tensor:
    """Sums of (..., n, n) or (..., n, n, n) over rings 0 to n // 2: (..., rings)."""
    n = x.shape[-1]
    rings = _flat_rings(n, dims, x.device)
    flat = x.reshape(*x.shape[:-dims], -1)
    sums = flat.new_zeros((*flat.shape[:-1], n // 2 + 2))
    return sums.scatter_add(-1, rings.expand(flat.shape), flat)[..., :-1]


def _ratio(cross: Tensor, pa: Tensor, pb: Tensor, total_a: Tensor, total_b: Tensor) -> Tensor:
    """cross / sqrt(pa pb), with value and gradient 0 where either power is only rounding."""
    some = (pa > _NO_POWER * total_a) & (pb > _NO_POWER * total_b)
    one = torch.ones_like(pa)
    root = torch.where(some, pa, one).sqrt() * torch.where(some, pb, one).sqrt()
    return torch.where(some, cross / root, torch.zeros_like(cross))


def _correlate(fa: Tensor, fb: Tensor, mask: Tensor | None, dims: int) -> Tensor:
    axes = tuple(range(-dims, 0))
    cross, pa, pb = (fa * fb.conj()).real, _power(fa), _power(fb)
    total_a, total_b = (p.sum(axes).unsqueeze(-1) for p in (pa, pb))
    if mask is not None:
        if mask.shape[-dims:] != fa.shape[-dims:]:
            raise DiffraganError(
                f"The mask has shape {tuple(mask.shape)}, the transforms {tuple(fa.shape)}."
            )
        cross, pa, pb = cross * mask, pa * mask, pb * mask
    cross, pa, pb = (_ring_sums(x, dims) for x in (cross, pa, pb))
    return _ratio(cross, pa, pb, total_a, total_b)


def same_shape(a: Tensor, b: Tensor, dims: int = 2) -> None:
    """Refuses arrays that differ in shape or whose last `dims` axes differ in length."""
    if a.shape != b.shape:
        raise DiffraganError(
            f"The two arrays must have one shape, not {tuple(a.shape)} and {tuple(b.shape)}."
        )
    if a.ndim < dims or len(set(a.shape[-dims:])) != 1:
        raise DiffraganError(
            f"The last {dims} axes must be equally long, not {tuple(a.shape)} and {tuple(b.shape)}."
        )


def _same_rings(curve: Tensor, q: Tensor) -> None:
    if q.ndim != 1 or curve.shape[-1:] != q.shape:
        raise DiffraganError(
            f"The curve has shape {tuple(curve.shape)}, its frequencies {tuple(q.shape)}."
        )
