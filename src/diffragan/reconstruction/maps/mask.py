"""The 3D mask: where the molecule may be.

The rule: blur the map, take the density level whose enclosed volume is the molecule's
(1.21 Å³ a dalton, for a protein of 0.73 cm³/g), keep the largest connected piece, and grow it by a
margin. Without a molecular weight the level is where the blurred map rises from its own noise.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.fourier.volumes import centred, low_pass, radius_px, uncentred

VOLUME_A3_PER_DA = 1.21


REACH = 0.45  # of the box: no mask goes further out


def envelope(
    volume: Tensor,
    box_A: float,
    mass_kda: float | None,
    *,
    blur_A: float = 2.0,
    margin_A: float = 2.5,
    reach_A: float = math.inf,
) -> Tensor:
    """The mask (n, n, n), bool, of a map in FFT order.

    Args:
        mass_kda: of the molecule; None takes the level from the map itself (Otsu's threshold of
            the blurred map, the one that best parts it into two classes).
        blur_A: standard deviation of the blur. margin_A: how far the mask is grown.
        reach_A: how far from the rotation centre it may go. Patterns are sampled at 1 / field, so
            in a volume larger than the field the molecule comes again a field away.

    Raises:
        DiffraganError: the molecule does not fit into the box.
    """
    n = volume.shape[-1]
    voxel = box_A / n
    smooth = low_pass(volume, box_A, blur_A)
    allowed = radius_px(n, volume.device) <= min(REACH * n, reach_A / voxel)
    if mass_kda is None:
        from skimage.filters import threshold_otsu

        values = smooth[allowed].cpu().numpy()
        level = float(threshold_otsu(values))  # type: ignore[no-untyped-call]
    else:
        count = round(mass_kda * 1e3 * VOLUME_A3_PER_DA / voxel**3)
        room = int(allowed.sum())
        if count >= room:
            raise DiffraganError(
                f"A molecule of {mass_kda:g} kDa fills {count * voxel**3:.0f} Å³ and the box holds "
                f"{room * voxel**3:.0f} Å³; check --mass-kda, or measure in a larger box."
            )
        level = float(smooth[allowed].kthvalue(room - count).values)
    return grown(largest_piece((smooth > level) & allowed), margin_A / voxel) & allowed


def largest_piece(inside: Tensor) -> Tensor:
    """The largest connected piece of a mask (n, n, n) in FFT order."""
    from scipy.ndimage import label

    pieces, count = label(centred(inside).cpu().numpy())
    if count <= 1:
        return inside
    largest = int(np.bincount(pieces.ravel())[1:].argmax()) + 1
    return uncentred(torch.from_numpy(pieces == largest).to(inside.device))


def grown(inside: Tensor, margin_px: float) -> Tensor:
    """A mask and everything within `margin_px` voxels of it."""
    from scipy.ndimage import distance_transform_edt

    if not bool(inside.any()):
        return inside
    away = distance_transform_edt(~centred(inside).cpu().numpy())
    return uncentred(torch.from_numpy(away <= margin_px).to(inside.device))
