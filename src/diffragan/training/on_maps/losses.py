"""What a generator of maps is trained on: errors by Fourier ring, on the map, and of its spread."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from diffragan.fourier.correlation import ring_index
from diffragan.networks.maps_generator import ring_weight, to_map
from diffragan.settings import TrainSettings

_EARLIER = 0.3  # weight of the stages before the last


def maps_loss(
    draws: Sequence[Sequence[Tensor]], truth: Tensor, amplitude: Tensor, train: TrainSettings
) -> tuple[Tensor, Tensor]:
    """Loss of the spectra (b, n, n) that each draw's stages gave, and the L1 term of the last stage
    alone, both scalar.

    `shell_weight` x the squared error over the power of each ring, averaged over rings (0 where all
    is right, 1 where nothing is drawn) + `l1_weight` x mean absolute error of the maps, rings
    brought half way to one power. Of two draws or more the root of the ring's error less half the
    root of what two draws differ by: the energy score, least where draws are spread as the truth is
    (Gneiting & Raftery, J. Am. Stat. Assoc. 102, 359, 2007, eq. 22).
    """
    weight = ring_weight(amplitude)
    total = truth.real.new_zeros(())
    stages = len(draws[0])
    for k in range(stages):
        some = [draw[k] for draw in draws]
        l1 = torch.stack([to_map((x - truth) * weight).abs().mean() for x in some]).mean()
        share = 1.0 if k == stages - 1 else _EARLIER
        total = total + share * (train.shell_weight * _shells(some, truth) + train.l1_weight * l1)
    return total, l1


def _shells(draws: Sequence[Tensor], truth: Tensor) -> Tensor:
    power = by_ring(truth.abs() ** 2).clamp_min(1e-20)
    errors = [by_ring((x - truth).abs() ** 2) / power for x in draws]
    if len(draws) == 1:
        return errors[0].mean()
    score = torch.stack([_root(e) for e in errors]).mean(0)
    pairs = [(a, b) for i, a in enumerate(draws) for b in draws[i + 1 :]]
    apart = torch.stack([_root(by_ring((a - b).abs() ** 2) / power) for a, b in pairs]).mean(0)
    return (score - 0.5 * apart).mean()


def _root(x: Tensor) -> Tensor:
    return (x + 1e-6).sqrt()


def by_ring(values: Tensor) -> Tensor:
    """Sums (b, rings) of (b, n, n), zero frequency first, over rings 1 to n // 2 - 1."""
    n = values.shape[-1]
    rings, count = _rings(n, values.device)
    out = values.new_zeros(len(values), count)
    return out.index_add(1, rings, values.flatten(1))[:, 1 : n // 2]


@lru_cache(maxsize=16)
def _rings(n: int, device: torch.device) -> tuple[Tensor, int]:
    rings = torch.fft.ifftshift(ring_index(n, device=device)).flatten()
    return rings, int(rings.max()) + 1


def ring_correlation(spectrum: Tensor, truth: Tensor) -> Tensor:
    """FRC (b, rings) of spectra (b, n, n), zero frequency first, rings 1 to n // 2 - 1."""
    cross = by_ring((spectrum * truth.conj()).real)
    powers = by_ring(spectrum.abs() ** 2) * by_ring(truth.abs() ** 2)
    return cross / powers.clamp_min(1e-30).sqrt()
