"""A model laid on atoms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bond_walk import chain
from diffragan.errors import DiffraganError
from diffragan.evaluation.fit_model import fit_model


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_model_is_found_from_any_frame_and_hand(mirrored: bool) -> None:
    """A rigid motion, and a mirror, are undone to the noise of the atoms."""
    rng = np.random.default_rng(5)
    model = chain(1)
    turn = Rotation.random(rng=rng).as_matrix()
    sign = -1 if mirrored else 1
    atoms = sign * model @ turn.T + [2.0, -4.0, 1.0] + rng.normal(scale=0.05, size=model.shape)
    atoms = np.concatenate((atoms[:-20], rng.uniform(-12, 12, (15, 3))))  # some lost, some wrong
    fit = fit_model(model, atoms)
    assert fit.mirrored == mirrored
    assert fit.covered > 0.8
    exact = sign * model @ turn.T + [2.0, -4.0, 1.0]
    assert np.sqrt(((fit(model) - exact) ** 2).sum(1).mean()) < 0.05


def test_another_molecule_is_refused() -> None:
    """No motion lays one molecule's atoms on another's, and the fit says so."""
    with pytest.raises(DiffraganError, match="does not fit"):
        fit_model(chain(1), chain(2, 150) * 1.02)
