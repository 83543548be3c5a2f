"""Some of the views, whichever they are."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from diffragan.reconstruction.maps.image_transfer import ImageTransfer
from diffragan.reconstruction.maps.views import Views


def some_views(views: Views, chosen: Tensor) -> Views:
    """The views at places `chosen` (c,), int64. Their arrays are copied, so limit the views to the
    resolution that is needed first."""
    on_cpu = chosen.cpu()
    own = views.transfer.own
    transfer = views.transfer
    if own is not None:
        transfer = ImageTransfer(transfer.common, replace(own, terms_A=own.terms_A[chosen]))
    return replace(
        views,
        measured=views.measured[on_cpu],
        contrast=views.contrast[on_cpu],
        transfer=transfer,
        image_noise=views.image_noise[chosen],
        rotations=views.rotations[chosen],
        shifts_A=views.shifts_A[chosen],
        weights=views.weights[chosen],
        items=views.items[on_cpu.numpy()],
    )
