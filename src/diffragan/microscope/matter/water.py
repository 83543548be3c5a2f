"""Vitreous ice: how strongly a layer of it scatters, by angle, elastically and not."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from importlib import resources

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.microscope.exit_waves.form_factors import form_factor_A, phase_shift_per_A
from diffragan.microscope.matter.beam import SoftDisc
from diffragan.optics import Optics
from diffragan.settings import SpecimenSettings

_MOLAR_MASS_G, _AVOGADRO = 18.01528, 6.02214076e23
# Angles between which a loss of some 20 eV scatters (Egerton, Electron Energy-Loss Spectroscopy,
# 2011, section 3.2): E / (E0 (1 + 1 / gamma)), and the Bethe ridge.
_LOSS_EV = 20.0
# What a protein's displaced water takes from its wave: K exp(-B q² / 4), after the flat solvent of
# crystallography (Moews & Kretsinger, J. Mol. Biol. 91, 201, 1975; Tronrud, Methods Enzymol. 277,
# 306, 1997). K and B by `benchmarks/displaced_water.py`.
_DISPLACED, _DISPLACED_B_A2 = 0.55, 165.0


@lru_cache(maxsize=1)
def _table() -> dict[str, NDArray[np.float64]]:
    """`benchmarks/vitreous_water.py` made it, from cooled boxes of water."""
    file = resources.files("diffragan").joinpath("data", "vitreous_water.json")
    return {name: np.asarray(value) for name, value in json.loads(file.read_text("utf-8")).items()}


def molecules_per_A3() -> float:
    """Number density of vitreous water."""
    return float(_table()["density_g_cm3"]) / _MOLAR_MASS_G * _AVOGADRO * 1e-24


def intensity_per_molecule_A2(q: Tensor) -> Tensor:
    """Squared scattering of vitreous water per molecule in Å² at q (1/Å), its structure included;
    the same shape, float64. Where a periodic box is too small to tell, below 0.03 1/Å, it keeps
    its value."""
    table = _table()
    values = np.interp(q.cpu().numpy(), table["q_per_A"], table["intensity_A2"])
    return torch.from_numpy(np.asarray(values, dtype=np.float64)).to(q.device)


def displaced(q: Tensor) -> Tensor:
    """Part of a molecule's wave that the water which it displaces takes away, at q (1/Å)."""
    result: Tensor = _DISPLACED * torch.exp(-_DISPLACED_B_A2 / 4 * q**2)
    return result


def phase_per_A(energy_ev: float) -> float:
    """Phase that a thickness of 1 Å of vitreous water adds on average, radians."""
    one = torch.zeros(1, dtype=torch.float64)
    forward = 2 * form_factor_A(1, one) + form_factor_A(8, one)
    return phase_shift_per_A(energy_ev, 1.0) * float(forward) * molecules_per_A3()


def elastic_intensity(q: Tensor, optics: Optics, ice_nm: float, area_A2: float) -> Tensor:
    """Mean intensity of a layer of ice, as a fraction of the beam on the field in a pixel of
    1 / field, at q (1/Å).

    Args:
        area_A2: how much of the layer the beam meets.
    """
    molecules = molecules_per_A3() * 10 * ice_nm * area_A2
    scale = phase_shift_per_A(optics.energy_ev, optics.box_A) ** 2 * molecules
    return scale * intensity_per_molecule_A2(q)


def beam_area_A2(optics: Optics, specimen: SpecimenSettings) -> float:
    """Area that the full beam would light as much of: a disc's, or the field's."""
    if specimen.beam_diameter_A is None:
        return optics.box_A**2
    if specimen.beam_edge_A:
        return SoftDisc(specimen.beam_diameter_A, specimen.beam_edge_A).area_A2
    return 0.25 * math.pi * specimen.beam_diameter_A**2


def beside_molecule(q: Tensor, optics: Optics, specimen: SpecimenSettings) -> Tensor:
    """Mean intensity of ice under the whole beam, and of electrons that lost energy where they are
    not filtered out, at q (1/Å): in the units of `elastic_intensity`."""
    area = beam_area_A2(optics, specimen)
    total = torch.zeros_like(q)
    if specimen.ice_nm:
        total = total + elastic_intensity(q, optics, specimen.ice_nm, area)
    if not specimen.energy_filter:
        total = total + inelastic_intensity(q, optics, specimen)
    return total


def zero_loss(specimen: SpecimenSettings) -> float:
    """Part of the electrons that lose no energy on the way."""
    return math.exp(-specimen.ice_nm / specimen.inelastic_mean_free_path_nm)


def inelastic_intensity(q: Tensor, optics: Optics, specimen: SpecimenSettings) -> Tensor:
    """Intensity of the electrons that lost energy, in the units of `elastic_intensity`, at q (1/Å):
    a Lorentzian between its characteristic angle and the Bethe ridge."""
    gamma_ev = 510_998.95 + optics.energy_ev
    narrow = _LOSS_EV * gamma_ev / (optics.energy_ev * (gamma_ev + 510_998.95))
    wide = math.sqrt(2 * narrow)
    theta2 = (q * optics.wavelength_A) ** 2
    height = 1 / (math.pi * math.log1p((wide / narrow) ** 2))
    per_angle = height / (theta2 + narrow**2) * (theta2 <= wide**2)
    pixel = (optics.wavelength_A / optics.box_A) ** 2
    lost = (1 / zero_loss(specimen) - 1) * beam_area_A2(optics, specimen) / optics.box_A**2
    return lost * pixel * per_angle
