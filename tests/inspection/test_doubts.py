"""What is wrong with pairs is said before they are phased, and nothing of pairs that are right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import diffragan as dg
from diffragan.inspection.agreement import placed
from diffragan.inspection.doubts import beam_stop_doubt, pair_doubts
from diffragan.settings import Settings


@dataclass(frozen=True)
class Altered:
    """Bundled pairs with something done to them."""

    n: int
    box_A: float
    optics: Any
    settings: Settings
    pattern_mask: NDArray[np.bool_]
    patterns: Any
    images: Any
    doses: NDArray[np.float64]
    defocus: None = None

    def pattern(self, items: Any) -> Any:
        return self.patterns[items]

    def image(self, items: Any) -> Any:
        return self.images[items]

    def image_dose(self, items: Any) -> Any:
        return self.doses[items]


@pytest.fixture(scope="module", params=["example", "views"])
def right(request: pytest.FixtureRequest) -> Altered:
    """Pairs one by one of 7 kDa, and 24 of the views that the demo makes a map of."""
    path = resources.files("diffragan").joinpath("data", f"{request.param}.zarr.zip")
    pairs = dg.open_pairs(Path(str(path)))
    some = slice(0, 24)
    return Altered(
        min(pairs.n, 24), pairs.box_A, pairs.optics, pairs.settings, pairs.pattern_mask,
        pairs.pattern(some), pairs.image(some).astype(np.float64), pairs.image_dose(some),
    )  # fmt: skip


def doubts(pairs: Altered) -> list[str]:
    return pair_doubts(pairs, np.arange(pairs.n))  # type: ignore[arg-type]


def with_defocus(pairs: Altered, defocus_A: float) -> Altered:
    image = pairs.settings.image.model_copy(update={"defocus_A": defocus_A})
    return replace(pairs, settings=pairs.settings.model_copy(update={"image": image}))


def test_right_pairs_raise_no_doubt(right: Altered) -> None:
    assert doubts(right) == []


@pytest.mark.parametrize("dose_e_per_A2", [5.0, 50.0, 200.0])
def test_sparse_counts_raise_no_doubt(right: Altered, dose_e_per_A2: float) -> None:
    """Less than one electron a pixel says little of an image, and nothing against it."""
    electrons = dose_e_per_A2 * right.box_A**2
    drawn = np.random.default_rng(1).poisson(np.maximum(right.patterns, 0) * electrons)
    pattern = right.settings.pattern.model_copy(update={"dose_e_per_A2": dose_e_per_A2})
    settings = right.settings.model_copy(update={"pattern": pattern})
    counted = replace(right, patterns=drawn / electrons * right.pattern_mask, settings=settings)
    assert doubts(counted) == []


def test_a_flipped_or_turned_image_is_named(right: Altered) -> None:
    """What makes them fit is what the sentence says."""
    (said,) = doubts(replace(right, images=placed(right.images, "flipped")))
    assert "fit their patterns flipped (rows reversed)" in said
    (said,) = doubts(replace(right, images=placed(right.images, "turned")))
    assert "fit their patterns turned by 90°" in said


def test_another_defocus_is_named_and_its_sign(right: Altered) -> None:
    (said,) = doubts(with_defocus(right, -2000.0))
    assert "at -2000 Å of defocus, and would at about -9" in said
    plane = right.optics.centre_to_exit_A
    taken = right.settings.image.defocus_A
    (said,) = doubts(with_defocus(right, 2 * plane - taken))
    assert "wrong sign" in said


def test_images_of_other_views_are_named(right: Altered) -> None:
    (said,) = doubts(replace(right, images=np.roll(right.images, 1, 0)))
    assert "same molecules" in said


def test_a_pattern_off_its_centre_is_named(right: Altered) -> None:
    """Three pixels, which went through without a word before; a small grid of few counts does not
    show the centre, and its images then fit nowhere."""
    (said,) = doubts(replace(right, patterns=np.roll(right.patterns, 3, -2)))
    assert "by +2.9 rows" in said or "do not fit their patterns" in said


def test_a_beam_stop_that_hides_too_much() -> None:
    """Told from 30 Å on, by what is hidden and not by the pixel."""
    radius = np.hypot(*(np.indices((160, 160)) - 80))
    assert beam_stop_doubt(radius > 0.5, 100.0) is None
    assert beam_stop_doubt(radius > 2.5, 100.0) is None
    said = beam_stop_doubt(radius > 4.5, 100.0)
    assert said is not None
    assert "begin at 20 Å" in said
