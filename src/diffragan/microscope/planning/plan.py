"""What an experiment needs: exposures, patterns and hours, from the law of electrons a voxel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from diffragan.microscope.effective_dose import BORNE_OUT_BESIDE, MUCH_BESIDE, Exposure
from diffragan.microscope.matter.damage import critical_exposure_e_per_A2
from diffragan.microscope.planning.law import (
    CLIMBS_AT_A,
    CLIMBS_FROM,
    OFF,
    electrons_for,
    electrons_per_voxel,
)
from diffragan.microscope.planning.orientation_information import (
    image_information,
    pattern_information,
)
from diffragan.settings import ImageSettings

# By way to a map: factor on either side within which runs may get there or not.
SPREADS: Mapping[str, float] = {"likelihood": OFF, "projections": 1.5}
_BORNE_OUT_KDA, _TRIED_KDA, _TRIED_TIMES = 50.0, 94.0, 3.0  # the law's weights; a run beyond them
_FSC = 0.5  # with the truth, at the resolution that is wanted
# e/Å² of effective dose in all patterns from which projections solve molecules of 5.5 to 47 kDa, at
# 2 Å (docs/experiment.md).
_PROJECTIONS_E_PER_A2 = 5e4
_IMAGE_AT_A = 7.0  # where a defocused image shows most
_BEST_OF_AMPLITUDES = 2 * 1.256  # critical exposures: then n (mean amplitude)² is largest
# From how much log likelihood on an image alone tells an orientation (docs/experiment.md).
_TOLD = (
    (20.0, "enough for nearly every molecule, once there is a map"),
    (6.0, "enough for some (one in ten at 7, half at 15), once there is a map"),
    (-math.inf, "too little: molecules have to be larger, or held so that they lie alike"),
)
# An image of few electrons tells twice as much of an orientation as at -1000 Å; still more defocus
# adds little, and spreads the molecule (docs/experiment.md).
_DEFOCUS_A = -3000.0


@dataclass(frozen=True)
class Plan:
    """An experiment to a resolution.

    mass_kda: of the molecule. exposure_e_per_A2: of a pattern. worth_e_per_A2: its effective dose.
    coherent: what damage and motion leave of the molecule's intensity. beside: what scatters beside
    the molecule, over it.
    patterns: so many by way to a map (`many_views.climb_by`), good to a factor of `SPREADS`.
    image_e_per_A2: the best exposure of the image, after the pattern; None where nothing fades.
    image_tells, pattern_tells: by how much log likelihood one molecule's image, and its pattern,
        tell its orientation (`orientation_information`); None where the image's exposure is open.
    helps: factor on a pattern's worth of what could be changed, the largest first.
    """

    mass_kda: float
    resolution_A: float
    exposure_e_per_A2: float
    worth_e_per_A2: float
    coherent: float
    beside: float
    patterns: Mapping[str, float]
    patterns_per_s: float
    image_e_per_A2: float | None
    image_defocus_A: float
    image_tells: float | None
    pattern_tells: float
    helps: Mapping[str, float]

    def hours(self, way: str) -> float:
        """Time for the patterns, without what the search for molecules takes."""
        return self.patterns[way] / self.patterns_per_s / 3600

    @property
    def summary(self) -> str:
        """The plan in words."""
        image = "as the microscope allows"
        if self.image_e_per_A2 is not None:
            image = f"{self.image_e_per_A2:.2g} e/Å2, after it"
        lines = [
            f"To {self.resolution_A:g} Å: {self.exposure_e_per_A2:.2g} e/Å2 a pattern, of which "
            f"{self.coherent:.0%} stays coherent; beside the molecule {self.beside:.2g} times its "
            f"own intensity. So a pattern is worth {self.worth_e_per_A2:.2g} e/Å2 on an undamaged "
            "molecule in vacuum.",
            f"Image: {image}, defocus {self.image_defocus_A:g} Å.",
            *self._of_orientations(),
        ]
        lines += [
            f"By the {way}: {_rounded(count)} patterns ({_rounded(count / SPREADS[way])} to "
            f"{_rounded(count * SPREADS[way])}), "
            f"{self.hours(way):.2g} hours at {self.patterns_per_s:g} a second."
            for way, count in self.patterns.items()
        ]
        if self.mass_kda > _BORNE_OUT_KDA:
            lines.append(
                f"Runs bore the likelihood's number out up to {_BORNE_OUT_KDA:g} kDa; one of "
                f"{_TRIED_KDA:g} kDa took some {_TRIED_TIMES:g} times as many."
            )
        if self.beside > BORNE_OUT_BESIDE:
            lines.append(
                f"Not to be relied on: runs bore this out where up to {BORNE_OUT_BESIDE:g} times "
                "the molecule's intensity lay beside it."
            )
        elif self.beside > MUCH_BESIDE:
            lines.append(
                f"With more than {MUCH_BESIDE:g} times its intensity beside the molecule the "
                "likelihood takes more passes: --set many_views.likelihood_passes=120."
            )
        if self.helps:
            told = ", ".join(f"{name} x {gain:.1f}" for name, gain in self.helps.items())
            lines.append(f"What would help, as a factor on a pattern's worth: {told}.")
        return "\n".join(lines)

    def _of_orientations(self) -> list[str]:
        """Whether one molecule's orientation can be told at all."""
        if self.image_tells is None:
            return []
        says = next(words for least, words in _TOLD if self.image_tells >= least)
        return [
            f"Orientation of one molecule: its image tells {self.image_tells:.2g}, its pattern "
            f"{self.pattern_tells:.2g} in log likelihood, {says}."
        ]


