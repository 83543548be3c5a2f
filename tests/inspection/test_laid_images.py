"""How an image lies over its pattern, its defocus and the sign of that: by how both agree."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

import diffragan as dg
from diffragan.inspection.agreement import (
    PLACEMENTS,
    ImagedPatterns,
    best_defocus,
    best_placement,
    placed,
    sign_of_defocus,
)
from diffragan.inspection.images import DEFOCI_A


@pytest.mark.parametrize("way", PLACEMENTS)
def test_a_single_pair_tells_how_its_image_lies(way: str) -> None:
    """Every one of the bundled pairs, of SNR 0.8; the image of another orientation fits nowhere."""
    pairs = dg.open_pairs(Path(str(resources.files("diffragan") / "data" / "example.zarr.zip")))
    patterns = pairs.pattern(slice(None)).astype(float)
    images = pairs.image(slice(None)).astype(float)
    back = images
    for _ in range(3 if way == "turned" else 1 if way != "as-is" else 0):
        back = placed(back, way)
    dose, lens = pairs.image_dose(slice(None)), pairs.settings.image
    data = (pairs.pattern_mask, pairs.optics, lens)
    mask, optics, lens = data
    for k in range(6):
        one = slice(k, k + 1)
        pair = ImagedPatterns(patterns[one], mask, back[one], dose[one], optics)
        found = best_placement(pair, lens)
        ways = list(found)
        assert ways[0] == way
        assert found[way].total > 10
        assert found[ways[1]].total < 0
    others = ImagedPatterns(patterns, mask, np.roll(back, 1, 0), dose, optics)
    other = best_placement(others, lens)
    assert next(iter(other.values())).total < 0


def test_the_sign_of_the_defocus_makes_molecules_positive() -> None:
    pairs = dg.open_pairs(Path(str(resources.files("diffragan") / "data" / "example.zarr.zip")))
    lens, plane = pairs.settings.image, pairs.optics.centre_to_exit_A
    other = lens.model_copy(update={"defocus_A": 2 * plane - lens.defocus_A})
    every = slice(None)
    data = ImagedPatterns(
        pairs.pattern(every).astype(float), pairs.pattern_mask, pairs.image(every).astype(float),
        pairs.image_dose(every), pairs.optics,
    )  # fmt: skip
    assert sign_of_defocus(data, lens) > 4
    assert sign_of_defocus(data, other) < -4


def test_few_electrons_still_tell_how_images_lie_and_their_defocus() -> None:
    """At 20 e/Å² most pixels that a molecule lights count nothing; all pairs together tell it."""
    pairs = dg.open_pairs(Path(str(resources.files("diffragan") / "data" / "example.zarr.zip")))
    lens, optics, mask = pairs.settings.image, pairs.optics, pairs.pattern_mask
    electrons, again = 20.0 * optics.box_A**2, 4
    rng = np.random.default_rng(5)
    exact = np.tile(pairs.pattern(slice(None)).astype(float), (again, 1, 1))
    counted = rng.poisson(exact * electrons) / electrons
    images = np.tile(pairs.image(slice(None)).astype(float), (again, 1, 1))
    dose = np.tile(pairs.image_dose(slice(None)), again)
    data = ImagedPatterns(counted, mask, images, dose, optics, electrons)
    ways = best_placement(data, lens)
    (first, best), (_, second) = list(ways.items())[:2]
    assert first == "as-is"
    assert best.total > 20
    assert best.total - second.total > 20
    found, error, gain = best_defocus(data, lens, DEFOCI_A)
    assert gain > 20
    from_plane = lens.defocus_A - optics.centre_to_exit_A
    assert found - optics.centre_to_exit_A == pytest.approx(-from_plane, abs=60)
    assert error < 60
    assert sign_of_defocus(data, lens) > 4
