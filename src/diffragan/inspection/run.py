"""From an instrument's files to a measurement store: what is found is told, drawn and written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.files.store_header import StructureInfo, info_to_json
from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.inspection.agreement import placed
from diffragan.inspection.findings import Findings, PairFindings, PatternFindings
from diffragan.inspection.frames import Frames, open_frames
from diffragan.inspection.images import (
    FieldImages,
    Placement,
    chosen_pairs,
    images_on_field,
    own_defocus,
    pixel_of_images,
    place,
    shown_defocus,
    told_defocus,
    with_aberration,
)
from diffragan.inspection.patterns import inspect_patterns, pattern_at, scan_of
from diffragan.microscope.imaging import pattern_mask
from diffragan.optics import DEFOCUS_ARRAYS, Defocus, Optics, pattern_pixels, wavelength_A
from diffragan.pairs.lens import recorded_lens
from diffragan.progress import Progress, no_progress
from diffragan.settings import Settings, given_by_hand

_SAME_A = 10.0  # defoci that agree to it count as one
_AT_A_TIME = 32  # images whose defocus is looked for together


@dataclass(frozen=True)
class _OnField:
    """Patterns and images of one instrument, to be cut out on one field of side `box_A`.

    found: of the patterns. settings: with what the files tell of the lens.
    """

    patterns: Frames
    cameras: Frames
    found: PatternFindings
    settings: Settings
    box_A: float

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.patterns)

    @property
    def m(self) -> int:
        """Side of a pattern and an image, px."""
        angle, energy = self.settings.pattern.max_angle_mrad, self.settings.energy_ev
        return pattern_pixels(self.box_A, angle, energy)

    @property
    def optics(self) -> Optics:
        return Optics(self.settings.energy_ev, self.box_A, 0.0)

    @property
    def pixel_A(self) -> float:
        """Of the images."""
        return pixel_of_images(self.cameras, self.settings)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(m, m) pixels that the settings use."""
        valid: NDArray[np.bool_] = pattern_mask(self.m, self.optics, self.settings.pattern).numpy()
        return valid

    def counts(self, items: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """(b, m, m) counts of some patterns, and (m, m) the pixels that were measured in all."""
        grids = [pattern_at(self.patterns, self.found, int(k), self.box_A, self.m) for k in items]
        good = np.logical_and.reduce([good for _, good in grids])
        return np.stack([grid for grid, _ in grids]), good

    def electrons(self, items: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """(b, m, m) electrons of some patterns, and (m, m) the pixels to use of them."""
        counts, good = self.counts(items)
        return counts / self.settings.inspect.counts_per_electron, good & self.mask

    def images(self, items: NDArray[np.int64]) -> FieldImages:
        return images_on_field(self.cameras, items, self.pixel_A, self.box_A, self.m, self.settings)

    def blocks(self, size: int) -> Iterator[NDArray[np.int64]]:
        """All items, so many at a time."""
        yield from (np.arange(i, min(i + size, self.n)) for i in range(0, self.n, size))


def inspect(  # long: what it may be told, as the command lists it
    files: Sequence[Path],
    out: Path,
    settings: Settings,
    *,
    images: Sequence[Path] = (),
    box_A: float | None = None,
    mask: Path | None = None,
    pattern_key: str | None = None,
    image_key: str | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Findings:
    """Look at an instrument's files, and write the pairs they hold.

    Leaves the measurement store `out`, where there are images, and beside it `.png`, the picture to
    confirm, and `.json`, the numbers.

    Args:
        files: of patterns, of one detector. images: of as many images, in the same order.
        box_A: side of the field; none: the detector's own, 1 / its pixel.
        mask: a file of good pixels, True or above 0.

    Raises:
        DiffraganError: files that can't be read, do not belong together, or do not tell what nobody
            told by hand; or `out` was made otherwise.
    """
    if out.suffix != ".zarr":
        raise DiffraganError(f"A store's name ends in .zarr, which '{out}' does not.")
    if out.exists() and not overwrite:
        raise DiffraganError(f"{out} is there already; choose another --out, or pass --overwrite.")
    patterns = open_frames(files, "pattern", pattern_key, mask)
    settings = _with_lens(patterns, images, settings)
    of_patterns = inspect_patterns(patterns, settings, progress)
    notes = [*patterns.told.get("notes", ())]
    pairs = None
    if images or image_key:
        cameras = open_frames(images or files, "image", image_key)
        if len(cameras) != len(patterns):
            raise DiffraganError(
                f"There are {len(patterns)} patterns and {len(cameras)} images; each pattern needs "
                "its image, in the same order."
            )
        settings = _covered(of_patterns, with_aberration(cameras, settings))
        both = _OnField(
            patterns, cameras, of_patterns, settings, box_A or 1 / of_patterns.pixel_per_A
        )
        pairs = _pairs(both, out, overwrite, progress)
    findings = Findings(of_patterns, pairs, notes)
    from diffragan.inspection.picture import draw

    out.parent.mkdir(parents=True, exist_ok=True)
    draw(findings, patterns, out.with_suffix(".png"), settings)
    write_atomically(
        out.with_suffix(".json"), (json.dumps(findings.to_json(), indent=1) + "\n").encode()
    )
    return findings


def _with_lens(patterns: Frames, images: Sequence[Path], settings: Settings) -> Settings:
    """The settings with the energy that the files tell, unless it was given by hand."""
    if given_by_hand(settings, "energy_ev") or "energy_ev" not in patterns.told:
        return settings
    return settings.model_copy(update={"energy_ev": float(np.mean(patterns.told["energy_ev"]))})


def _pairs(both: _OnField, out: Path, overwrite: bool, progress: Progress) -> PairFindings:
    """How images lie to patterns, and the store of both."""
    settings, items = both.settings, chosen_pairs(both.n)
    some = both.images(items)
    electrons, mask = both.electrons(items)
    told = told_defocus(both.cameras, settings)
    told = told or shown_defocus(both.cameras, both.pixel_A, settings)
    own = None if given_by_hand(settings, "image.defocus_A") else _each_told(both.cameras)
    laid = place(
        electrons, mask, some, both.optics, settings, told,
        None if own is None else own.terms_A[items, 0],
    )  # fmt: skip
    if own is None and laid.differ:
        own = _each_found(both, laid)
    dose, dose_by = _dose(both.found, settings, laid.pattern_dose)
    image = settings.image.model_copy(update={"defocus_A": laid.defocus_A, "snr": None})
    pattern = settings.pattern.model_copy(update={"dose_e_per_A2": dose})
    both = replace(both, settings=settings.model_copy(update={"image": image, "pattern": pattern}))
    arrays, header = _arrays(both, own), _header(both)
    with StoreWriter(out, "measurement", both.n, arrays, header, overwrite=overwrite) as writer:
        _write_apart(writer, both, own)
        centres, doses, outside = _write_pairs(writer, both, laid.placement, progress)
        writer.finish()
    return PairFindings(
        pixel_A=both.pixel_A,
        centres_px=centres,
        outside=outside,
        placement=laid.placement,
        placements=laid.placements,
        defocus_A=laid.defocus_A,
        defocus_by=laid.defocus_by,
        defocus_error_A=laid.defocus_error_A,
        each_defocus_A=None if own is None else own.terms_A[:, 0],
        sign=laid.sign,
        dose=dose,
        dose_by=dose_by,
        image_dose=doses,
        box_A=both.box_A,
        m=both.m,
    )


def _each_told(cameras: Frames) -> Defocus | None:
    """The defocus of each image, where their file tells several."""
    lens = recorded_lens([(cameras.path, cameras.told)], len(cameras))
    if lens.defocus is None:
        return None
    defocus, _ = lens.defocus
    one = np.ptp(defocus.u_A) <= _SAME_A and np.abs(defocus.u_A - defocus.v_A).max() <= _SAME_A
    return None if one else defocus


def _each_found(both: _OnField, laid: Placement) -> Defocus:
    """The defocus of each image as it fits its pattern best."""
    each = np.zeros(both.n)
    for block in both.blocks(_AT_A_TIME):
        electrons, mask = both.electrons(block)
        each[block] = own_defocus(
            electrons, mask, both.images(block), both.optics, both.settings, laid
        )
    return Defocus.of(each)


def _covered(found: PatternFindings, settings: Settings) -> Settings:
    """The settings with no larger angle than the detector saw."""
    side_y, side_x = found.good.shape
    y, x = found.centre.y, found.centre.x
    reach = min(y, side_y - 1 - y, x, side_x - 1 - x) * found.pixel_per_A
    angle = reach * wavelength_A(settings.energy_ev) * 1e3
    if angle >= settings.pattern.max_angle_mrad:
        return settings
    pattern = settings.pattern.model_copy(update={"max_angle_mrad": angle})
    return settings.model_copy(update={"pattern": pattern})


def _dose(found: PatternFindings, settings: Settings, by_images: float) -> tuple[float, str]:
    """e/Å² of one pattern, and how it is known.

    Raises:
        DiffraganError: no way to tell it.
    """
    if settings.pattern.dose_e_per_A2 is not None:
        return settings.pattern.dose_e_per_A2, "by hand"
    beam = any(other.by == "the direct beam" for other in found.others)
    diameter = settings.inspect.beam_diameter_A
    if beam and diameter:
        electrons = float(found.total[found.good].sum()) / found.frames
        electrons /= settings.inspect.counts_per_electron
        return electrons / (np.pi / 4 * diameter**2), "by the direct beam and its diameter"
    if np.isfinite(by_images):
        return by_images, "by the contrast of the images (better: --dose or --beam-diameter-A)"
    raise DiffraganError(
        "Nothing tells the dose of the patterns; give --dose, or --beam-diameter-A where the "
        "direct beam is on the detector."
    )


def _arrays(both: _OnField, own: Defocus | None) -> dict[str, ArraySpec]:
    """What a store of the pairs holds; `own` is the defocus of each image, where they differ."""
    m = both.m
    specs = {
        "pattern": ArraySpec((m, m), "float32", "fraction of the beam per pixel"),
        "pattern_mask": ArraySpec((m, m), "bool", "true where valid", per_item=False),
        "image": ArraySpec((m, m), "float32", "mean intensity"),
        "image_dose": ArraySpec((), "float64", "e/angstrom^2"),
        "structure": ArraySpec((), "int32", "index"),
    }
    if scan_of(both.patterns, both.settings):
        specs["scan_position"] = ArraySpec((2,), "int32", "row and column")
    if own is not None:
        units = ("angstrom", "angstrom", "degree")
        specs |= {
            k: ArraySpec((), "float64", u) for k, u in zip(DEFOCUS_ARRAYS, units, strict=True)
        }
    return specs


def _header(both: _OnField) -> dict[str, Any]:
    """What the store tells of where its pairs come from."""
    return {
        "optics": vars(both.optics),
        "structures": info_to_json([StructureInfo(both.patterns.path.name.split(".")[0])]),
        "settings": both.settings.model_dump(mode="json"),
        "source": {"path": str(both.patterns.path), "image": str(both.cameras.path)},
        "truth": False,
    }


def _write_apart(writer: StoreWriter, both: _OnField, own: Defocus | None) -> None:
    """What stands beside patterns and images: structures, defoci, places of the scan."""
    writer.put("structure", np.zeros(both.n, np.int32))
    if own is not None:
        for name, values in zip(DEFOCUS_ARRAYS, vars(own).values(), strict=True):
            writer.put(name, values)
    if scan := scan_of(both.patterns, both.settings):
        places = np.stack(np.divmod(np.arange(both.n), scan[1]), -1)
        writer.put("scan_position", places.astype(np.int32))


def _write_pairs(
    writer: StoreWriter, both: _OnField, placement: str, progress: Progress
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Patterns and images; the molecules' places in their images, the images' doses, and the
    largest part of a field beyond an image's edge."""
    settings, mask = both.settings, both.mask
    dose = settings.pattern.dose_e_per_A2 or 1.0
    beam = np.float32(settings.inspect.counts_per_electron * dose * both.box_A**2)
    centres, doses, outside = np.zeros((both.n, 2)), np.zeros(both.n), 0.0
    for block in both.blocks(writer.block):
        counts, good = both.counts(block)
        mask &= good
        cut = both.images(block)
        centres[block], doses[block] = cut.centres_px, cut.dose
        outside = max(outside, cut.outside)
        writer.write(
            block,
            pattern=counts.astype(np.float32) / beam,
            image=placed(cut.images, placement).astype(np.float32),
            image_dose=cut.dose,
        )
        progress("pairs", int(block[-1]) + 1, both.n)
    if not mask.any():
        raise DiffraganError(f"No pixel of {both.patterns.path} is left to use; look at the mask.")
    writer.put("pattern_mask", mask)
    return centres, doses, outside
