"""How right a map is, from what its patterns are worth: a formula that was fitted to runs.

A voxel of a molecule's Fourier space at q is met by so many slices that together they count

> S(q) = n(q) (λγ f)² ρ / q

electrons there on the molecule: n(q) the effective dose of all patterns, f carbon's scattering and
ρ the carbons that weigh as much as an Å³ of protein. The molecule's size is not in it: a larger one
has more voxels and scatters as much more. The odds FSC / (1 - FSC) of a map by the likelihood go as
a power of S in the map's own ring. That holds where the climb begins at all: where images are good
enough, and voxels at 3.5 Å hold ten electrons (docs/experiment.md has the runs, and how far off it
is).
"""

from __future__ import annotations

from torch import Tensor

from diffragan.microscope.effective_dose import DALTONS_PER_CARBON
from diffragan.microscope.exit_waves.form_factors import CARBON, form_factor_A, phase_shift_per_A

A3_PER_DALTON = 1.21  # of a protein
# Of an FSC at one electron a voxel, and how they grow: nine runs of 1DUR, 1UBQ and 1AUP
# (`benchmarks.experiment_law fit`).
ODDS, POWER = 0.816, 0.602
CLIMBS_AT_A, CLIMBS_FROM = 3.5, 10.0  # electrons a voxel: runs of 6 did not climb, of 12 did
OFF = 2.1  # factor on the number of patterns within which two runs of three lie


def electrons_per_voxel(worth_e_per_A2: Tensor, q: Tensor, energy_ev: float) -> Tensor:
    """S(q), electrons a voxel, the same shape as q.

    Args:
        worth_e_per_A2: effective dose of all patterns together, at each q. q: (k,) 1/Å, not zero.
        energy_ev: of the beam.
    """
    density_per_A3 = 1 / (DALTONS_PER_CARBON * A3_PER_DALTON)
    scattering = (phase_shift_per_A(energy_ev, 1.0) * form_factor_A(CARBON, q**2)) ** 2
    result: Tensor = worth_e_per_A2 * scattering * density_per_A3 / q
    return result


def expected_fsc(electrons: Tensor) -> Tensor:
    """FSC with the truth where a voxel holds so many electrons; the same shape, 0 to 1."""
    odds = ODDS * electrons**POWER
    result: Tensor = odds / (1 + odds)
    return result


def electrons_for(fsc: float) -> float:
    """Electrons a voxel from which on a map's FSC with the truth, between 0 and 1, is as high."""
    return float((fsc / (1 - fsc) / ODDS) ** (1 / POWER))
