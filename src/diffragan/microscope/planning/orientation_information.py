"""What one molecule's image, and its pattern, can tell of how the molecule lies.

Both are mean log likelihoods (in natural units) by which the true orientation is better. Among g
orientations and shifts a wrong one is as good by chance until that is ln g or more: with 15,000
orientations and a dozen shifts, 12 (the measure of R. Henderson, Q. Rev. Biophys. 28, 171, 1995, in
another form; docs/experiment.md has how often it comes true).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from diffragan.microscope.effective_dose import Exposure, protein_intensity
from diffragan.microscope.imaging import contrast_of_images
from diffragan.microscope.matter import water
from diffragan.microscope.matter.damage import amplitude_fade, critical_exposure_e_per_A2
from diffragan.settings import ImageSettings

COARSEST_A, FINEST_A, PATTERN_TO_A = 25.0, 5.5, 1.25
# Mean intensity of proteins over that of their atoms one by one, at Å: of 1AGY, 1AUP and a dimer of
# it, which differ by some 10 % (docs/experiment.md).
_OVER_WILSON = {
    25.0: 20.0, 20.0: 9.0, 16.0: 5.0, 13.0: 3.1, 11.0: 3.1, 10.0: 2.4, 9.0: 1.65, 8.0: 1.25,
    7.0: 1.0, 6.0: 1.0, 5.5: 1.2, 5.0: 1.6, 4.5: 1.8, 4.0: 1.5, 3.0: 0.8,
}  # fmt: skip
_RINGS = 400  # of an integral over a band
_NODES = 24  # of one over intensities


def image_information(
    exposure: Exposure, image: ImageSettings, dose_e_per_A2: float, before_e_per_A2: float
) -> float:
    """Log likelihood by which an image tells a molecule at its place from none, its signal between
    25 and 5.5 Å against counting noise and ice.

    Args:
        image: its defocus, aperture and spread. dose_e_per_A2: of it, after `before_e_per_A2`.
    """
    q = torch.linspace(1 / COARSEST_A, 1 / FINEST_A, _RINGS, dtype=torch.float64)
    optics, specimen = exposure.optics, exposure.specimen
    area_A2 = optics.box_A**2
    critical = critical_exposure_e_per_A2(q, optics.energy_ev, specimen)
    left = amplitude_fade(critical, torch.tensor([dose_e_per_A2]), before_e_per_A2)[0] ** 2
    transfer = contrast_of_images(q**2, optics, image) ** 2
    signal = transfer * left * protein_power(q, exposure)
    noise = torch.full_like(q, 1 / (dose_e_per_A2 * area_A2))
    if specimen.ice_nm:
        noise = noise + transfer * water.elastic_intensity(q, optics, specimen.ice_nm, area_A2)
    return _over_half_plane(signal / noise, q, area_A2)


def pattern_information(exposure: Exposure, exposure_e_per_A2: float) -> float:
    """Log likelihood by which a pattern's counts, to 1.25 Å, tell one orientation from another:
    Kullback and Leibler's (1951) divergence, intensities spread as Wilson's acentric ones and all
    of them known."""
    q = torch.linspace(1 / COARSEST_A, 1 / PATTERN_TO_A, _RINGS, dtype=torch.float64)
    area_A2 = exposure.optics.box_A**2
    passed = water.zero_loss(exposure.specimen) * exposure.detector.dqe
    mean = protein_intensity(q, exposure.optics, exposure.mass_kda)
    coherent = exposure.coherent(q, exposure_e_per_A2)
    shape = protein_power(q, exposure) / mean
    flat = (1 - coherent) + exposure.beside(q)
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.laguerre.laggauss(_NODES))
    speckle = (coherent * shape)[:, None] * nodes
    true, wrong = flat[:, None] + speckle, flat[:, None] + speckle
    told = true[:, :, None] * (true[:, :, None] / wrong[:, None, :]).log()
    each = (told * weights[:, None] * weights).sum((1, 2))
    counted = exposure_e_per_A2 * passed * area_A2 * mean
    return 2 * _over_half_plane(counted * each, q, area_A2)


def protein_power(q: Tensor, exposure: Exposure) -> Tensor:
    """Mean intensity of a protein as `protein_intensity` has it, its shape and fold included."""
    at = np.array([1 / d for d in _OVER_WILSON])
    over = np.interp(q.numpy(), at, np.array(list(_OVER_WILSON.values())), right=1.0)
    mean = protein_intensity(q, exposure.optics, exposure.mass_kda)
    return mean * torch.from_numpy(over)


def _over_half_plane(each: Tensor, q: Tensor, area_A2: float) -> float:
    """Sum over the pixels of 1 / field in a half plane of what a pixel at q holds."""
    return float(torch.trapezoid(each * math.pi * q * area_A2, q))
