"""The images' own likelihood, through the map that they make together."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from diffragan.reconstruction.maps.image_map import image_map, power_by_voxel
from diffragan.reconstruction.maps.views import Views

# Of an image's power, what does not follow the linear transfer. The counting noise of a thousand
# images is far below it: believed to their noise alone, they pull a map away from the truth. The
# images' map of 1DUR (docs/many-views.md) is off by this much where the transfer is strong.
_BEYOND_LINEAR = 0.05


@dataclass(frozen=True)
class ImageTarget:
    """What images ask of a model's spectrum, voxel by voxel.

    spectrum: (n, n, n // 2 + 1) complex, the least-squares map of the images.
    weight: the same shape, one over the variance of its error.
    """

    spectrum: Tensor
    weight: Tensor

    def misfit(self, spectrum: Tensor) -> Tensor:
        """Minus the log-likelihood of a plain spectrum (n, n, n // 2 + 1), with gradient."""
        result: Tensor = (self.weight * (spectrum - self.spectrum).abs().square()).sum()
        return result


def image_target(views: Views, power: Tensor, free: Tensor | None = None) -> ImageTarget:
    """The images of some views as a target.

    Args:
        power: `ring_power` of the views' patterns. free: (n, n, n // 2 + 1) bool, left out.
    """
    image = image_map(views, power, _BEYOND_LINEAR)
    signal = power_by_voxel(power, views.n, views.flat.padding)
    known = image.known.clamp(0, 0.999)
    weight = known / ((1 - known) * signal.clamp_min(1e-30))
    weight = weight * (known > 1e-3)
    weight[0, 0, 0] = 0
    if free is not None:
        weight = weight * ~free
    return ImageTarget(image.spectrum / image.known.clamp_min(1e-3), weight)
