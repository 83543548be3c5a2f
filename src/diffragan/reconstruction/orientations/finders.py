"""The ways to find orientations from nothing, by name (`many_views.find_by`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

from diffragan.errors import DiffraganError
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.from_images import (
    SearchPlan,
    end_resolution_A,
    find_from_images,
    images_tell,
)
from diffragan.reconstruction.orientations.from_lines import find_from_lines
from diffragan.reconstruction.orientations.from_relion import find_from_relion
from diffragan.reconstruction.orientations.search_result import OrientationSearchResult
from diffragan.settings import Settings

# e/Å² a pattern, at which 300 views of a protein of 47 kDa came right by lines; at 150 they did
# not, and those of one of 6 kDa needed more.
LEAST_DOSE_FOR_LINES = 200.0
_MOST_FOR_LINES = 5000  # views: the lines of more would not lie in memory with the rest
# Information of an image below which no search by images came right: at 109 and more (SNR 0.3) all
# did (7 searches of 1AUP and 1DUR), at 38 and less (SNR 0.1) none (23 starts of these).
_FAINT = 60.0
_STRONG = 0.9  # of the images' strongest transfer, squared
_STRONG_AT = 1.25  # of the resolution that a search ends at
_TO_PER_A = 0.2  # the frequency that images are wanted to


class Finder(Protocol):
    """Told the views, the molecular weight in kDa (None where unknown), the run's settings, and a
    scratch folder for what an interrupted search may go on with."""

    def __call__(
        self,
        views: Views,
        mass_kda: float | None,
        settings: Settings,
        scratch: Path,
        progress: Progress,
        /,
    ) -> OrientationSearchResult: ...


def by_images(
    views: Views, mass_kda: float | None, settings: Settings, scratch: Path, progress: Progress, /
) -> OrientationSearchResult:
    """Random starts from the images (`images_or_lines`): any dose on the patterns."""
    return images_or_lines(
        views,
        mass_kda,
        seed=settings.seed,
        plan=SearchPlan(starts=settings.many_views.find_starts),
        keep=scratch / "starts.pt",
        progress=progress,
    )


def images_or_lines(
    views: Views,
    mass_kda: float | None,
    *,
    seed: int = 0,
    plan: SearchPlan,
    keep: Path | None = None,
    progress: Progress = no_progress,
) -> OrientationSearchResult:
    """Orientations by the images, and by common lines where these cannot tell them.

    Where patterns have the electrons for lines, these are tried if no two starts came to the same
    map, and before any start if images are so faint that none would. What is not sure by lines is
    left to the images. Arguments as `find_from_images`.
    """
    lines = lines_can_tell(views)
    if lines and images_tell(views, mass_kda) < _FAINT:
        by = find_from_lines(views, seed=seed, progress=progress)
        if by.sure:
            return by
        lines = False
    by = find_from_images(views, mass_kda, seed=seed, plan=plan, keep=keep, progress=progress)
    if by.sure or not lines:
        return by
    other = find_from_lines(views, seed=seed, progress=progress)
    return other if other.sure else by


def lines_can_tell(views: Views) -> bool:
    """Whether patterns have enough electrons for a search by common lines, and views are not too
    many for it, nor too few, nor of a symmetry whose axes it would not place."""
    least = LEAST_DOSE_FOR_LINES * views.optics.box_A**2 * (1 - 1e-9)
    counted = views.electrons is None or views.electrons >= least
    return counted and 4 <= len(views) <= _MOST_FOR_LINES and views.symmetry is None


def by_lines(
    views: Views, mass_kda: float | None, settings: Settings, scratch: Path, progress: Progress, /
) -> OrientationSearchResult:
    """Lines that patterns share (`from_lines`): quick and exact, where electrons are many."""
    return find_from_lines(views, seed=settings.seed, progress=progress)


def by_relion(
    views: Views, mass_kda: float | None, settings: Settings, scratch: Path, progress: Progress, /
) -> OrientationSearchResult:
    """RELION's ab initio search on the images with their contrast transfer (`from_relion`)."""
    return find_from_relion(views, settings, scratch, progress)


FINDERS: dict[str, Finder] = {"images": by_images, "lines": by_lines, "relion": by_relion}


def find_finder(name: str) -> Finder:
    """The finder of that name.

    Raises:
        DiffraganError: no such finder.
    """
    if name not in FINDERS:
        raise DiffraganError(
            f"There is no way '{name}' to find orientations; choose many_views.find_by from "
            f"{', '.join(sorted(FINDERS))}."
        )
    return FINDERS[name]


def defocus_to_find(views: Views, mass_kda: float | None) -> float | None:
    """Defocus, Å, from which on images would show views of a molecule of this weight apart, if
    these are closer to focus; else None.

    A search begins half as coarse again as it ends (`stages_for`), and 1AUP came right where
    2 sin(chi) is strong at 1.25 of its end, at -2000 Å and not at -1000. Its first maximum is at
    the frequency 1 / d for a defocus of d² / (2 wavelengths).
    """
    strength = views.transfer.mean_square()
    first = int((strength >= _STRONG * strength.max()).float().argmax())
    shown_A = views.optics.box_A / float(views.flat.radius[first].clamp_min(1))
    wanted_A = _STRONG_AT * end_resolution_A(mass_kda)
    if shown_A > 0.95 * wanted_A:
        return None
    return -100.0 * math.ceil(wanted_A**2 / (2 * views.optics.wavelength_A) / 100)


def _nearer(views: Views, mass_kda: float | None) -> str:
    """The defocus that would do, in words, if these images have less."""
    defocus_A = defocus_to_find(views, mass_kda)
    if defocus_A is None:
        return ""
    spread_A = views.optics.wavelength_A * abs(defocus_A) * _TO_PER_A
    size = "its size" if mass_kda is None else f"{mass_kda:.0f} kDa"
    return (
        f" At this defocus images show little of what tells views of a molecule of {size} apart: "
        f"take them at {defocus_A:.0f} Å or beyond, with {math.ceil(spread_A)} Å of empty field on "
        "each side of it, over which that defocus spreads detail of 5 Å."
    )


def doubts(result: OrientationSearchResult, name: str, mass_kda: float | None = None) -> list[str]:
    """In a sentence, what makes the orientations that a finder gave doubtful, and what may help;
    nothing if the search is sure of them."""
    if result.sure:
        return []
    views = result.views
    if name == "images":
        lines = ", nor were common lines of the patterns sure" if lines_can_tell(views) else ""
        return [
            f"No two of {len(result.starts)} random starts came to the same map{lines}, so the "
            "orientations are doubtful; give more views, or more starts (--set "
            f"many_views.find_starts=...).{_nearer(views, mass_kda)}"
        ]
    if name == "lines":
        return [
            "Two halves of the views that were placed first put others "
            f"{result.agree_deg or 0:.0f}° apart, so the orientations are doubtful; give patterns "
            "of more electrons, or look by the images (--set many_views.find_by=images)."
        ]
    if name == "relion":
        return [
            f"The best two of RELION's starts put views {result.agree_deg or 0:.0f}° apart, so the "
            "orientations are doubtful; give more views, or more starts (--set "
            "many_views.find_starts=...)."
        ]
    return [f"Finder '{name}' is not sure of the orientations; try another many_views.find_by."]
