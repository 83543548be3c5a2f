"""The chosen patterns and their images into a measurement store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.store_header import StructureInfo, info_to_json
from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.inspection.agreement import placed
from diffragan.inspection.detector.field import image_on_field
from diffragan.inspection.findings import PatternFindings
from diffragan.inspection.frames import Frames
from diffragan.inspection.images import (
    FieldImages,
    Placement,
    ToldDefocus,
    chosen_pairs,
    dose_of_image,
    place,
)
from diffragan.inspection.patterns import pattern_at
from diffragan.microscope.imaging import pattern_mask
from diffragan.optics import Optics, pattern_pixels, q_from_angle, wavelength_A
from diffragan.progress import Progress
from diffragan.settings import Settings

CLEAR = 10.0  # of log likelihood: by so much one way to lay images is ahead of another


@dataclass(frozen=True)
class Field:
    """The field of pairs: side, pixels a side, and Optics of the molecule's own plane."""

    optics: Optics
    m: int
    settings: Settings

    @classmethod
    def of(cls, found: PatternFindings, settings: Settings, box_A: float) -> Field:
        """A field of this side, to no larger angle than the detector sees."""
        side_y, side_x = found.good.shape
        y, x = found.centre.y, found.centre.x
        reach = min(y, side_y - 1 - y, x, side_x - 1 - x) * found.pixel_per_A
        angle = reach * wavelength_A(settings.energy_ev) * 1e3
        if angle < settings.pattern.max_angle_mrad:
            pattern = settings.pattern.model_copy(update={"max_angle_mrad": angle})
            settings = settings.model_copy(update={"pattern": pattern})
        m = pattern_pixels(box_A, settings.pattern.max_angle_mrad, settings.energy_ev)
        return cls(Optics(settings.energy_ev, box_A, 0.0), m, settings)

    def with_image(self, defocus_A: float, dose: float) -> Field:
        """The same with what was found of the overview: its defocus, and its dose in e/Å²."""
        found = {"defocus_A": defocus_A, "snr": None, "dose_e_per_A2": dose}
        image = self.settings.image.model_copy(update=found)
        return replace(self, settings=self.settings.model_copy(update={"image": image}))


@dataclass(frozen=True)
class Overview:
    """The overview image (rows, columns) of counts, its pixel, and its dose in e/Å²."""

    image: NDArray[np.float32]
    pixel_A: float
    dose: float

    @classmethod
    def of(cls, image: NDArray[np.float32], pixel_A: float, settings: Settings) -> Overview:
        """An image whose dose is told, or else by its noise."""
        aperture = q_from_angle(settings.image.aperture_mrad, settings.energy_ev)
        told = settings.image.dose_e_per_A2
        return cls(image, pixel_A, told or _dose(image, pixel_A, 2 * aperture))

    def around(self, place_A: NDArray[np.float64], field: Field) -> NDArray[np.float64]:
        """(m, m) image of the field around a place (y, x), mean 1."""
        reach = round(0.75 * field.optics.box_A / self.pixel_A) + 8
        middle = place_A / self.pixel_A
        top, left = (max(0, round(c) - reach) for c in middle)
        cut = self.image[top : round(middle[0]) + reach + 1, left : round(middle[1]) + reach + 1]
        inside = (float(middle[0]) - top, float(middle[1]) - left)
        image, _ = image_on_field(
            cut.astype(np.float64), self.pixel_A, inside, field.optics.box_A, field.m
        )
        return image

    def holds(self, places_A: NDArray[np.float64], box_A: float) -> NDArray[np.bool_]:
        """(n,) whether fields around places (n, 2) lie wholly in the image."""
        far = np.array(self.image.shape) * self.pixel_A
        half = box_A / 2
        inside: NDArray[np.bool_] = np.asarray(
            ((places_A >= half) & (places_A <= far - half)).all(1)
        )
        return inside


def _dose(image: NDArray[np.float32], pixel_A: float, empty_q: float) -> float:
    """By the noise of a few pieces, the median."""
    side = min(512, *image.shape)
    corners = [
        (y, x)
        for y in np.linspace(0, image.shape[0] - side, 3, dtype=int)
        for x in np.linspace(0, image.shape[1] - side, 3, dtype=int)
    ]
    pieces = [image[y : y + side, x : x + side].astype(np.float64) for y, x in corners]
    doses = [dose_of_image(piece, pixel_A, empty_q) for piece in pieces if piece.mean() > 0]
    if not doses:
        raise DiffraganError("The overview is empty; is it the right file?")
    return float(np.median(doses))


