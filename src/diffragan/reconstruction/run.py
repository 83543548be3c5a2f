"""The run of `--method many-views`, from pairs to a folder of results; it resumes.

While it runs, OUT/.run holds the views' arrays and the state; both go when it is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from diffragan.files.atomic import save_tensors
from diffragan.fourier.volumes import CPU, volume_spectrum
from diffragan.pairs.pairs import Pairs
from diffragan.reconstruction import many_views
from diffragan.reconstruction.checkpoint import SCRATCH, STATE, claim, restored, run_key, save_state
from diffragan.reconstruction.choose_views import ViewSelection
from diffragan.reconstruction.load_views import load_views
from diffragan.reconstruction.many_views import HalfMaps, Row
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.from_images import find_from_images
from diffragan.reconstruction.orientations.hand import hand_of
from diffragan.reconstruction.phased_map import PhasedMap
from diffragan.settings import Settings

_SAVE_EVERY_S = 60.0


# A map phases patterns if it goes clearly beyond what the images show by themselves.
_BEYOND_IMAGES = 0.8


Tell = Callable[[str, int, int | None, str], None]


@dataclass(frozen=True)
class ReconstructionResult:
    """What a run gives, on the CPU.

    whole: the map of all views. seconds: of all sessions together. device: where it was solved.
    """

    solve: HalfMaps
    whole: PhasedMap
    views: Views
    chosen: ViewSelection
    seconds: float
    converged: bool
    verdict: str
    hand: str
    device: str


def solve_views(
    pairs: Pairs,
    chosen: ViewSelection,
    out: Path,
    settings: Settings,
    *,
    start_waves: Path | None = None,
    device: torch.device = CPU,
    tell: Tell | None = None,
) -> ReconstructionResult:
    """Phase all views together; an interrupted run in `out` goes on where it stopped, also on
    another device.

    Args:
        start_waves: result store of the same pairs (`diffragan phase`), whose phased waves make
            the start in place of the images and noise.
        device: where the solve runs.
        tell: told the stage's name, the steps done, of how many (None: not known), and a word.

    Raises:
        DiffraganError: an unfinished run with other settings lies in `out`.
    """
    tell = tell or (lambda stage, done, total, word: None)
    scratch = out / SCRATCH
    key = run_key(pairs, chosen, settings, start_waves)
    claim(scratch, key)
    began = time.perf_counter()
    many = settings.many_views
    count = len(chosen.items)
    identity = torch.eye(3, dtype=torch.float64).expand(count, 3, 3).numpy()
    views = load_views(
        pairs,
        chosen.items,
        identity if chosen.rotations is None else chosen.rotations,
        scratch,
        shifts_A=chosen.shifts_A,
        progress=lambda done: tell("reading views", done, count, ""),
    )
    views = views.to(device)
    if chosen.rotations is None:
        views, warning = _oriented(views, chosen.mass_kda, settings, scratch, tell)
        chosen = replace(chosen, warnings=(*chosen.warnings, *warning))
    state_file = scratch / STATE
    spent = 0.0
    if state_file.exists():
        solve, spent = restored(state_file, views, settings, chosen.mass_kda)
    else:
        solve = many_views.start(views, many, chosen.mass_kda, settings.seed)
        if start_waves is not None:
            from diffragan.reconstruction.start_from_waves import begin_from_waves

            begin_from_waves(solve, start_waves, pairs)
    saved = time.perf_counter()
    words = [""]

    def note(row: Row) -> None:
        words[0] = f"(R {row['r_factor']:.3f}, expected to be right to {row['resolution_A']:.2f} Å)"

    while not solve.done:
        solve.step(note)
        tell("iterations", solve.iteration, None, words[0])
        if time.perf_counter() - saved > _SAVE_EVERY_S:
            save_state(state_file, solve, spent + time.perf_counter() - began)
            saved = time.perf_counter()
    save_state(state_file, solve, spent + time.perf_counter() - began)
    tell("all views together", solve.iteration, None, words[0])
    whole = many_views.joined(solve, views)
    converged, verdict = judged(solve, settings)
    hand = hand_in_words(whole, converged)
    seconds = spent + time.perf_counter() - began
    return ReconstructionResult(
        solve.to(CPU),
        whole.to(CPU),
        views.to(CPU),
        chosen,
        seconds,
        converged,
        verdict,
        hand,
        str(device),
    )


def _oriented(
    views: Views, mass_kda: float | None, settings: Settings, scratch: Path, tell: Tell
) -> tuple[Views, list[str]]:
    """The views with orientations found from nothing, which the scratch folder keeps, and a
    warning if they are doubtful."""
    kept = scratch / "orientations.pt"
    many, device = settings.many_views, views.device
    if not kept.exists():
        steps = [0]

        def note(text: str) -> None:
            steps[0] += 1
            tell("orientations", steps[0], None, f"({text})")

        warning: list[str] = []
        search = find_from_images(
            views,
            mass_kda,
            seed=settings.seed,
            starts=many.find_starts,
            keep=scratch / "starts.pt",
            progress=note,
        )
        if not search.sure:
            warning = [
                f"No two of {len(search.starts)} random starts came to the same map, so the "
                "orientations are doubtful; give more views, or more starts (--set "
                "many_views.find_starts=...)."
            ]
        placed = {name: getattr(search.views, name).cpu() for name in ("rotations", "shifts_A")}
        save_tensors(kept, {"placed": placed, "warning": warning})
    read = torch.load(kept, weights_only=True)
    return replace(views, **{k: v.to(device) for k, v in read["placed"].items()}), read["warning"]


def hand_in_words(whole: PhasedMap, converged: bool) -> str:
    """What the difference of Friedel mates says of the map's hand."""
    told = hand_of(volume_spectrum(whole.map), whole.views)
    if not converged or told.decision == "open":
        return "open (Friedel mates do not tell it)"
    sure = f"{abs(told.sigma):.0f} standard errors, from the difference of Friedel mates"
    if told.decision == "this":
        return f"as in the map ({sure})"
    return f"the mirror image of the map ({sure}); check the sign of the angles"


def judged(solve: HalfMaps, settings: Settings) -> tuple[bool, str]:
    """Whether a finished run converged, and why in words."""
    from diffragan.optics import q_from_angle

    assert solve.measure is not None
    resolution = solve.measure.resolution_A
    aperture = 1 / q_from_angle(settings.image.aperture_mrad, settings.energy_ev)
    if resolution > _BEYOND_IMAGES * aperture:
        return False, (
            f"The patterns were not phased: the map is expected to be right to {resolution:.2f} Å, "
            f"and the images alone show {aperture:.2f} Å."
        )
    if solve.exhausted:
        return False, (
            f"The run was still changing after {solve.settings.iterations} iterations at the "
            "finest resolution; allow more (--set many_views.iterations=...)."
        )
    return True, f"The map is expected to be right to {resolution:.2f} Å."
