"""What building gives: atoms, which of them both half sets confirm, and what that is worth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffragan.atoms.building.build import Built
from diffragan.atoms.building.watch import CORRELATION_BAND_A
from diffragan.atoms.comparison.confirm import Confirmation
from diffragan.atoms.model.atoms import Atoms
from diffragan.atoms.molecule.model import Model
from diffragan.atoms.molecule.molecule import Molecule
from diffragan.reconstruction.likelihood.ring_sums import RingSums

_FEW = 0.85  # of the expected atoms: with fewer the molecular weight is doubted
_ENOUGH = 0.5  # of the expected atoms, confirmed: with fewer the map is called not solved


@dataclass(frozen=True)
class AtomsResult:
    """Atoms of one reconstruction.

    confirmation: which of all views' atoms the half sets confirm. errors_A: (n,) of each
    coordinate, nan where not confirmed. half_sums: how each half set's atoms compare with the other
    half's patterns, which they never saw, by ring of 1 / field. molecule: what the atoms are, where
    they are atoms. model: with names and numbers, where a sequence fits. warnings: in sentences,
    what makes them doubtful.
    """

    all_views: Built
    halves: tuple[Built, Built]
    confirmation: Confirmation
    errors_A: Tensor
    half_sums: tuple[RingSums, RingSums]
    expected: int
    seconds: float
    molecule: Molecule | None = None
    model: Model | None = None
    warnings: tuple[str, ...] = ()

    @property
    def atoms(self) -> Atoms:
        """All that were built from all views."""
        return self.all_views.atoms

    @property
    def confirmed(self) -> Tensor:
        """(n,) bool: those that both half sets confirm."""
        return self.confirmation.sure

    @property
    def solved(self) -> bool:
        """Whether at least half of the expected atoms are confirmed."""
        return int(self.confirmed.sum()) >= _ENOUGH * self.expected

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        count = int(self.confirmed.sum())
        numbers = (
            f"{count} of {len(self.atoms)} atoms are confirmed by both half sets, about "
            f"{self.expected} are expected"
        )
        if self.solved:
            return f"{numbers}." + (f" {self.molecule.words}" if self.molecule else "")
        return f"The map does not show atoms: {numbers}; it takes more patterns or electrons."


def doubts_about_mass(result: AtomsResult, mass_kda: float) -> list[str]:
    """In sentences, why a molecular weight may be wrong; none where the map shows no atoms."""
    if not result.solved:
        return []
    count, asked_for = len(result.atoms), result.all_views.asked_for
    if asked_for > result.expected / 20:
        return [
            f"A molecule of {mass_kda:g} kDa has about {result.expected} atoms, and the patterns "
            f"ask for more: of {result.expected // 10} further ones they take {asked_for}. Give "
            "its molecular weight (--mass-kda)."
        ]
    if count < _FEW * result.expected:
        return [
            f"Of about {result.expected} atoms that a molecule of {mass_kda:g} kDa has, the "
            f"patterns keep {count}: its molecular weight may be less (--mass-kda), or part of "
            "it does not show."
        ]
    return []


def mean_correlation(
    curve: Tensor, field_A: float, band_A: tuple[float, float] = CORRELATION_BAND_A
) -> float:
    """Mean of a curve by ring of 1 / field between two resolutions; nan where nothing is told."""
    q = torch.arange(len(curve)) / field_A
    band = (q >= 1 / band_A[0]) & (q <= 1 / band_A[1]) & torch.isfinite(curve)
    return float(curve[band].mean()) if bool(band.any()) else float("nan")
