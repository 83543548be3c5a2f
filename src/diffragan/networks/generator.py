"""The generator of DiffraGAN as its authors built it: a U-Net for 256 px after pix2pix.

Matinyan et al., Front. Mol. Biosci. 11:1386963 (2024); Isola et al., Image-to-Image Translation
with Conditional Adversarial Networks, CVPR 2017.

    encoder 1-8    4x4 stride-2 convolutions, 128 256 512 512 1024 1024 2048 2048 channels, batch
                   norm on all but the first, LeakyReLU 0.2; maps of 128, 64, ... 2, 1 px
    bottleneck     a ninth such convolution, 4096 channels, ReLU, no norm; 1 px stays 1 px
    decoder 1-7    4x4 stride-2 transposed convolutions with batch norm, dropout in the first
                   three; joined to encoder 8 - i before the ReLU, so encoder 8 has no skip
    output         a transposed convolution to one channel of 256 px, tanh

Two things differ from a plain transcription, neither of which changes a result:

- Kernel weights that only ever meet padding are left out. On the 1 px map one of the
  bottleneck's 16 weights acts; 4 of 16 act in encoder 8 (2 px to 1) and in decoder 1 (1 to 2).
  The rest have no effect on the output and a zero gradient. That is half of all parameters.
- Batch norm takes its statistics from each item alone, in training and at inference. With one
  item a batch that is the published layer. With several it keeps what one item gives independent
  of its neighbours, so a batch equals a loop of singles, on one device or many. (The authors'
  script trains with 16 items a batch and their common statistics.)

A consequence of the published design: encoder 8 has one value per channel, and a norm that is
active at inference subtracts that value from itself. For a single item its output is the learned
offset, whatever the input, so bottleneck and decoder 1 add constants (and dropout noise) only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffragan.networks.scaling import SIZE_PX

ENCODER_CHANNELS = (128, 256, 512, 512, 1024, 1024, 2048, 2048)
BOTTLENECK_CHANNELS = 4096
DROPOUT_LAYERS = 3
INPUTS = 2
NORM_EPSILON = 1e-3  # Keras' default, which the authors keep
INITIAL_SD = 0.02


def scaled_channels(channels: int, width: float) -> int:
    """A published channel count times the width factor, rounded, at least 1."""
    return max(1, round(channels * width))


class ItemNorm(nn.Module):
    """Batch norm whose statistics come from one item: mean and variance over its pixels.

    One pixel per channel has no variance. There torch's batch norm refuses, while the formula
    (and Keras) gives the offset; so does this layer.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised map of the same shape (b, c, y, x)."""
        if x.shape[-1] * x.shape[-2] == 1:
            return self.bias[None, :, None, None].expand_as(x)
        # One group per channel is the same formula.
        return F.group_norm(x, x.shape[1], self.weight, self.bias, NORM_EPSILON)


class PublishedGenerator(nn.Module):
    """(pattern, image) to projection, both prepared by `networks.scaling`.

    Args:
        width: factor on every channel count, in (0, 1].
        dropout: probability of dropping a value in the three deepest decoder layers.
    """

    def __init__(self, width: float = 1.0, dropout: float = 0.5) -> None:
        super().__init__()
        self.width = width
        self.dropout = dropout
        down = [INPUTS, *(scaled_channels(c, width) for c in ENCODER_CHANNELS)]
        # Decoder i ends with the channels of the encoder that it joins.
        up = [scaled_channels(BOTTLENECK_CHANNELS, width), *down[-2:0:-1]]
        self.encoders = nn.ModuleList(
            nn.Conv2d(down[i], down[i + 1], 4, stride=2, padding=1) for i in range(7)
        )
        self.encoders.append(nn.Conv2d(down[7], down[8], 2, stride=2))
        self.encoder_norms = nn.ModuleList(ItemNorm(c) for c in down[2:])
        self.bottleneck = nn.Conv2d(down[8], up[0], 1)
        self.decoders = nn.ModuleList([nn.ConvTranspose2d(up[0], up[1], 2, stride=2)])
        self.decoders.extend(
            nn.ConvTranspose2d(2 * up[i], up[i + 1], 4, stride=2, padding=1) for i in range(1, 7)
        )
        self.decoder_norms = nn.ModuleList(ItemNorm(c) for c in up[1:])
        self.output = nn.ConvTranspose2d(2 * up[7], 1, 4, stride=2, padding=1)

    def forward(self, inputs: Tensor, seeds: Sequence[int]) -> Tensor:
        """Output (b, 1, 256, 256) in [-1, 1] for inputs (b, 2, 256, 256).

        Dropout is always active. `seeds` has one integer per item and fixes which values that
        item loses, on any device and whatever else is in the batch.
        """
        if inputs.shape[1:] != (INPUTS, SIZE_PX, SIZE_PX) or len(seeds) != len(inputs):
            raise ValueError(
                f"the generator takes (b, {INPUTS}, {SIZE_PX}, {SIZE_PX}) and b seeds, "
                f"not {tuple(inputs.shape)} and {len(seeds)}"
            )
        x = F.leaky_relu(self.encoders[0](inputs), 0.2)
        skips = [x]
        for encoder, norm in zip(list(self.encoders)[1:], self.encoder_norms, strict=True):
            x = F.leaky_relu(norm(encoder(x)), 0.2)
            skips.append(x)
        skips.pop()  # encoder 8 has no skip
        x = F.relu(self.bottleneck(x))
        keep = self._dropout_factors(seeds, x)
        for i, (decoder, norm) in enumerate(zip(self.decoders, self.decoder_norms, strict=True)):
            x = norm(decoder(x))
            if i < len(keep):
                x = x * keep[i]
            x = F.relu(torch.cat([x, skips.pop()], dim=1))
        return torch.tanh(self.output(x))

    def _dropout_factors(self, seeds: Sequence[int], like: Tensor) -> list[Tensor]:
        """Per dropout layer (b, c, y, y): 0 where dropped, 1 / (1 - p) elsewhere."""
        if self.dropout == 0:
            return []
        channels = [scaled_channels(c, self.width) for c in ENCODER_CHANNELS[6::-1]]
        shapes = [(channels[i], 2 ** (i + 1), 2 ** (i + 1)) for i in range(DROPOUT_LAYERS)]
        sizes = [c * y * x for c, y, x in shapes]
        # Drawn on the CPU, whose generator gives the same numbers beside any accelerator.
        drawn = torch.stack(
            [
                torch.rand(sum(sizes), generator=torch.Generator().manual_seed(seed))
                for seed in seeds
            ]
        )
        factors = (drawn >= self.dropout).to(like) / (1 - self.dropout)
        return [
            part.reshape(-1, *shape)
            for part, shape in zip(torch.split(factors, sizes, dim=1), shapes, strict=True)
        ]


def initialise(module: nn.Module, seed: int) -> None:
    """Convolution weights from N(0, 0.02²), biases zero, norms one and zero, as in pix2pix."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            with torch.no_grad():
                values = torch.randn(part.weight.shape, generator=generator) * INITIAL_SD
                part.weight.copy_(values)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, ItemNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


