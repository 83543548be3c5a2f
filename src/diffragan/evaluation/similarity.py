"""Likeness of projections to their targets in real space: pure functions, any batch dimensions.

Images are real, [..., y, x], on a square grid. The first argument is the estimate, the second the
target.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffragan.fourier.correlation import same_shape
from diffragan.fourier.grids import resample

VIEW_PX = 256

SSIM_SIGMA_PX = 1.5

DIFFERENCE_SIGMA_PX = 1.5

DIFFERENCE_THRESHOLD = 10.0


class Difference(NamedTuple):
    """Smoothed absolute difference on the 8-bit scale, where it is large, and that part's rim.

    All three have shape (..., 256, 256); `difference` is float32, `mask` and `edges` bool.
    """

    difference: Tensor
    mask: Tensor
    edges: Tensor


def eight_bit(image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both images on the scale where the target runs from 0 to 255, at 256 x 256 pixels.

    Other sizes are cropped or padded in Fourier space first. Nothing is rounded or clipped: an
    estimate outside the target's range keeps its error. A flat target maps to 0.

    Args:
        image, target: real, (..., n, n).
    """
    same_shape(image, target)
    image, target = (resample(x.float(), VIEW_PX) for x in (image, target))
    low = target.amin((-2, -1), keepdim=True)
    span = target.amax((-2, -1), keepdim=True) - low
    scale = 255 / torch.where(span > 0, span, torch.ones_like(span))
    return (image - low) * scale, (target - low) * scale


def ssim(image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Structural similarity (Wang et al. 2004) on the scale of `eight_bit`.

    Gaussian window of sigma 1.5 pixels, population covariance, data range 255, as scikit-image
    computes it.

    Args:
        image, target: real, (..., n, n); the target sets the scale.

    Returns:
        the mean, (...), and the map, (..., 256, 256), float32 on the CPU.
    """
    from skimage.metrics import structural_similarity

    a, b = (x.detach().cpu() for x in eight_bit(image, target))
    means, maps = [], []
    for x, y in zip(a.reshape(-1, VIEW_PX, VIEW_PX), b.reshape(-1, VIEW_PX, VIEW_PX), strict=True):
        mean, full = structural_similarity(  # type: ignore[no-untyped-call]
            x.numpy(),
            y.numpy(),
            data_range=255,
            gaussian_weights=True,
            sigma=SSIM_SIGMA_PX,
            use_sample_covariance=False,
            full=True,
        )
        means.append(float(mean))
        maps.append(torch.from_numpy(np.asarray(full, dtype=np.float32)))
    batch = a.shape[:-2]
    return (
        torch.tensor(means, dtype=torch.float32).reshape(batch),
        torch.stack(maps).reshape(a.shape) if maps else torch.zeros(a.shape),
    )


def difference_mask(
    image: Tensor, target: Tensor, threshold: float = DIFFERENCE_THRESHOLD
) -> Difference:
    """Where an image differs from its target, on the scale of `eight_bit`.

    The absolute difference is smoothed by a Gaussian of sigma 1.5 pixels and cut at `threshold`
    (10 of 255 in Matinyan et al. 2024); the edges are the mask's outermost pixels.

    Args:
        image, target: real, (..., n, n).
    """
    from scipy import ndimage

    a, b = (x.detach().cpu() for x in eight_bit(image, target))
    sigma = (0.0,) * (a.ndim - 2) + (DIFFERENCE_SIGMA_PX,) * 2
    smooth = ndimage.gaussian_filter((a - b).abs().numpy(), sigma)
    mask = smooth > threshold
    cross = ndimage.generate_binary_structure(2, 1).reshape((1,) * (a.ndim - 2) + (3, 3))
    edges = mask & ~ndimage.binary_erosion(mask, cross, border_value=1)
    return Difference(torch.from_numpy(smooth), torch.from_numpy(mask), torch.from_numpy(edges))


def molecule_mask(
    target: Tensor,
    pixel_A: float,
    *,
    smooth_A: float = 2.0,
    threshold: float = 0.1,
    grow_A: float = 3.0,
) -> Tensor:
    """The molecule's shadow in a projection of mean 1. Shape (..., n, n), bool, on the CPU.

    |target - 1| smoothed by a Gaussian of sigma `smooth_A`, above `threshold` times its 99th
    percentile, holes filled, grown by `grow_A` for the fringes of defocus.

    Args:
        target: noise-free projection, (..., n, n).
        pixel_A: pixel size in Å.
    """
    from scipy import ndimage

    contrast = (target.detach().cpu().float() - 1).abs().numpy()
    flat = contrast.reshape(-1, *contrast.shape[-2:])
    masks = np.zeros(flat.shape, dtype=bool)
    for i, one in enumerate(flat):
        smooth = ndimage.gaussian_filter(one, smooth_A / pixel_A, mode="wrap")
        inside = ndimage.binary_fill_holes(smooth > threshold * np.percentile(smooth, 99))
        far = (
            ndimage.distance_transform_edt(~inside) if inside.any() else np.full(one.shape, np.inf)
        )
        masks[i] = far * pixel_A <= grow_A
    return torch.from_numpy(masks.reshape(contrast.shape))


def energy_outside(
    projection: Tensor, target: Tensor, pixel_A: float, molecule: Tensor | None = None
) -> Tensor:
    """Part of the contrast energy |p - 1|² that lies outside the molecule: (...), 0 to 1.

    The paper's hot pixels, as a number. The target's own value, its fringes, is the floor.
    0 without any contrast.

    Args:
        projection, target: real, mean 1, (..., n, n).
        pixel_A: pixel size in Å.
        molecule: its shadow, bool (..., n, n), where known; None: `molecule_mask` of the target.
    """
    same_shape(projection, target)
    if molecule is None:
        molecule = molecule_mask(target, pixel_A)
    energy = (projection.detach().cpu().float() - 1) ** 2
    total = energy.sum((-2, -1))
    outside = (energy * ~molecule.cpu()).sum((-2, -1))
    return outside / torch.where(total > 0, total, torch.ones_like(total))
