"""What a pattern is worth beside that of an undamaged molecule in vacuum.

A pixel counts n (F I + (1 - F) I + b) electrons, n the exposure, I the molecule's intensity, F what
damage and motion leave coherent of it, and b all that scatters beside it. What that tells of I is
n F² / (1 + b / I) in place of n: the effective dose (Poisson information at the mean intensity).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffragan.microscope.exit_waves.form_factors import CARBON, form_factor_A, phase_shift_per_A
from diffragan.microscope.matter import water
from diffragan.microscope.matter.carbon import carbon_intensity
from diffragan.microscope.matter.damage import critical_exposure_e_per_A2, intensity_fade
from diffragan.optics import Optics
from diffragan.settings import DetectorSettings, SpecimenSettings

DALTONS_PER_CARBON = 14.1  # of a protein: an atom that scatters like carbon, its hydrogens with it
# Times the molecule's own intensity to which runs bore the law out, and from which on half maps
# have agreed falsely and a climb takes more passes (docs/experiment.md).
BORNE_OUT_BESIDE, MUCH_BESIDE = 275.0, 12.0
_LEAST, _MOST = 0.05, 200.0  # e/Å² of an exposure that is looked at
FOLDED_FROM_PER_A = 0.2  # nearer to the beam a molecule's shape shows
_STEP_PER_A = 0.02
# Mean intensity of proteins over that of their atoms one by one, from 5 Å on: of ten from 7.6 to
# 28.5 kDa, which differ from each other by 2 to 5 % (benchmarks/protein_profile.py).
_FOLDED = (
    1.82, 1.83, 1.55, 1.27, 1.05, 0.91, 0.81, 0.76, 0.76, 0.77, 0.83, 0.92, 1.03, 1.09, 1.09, 1.05,
    0.97, 0.90, 0.85, 0.81, 0.79, 0.78, 0.79, 0.81, 0.84, 0.85, 0.89, 0.96, 1.04, 1.11, 1.19, 1.29,
    1.40, 1.51, 1.58, 1.61, 1.60, 1.57, 1.52, 1.48, 1.43,
)  # fmt: skip
# The same of three from 20.6 to 94 kDa nearer to the beam; small ones differ by half of it.
_INNER_PER_A, _INNER = (0.05, 0.1, 0.143), (9.0, 2.4, 1.0)


def protein_intensity(q: Tensor, optics: Optics, mass_kda: float) -> Tensor:
    """Mean intensity of a protein as a fraction of the beam on the field in a pixel of 1 / field,
    at q (1/Å): that of its atoms one by one (Wilson, Nature 150, 152, 1942), beyond some 5 Å."""
    atoms = 1e3 * mass_kda / DALTONS_PER_CARBON
    scale = phase_shift_per_A(optics.energy_ev, optics.box_A) ** 2 * atoms
    result: Tensor = scale * form_factor_A(CARBON, q**2) ** 2
    return result


def folded_part(q: Tensor) -> Tensor:
    """Mean intensity of proteins at q (1/Å) over that of their atoms one by one: bonds and folds
    give all the same rises and falls (Popov & Bourenkov, Acta Cryst. D 59, 1145, 2003). Right
    beyond 5 Å; nearer to the beam it is a guide. Same shape, float64."""
    far = FOLDED_FROM_PER_A + _STEP_PER_A * np.arange(len(_FOLDED))
    at, part = np.append(_INNER_PER_A, far), np.append(_INNER, _FOLDED)
    return torch.from_numpy(np.interp(q.double().cpu().numpy(), at, part)).to(q.device)


@dataclass(frozen=True)
class Exposure:
    """A molecule of some weight in a specimen, under a beam.

    optics: of the field that the beam's diameter is compared with. mass_kda: of the molecule.
    """

    optics: Optics
    mass_kda: float
    specimen: SpecimenSettings
    detector: DetectorSettings

    def beside(self, q: Tensor) -> Tensor:
        """Intensity of ice, a carbon film and electrons that lost energy, over the molecule's, at
        q. Graphene is left out: its spots take a few pixels, and nothing is beside them."""
        own = protein_intensity(q, self.optics, self.mass_kda)
        total = water.beside_molecule(q, self.optics, self.specimen)
        if self.specimen.support == "carbon":
            area = water.beam_area_A2(self.optics, self.specimen)
            total = total + carbon_intensity(q, self.optics, self.specimen.carbon_nm, area)
        return total / own

    def coherent(self, q: Tensor, exposure_e_per_A2: float | Tensor) -> Tensor:
        """Part of the molecule's intensity that damage and motion leave coherent, at q; exposures
        (e,) at one q give (e,)."""
        critical = critical_exposure_e_per_A2(q, self.optics.energy_ev, self.specimen)
        left = intensity_fade(critical, exposure_e_per_A2, 0.0)
        return left * torch.exp(-self.specimen.motion_b_A2 * q**2 / 2)

    def effective_e_per_A2(self, q: Tensor, exposure_e_per_A2: float | Tensor) -> Tensor:
        """What a pattern of this exposure is worth at q (1/Å), e/Å²; exposures (e,) at one q give
        (e,)."""
        passed = water.zero_loss(self.specimen) * self.detector.dqe
        left = self.coherent(q, exposure_e_per_A2)
        return exposure_e_per_A2 * passed * left**2 / (1 + self.beside(q))

    def best_exposure_e_per_A2(self, resolution_A: float) -> float:
        """The exposure of most worth at a resolution; the longest looked at where nothing fades."""
        q = torch.tensor([1 / resolution_A], dtype=torch.float64)
        steps = round(200 * math.log10(_MOST / _LEAST))
        tried = torch.tensor([_LEAST * 10 ** (k / 200) for k in range(steps + 1)], dtype=q.dtype)
        return float(tried[self.effective_e_per_A2(q, tried).argmax()])
