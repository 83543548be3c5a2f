"""Steps of Adam: those of torch's own class, without what that has imported."""

from __future__ import annotations

import subprocess
import sys

import torch

from diffragan.optimisation.adam import Adam


def test_steps_are_those_of_torch() -> None:
    """To the bit, two tensors with rates of their own that change on the way."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(size, generator=generator) for size in ((5, 3), (7,))]
    ours, theirs = ([x.clone().requires_grad_() for x in start] for _ in range(2))
    own = Adam(ours, (0.8, 0.99))
    reference = torch.optim.Adam([{"params": [x]} for x in theirs], betas=(0.8, 0.99))
    for step in range(5):
        rates = [0.1 / (step + 1), 0.02]
        for xs in (ours, theirs):
            torch.autograd.backward(torch.stack([((x - 1) ** 4).sum() for x in xs]).sum())
        own.step(rates)
        for group, rate in zip(reference.param_groups, rates, strict=True):
            group["lr"] = rate
        reference.step()
        reference.zero_grad()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert all(x.grad is None for x in ours)
    assert not torch.equal(ours[0], start[0])


def test_the_compiler_is_not_imported() -> None:
    """Which is what the class is for."""
    code = (
        "import sys, torch\n"
        "from diffragan.optimisation.adam import Adam\n"
        "x = torch.ones(3, requires_grad=True)\n"
        "x.sum().backward()\n"
        "Adam([x]).step([0.1])\n"
        "assert float(x.detach().max()) < 1\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
