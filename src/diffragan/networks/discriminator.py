"""Patch discriminator: judges patches of (pattern, image, candidate), each by itself.

After pix2pix (Isola et al., CVPR 2017). The authors of DiffraGAN stack five stride-2 convolutions
and two of stride 1, whose outputs each see 286 px; the paper speaks of patches of 16 px. Here the
patch is chosen: k stride-2 layers before the two of stride 1 see 16, 34, 70, 142 and 286 px for
k = 1 to 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffragan.networks.generator import ItemNorm, scaled_channels

KERNEL_PX = 4
CHANNELS = (128, 256, 512, 1024, 2048, 2048)
STRIDED_LAYERS = {16: 1, 34: 2, 70: 3, 142: 4, 286: 5}
CANDIDATE_AND_INPUTS = 3


@dataclass(frozen=True)
class Layer:
    """One square convolution: kernel and stride in pixels."""

    kernel_px: int
    stride_px: int


def layer_stack(patch_px: int) -> tuple[Layer, ...]:
    """The convolutions whose receptive field is `patch_px` (16, 34, 70, 142 or 286)."""
    strided = [Layer(KERNEL_PX, 2)] * STRIDED_LAYERS[patch_px]
    return (*strided, Layer(KERNEL_PX, 1), Layer(KERNEL_PX, 1))


def receptive_field(layers: Sequence[Layer]) -> int:
    """Side in input pixels of what one output of the stack sees.

    From the last layer back: f = (f - 1) stride + kernel, starting from one pixel.
    """
    field = 1
    for layer in reversed(layers):
        field = (field - 1) * layer.stride_px + layer.kernel_px
    return field


class PatchDiscriminator(nn.Module):
    """Logit per patch, positive for "real".

    Args:
        width: factor on every channel count, in (0, 1].
        patch_px: receptive field of one output, in pixels.
    """

    def __init__(self, width: float = 1.0, patch_px: int = 286) -> None:
        super().__init__()
        self.layers = layer_stack(patch_px)
        hidden = [scaled_channels(c, width) for c in CHANNELS[: len(self.layers) - 1]]
        channels = [CANDIDATE_AND_INPUTS, *hidden, 1]
        strided = STRIDED_LAYERS[patch_px]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(
                channels[i], channels[i + 1], KERNEL_PX, layer.stride_px, padding=int(i < strided)
            )
            for i, layer in enumerate(self.layers)
        )
        self.norms = nn.ModuleList(ItemNorm(c) for c in hidden[1:])

    def forward(self, inputs: Tensor, candidate: Tensor) -> Tensor:
        """Logits (b, 1, p, p) for inputs (b, 2, n, n) and candidates (b, 1, n, n)."""
        x = torch.cat([inputs, candidate], dim=1)
        last = len(self.layers) - 1
        for i, convolution in enumerate(self.convolutions):
            if self.layers[i].stride_px == 1:
                # 'Same' padding of an even kernel: the odd pixel goes to the far side.
                x = F.pad(x, (1, 2, 1, 2))
            x = convolution(x)
            if 0 < i < last:
                x = self.norms[i - 1](x)
            if i < last:
                x = F.leaky_relu(x, 0.2)
        return x