def parameter_count(width: float = 1.0, *, every_kernel_weight: bool = False) -> int:
    """Number of parameters of the generator, by formula.

    `every_kernel_weight` counts as the authors' code stores them, 16 per kernel, also the ones
    that only meet padding: 532,203,521 at width 1, of which 255,379,457 act and are kept here.
    """
    c = [scaled_channels(channels, width) for channels in ENCODER_CHANNELS]
    b = scaled_channels(BOTTLENECK_CHANNELS, width)
    up = c[6::-1]
    kernels = [(i, o, 16) for i, o in zip([INPUTS, *c[:6]], c[:7], strict=True)]
    kernels += [(c[6], c[7], 4), (c[7], b, 1), (b, up[0], 4)]
    kernels += [(2 * i, o, 16) for i, o in zip(up, [*up[1:], 1], strict=True)]
    weights = sum(i * o * (16 if every_kernel_weight else k) for i, o, k in kernels)
    biases = sum(o for _, o, _ in kernels)
    norms = 2 * (sum(c[1:]) + sum(up))
    return weights + biases + norms


def propose(generator: nn.Module, inputs: Tensor, seeds: Sequence[int]) -> Tensor:
    """Outputs (b, 1, 256, 256) for inputs (b, 2, 256, 256), without gradients.

    Each item runs alone, so the same pair and seed give the same bits whatever the batch.
    """
    with torch.inference_mode():
        return torch.cat(
            [
                generator(item[None], [seed]).float()
                for item, seed in zip(inputs, seeds, strict=True)
            ]
        )
