"""Steps of Adam (Kingma & Ba, ICLR 2015) for a few tensors, each at its own rate.

By the function beneath `torch.optim.Adam`: the class has torch's compiler imported, which takes a
process two seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """Moves tensors against their gradients, in place.

    means, squares: running averages of the gradients and of their squares, one for each tensor.
    steps: how many were made, a number for each tensor.
    """

    def __init__(self, moved: Sequence[Tensor], betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.moved, self.betas = list(moved), betas
        self.means = [torch.zeros_like(x, requires_grad=False) for x in moved]
        self.squares = [torch.zeros_like(x, requires_grad=False) for x in moved]
        self.steps = [torch.zeros(()) for _ in moved]

    def step(self, rates: Sequence[float]) -> None:
        """One step by the tensors' gradients, which are forgotten."""
        with torch.no_grad():
            each = zip(self.moved, self.means, self.squares, self.steps, rates, strict=True)
            for x, mean, square, steps, rate in each:
                assert x.grad is not None
                adam(
                    [x], [x.grad], [mean], [square], [], [steps],
                    foreach=False, amsgrad=False, beta1=self.betas[0], beta2=self.betas[1],
                    lr=rate, weight_decay=0.0, eps=1e-8, maximize=False,
                )  # fmt: skip
                x.grad = None
