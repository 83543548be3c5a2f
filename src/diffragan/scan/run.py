"""A scan and its overview to pairs: look, lay one on the other, choose, cut out, tell."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffragan.errors import DiffraganError
from diffragan.files.store_header import StructureInfo
from diffragan.inspection.agreement import PLACEMENTS
from diffragan.inspection.images import Placement
from diffragan.progress import Progress, no_progress
from diffragan.scan.choose import Chosen, choose, diameter_of, seen_from, with_several
from diffragan.scan.look import Looked, dose_of, look, weights_of
from diffragan.scan.opened import OpenedScan, open_scan
from diffragan.scan.outputs import write_outputs
from diffragan.scan.pairs import CLEAR, Cuts, Field, Overview, placement_of, write_scan_pairs
from diffragan.scan.placing.particles import Particles, pick_particles
from diffragan.scan.placing.registration import Registration, register
from diffragan.settings import Settings, settings_to_toml

_LEAST_MATCHED, _PART_MATCHED = 5, 0.4  # hits that must find a particle, in all and in parts
# Of a pair's field over the molecule's diameter: what the patterns of a molecule tell has twice its
# extent, and a smaller field's pixels would average over it.
_ROOM = 2.0


@dataclass(frozen=True)
class ScanResult:
    """A scan that was turned into pairs: its folder, and the numbers of session.json there."""

    folder: Path
    session: dict[str, Any]

    @property
    def pairs(self) -> Path:
        """The measurement store."""
        return self.folder / "pairs.zarr"

    @property
    def summary(self) -> list[str]:
        """Sentences for the user."""
        return [str(line) for line in self.session["words"]]


def scan(  # long: what it may be told, as the command lists it
    files: Sequence[Path],
    overview: Path,
    out: Path,
    settings: Settings,
    *,
    box_A: float | None = None,
    mask: Path | None = None,
    pattern_key: str | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> ScanResult:
    """Pairs of a scan's hits and what the overview shows of them.

    An interrupted run goes on where it was; a finished one is given as it is.

    Args:
        files: of the scan's patterns, in order. overview: one image of the place.
        out: folder for pairs.zarr, positions.csv, session.json, images and a page.
        box_A: side of the pairs' field; none: twice a molecule's diameter.
        mask: a file of good pixels.

    Raises:
        DiffraganError: files that can't be read or don't belong together, no hits, or an overview
            of another place; the message says what to give.
    """
    opened = open_scan(files, overview, settings, mask=mask, pattern_key=pattern_key)
    settings = opened.settings
    identity = _identity(files, overview, settings, box_A)
    finished = _finished(out, identity, overwrite=overwrite)
    if finished is not None:
        return ScanResult(out, finished)
    out.mkdir(parents=True, exist_ok=True)
    kept = out / f".rings-{identity[:16]}.npz"
    looked = look(opened, kept, progress)
    diameter = diameter_of(settings.scan)
    particles = pick_particles(opened.image, opened.pixel_A, diameter, settings)
    registration = _registered(opened, looked, particles, progress)
    seen = seen_from(registration, particles, diameter)
    looked = replace(looked, classes=with_several(looked.classes, seen, settings.scan))
    dose = dose_of(looked, opened.beam.area_A2, settings)
    pattern = settings.pattern.model_copy(update={"dose_e_per_A2": dose[0]})
    settings = settings.model_copy(update={"pattern": pattern})
    mass, deviation = weights_of(looked, dose[0], seen.lit, settings)
    field = Field.of(looked.found, settings, box_A or _ROOM * diameter)
    view = Overview.of(opened.image, opened.pixel_A, settings)
    inside = view.holds(
        particles.places_A[np.maximum(seen.nearest, 0)].reshape(-1, 2), field.optics.box_A
    )
    chosen = choose(looked.classes, seen, mass, deviation, inside, settings.scan)
    if not len(chosen):
        raise DiffraganError(_no_pairs(chosen))
    items, places = looked.frame[chosen.position], particles.places_A[chosen.particle]
    cuts = Cuts(opened.frames, looked.found, view, items, places, seen.lit[chosen.position])
    placement = placement_of(cuts, field, opened.defocus)
    field = field.with_image(placement.defocus_A, view.dose)
    write_scan_pairs(
        out / "pairs.zarr", replace(cuts, placement=placement.placement), _columns(looked, chosen),
        _structures(opened), field, overwrite=overwrite, progress=progress,
    )  # fmt: skip
    session = _numbers(opened, looked, registration, chosen, placement, field, dose, view.dose)
    words = _words(session, opened, placement)
    session |= {"identity": identity, "words": words}
    warnings = [*opened.notes, *_doubts(session)]
    told = (session, words, warnings, settings_to_toml(field.settings))
    write_outputs(
        out, looked, registration, seen, chosen, mass, (opened.image, opened.pixel_A), told
    )
    kept.unlink(missing_ok=True)
    return ScanResult(out, session)


def _identity(
    files: Sequence[Path], overview: Path, settings: Settings, box_A: float | None
) -> str:
    """What tells one run from another: files by name, size and time, and all settings."""
    seen = [
        (str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns)
        for path in (*files, overview)
    ]
    content = json.dumps([seen, settings.model_dump(mode="json"), box_A], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _finished(out: Path, identity: str, *, overwrite: bool) -> dict[str, Any] | None:
    """The numbers of a run that is done; None where there is something to do.

    Raises:
        DiffraganError: another run lies there.
    """
    if not (out / "session.json").exists() or overwrite:
        return None
    try:
        session: dict[str, Any] = json.loads((out / "session.json").read_text("utf-8"))
    except ValueError:
        session = {}
    if session.get("identity") != identity:
        raise DiffraganError(
            f"{out} holds a scan of other files or settings; choose another --out, or pass "
            "--overwrite."
        )
    return session


def _registered(
    opened: OpenedScan, looked: Looked, particles: Particles, progress: Progress
) -> Registration:
    """How scan and overview lie to each other.

    Raises:
        DiffraganError: no hits, or an overview that does not show this place.
    """
    chosen = opened.settings.scan
    hits = int((looked.excess.z >= chosen.excess_sd).sum())
    if not np.isin(looked.classes, ("molecule", "several")).any():
        raise DiffraganError(
            f"No pattern of {opened.frames.path} is of a molecule ({hits} exceed the background by "
            f"{chosen.excess_sd:g} standard deviations); was the beam on the specimen? A lower "
            "threshold: --set scan.excess_sd=3 or --threshold."
        )
    found = register(
        looked.grid, looked.classes.reshape(looked.shape), particles, opened.step_A,
        opened.beam, chosen.turn_deg, progress,
    )  # fmt: skip
    few = found.matched[0] < max(_LEAST_MATCHED, _PART_MATCHED * found.matched[1])
    if found.likeness < chosen.likeness or few:
        raise DiffraganError(
            f"The overview {opened.overview} does not show the place of {opened.frames.path}: of "
            f"{found.matched[1]} hits {found.matched[0]} find a particle where it should be, and "
            f"what the beam should meet correlates with the patterns by {found.likeness:.2f} "
            f"({chosen.likeness:g} is needed); give the overview of this scan."
        )
    return found


def _no_pairs(chosen: Chosen) -> str:
    steps = ", ".join(f"{count:,} {step}" for step, count in chosen.lost)
    return (
        f"No pattern is left to make a pair of: {steps}. Look at --set scan.illumination, "
        "scan.others and --mass-kda."
    )


def _columns(looked: Looked, chosen: Chosen) -> dict[str, Any]:
    """What the store holds of each pair beside its pattern and image."""
    return {
        "structure": np.maximum(chosen.kind, 0).astype(np.int32),
        "scan_position": np.stack(np.divmod(chosen.position, looked.shape[1]), -1).astype(np.int32),
        "mass": chosen.mass_kda,
        "probability": looked.probability[chosen.position],
    }


def _structures(opened: OpenedScan) -> list[StructureInfo]:
    """The kinds by their weights; one, of the scan's name, where none was told."""
    told = opened.settings.scan.masses_kda
    kinds = [StructureInfo(f"{mass:g}kDa", mass_kda=mass) for mass in told]
    return kinds or [StructureInfo(opened.frames.path.name.split(".")[0])]


