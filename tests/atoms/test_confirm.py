"""What half sets confirm, and what they do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from diffragan.atoms.comparison.confirm import CONFIRMED_WITHIN_A, confirmed
from diffragan.atoms.model.atoms import Atoms, atoms_at

SIDE_A = 19.0  # a cube with the atoms of 400, at a protein's density


def places(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    return rng.uniform(-SIDE_A / 2, SIDE_A / 2, (count, 3))


def atoms(at: NDArray[np.float64]) -> Atoms:
    return atoms_at(torch.from_numpy(at))


def test_a_solved_map_confirms_what_both_halves_show() -> None:
    """Where halves agree, 0.3 Å is what counts, and atoms that one half lacks are not confirmed."""
    rng = np.random.default_rng(0)
    true = places(rng, 400)
    halves = tuple(true + rng.normal(scale=0.05, size=true.shape) for _ in range(2))
    found = confirmed(atoms(true), (atoms(halves[0][20:]), atoms(halves[1][:380])))
    assert found.within_A == CONFIRMED_WITHIN_A
    assert float(found.sure[20:380].float().mean()) > 0.99
    assert int(found.sure[:20].sum() + found.sure[380:].sum()) <= 2
    assert found.false < 1


@pytest.mark.parametrize("seed", range(5))
def test_a_failed_map_confirms_next_to_nothing(seed: int) -> None:
    """Atoms of all views share their noise with one half or the other: half of them have one near,
    and still none is believed but by chance."""
    rng = np.random.default_rng(seed)
    wrong = places(rng, 400)
    near = wrong + rng.normal(scale=0.07, size=wrong.shape)
    halves = (
        np.concatenate((near[:100], places(rng, 300))),
        np.concatenate((near[100:200], places(rng, 300))),
    )
    found = confirmed(atoms(wrong), (atoms(halves[0]), atoms(halves[1])))
    assert found.within_A < CONFIRMED_WITHIN_A
    assert int(found.sure.sum()) <= 2


def test_chance_is_counted_right() -> None:
    """The number said to be confirmed by chance is the number that is."""
    counts = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        true, wrong = places(rng, 380), places(rng, 120)
        near = wrong + rng.normal(scale=0.05, size=wrong.shape)
        whole = np.concatenate((true, wrong))
        halves = (np.concatenate((true, near[:60])), np.concatenate((true, near[60:])))
        found = confirmed(atoms(whole), (atoms(halves[0]), atoms(halves[1])))
        assert found.within_A == CONFIRMED_WITHIN_A
        counts.append((found.false, float(found.sure[380:].sum())))
    told, made = np.mean(counts, 0)
    assert told == pytest.approx(made, rel=0.35)
