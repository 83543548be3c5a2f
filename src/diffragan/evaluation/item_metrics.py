"""Numbers for each projection beside its target: a new one is a function and a line of `PER_ITEM`.

It then stands in items.csv under its name, in metrics.json as `<name>_mean`, and on the page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from diffragan.evaluation import similarity


@dataclass(frozen=True)
class Comparison:
    """b projections and their noise-free targets, real, of mean 1, on one grid: (b, y, x)."""

    projection: Tensor
    target: Tensor
    pixel_A: float

    @cached_property
    def molecule(self) -> Tensor:
        """(b, y, x) bool, where the molecule lies in the targets."""
        return similarity.molecule_mask(self.target, self.pixel_A)


@dataclass(frozen=True)
class ItemMetric:
    """How a number is computed, (b,) of a comparison, and how the page heads and prints it."""

    compute: Callable[[Comparison], Tensor]
    heading: str
    form: str = ".2f"


def mean_ssim(pair: Comparison) -> Tensor:
    """Structural similarity on the 8-bit scale, 1 for the same picture."""
    return similarity.ssim(pair.projection, pair.target)[0]


def differing_area(pair: Comparison) -> Tensor:
    """Part of the picture that differs by more than 10 of 255 grey levels."""
    difference = similarity.difference_mask(pair.projection, pair.target)
    return difference.mask.float().mean((-2, -1))


def contrast_outside(pair: Comparison) -> Tensor:
    """Part of the projection's contrast energy outside the molecule."""
    return similarity.energy_outside(pair.projection, pair.target, pair.pixel_A, pair.molecule)


def target_contrast_outside(pair: Comparison) -> Tensor:
    """The same part of the target's own contrast, its fringes: the floor of the one before."""
    return similarity.energy_outside(pair.target, pair.target, pair.pixel_A, pair.molecule)


PER_ITEM = {
    "ssim": ItemMetric(mean_ssim, "structural similarity (SSIM)"),
    "difference_fraction": ItemMetric(differing_area, "area that differs", ".1%"),
    "energy_outside": ItemMetric(contrast_outside, "contrast outside the molecule", ".1%"),
    "energy_outside_target": ItemMetric(target_contrast_outside, "the target's own", ".1%"),
}
