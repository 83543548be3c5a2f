"""The conditional GAN's objectives (Isola et al., CVPR 2017, eqs. 1 to 4): pure functions.

Logits, not probabilities: the discriminator ends without the sigmoid, which the loss contains.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diffragan.settings import TrainSettings


def adversarial_loss(logits: Tensor, real: bool) -> Tensor:
    """Mean binary cross entropy of patch logits against "all real" or "all made"; scalar."""
    logits = logits.float()
    goal = torch.ones_like(logits) if real else torch.zeros_like(logits)
    return F.binary_cross_entropy_with_logits(logits, goal)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, train: TrainSettings) -> Tensor:
    """Factor x (BCE on true projections + BCE on the generator's); the factor is 0.5.

    It slows the discriminator against the generator where the optimizer keeps the scale of
    gradients; Adam does not, so there it changes the logged number only.
    """
    both = adversarial_loss(real_logits, True) + adversarial_loss(fake_logits, False)
    return train.discriminator_loss_factor * both


def generator_loss(
    fake_logits: Tensor | None, output: Tensor, target: Tensor, train: TrainSettings
) -> tuple[Tensor, Tensor]:
    """Loss of the generator and its L1 term alone, both scalar.

    `adversarial_weight` x BCE of "real" on the generator's patches, where something judges them, +
    `l1_weight` x mean absolute error. Output and target are (b, 1, n, n) in [-1, 1].
    """
    l1 = F.l1_loss(output.float(), target)
    loss = train.l1_weight * l1
    if fake_logits is not None:
        loss = train.adversarial_weight * adversarial_loss(fake_logits, True) + loss
    return loss, l1