@dataclass(frozen=True)
class Cuts:
    """Where n pairs are cut from: frames of a scan, and places on its overview.

    items: (n,) number of each frame. places_A: (n, 2) y and x of the particle that the beam met
    there. lit: (n,) part of the full beam that it got. placement: how images are laid to their
    patterns (`inspection.agreement.PLACEMENTS`).
    """

    frames: Frames
    found: PatternFindings
    overview: Overview
    items: NDArray[np.int64]
    places_A: NDArray[np.float64]
    lit: NDArray[np.float64]
    placement: str = "as-is"

    def __len__(self) -> int:
        return len(self.items)

    def patterns(
        self, some: NDArray[np.int64], field: Field
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(k, m, m) counts of some pairs on the field's grid, and where all were measured."""
        box_A, m = field.optics.box_A, field.m
        grids = [pattern_at(self.frames, self.found, int(self.items[k]), box_A, m) for k in some]
        return np.stack([grid for grid, _ in grids]), np.logical_and.reduce([ok for _, ok in grids])

    def images(self, some: NDArray[np.int64], field: Field) -> NDArray[np.float64]:
        """(k, m, m) images of some pairs, mean 1, laid to their patterns."""
        cut = np.stack([self.overview.around(self.places_A[k], field) for k in some])
        return placed(cut, self.placement)


def placement_of(cuts: Cuts, field: Field, told: ToldDefocus | None) -> Placement:
    """How images lie to their patterns (`inspection.images.place`): by up to 32 pairs, or by all
    where these leave it open, as those of few electrons do.

    Args:
        cuts: not yet placed. told: the overview's defocus, and who tells it.
    """
    few, everyone = chosen_pairs(len(cuts)), np.arange(len(cuts))
    placement = _placement_by(few, cuts, field, told)
    if len(few) == len(cuts) or clearly_placed(placement):
        return placement
    return _placement_by(everyone, cuts, field, told)


def clearly_placed(placement: Placement) -> bool:
    """Whether one way to lay images to patterns is far likelier than chance and the others."""
    totals = sorted((way.total for way in placement.placements.values()), reverse=True)
    return totals[0] > CLEAR and totals[0] - totals[1] > CLEAR


def _placement_by(
    some: NDArray[np.int64], cuts: Cuts, field: Field, told: ToldDefocus | None
) -> Placement:
    """The same by some of the pairs."""
    counts, mask = cuts.patterns(some, field)
    mask &= pattern_mask(field.m, field.optics, field.settings.pattern).numpy()
    electrons = counts / field.settings.inspect.counts_per_electron
    n = len(some)
    images = FieldImages(
        cuts.images(some, field), np.full(n, cuts.overview.dose), np.zeros((n, 2)), 0.0
    )
    return place(electrons, mask, images, field.optics, field.settings, told)


def _specs(m: int) -> dict[str, ArraySpec]:
    """The store's arrays, of m x m pixels."""
    return {
        "pattern": ArraySpec((m, m), "float32", "fraction of the beam per pixel"),
        "pattern_mask": ArraySpec((m, m), "bool", "true where valid", per_item=False),
        "image": ArraySpec((m, m), "float32", "mean intensity"),
        "image_dose": ArraySpec((), "float64", "e/angstrom^2"),
        "structure": ArraySpec((), "int32", "index"),
        "scan_position": ArraySpec((2,), "int32", "row and column"),
        "place": ArraySpec((2,), "float64", "angstrom, y and x in the overview"),
        "mass": ArraySpec((), "float64", "kDa, by what the pattern scatters"),
        "probability": ArraySpec((), "float64", "of being a molecule's"),
        "illumination": ArraySpec((), "float64", "part of the full beam"),
    }


def write_scan_pairs(
    out: Path,
    cuts: Cuts,
    columns: dict[str, NDArray[Any]],
    structures: Sequence[StructureInfo],
    field: Field,
    *,
    overwrite: bool,
    progress: Progress,
) -> None:
    """Patterns and images into a measurement store.

    Args:
        columns: further arrays, one value a pair: structure, scan_position, mass, probability.
    """
    n, m, settings, optics = len(cuts), field.m, field.settings, field.optics
    header: dict[str, Any] = {
        "optics": vars(optics),
        "structures": info_to_json(structures),
        "settings": settings.model_dump(mode="json"),
        "source": {"path": str(cuts.frames.path.resolve()), "items": cuts.items.tolist()},
        "truth": False,
    }
    mask = pattern_mask(m, optics, settings.pattern).numpy()
    factor = (
        settings.inspect.counts_per_electron
        * (settings.pattern.dose_e_per_A2 or 1.0)
        * optics.box_A**2
    )
    with StoreWriter(out, "measurement", n, _specs(m), header, overwrite=overwrite) as writer:
        if writer.complete:
            return
        columns = columns | {"place": cuts.places_A, "illumination": cuts.lit}
        for name, values in columns.items():
            writer.put(name, values)
        for block in (np.arange(i, min(i + writer.block, n)) for i in range(0, n, writer.block)):
            counts, seen = cuts.patterns(block, field)
            mask &= seen
            writer.write(
                block,
                pattern=(counts / (factor * cuts.lit[block, None, None])).astype(np.float32),
                image=cuts.images(block, field).astype(np.float32),
                image_dose=np.full(len(block), cuts.overview.dose),
            )
            progress("pairs", int(block[-1]) + 1, n)
        if not mask.any():
            raise DiffraganError(
                f"No pixel of {cuts.frames.path} is left to use; look at the mask."
            )
        writer.put("pattern_mask", mask)
        writer.finish()
