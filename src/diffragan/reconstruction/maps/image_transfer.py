"""What images show of an object at each frequency, view by view."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffragan.microscope.imaging import contrast_of_images
from diffragan.optics import Optics, defocus_along
from diffragan.settings import ImageSettings

_TOGETHER = 1024  # views whose curves are made at a time for a mean


@dataclass(frozen=True)
class OwnDefocus:
    """What the curve of each of v images follows from.

    terms_A: (v, 3) float64, as `optics.Defocus.terms_A`.
    q2: (ki,) float64, 1/Å². double_angle: (2, ki) float64, as `grids.double_angle_grid`.
    """

    terms_A: Tensor
    q2: Tensor
    double_angle: Tensor
    optics: Optics
    lens: ImageSettings

    def curves(self, views: slice | Tensor) -> Tensor:
        """(b, ki) float32."""
        defocus = defocus_along(self.terms_A[views], self.double_angle)
        return contrast_of_images(self.q2, self.optics, self.lens, defocus).float()


@dataclass(frozen=True)
class ImageTransfer:
    """Contrast of v images per unit of object at ki frequencies: 2 sin(chi) times the envelope.

    Where images have a defocus of their own, each curve is made when it is asked for: nothing of
    (v, ki) numbers stays in memory.

    common: (ki,) float32, the curve that all images share; ones where `own` tells them apart.
    """

    common: Tensor
    own: OwnDefocus | None = None

    def __len__(self) -> int:
        """The number of frequencies."""
        return len(self.common)

    def of(self, views: slice | Tensor) -> Tensor:
        """(b, ki) float32 curves of some views; (1, ki) where all have one."""
        return self.common[None] if self.own is None else self.own.curves(views)

    def beside_common(self, views: slice | Tensor) -> Tensor:
        """(b, ki) factors on `common` that give the views' curves; (1, ki) ones for a shared
        curve."""
        return torch.ones_like(self.common)[None] if self.own is None else self.own.curves(views)

    def mean_square(self) -> Tensor:
        """(ki,) mean square over all views."""
        if self.own is None:
            return self.common**2
        everyone = torch.arange(len(self.own.terms_A), device=self.common.device)
        parts = [self.own.curves(some).double() for some in torch.split(everyone, _TOGETHER)]
        sums = torch.stack([part.square().sum(0) for part in parts])
        return (sums.sum(0) / len(everyone)).float()

    def leading(self, count: int) -> ImageTransfer:
        """The same at the first `count` frequencies."""
        own = self.own
        if own is not None:
            shorter = own.double_angle[:, :count]
            own = replace(own, q2=own.q2[:count], double_angle=shorter)
        return ImageTransfer(self.common[:count], own)

    def some(self, views: slice | Tensor) -> ImageTransfer:
        """The same of some of the views."""
        own = self.own
        return self if own is None else replace(self, own=replace(own, terms_A=own.terms_A[views]))
