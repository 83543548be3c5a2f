"""Which patterns become pairs: what is lost at each step, and one pattern for each molecule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffragan.microscope.planning.plan import globular_diameter_A
from diffragan.scan.hits.rings import Values
from diffragan.scan.placing.beam_on_particles import illumination
from diffragan.scan.placing.particles import Particles
from diffragan.scan.placing.registration import Registration
from diffragan.settings import ScanSettings

_LONG = 1.5  # of a molecule's largest extent over the diameter of a ball of its weight
_MOST_MASS_SD = 3.0  # of counting, which may also make a weight miss its kind's


@dataclass(frozen=True)
class Chosen:
    """Patterns that become pairs, in the order of the scan.

    position, particle, kind: (n,) numbers; kind is -1 where nobody told weights. mass_kda: (n,).
    lost: step by step, what is left, in the words of the report.
    """

    position: NDArray[np.int64]
    particle: NDArray[np.int64]
    kind: NDArray[np.int64]
    mass_kda: Values
    lost: list[tuple[str, int]]

    def __len__(self) -> int:
        return len(self.position)


@dataclass(frozen=True)
class Seen:
    """What every position (n,) of the scan sees of the particles.

    nearest: number of the particle that gets most of the beam, -1 for none. lit: the part it gets.
    well_lit: the part on its far side. others: the most that another's near side gets.
    """

    nearest: NDArray[np.int64]
    lit: Values
    well_lit: Values
    others: Values


def seen_from(registration: Registration, particles: Particles, diameter_A: float) -> Seen:
    """The particles under the beam at each position, all of one diameter."""
    beam, raster = registration.beam, registration.raster
    middle, near = (
        illumination(raster, beam, particles.places_A, wider) for wider in (0.0, diameter_A / 2)
    )
    n = middle.shape[0]
    nearest = np.full(n, -1, np.int64)
    lit, others = np.zeros(n), np.zeros(n)
    for k in range(n):
        row = slice(middle.indptr[k], middle.indptr[k + 1])
        if row.start == row.stop or middle.data[row].max() <= 0:
            continue
        best = int(middle.data[row].argmax())
        nearest[k], lit[k] = middle.indices[row][best], middle.data[row][best]
        wide = slice(near.indptr[k], near.indptr[k + 1])
        apart = near.indices[wide] != nearest[k]
        others[k] = near.data[wide][apart].max(initial=0.0)
    off = raster.positions() - particles.places_A[np.maximum(nearest, 0)].reshape(-1, 2)
    distance = np.hypot(off[:, 0], off[:, 1])
    # Most of a molecule's mass lies within 0.7 of its radius.
    far = np.where(nearest >= 0, beam.intensity(distance + 0.35 * diameter_A), 0.0)
    return Seen(nearest, lit, far, others)


def with_several(classes: NDArray[np.str_], seen: Seen, settings: ScanSettings) -> NDArray[np.str_]:
    """The classes, where the overview shows how many particles the beam meets: a molecule's
    pattern with another particle in the beam is one of several."""
    hit = np.isin(classes, ("molecule", "several"))
    alone = (seen.nearest >= 0) & (seen.others <= settings.others)
    found = np.where(hit & (seen.nearest >= 0) & ~alone, "several", classes)
    return np.where((found == "several") & alone & (seen.lit > 0.5), "molecule", found)


def choose(
    classes: NDArray[np.str_],
    seen: Seen,
    mass_kda: Values,
    mass_sd: Values,
    inside: NDArray[np.bool_],
    settings: ScanSettings,
) -> Chosen:
    """One pattern for each molecule that is alone in the beam and wholly in it: the one that lies
    nearest to the beam's middle; where two do alike, the earlier, which is damaged less.

    Args:
        mass_kda, mass_sd: (n,) weight by what each pattern scatters, in a full beam.
        inside: (n,) whether the particle's image can be cut out.
    """
    steps: list[tuple[str, int]] = [("patterns", len(classes))]
    left = np.isin(classes, ("molecule", "several"))
    steps.append(("of molecules, one or several", int(left.sum())))
    left &= seen.nearest >= 0
    steps.append(("with a particle in the overview", int(left.sum())))
    left &= seen.others <= settings.others
    steps.append(("alone in the beam", int(left.sum())))
    left &= seen.well_lit >= settings.illumination
    steps.append(("wholly in the beam", int(left.sum())))
    left &= inside
    steps.append(("with the overview all around", int(left.sum())))
    # Lit alike to a hundredth: the earlier one.
    order = np.lexsort((np.arange(len(left)), -np.round(seen.well_lit, 2)))
    order = order[left[order]]
    _, first = np.unique(seen.nearest[order], return_index=True)
    kept = np.sort(order[first])
    steps.append(("each molecule once", len(kept)))
    kind = kinds_of(mass_kda[kept], mass_sd[kept], settings)
    if settings.masses_kda:
        kept, kind = kept[kind >= 0], kind[kind >= 0]
        steps.append(("of a weight that was told", len(kept)))
    return Chosen(kept, seen.nearest[kept], kind, mass_kda[kept], steps)


def kinds_of(mass_kda: Values, mass_sd: Values, settings: ScanSettings) -> NDArray[np.int64]:
    """(n,) number of the told weight that each is nearest to, -1 where it misses all."""
    if not settings.masses_kda:
        return np.full(len(mass_kda), -1, np.int64)
    told = np.array(settings.masses_kda)
    apart = np.abs(np.log(np.maximum(mass_kda, 1e-3)[:, None] / told[None, :]))
    kind = apart.argmin(1)
    allowed = settings.mass_error + _MOST_MASS_SD * mass_sd / told[kind]
    fits = np.abs(mass_kda / told[kind] - 1) <= allowed
    return np.where(fits, kind, -1).astype(np.int64)


def diameter_of(settings: ScanSettings) -> float:
    """A molecule's diameter in Å, as told, or for the heaviest weight that was told; else 50."""
    if settings.diameter_A is not None:
        return settings.diameter_A
    if settings.masses_kda:
        return _LONG * globular_diameter_A(max(settings.masses_kda))
    return 50.0
