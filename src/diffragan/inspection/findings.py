"""What a look at an instrument's files found, in numbers and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.inspection.agreement import PLACEMENTS, Agreement
from diffragan.inspection.detector.bad_pixels import BadPixels
from diffragan.inspection.detector.centre import Centre
from diffragan.inspection.detector.field import Distortion
from diffragan.inspection.detector.smoothing import Image, Mask


@dataclass(frozen=True)
class PatternFindings:
    """Of the patterns' detector.

    total: (y, x) sum of `frames` frames. good: (y, x) pixels to use. bad: found by looking.
    centre, others: the centre used and others that were found. centres: (n, 2) of every frame.
    wander_px: how far they move. pixel_per_A, by: 1/Å a pixel, and by whose word.
    pixel_error: of rings, relative. distortion: corrected, or None where none was told.
    rings_px: radii of the rings that calibrate it.
    """

    total: Image = field(repr=False)
    frames: int
    good: Mask = field(repr=False)
    bad: BadPixels = field(repr=False)
    centre: Centre
    others: list[Centre]
    centres: NDArray[np.float64] = field(repr=False)
    wander_px: float
    pixel_per_A: float
    by: str
    pixel_error: float | None = None
    distortion: Distortion | None = None
    rings_px: tuple[float, ...] = ()

    def words(self) -> list[str]:
        """Sentences for the user."""
        lines = [self._centre_words()]
        apart = [o for o in self.others if o is not self.centre]
        for other in apart:
            off = math.hypot(other.y - self.centre.y, other.x - self.centre.x)
            lines.append(
                f"By {other.by} it would lie {off:.2f} px away"
                + ("; look at the picture, one of them is wrong." if off > 1 else ".")
            )
        if self.wander_px:
            lines.append(
                f"The centre moves by {self.wander_px:.2f} px over the frames; each has its own, "
                "on a fitted plane."
            )
        bad = [int(mask.sum()) for mask in (self.bad.hot, self.bad.dead, self.bad.stop)]
        lines.append(
            f"Masked: {bad[0]} hot and {bad[1]} dead pixels, {bad[2]} behind a beam stop, "
            f"{int((~self.good).sum()) - sum(bad)} by the files or --mask."
        )
        error = "" if self.pixel_error is None else f", sure to {self.pixel_error:.1%}"
        lines.append(
            f"A pixel is worth {self.pixel_per_A:.6f} 1/Å, {self.by}{error}: the detector's own "
            f"field is {1 / self.pixel_per_A:.1f} Å."
        )
        if self.distortion is not None and self.distortion.size:
            lines.append(
                f"The rings are ellipses, longer by {self.distortion.size:.2%} along "
                f"{self.distortion.angle_deg:.0f}° and shorter across it; this is undone."
            )
        elif self.distortion is None:
            lines.append("Without rings (--rings-A) no elliptical distortion can be told.")
        return lines

    def _centre_words(self) -> str:
        c = self.centre
        sure = f"±{c.error_px:.2f} px" if c.error_px >= 0.005 else "to better than 0.01 px"
        return f"The beam's centre is at row {c.y:.2f}, column {c.x:.2f} ({sure}), by {c.by}."


@dataclass(frozen=True)
class PairFindings:
    """Of images beside patterns.

    pixel_A: the images'. centres_px: (n, 2) of the molecule in each image. outside: part of the
    field beyond the image's edge, at most. placement: the key of the one used, of `PLACEMENTS`.
    placements: how well each fits. defocus_A, by, defocus_error_A: of the images.
    each_defocus_A: (n,) of each, where they differ. sign: of the defocus in standard deviations,
    above 0 for the sign used. dose, dose_by: e/Å² of the patterns. image_dose: (n,) e/Å².
    box_A, m: of the field.
    """

    pixel_A: float
    centres_px: NDArray[np.float64] = field(repr=False)
    outside: float
    placement: str
    placements: Mapping[str, Agreement]
    defocus_A: float
    defocus_by: str
    defocus_error_A: float | None
    each_defocus_A: NDArray[np.float64] | None = field(repr=False)
    sign: float
    dose: float
    dose_by: str
    image_dose: NDArray[np.float64] = field(repr=False)
    box_A: float
    m: int

    @property
    def fits(self) -> bool:
        """Whether the images know of their patterns, as they are laid over them."""
        return self.placements[self.placement].total > 0

    def words(self) -> list[str]:
        """Sentences for the user."""
        doses = self.image_dose[np.isfinite(self.image_dose)]
        n = len(self.centres_px)
        lines = [
            f"Field: {self.box_A:.2f} Å, {self.m} x {self.m} px, of patterns and images alike.",
            f"Patterns: {self.dose:.4g} e/Å², {self.dose_by}. Images: "
            + (f"{np.median(doses):.4g} e/Å²." if len(doses) else "no noise to tell a dose by."),
        ]
        if self.outside > 0.01:
            lines.append(
                f"Up to {self.outside:.0%} of the field lies beyond the images' edge, where their "
                "mean stands in."
            )
        lines += self._placement_words(n)
        error = "" if self.defocus_error_A is None else f" ±{max(self.defocus_error_A, 1):.0f} Å"
        lines.append(f"Defocus: {self.defocus_A:.0f} Å{error}, {self.defocus_by}.")
        if self.each_defocus_A is not None:
            low, high = self.each_defocus_A.min(), self.each_defocus_A.max()
            lines.append(
                f"The images differ in it, from {low:.0f} to {high:.0f} Å; each has its own."
            )
        lines.append(self._sign_words())
        return lines

    def _placement_words(self, n: int) -> list[str]:
        ways = sorted(self.placements, key=lambda way: -self.placements[way].total)
        first, second = ways[0], ways[1]
        ahead = self.placements[first].total - self.placements[second].total
        used = PLACEMENTS[self.placement]
        if self.placements[first].total <= 0 or ahead < SURE:
            sure = "No placement of the image fits its pattern" if not self.fits else (
                f"The image {used} fits its pattern, and no better than {PLACEMENTS[second]}"
            )  # fmt: skip
            return [
                f"{sure} (log likelihood {self.placements[first].total:+.0f} and "
                f"{self.placements[second].total:+.0f} over chance): is it of the same molecule, "
                "with the right defocus?"
            ]
        line = (
            f"The image {'lies' if self.placement == first else 'would lie'} "
            f"{PLACEMENTS[first]} on its pattern (log likelihood {ahead:.0f} above "
            f"{PLACEMENTS[second]}, {n} {'pair' if n == 1 else 'pairs'})."
        )
        if self.placement != first:
            line += f" It is used {used}, as you told."
        return [line, "Whether it is turned by 180° besides, a pattern can't tell."]

    def _sign_words(self) -> str:
        if self.sign > SURE_SIGN:
            return f"Its sign makes the molecule positive, as it must be ({self.sign:.1f} sd)."
        if self.sign < -SURE_SIGN:
            return (
                f"Its sign makes the molecule negative ({-self.sign:.1f} sd): it is probably "
                f"{-self.defocus_A:.0f} Å; give --defocus-A."
            )
        return "Its sign can't be told from these images; check it (--defocus-A)."


SURE = 10.0  # log likelihood by which one placement must be ahead of another
SURE_SIGN = 4.0  # standard deviations


@dataclass(frozen=True)
class Findings:
    """All that was found in some files."""

    patterns: PatternFindings
    pairs: PairFindings | None
    notes: list[str]

    def words(self) -> list[str]:
        """Sentences for the user, in the order of the steps."""
        pairs = [] if self.pairs is None else self.pairs.words()
        return [*self.notes, *self.patterns.words(), *pairs]

    def to_json(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        p = self.patterns
        numbers: dict[str, Any] = {
            "frames": len(p.centres),
            "centre_px": [p.centre.y, p.centre.x],
            "centre_error_px": p.centre.error_px,
            "centre_by": p.centre.by,
            "wander_px": p.wander_px,
            "pixel_per_A": p.pixel_per_A,
            "pixel_by": p.by,
            "hot": int(p.bad.hot.sum()),
            "dead": int(p.bad.dead.sum()),
            "stop": int(p.bad.stop.sum()),
            "distortion": None if p.distortion is None else vars(p.distortion),
            "words": self.words(),
        }
        if self.pairs is None:
            return numbers
        q = self.pairs
        return numbers | {
            "box_A": q.box_A,
            "pixels": q.m,
            "image_pixel_A": q.pixel_A,
            "molecules_px": q.centres_px.tolist(),
            "placement": q.placement,
            "log_likelihood": {way: found.total for way, found in q.placements.items()},
            "defocus_A": q.defocus_A,
            "defocus_error_A": q.defocus_error_A,
            "each_defocus_A": None if q.each_defocus_A is None else q.each_defocus_A.tolist(),
            "defocus_by": q.defocus_by,
            "sign_sd": q.sign,
            "dose_e_per_A2": q.dose,
            "dose_by": q.dose_by,
        }
