"""A generator that knows the physics: convolutions on maps, measured amplitudes between them.

A pattern has no features that lie where those of the molecule lie; a map has. So every stage sees
maps: the object as far as it is known, the same with the measured amplitudes put in, and what the
image alone tells. It draws a better one. A few stages follow each other, each with weights of its
own, as the steps of a projection algorithm whose constraint in space is learned (after Gregor &
LeCun, ICML 2010, and Adler & Öktem, IEEE Trans. Med. Imaging 37, 1322, 2018), and hands on what it
saw. An object drawn with least squared error shrinks where its phases are unsure: |drawn| over
measured is the trust of a frequency.

Maps are (b, n, n), periodic, at pixels of about half the finest resolution, of any n. Spectra have
their zero frequency first, norm "forward".
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffragan.fourier.correlation import ring_index

CONDITIONS = 2
_IN_MAPS = 4


@dataclass(frozen=True)
class Evidence:
    """What was measured of b objects, as the network takes it.

    amplitude: (b, n, n) measured amplitudes of the real object, 0 where there is none.
    proposal: (b, n, n) complex, the object as the image tells it: amplitude x trust x phase.
    counts: (b,) electrons that the pattern counted in a pixel of the band on average; infinite
        where it was not counted.
    noise: (b, n, n) maps of unit variance, or 0; another draw gives another sample.
    """

    amplitude: Tensor
    proposal: Tensor
    counts: Tensor
    noise: Tensor


class MapsGenerator(nn.Module):
    """Stages from evidence to an object's spectrum.

    Args:
        channels: of the maps at full size; twice, four and four times as many at each half.
        stages: steps between which the measured amplitudes are put in.
        pattern: how a stage sees them: `imposed` on its map, as a `picture` of their own, as the
            published network does, or `blank`, not at all.
    """

    def __init__(self, channels: int = 32, stages: int = 4, pattern: str = "imposed") -> None:
        super().__init__()
        self.pattern = pattern
        self.stages = nn.ModuleList(
            UNet(_IN_MAPS + CONDITIONS + (channels if k else 0), channels) for k in range(stages)
        )

    def forward(self, evidence: Evidence) -> list[Tensor]:
        """Spectra (b, n, n) complex64 of the object, one a stage, in the unit of `amplitude`.

        Real objects: each spectrum is its own mate's conjugate.
        """
        weight = ring_weight(evidence.amplitude)
        amplitude = evidence.amplitude * weight
        proposal = to_map(evidence.proposal * weight)
        counts = (evidence.counts.clamp(1e-3, 1e5).log10() / 5)[:, None, None]
        conditions = [counts.expand_as(proposal), evidence.noise]
        drawn, out = proposal, []
        seen: tuple[Tensor, ...] = ()
        for stage in self.stages:
            beside = self._pattern_beside(drawn, amplitude)
            maps = torch.stack([drawn, beside, beside - drawn, proposal, *conditions], 1)
            step, features = stage(torch.cat([maps, *seen], 1))
            drawn, seen = drawn + step[:, 0].float(), (features,)
            out.append(to_spectrum(drawn) / weight * (amplitude > 0))
        return out

    def _pattern_beside(self, drawn: Tensor, amplitude: Tensor) -> Tensor:
        if self.pattern == "imposed":
            return to_map(with_amplitude(to_spectrum(drawn), amplitude))
        if self.pattern == "picture":
            picture: Tensor = torch.fft.fftshift(amplitude, dim=(-2, -1))
            return picture / picture.std((-2, -1), keepdim=True).clamp_min(1e-12)
        return drawn


def ring_weight(amplitude: Tensor) -> Tensor:
    """(b, n, n) factors that bring the rings of amplitudes half way to one power, and a map of
    them to unit variance: the weak rim would not be seen beside the centre."""
    n = amplitude.shape[-1]
    rings = torch.fft.ifftshift(ring_index(n, device=amplitude.device)).flatten()
    count = int(rings.max()) + 1
    power = amplitude.new_zeros(len(amplitude), count)
    power.index_add_(1, rings, amplitude.flatten(1) ** 2)
    pixels = torch.bincount(rings, minlength=count)
    rms = (power / pixels).sqrt().clamp_min(1e-12)
    weighted = (rms * pixels).sum(1, keepdim=True)  # power of amplitude / sqrt(rms)
    scale = 1 / (rms * weighted.clamp_min(1e-12)).sqrt()
    return scale[:, rings].reshape_as(amplitude)


def to_map(spectrum: Tensor) -> Tensor:
    """Real maps (b, n, n) of spectra of real objects."""
    result: Tensor = torch.fft.ifft2(spectrum.to(torch.complex64), norm="forward").real
    return result


def to_spectrum(maps: Tensor) -> Tensor:
    """Spectra (b, n, n) of maps."""
    result: Tensor = torch.fft.fft2(maps, norm="forward")
    return result


def with_amplitude(spectrum: Tensor, amplitude: Tensor) -> Tensor:
    """The phases of one with the amplitudes of the other."""
    size = (spectrum.real**2 + spectrum.imag**2 + 1e-12).sqrt()
    return spectrum / size * amplitude


class UNet(nn.Module):
    """Maps to one map of the same size: four sizes, each half of the one before."""

    def __init__(self, maps: int, channels: int) -> None:
        super().__init__()
        c = (channels, 2 * channels, 4 * channels, 4 * channels)
        self.first = nn.Conv2d(maps, c[0], 3, padding=1)
        self.down = nn.ModuleList(Block(x, x) for x in c)
        self.halve = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(c))
        self.up = nn.ModuleList(Block(2 * x, x) for x in c[:-1])
        self.widen = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(c))
        self.last = nn.Conv2d(c[0], 1, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """(b, 1, n, n), and the (b, channels, n, n) that it was made of, from (b, maps, n, n), n at
        least 8."""
        x = self.first(maps.contiguous(memory_format=torch.channels_last))
        kept = []
        for block, halve in zip(self.down, self.halve, strict=False):
            x = block(x)
            kept.append(x)
            x = halve(x)
        x = self.down[-1](x)
        for block, widen in zip(reversed(self.up), reversed(self.widen), strict=True):
            beside = kept.pop()
            x = F.interpolate(widen(x), size=beside.shape[-2:], mode="nearest")
            x = block(torch.cat([x, beside], 1))
        return self.last(x), x


class Block(nn.Module):
    """Two convolutions beside a straight way."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, before)
        self.one = nn.Conv2d(before, after, 3, padding=1)
        self.two = nn.Conv2d(after, after, 3, padding=1)
        self.straight = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(b, after, n, n) from (b, before, n, n)."""
        y = F.silu(self.one(self.norm(x)))
        result: Tensor = self.straight(x) + self.two(y)
        return result
