"""A narrow published generator whose norms do something, and repeatable noise to feed it."""

from __future__ import annotations

import torch
from torch import Tensor

from diffragan.networks.generator import ItemNorm, PublishedGenerator, initialise

WIDTH = 1 / 64


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generator(width: float = WIDTH, dropout: float = 0.5) -> PublishedGenerator:
    made = PublishedGenerator(width, dropout)
    initialise(made, 1)
    for part in made.modules():  # norms that are not the identity show up in every comparison
        if isinstance(part, ItemNorm):
            part.weight.data = 1 + 0.3 * random(len(part.weight), seed=2)
            part.bias.data = 0.3 * random(len(part.bias), seed=3)
    return made
