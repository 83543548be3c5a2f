"""What a detector makes of a pattern, and what a store says of its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from diffragan.files.store import open_simulation
from diffragan.microscope.detector import saturated, working_pixels
from diffragan.pairs.imaged import ImagedPairs
from diffragan.settings import load_settings

FAULTS = (
    "pattern.dose_e_per_A2=20",
    "detector.dead_fraction=0.05",
    "detector.gap_px=2",
    "detector.module_px=20",
)


def test_gaps_lie_between_modules_about_the_beam() -> None:
    """A cross of gaps on each side of the beam's module, at the same distance."""
    works = working_pixels(
        65, load_settings(overrides=("detector.gap_px=3", "detector.module_px=17"))
    )
    row = works[32]
    assert bool(row[32 - 8 : 32 + 9].all())
    assert not bool(row[32 + 9 : 32 + 12].any())
    assert not bool(row[32 - 11 : 32 - 8].any())
    assert bool(row[32 + 12])
    assert torch.equal(works, works.T)


@pytest.mark.parametrize("faults", [FAULTS[:2], FAULTS])
def test_pixels_that_do_not_work_are_masked_in_the_pairs(
    simulated: Path, faults: tuple[str, ...]
) -> None:
    """Dead pixels count nothing, and whoever reads the pairs is told so: no method takes them for
    a measured zero."""
    pairs = ImagedPairs(open_simulation(simulated), load_settings(overrides=faults))
    works = working_pixels(pairs.pattern_mask.shape[-1], pairs.settings).numpy()
    assert not pairs.pattern_mask[~works].any()
    assert np.array_equal(pairs.pattern_mask, pairs.measured([0]).pattern_mask.numpy())
    whole = ImagedPairs(open_simulation(simulated), load_settings(overrides=faults[:1]))
    assert np.array_equal(whole.pattern_mask & works, pairs.pattern_mask)
    assert whole.pattern_mask.sum() > pairs.pattern_mask.sum()


def test_a_saturated_pixel_counts_no_further() -> None:
    """Fractions of the beam above the limit are cut there, all others stay."""
    detector = load_settings(overrides=("detector.saturation_e=50",)).detector
    pattern = torch.tensor([[[0.0, 0.04], [0.05, 0.2]]])
    cut = saturated(pattern, 1000.0, detector)
    assert cut.flatten().tolist() == pytest.approx([0.0, 0.04, 0.05, 0.05])
    assert torch.equal(saturated(pattern, 1000.0, load_settings().detector), pattern)
