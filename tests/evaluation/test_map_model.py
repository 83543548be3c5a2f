"""A map held against a known structure."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from bond_walk import chain
from diffragan.evaluation.fit_model import Fit
from diffragan.evaluation.known_model import KnownModel
from diffragan.evaluation.map_model import MapModel, compare_map, model_density

BOX_A, N = 40.0, 54
TURN = Rotation.from_rotvec([0.7, -1.9, 0.4]).as_matrix()
SHIFT_A = np.array([1.5, -2.0, 0.8])


def molecule() -> KnownModel:
    """Twenty residues of eight carbons, in a walk that has a hand."""
    places = chain(1)
    names = tuple(f"A {k // 8 + 1} GLY" for k in range(len(places)))
    return KnownModel(np.full(len(places), 6), places - places.mean(0), names)


@cache
def compared(*, mirrored: bool) -> MapModel:
    """A map of the molecule moved, without residues 7 to 9, against the whole of it."""
    model = molecule()
    kept = np.ones(len(model.numbers), dtype=bool)
    kept[48:72] = False
    part = KnownModel(model.numbers[kept], model.places_A[kept], model.residues)
    volume = model_density(part, Fit(TURN, SHIFT_A, mirrored, 0.0), N, BOX_A)
    noise = torch.randn(volume.shape, generator=torch.Generator().manual_seed(0))
    volume = volume + 0.3 * volume.std() * noise
    return compare_map(volume, torch.ones_like(volume, dtype=torch.bool), BOX_A, 2.0, model)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_model_is_laid_on_a_map_from_any_frame_and_hand(mirrored: bool) -> None:
    """The motion and the hand come back, and the residues that the map lacks are named."""
    match = compared(mirrored=mirrored)
    assert match.fit.mirrored == mirrored
    assert match.hand == ("mirrored" if mirrored else "that of the model")
    sign = -1 if mirrored else 1
    places = molecule().places_A
    exact = sign * places @ TURN.T + SHIFT_A
    assert np.sqrt(((match.fit(places) - exact) ** 2).sum(1).mean()) < 0.15
    assert match.unmatched == ["A 7-9"]
    others = [r.correlation for k, r in enumerate(match.residues) if not 5 <= k <= 9]
    assert min(others) > 0.8


def test_the_curve_tells_what_is_there() -> None:
    """136 of 160 atoms make an amplitude correlation of the root of their part, .92, in every
    shell, less what noise takes."""
    q = torch.arange(3, 14) / BOX_A  # to 3 Å
    curve = compared(mirrored=False).fsc_at(q)
    assert 0.8 < float(curve.mean()) < 0.97
