"""Optional constraints on the object in space, for `RealSpace(extra=...)`: one registry.

Each entry makes a projection from what it needs to know: objects (..., m, m), float or complex
(then the real part), to the nearest ones that obey. They come after support and positivity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffragan.phasing.solvers import Constraint

CONSTRAINTS: dict[str, Callable[..., Constraint]] = {}


def constraint(name: str) -> Callable[[Callable[..., Constraint]], Callable[..., Constraint]]:
    """Register a maker of constraints under a name."""

    def register(make: Callable[..., Constraint]) -> Callable[..., Constraint]:
        CONSTRAINTS[name] = make
        return make

    return register


def make_constraint(name: str, **known: Any) -> Constraint:
    """A constraint of the registry; KeyError if there is none of this name."""
    return CONSTRAINTS[name](**known)


@constraint("histogram")
def histogram(values: Tensor, support: Tensor) -> Constraint:
    """Histogram matching inside the support (Zhang & Main, Acta Cryst. A 46, 41, 1990).

    The nearest object whose sorted values are the given ones has them in its own order.

    Args:
        values: (k,) what the object's pixels are known to be, in any order and any number: the
            quantiles are spread over the support's pixels.
        support: (m, m) bool.
    """
    inside = support.flatten()
    count = int(inside.sum())
    ordered = values.flatten().sort().values
    places = torch.linspace(0, len(ordered) - 1, count, dtype=ordered.dtype)
    low = places.floor().long()
    part = places - low
    wanted = torch.lerp(ordered[low], ordered[(low + 1).clamp(max=len(ordered) - 1)], part)

    def project(x: Tensor) -> Tensor:
        real = x.real if x.is_complex() else x
        flat = real.flatten(-2)
        ranks = flat[..., inside].argsort(-1)
        matched = torch.empty_like(ranks, dtype=flat.dtype)
        matched.scatter_(-1, ranks, wanted.to(flat).expand(ranks.shape))
        out = flat.clone()
        out[..., inside] = matched
        return _with_real(x, out.reshape(real.shape))

    return project


@constraint("atomicity")
def atomicity(pixels: int) -> Constraint:
    """At most so many pixels are not zero: the largest stay (Elser, Acta Cryst. A 59, 201, 2003).

    For objects of separate atoms; at 1.25 Å a protein's projection is not one, so the number must
    be generous: about three pixels for every non-hydrogen atom.
    """
    if pixels < 1:
        raise ValueError(f"atomicity needs at least one pixel, not {pixels}")

    def project(x: Tensor) -> Tensor:
        real = x.real if x.is_complex() else x
        flat = real.flatten(-2)
        keep = min(pixels, flat.shape[-1])
        chosen = flat.abs().topk(keep, -1).indices
        out = torch.zeros_like(flat).scatter_(-1, chosen, flat.gather(-1, chosen))
        return _with_real(x, out.reshape(real.shape))

    return project


def _with_real(x: Tensor, real: Tensor) -> Tensor:
    return torch.complex(real, x.imag) if x.is_complex() else real