def _rounded(count: float) -> str:
    """A number of patterns to two figures."""
    figures = max(0, len(str(round(count))) - 2)
    return f"{round(count, -figures):,.0f}"


def plan_experiment(
    exposure: Exposure,
    resolution_A: float,
    image: ImageSettings,
    exposure_e_per_A2: float | None = None,
    patterns_per_s: float = 100.0,
) -> Plan:
    """What a molecule in a specimen needs to be solved to a resolution.

    Args:
        image: its aperture and focal spread.
        exposure_e_per_A2: of a pattern; none: the one of most worth at this resolution.
    """
    q = torch.tensor([1 / resolution_A], dtype=torch.float64)
    dose = _image_exposure(exposure)
    seen_as = image.model_copy(update={"defocus_A": _DEFOCUS_A})
    own = exposure_e_per_A2 or exposure.best_exposure_e_per_A2(resolution_A)
    worth = float(exposure.effective_e_per_A2(q, own))
    return Plan(
        mass_kda=exposure.mass_kda,
        resolution_A=resolution_A,
        exposure_e_per_A2=own,
        worth_e_per_A2=worth,
        coherent=float(exposure.coherent(q, own)),
        beside=float(exposure.beside(q)),
        patterns=patterns_needed(exposure, resolution_A, own),
        patterns_per_s=patterns_per_s,
        image_e_per_A2=dose,
        image_defocus_A=_DEFOCUS_A,
        image_tells=None if dose is None else image_information(exposure, seen_as, dose, own),
        pattern_tells=pattern_information(exposure, own),
        helps=what_would_help(exposure, resolution_A),
    )


def patterns_needed(
    exposure: Exposure, resolution_A: float, exposure_e_per_A2: float
) -> dict[str, float]:
    """By way to a map, the patterns of an exposure that make it right to a resolution: its FSC with
    the truth is 0.5 there, and the climb begins."""
    q = torch.tensor([1 / resolution_A, 1 / CLIMBS_AT_A], dtype=torch.float64)
    worth = exposure.effective_e_per_A2(q, exposure_e_per_A2)
    own, climb = electrons_per_voxel(worth, q, exposure.optics.energy_ev).tolist()
    return {
        "likelihood": max(electrons_for(_FSC) / own, CLIMBS_FROM / climb),
        "projections": _PROJECTIONS_E_PER_A2 / float(worth[0]),
    }


def what_would_help(exposure: Exposure, resolution_A: float) -> dict[str, float]:
    """Factor on a pattern's worth, at its best exposure, of changes that could be made; the largest
    first, and none that changes little."""
    specimen, detector = exposure.specimen, exposure.detector
    changes: dict[str, dict[str, object]] = {
        "ice half as thick": {"ice_nm": specimen.ice_nm / 2},
        "no ice": {"ice_nm": 0.0},
        "an energy filter": {"energy_filter": True},
        "graphene for carbon, or no support": {"support": None},
        "molecules that are alike": {"motion_b_A2": 0.0},
    }
    narrow_A = 1.5 * globular_diameter_A(exposure.mass_kda)
    if specimen.beam_diameter_A is not None and narrow_A < specimen.beam_diameter_A:
        changes[f"a beam of {narrow_A:.0f} Å, no wider than the molecule"] = {
            "beam_diameter_A": narrow_A
        }
    changed = {
        name: replace(exposure, specimen=specimen.model_copy(update=change))
        for name, change in changes.items()
    }
    counts_all = detector.model_copy(update={"dqe": 1.0})
    changed["a perfect detector"] = replace(exposure, detector=counts_all)
    now = _best_worth(exposure, resolution_A)
    gains = {name: _best_worth(other, resolution_A) / now for name, other in changed.items()}
    ordered = sorted(gains.items(), key=lambda item: -item[1])
    return {name: gain for name, gain in ordered if gain > 1.02}


def globular_diameter_A(mass_kda: float) -> float:
    """Diameter of a protein if it were a ball (Erickson, Biol. Proced. Online 11, 32, 2009); its
    largest extent is some half more."""
    return 2 * 0.66 * float((1e3 * mass_kda) ** (1 / 3))


def _best_worth(exposure: Exposure, resolution_A: float) -> float:
    q = torch.tensor([1 / resolution_A], dtype=torch.float64)
    best = exposure.best_exposure_e_per_A2(resolution_A)
    return float(exposure.effective_e_per_A2(q, best))


def _image_exposure(exposure: Exposure) -> float | None:
    """Where an image's signal over its noise is best; None where nothing fades."""
    if exposure.specimen.damage is None:
        return None
    at = torch.tensor([1 / _IMAGE_AT_A], dtype=torch.float64)
    energy_ev = exposure.optics.energy_ev
    critical = critical_exposure_e_per_A2(at, energy_ev, exposure.specimen)
    return _BEST_OF_AMPLITUDES * float(critical)
