"""Views solved together, from pairs to maps in memory; an interrupted run resumes.

While it runs, OUT/.run holds the views' arrays and the state; both go when it is done.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from diffragan.devices import to_device
from diffragan.engine.processes import apart, first_alone, is_first, wait_for_all
from diffragan.errors import DiffraganError
from diffragan.files.atomic import save_tensors
from diffragan.fourier.volumes import CPU, volume_spectrum
from diffragan.pairs.pairs import Pairs
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction import many_views
from diffragan.reconstruction.checkpoint import SCRATCH, STATE, claim, restored, run_key, save_state
from diffragan.reconstruction.choose_views import ViewSelection
from diffragan.reconstruction.many_views import HalfMaps
from diffragan.reconstruction.maps.load_views import (
    background_doubt,
    load_views,
    with_background,
    with_empty_positions,
)
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.finders import doubts, find_finder
from diffragan.reconstruction.orientations.hand import hand_of
from diffragan.reconstruction.orientations.map_symmetry import MapSymmetry, symmetry_of
from diffragan.reconstruction.phased_map import PhasedMap
from diffragan.reconstruction.start_from_waves import begin_from_waves
from diffragan.settings import Settings
from diffragan.symmetry import group_of

_SAVE_EVERY_S = 60.0


# A map phases patterns if it goes clearly beyond what the images show by themselves.
_BEYOND_IMAGES = 0.8


@dataclass(frozen=True)
class Solution:
    """What a run gives, on the CPU.

    combined: the map of all views. seconds: of all sessions together. device: where it was solved.
    """

    half_maps: HalfMaps
    combined: PhasedMap
    views: Views
    selection: ViewSelection
    seconds: float
    converged: bool
    verdict: str
    hand: str
    symmetry_seen: str
    device: str


def solve_views(
    pairs: Pairs,
    selection: ViewSelection,
    out: Path,
    settings: Settings,
    *,
    start_waves: Path | None = None,
    device: torch.device = CPU,
    progress: Progress = no_progress,
) -> Solution:
    """Phase all views together; an interrupted run in `out` goes on where it stopped, also on
    another device.

    Processes that torchrun started (`engine/processes.py`) call this together: each works on a
    share of the views, and their corrections are added. The first loads, finds orientations and
    saves.

    Args:
        start_waves: result store of the same pairs (`diffragan phase`), whose phased waves make
            the start in place of the images and noise.
        device: where the solve runs.

    Raises:
        DiffraganError: an unfinished run with other settings lies in `out`.
    """
    scratch = out / SCRATCH
    began = time.perf_counter()
    with first_alone() as first:
        if first:
            claim(scratch, run_key(pairs, selection, settings, start_waves))
    views = to_device(_load_in_turn(pairs, selection, settings, scratch, progress), device)
    if selection.rotations is None:
        _find_orientations(views, selection.mass_kda, settings, scratch, progress)
        views, warnings = _oriented(views, scratch)
        selection = replace(selection, warnings=(*selection.warnings, *warnings))
    state_file = scratch / STATE
    if state_file.exists():
        half_maps, spent = restored(state_file, views, settings, selection.mass_kda)
    else:
        half_maps = many_views.start(views, settings.many_views, selection.mass_kda, settings.seed)
        spent = 0.0
        if start_waves is not None:
            begin_from_waves(half_maps, start_waves, pairs)
    began -= spent
    _iterate(half_maps, state_file, began, progress)
    combined = many_views.combined(half_maps, views)
    converged, verdict = convergence(half_maps, settings)
    selection, seen = _warned(selection, half_maps, combined)
    return Solution(
        to_device(half_maps, CPU),
        to_device(combined, CPU),
        to_device(views, CPU),
        selection,
        time.perf_counter() - began,
        converged,
        verdict,
        hand_in_words(combined, converged),
        seen.name,
        str(device),
    )


def _warned(
    selection: ViewSelection, half_maps: HalfMaps, combined: PhasedMap
) -> tuple[ViewSelection, MapSymmetry]:
    """The selection with what is to be said of its map, and the symmetry that this shows."""
    selection = _doubted(selection, half_maps, combined.full)
    return _proposed(selection, combined, half_maps.settings.symmetry)


def _doubted(selection: ViewSelection, half_maps: HalfMaps, views: Views) -> ViewSelection:
    """The selection with a word on a background that claims are not to be believed beside."""
    other = None if half_maps.measure is None else half_maps.measure.other
    if selection.mass_kda is None or other is None:
        return selection
    doubt = background_doubt(views, selection.mass_kda, other)
    return selection if doubt is None else replace(selection, warnings=(*selection.warnings, doubt))


def _load_in_turn(
    pairs: Pairs, selection: ViewSelection, settings: Settings, scratch: Path, progress: Progress
) -> Views:
    """The views as `_load` gives them; of several processes the first fills the scratch folder,
    and the others read it."""
    if is_first():
        with apart():
            views = _load(pairs, selection, settings, scratch, progress)
        wait_for_all()
    else:
        wait_for_all()
        with apart():
            views = _load(pairs, selection, settings, scratch, no_progress)
    return views.with_symmetry(torch.from_numpy(group_of(settings.many_views.symmetry)).float())


def _proposed(
    selection: ViewSelection, combined: PhasedMap, used: str
) -> tuple[ViewSelection, MapSymmetry]:
    """The selection with a word on a symmetry that the map shows and the run was not told of; and
    what symmetry the map shows."""
    seen = symmetry_of(combined.map)
    if used != "C1" or seen.name == "C1":
        return selection, seen
    word = (
        f"The map looks like {seen.name}: turned about its axes it correlates with itself by "
        f"{seen.correlation:.2f}; with --symmetry {seen.name} each view counts for "
        "all its equivalents (orientations found from nothing, or told with RELION's axes)."
    )
    return replace(selection, warnings=(*selection.warnings, word)), seen


def _load(
    pairs: Pairs, selection: ViewSelection, settings: Settings, scratch: Path, progress: Progress
) -> Views:
    """The selected views, with orientations to be found as the identity, and their background.

    Raises:
        DiffraganError: there is a background, or damage to be found, and no molecular weight to
            tell it by.
    """
    count = len(selection.items)
    identity = torch.eye(3, dtype=torch.float64).expand(count, 3, 3).numpy()
    views = load_views(
        pairs,
        selection.items,
        identity if selection.rotations is None else selection.rotations,
        scratch,
        shifts_A=selection.shifts_A,
        progress=progress,
    )
    many = settings.many_views
    refined = "damage" in many.refine_views
    if refined and (views.electrons is None or selection.mass_kda is None):
        raise DiffraganError(
            "Damage is told by counts and by what a molecule of a known weight scatters; give both "
            "(pattern.dose_e_per_A2, many_views.mass_kda), or leave damage out of "
            "many_views.refine_views."
        )
    empty = many.background_from
    if empty is not None and views.electrons is not None:
        return with_empty_positions(views, Path(empty))
    specimen, background = pairs.settings.specimen, many.background
    if background is None or refined:
        background = refined or bool(specimen.ice_nm or specimen.damage or specimen.support)
    if not background or views.electrons is None:
        return views
    if selection.mass_kda is None:
        raise DiffraganError(
            "What scatters beside the molecule is told by its weight; give it "
            "(--set many_views.mass_kda=...), or leave it (--set many_views.background=false)."
        )
    return with_background(views, selection.mass_kda)


def _iterate(half_maps: HalfMaps, state_file: Path, began: float, progress: Progress) -> None:
    """Both halves to their end, the state saved now and then.

    Args:
        began: when the run began, by the clock of `time.perf_counter`, pauses left out.
    """
    saved = time.perf_counter()
    while not half_maps.done:
        half_maps.step()
        progress("iterations", half_maps.iteration, None, _word(half_maps))
        if is_first() and time.perf_counter() - saved > _SAVE_EVERY_S:
            save_state(state_file, half_maps, time.perf_counter() - began)
            saved = time.perf_counter()
    if is_first():
        save_state(state_file, half_maps, time.perf_counter() - began)
    progress("all views together", half_maps.iteration, None, _word(half_maps))


def _word(half_maps: HalfMaps) -> str:
    """How the run goes, by its last check."""
    if not half_maps.history:
        return ""
    row = half_maps.history[-1]
    return f"(R {row['r_factor']:.3f}, expected to be right to {row['resolution_A']:.2f} Å)"


_ORIENTATIONS = "orientations.pt"


def _find_orientations(
    views: Views, mass_kda: float | None, settings: Settings, scratch: Path, progress: Progress
) -> None:
    """Orientations from nothing, which the scratch folder keeps; not twice, and of several
    processes by the first."""
    kept, many = scratch / _ORIENTATIONS, settings.many_views
    with first_alone() as first:
        if kept.exists() or not first:
            return
        find = find_finder(many.find_by)
        result = find(views, mass_kda, settings, scratch, progress)
        warning = doubts(result, many.find_by, mass_kda)
        placed = {name: getattr(result.views, name).cpu() for name in ("rotations", "shifts_A")}
        save_tensors(kept, {"placed": placed, "warning": warning})


def _oriented(views: Views, scratch: Path) -> tuple[Views, list[str]]:
    """The views with the orientations that were found, and a warning if they are doubtful."""
    device = views.device
    read = torch.load(scratch / _ORIENTATIONS, weights_only=True)
    placed = replace(views, **{k: v.to(device) for k, v in read["placed"].items()})
    if views.symmetry is not None:
        placed = placed.with_symmetry(views.symmetry)
    return placed, read["warning"]


def hand_in_words(combined: PhasedMap, converged: bool) -> str:
    """What the difference of Friedel mates says of the map's hand."""
    hand = hand_of(volume_spectrum(combined.map), combined.views)
    if not converged or hand.decision == "open":
        return "open (Friedel mates do not tell it)"
    sure = f"{abs(hand.sigma):.0f} standard errors, from the difference of Friedel mates"
    if hand.decision == "this":
        return f"as in the map ({sure})"
    return f"the mirror image of the map ({sure}); check the sign of the angles"


def _way_on(half_maps: HalfMaps) -> str:
    """What may help a run of counts that did not converge."""
    counted = half_maps.halves[0].views.electrons is not None
    if not counted or half_maps.settings.climb_by == "likelihood":
        return ""
    return " From few electrons the likelihood goes further (--set many_views.climb_by=likelihood)."


def convergence(half_maps: HalfMaps, settings: Settings) -> tuple[bool, str]:
    """Whether a finished run converged, and why in words."""
    from diffragan.optics import q_from_angle

    assert half_maps.measure is not None
    resolution = half_maps.measure.resolution_A
    aperture = 1 / q_from_angle(settings.image.aperture_mrad, settings.energy_ev)
    if resolution > _BEYOND_IMAGES * aperture:
        return False, (
            f"The patterns were not phased: the map is expected to be right to {resolution:.2f} Å, "
            f"and the images alone show {aperture:.2f} Å.{_way_on(half_maps)}"
        )
    if half_maps.exhausted:
        return False, (
            f"The run was still changing after {half_maps.settings.iterations} iterations at the "
            "finest resolution; allow more (--set many_views.iterations=...)."
        )
    return True, f"The map is expected to be right to {resolution:.2f} Å."
