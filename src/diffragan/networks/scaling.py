"""From measurements to network input and from network output to a projection.

Two kinds, chosen by `NetworkSettings.preparation`:

- `published`: every array by itself linearly to 16 bit, Lanczos to 256 px, linearly to [-1, 1],
  as the authors of DiffraGAN (Matinyan et al., Front. Mol. Biosci. 11:1386963, 2024) do. Of the
  pattern that leaves a bright centre on black; `pattern_as` chooses what is scaled instead.
- `amplitude`: floats that keep their physical meaning. Pattern: amplitude a = sqrt(I) over its
  root mean square in the valid pixels, then 2 a / (1 + a) - 1, so the typical amplitude is 0, a
  masked pixel -1, and the strong centre does not drown the weak rim. Image: z = (I - 1) / sd, then
  tanh(z / 3). Target: (projection - 1) / scale with one scale for all.

All functions are pure, batched and differentiable where the rounding to 16 bit allows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from diffragan.fourier.correlation import ring_index
from diffragan.fourier.grids import resample
from diffragan.settings import NetworkSettings

SIZE_PX = 256  # side of what the networks take and give
LEVELS_16_BIT = 65535.0
PUBLISHED_LOBES = 4  # OpenCV's INTER_LANCZOS4, which the authors use
AMPLITUDE_LOBES = 3
LARGEST_IN_RING = 3.0  # amplitudes in parts of their ring's; one in 8,000 exceeds it by chance


@dataclass(frozen=True)
class TargetScale:
    """How projections of a training set (mean 1) relate to the network's [-1, 1].

    `minimum` and `maximum` are the means over projections of their extremes; `scale` is the mean
    of the largest distance from 1.
    """

    minimum: float
    maximum: float
    scale: float


def measure_target_scale(projections: Iterable[Tensor]) -> TargetScale:
    """The scale of some projections, each tensor (b, n, n) with mean 1.

    Raises:
        ValueError: no projection given.
    """
    low: list[Tensor] = []
    high: list[Tensor] = []
    for batch in projections:
        low.append(batch.amin((-2, -1)).double().cpu())
        high.append(batch.amax((-2, -1)).double().cpu())
    if not low:
        raise ValueError("measure_target_scale needs at least one projection")
    minima, maxima = torch.cat(low), torch.cat(high)
    furthest = torch.maximum(1 - minima, maxima - 1)
    return TargetScale(
        minimum=float(minima.mean()),
        maximum=float(maxima.mean()),
        scale=max(float(furthest.mean()), 1e-6),
    )


def prepare_inputs(
    pattern: Tensor, pattern_mask: Tensor, image: Tensor, network: NetworkSettings
) -> Tensor:
    """Network input from measurements.

    Args:
        pattern: intensities (b, m, m), zero frequency at [m // 2, m // 2], masked pixels 0.
        pattern_mask: (m, m) or (b, m, m), true where the pattern is valid.
        image: intensities (b, k, k), mean 1.
        network: says which preparation.

    Returns:
        (b, 2, SIZE_PX, SIZE_PX) float32 in [-1, 1]: pattern, image.
    """
    n_px = SIZE_PX
    if network.preparation == "published":
        shown = shown_pattern(pattern, pattern_mask, network.pattern_as)
        prepared = [_published(shown, n_px), _published(image, n_px)]
    else:
        prepared = [
            _amplitude_pattern(pattern, pattern_mask, n_px),
            _amplitude_image(image, n_px),
        ]
    return torch.stack(prepared, dim=1)


def prepare_target(projection: Tensor, network: NetworkSettings, scale: TargetScale) -> Tensor:
    """Training target (b, 1, SIZE_PX, SIZE_PX) from projections (b, n, n) of mean 1.

    Projections are band limited and periodic, so other pixel counts are reached in Fourier space.
    """
    projection = resample(projection, SIZE_PX)
    if network.preparation == "published":
        return to_unit_range(projection)[:, None]
    return ((projection - 1) / scale.scale)[:, None]


def projection_from_output(
    output: Tensor, network: NetworkSettings, scale: TargetScale, n_px: int
) -> Tensor:
    """Projections (b, n_px, n_px), mean near 1, from network output (b, 1, SIZE_PX, SIZE_PX).

    The `published` target is scaled image by image, so its physical scale is lost; the mean
    minimum and maximum of the training set stand in for it.
    """
    output = output[:, 0].float()
    if network.preparation == "published":
        physical = (output + 1) / 2 * (scale.maximum - scale.minimum) + scale.minimum
    else:
        physical = 1 + scale.scale * output
    return resample(physical, n_px)


def shown_pattern(pattern: Tensor, mask: Tensor, pattern_as: str) -> Tensor:
    """What of patterns (b, m, m) is scaled to the network's range; masked pixels 0.

    `log` is log(1 + I / median of the valid pixels); `rings` the amplitude over the root mean
    square of its ring, at most 3; `blank` zeros.
    """
    if pattern_as == "linear":
        return pattern
    if pattern_as == "blank":
        return torch.zeros_like(pattern)
    valid = mask.expand_as(pattern)
    intensity = pattern.clamp_min(0) * valid
    if pattern_as == "root":
        return intensity.sqrt()
    tiny = torch.finfo(pattern.dtype).tiny
    if pattern_as == "log":
        middle = torch.stack([one[k].median() for one, k in zip(intensity, valid, strict=True)])
        return torch.log1p(intensity / middle.clamp_min(tiny)[:, None, None])
    rings = ring_index(pattern.shape[-1], device=pattern.device).flatten()
    count = int(rings.max()) + 1

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(len(values), count).index_add_(1, rings, values.flatten(1))

    mean = total(intensity) / total(valid.to(pattern.dtype)).clamp_min(1)
    by_pixel = mean[:, rings].reshape_as(pattern)
    return (intensity / by_pixel.clamp_min(tiny)).sqrt().clamp(max=LARGEST_IN_RING)


def to_unit_range(array: Tensor) -> Tensor:
    """Each (..., y, x) array linearly from its own minimum and maximum to [-1, 1]."""
    low = array.amin((-2, -1), keepdim=True)
    span = array.amax((-2, -1), keepdim=True) - low
    return 2 * (array - low) / span.clamp_min(torch.finfo(array.dtype).tiny) - 1


def to_16_bit(array: Tensor) -> Tensor:
    """Each (..., y, x) array linearly to the whole numbers 0 to 65535, kept as floats."""
    return ((to_unit_range(array) + 1) / 2 * LEVELS_16_BIT).round()


def lanczos_resize(array: Tensor, n_px: int, lobes: int = 3) -> Tensor:
    """Lanczos interpolation of (..., n, n) to (..., n_px, n_px), the same field of view."""
    n = array.shape[-1]
    if n == n_px:
        return array
    matrix = lanczos_matrix(n_px, n, lobes).to(array)
    return matrix @ array @ matrix.T


@lru_cache(maxsize=16)
def lanczos_matrix(n_out: int, n_in: int, lobes: int = 3) -> Tensor:
    """Weights (n_out, n_in), float64, of one-dimensional Lanczos interpolation.

    Pixels are areas, so output pixel i lies at (i + 1/2) n_in / n_out - 1/2. Rows add up to one,
    also at the edges, so constants stay. Downwards the kernel widens to suppress aliases, as in
    Pillow (Duchon, J. Appl. Meteorol. 18:1016, 1979).
    """
    ratio = n_in / n_out
    stretch = max(ratio, 1.0)
    centre = (torch.arange(n_out, dtype=torch.float64) + 0.5) * ratio - 0.5
    x = (centre[:, None] - torch.arange(n_in, dtype=torch.float64)[None, :]) / stretch
    weight = torch.sinc(x) * torch.sinc(x / lobes) * (x.abs() < lobes)
    return weight / weight.sum(dim=1, keepdim=True)


def _published(array: Tensor, n_px: int) -> Tensor:
    return to_unit_range(lanczos_resize(to_16_bit(array), n_px, PUBLISHED_LOBES))


def _amplitude_pattern(pattern: Tensor, mask: Tensor, n_px: int) -> Tensor:
    valid = mask.to(pattern.dtype).expand_as(pattern)
    mean_intensity = (pattern * valid).sum((-2, -1), keepdim=True) / valid.sum(
        (-2, -1), keepdim=True
    ).clamp_min(1)
    tiny = torch.finfo(pattern.dtype).tiny
    relative = pattern.clamp_min(0) * valid / mean_intensity.clamp_min(tiny)
    amplitude = relative.clamp_min(1e-12).sqrt() * valid
    compressed = 2 * amplitude / (1 + amplitude) - 1
    return lanczos_resize(compressed, n_px, AMPLITUDE_LOBES).clamp(-1, 1)


def _amplitude_image(image: Tensor, n_px: int) -> Tensor:
    contrast = image - 1
    sd = contrast.std((-2, -1), keepdim=True, correction=0)
    compressed = torch.tanh(contrast / sd.clamp_min(1e-6) / 3)
    return lanczos_resize(compressed, n_px, AMPLITUDE_LOBES).clamp(-1, 1)
