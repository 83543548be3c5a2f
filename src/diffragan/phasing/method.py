"""The methods that `diffragan phase` knows, in one registry.

A method is a function from a batch of pairs to a `Phased`. To add one:

    @method("mine")
    def mine(batch: PairBatch, context: Context) -> Phased:
        wave = ...  # (b, m, m), from batch.amplitude, batch.image and batch.optics
        return phased_wave(wave, batch)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffragan.fourier.correlation import ring_index
from diffragan.fourier.grids import even_fast_length
from diffragan.microscope.imaging import projection_of_centre_wave
from diffragan.optics import Optics
from diffragan.settings import Settings

if TYPE_CHECKING:
    from diffragan.networks.weights import LoadedWeights


@dataclass(frozen=True)
class PairBatch:
    """b pairs as a method sees them.

    pattern: (b, m, m) float32, fraction of the beam, zero frequency at [m//2, m//2].
    pattern_mask: (m, m) bool.
    image: (b, m, m) float32, mean 1; image_dose_e_per_A2: (b,).
    seeds: one integer per item for whatever a method draws.
    """

    pattern: Tensor
    pattern_mask: Tensor
    image: Tensor
    image_dose_e_per_A2: Tensor
    optics: Optics
    settings: Settings
    seeds: Sequence[int]

    @property
    def amplitude(self) -> Tensor:
        """(b, m, m) measured amplitudes, zero frequency first, 0 where masked."""
        result: Tensor = torch.fft.ifftshift(self.pattern.clamp_min(0).sqrt(), dim=(-2, -1))
        return result

    @property
    def direct_beam(self) -> Tensor:
        """(b,) amplitude of the direct beam: what the measured band leaves of the beam."""
        return (1 - self.pattern.sum((-2, -1))).clamp_min(0).sqrt()

    @property
    def projection_px(self) -> int:
        """Side of the projections: fine enough that an intensity of the band does not alias."""
        return max(even_fast_length(256 / 70 * self.optics.box_A), 2 * self.pattern.shape[-1])


@dataclass(frozen=True)
class Phased:
    """What a method gives.

    projection: (b, y, x) float32, mean about 1. wave: (b, m, m) complex64 at the centre plane, or
    None. r_factor: (b,) or None. trust: (b, rings) mean trust by ring, or None.
    start_r: (b, starts) every start's R, or None. solved: (b,) bool, judged without a truth, or
    None.
    """

    projection: Tensor
    wave: Tensor | None = None
    r_factor: Tensor | None = None
    trust: Tensor | None = None
    start_r: Tensor | None = None
    solved: Tensor | None = None


@dataclass(frozen=True)
class Context:
    """What a run gives every batch: the weights, where the method has any."""

    weights: LoadedWeights | None = None


Method = Callable[[PairBatch, Context], Phased]


METHODS: dict[str, Method] = {}


NEEDS_WEIGHTS = {"published"}


def method(name: str) -> Callable[[Method], Method]:
    """Register a function as a phasing method."""

    def register(function: Method) -> Method:
        METHODS[name] = function
        return function

    return register


def phased_wave(
    wave: Tensor, batch: PairBatch, *, trust: Tensor | None = None, r_factor: Tensor | None = None
) -> Phased:
    """A `Phased` from a wave (b, m, m) at the centre plane; `trust` is (b, m, m), FFT order."""
    projection = projection_of_centre_wave(
        wave, batch.optics, batch.settings.projection, batch.projection_px
    )
    rings = None if trust is None else _ring_mean(trust, batch)
    return Phased(projection, wave.to(torch.complex64), r_factor, rings)


def _ring_mean(values: Tensor, batch: PairBatch) -> Tensor:
    """(b, rings) mean over the valid pixels of each ring; 0 where a ring has none."""
    m = values.shape[-1]
    mask = batch.pattern_mask.flatten()
    centred = torch.fft.fftshift(values, dim=(-2, -1)).flatten(-2)[:, mask]
    rings = ring_index(m, device=values.device).flatten()[mask]
    count = m // 2 + 1
    keep = rings < count
    sums = centred.new_zeros(len(values), count).index_add_(-1, rings[keep], centred[:, keep])
    result: Tensor = sums / torch.bincount(rings[keep], minlength=count).clamp_min(1)
    return result