def _numbers(  # long: what was found on the way
    opened: OpenedScan,
    looked: Looked,
    registration: Registration,
    chosen: Chosen,
    placement: Placement,
    field: Field,
    dose: tuple[float, str],
    image_dose: float,
) -> dict[str, Any]:
    """What session.json holds, but for words."""
    settings = field.settings
    classes = Counter(looked.classes.tolist())
    return {
        "scan": str(opened.frames.path.resolve()),
        "overview": str(opened.overview.resolve()),
        "scan_shape": list(looked.shape),
        "missing": int((looked.frame < 0).sum()),
        "step_A": opened.step_A,
        "beam_diameter_A": registration.beam.diameter_A,
        "beam_edge_A": registration.beam.edge_A,
        "affine": registration.raster.to_json(),
        "registration": {
            "likeness": registration.likeness,
            "coarse_correlation": registration.coarse,
            "ahead_of_other_turns": min(registration.ahead, 1e6),
            "matched_hits": list(registration.matched),
            "residual_A": registration.residual_A if registration.matched[0] else None,
        },
        "overview_pixel_A": opened.pixel_A,
        "image_dose_e_per_A2": image_dose if np.isfinite(image_dose) else None,
        "threshold": settings.scan.threshold,
        "excess_sd": settings.scan.excess_sd,
        "classes": dict(sorted(classes.items())),
        "lost": [{"step": step, "count": count} for step, count in chosen.lost],
        "pairs": len(chosen),
        "masses_kda": list(settings.scan.masses_kda),
        "kinds": [int((chosen.kind == k).sum()) for k in range(len(settings.scan.masses_kda))],
        "box_A": field.optics.box_A,
        "pixels": field.m,
        "dose_e_per_A2": dose[0],
        "dose_by": dose[1],
        "defocus_A": placement.defocus_A,
        "defocus_by": placement.defocus_by,
        "placement": placement.placement,
        "log_likelihood": {way: one.total for way, one in placement.placements.items()},
        "centre_px": [looked.found.centre.y, looked.found.centre.x],
        "pixel_per_A": looked.found.pixel_per_A,
    }


def _words(session: dict[str, Any], opened: OpenedScan, placement: Placement) -> list[str]:
    """Sentences for the user, in the order of the steps."""
    shape, registration = session["scan_shape"], session["registration"]
    kinds = ", ".join(f"{count:,} {name}" for name, count in session["classes"].items())
    matrix = np.array(session["affine"]["matrix_A"])
    steps = np.linalg.norm(matrix, axis=0)
    turn = float(np.degrees(np.arctan2(matrix[0, 1], matrix[1, 1])))
    lost = session["lost"]
    width = max(len(f"{one['count']:,}") for one in lost)
    words = [
        *opened.notes,
        f"Scan of {shape[0]} x {shape[1]} positions: {kinds}.",
        f"It lies on the overview with steps of {steps[0]:.1f} and {steps[1]:.1f} Å, turned by "
        f"{turn:.2f}° (excess as the particles in the beam make it: correlation "
        f"{registration['likeness']:.2f}; beam of {session['beam_diameter_A']:.0f} Å).",
        "What is left, step by step:",
        *(f"  {one['count']:>{width},} {one['step']}" for one in lost),
    ]
    if session["masses_kda"]:
        told = zip(session["kinds"], session["masses_kda"], strict=True)
        words.append("Pairs: " + ", ".join(f"{n:,} of {mass:g} kDa" for n, mass in told) + ".")
    words += [
        f"Field: {session['box_A']:.1f} Å, {session['pixels']} px. Patterns: "
        f"{session['dose_e_per_A2']:.4g} e/Å², {session['dose_by']}. Overview: "
        f"{session['image_dose_e_per_A2'] or 0:.4g} e/Å², defocus {session['defocus_A']:.0f} Å, "
        f"{session['defocus_by']}.",
        f"The overview lies {PLACEMENTS[placement.placement]} on the patterns.",
    ]
    return words


def _doubts(session: dict[str, Any]) -> list[str]:
    """What should be looked at before going on."""
    doubts = []
    if session["registration"]["ahead_of_other_turns"] < _SURE:
        doubts.append(
            "Another turn of the scan fits the overview nearly as well; look at the page."
        )
    if session["log_likelihood"][session["placement"]] <= 0:
        doubts.append(
            "The overview's molecules fit their patterns no better than by chance, so neither how "
            "it lies to them nor its defocus can be told by them; give what the microscope told "
            "(--defocus-A), or more electrons."
        )
    totals = sorted(session["log_likelihood"].values())
    if len(totals) > 1 and totals[-1] - totals[-2] < CLEAR:
        doubts.append("How the overview's image lies to the patterns can't be told for sure.")
    return doubts


_SURE = 1.1  # by which the best turn must be ahead of others, as correlation
