"""Point groups: their laws, and RELION's frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffragan.errors import DiffraganError
from diffragan.rotations import misorientation_deg, quasi_uniform
from diffragan.settings import load_settings
from diffragan.symmetry import about, group_name, group_of, one_of_each

ORDERS = {"C1": 1, "C2": 2, "C7": 7, "D2": 4, "D5": 10, "T": 12, "O": 24, "I": 60}


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_a_group_is_closed(name: str, order: int) -> None:
    """So many rotations, all different, the identity first, and the product of any two is one."""
    group = group_of(name)
    assert group.shape == (order, 3, 3)
    np.testing.assert_allclose(group[0], np.eye(3))
    np.testing.assert_allclose(np.linalg.det(group), 1, atol=1e-6)
    products = (group[:, None] @ group[None]).reshape(-1, 1, 3, 3)
    nearest = np.abs(products - group).max((2, 3))
    assert nearest.min(1).max() < 1e-5
    assert (nearest < 1e-3).sum(1).max() == 1


def test_axes_lie_as_relion_has_them() -> None:
    """As `relion_refine --sym X --print_symmetry_ops` (5.0) prints them."""
    second_of_i = np.array(
        [[0.5, 0.80902, 0.30902], [-0.80902, 0.30902, 0.5], [0.30902, -0.5, 0.80902]]
    )
    for name, element in {
        "C3": about((0, 0, 1), 120),
        "D2": about((1, 0, 0), 180),
        "T": about((0, 0, 1), 120),
        "O": about((0, 0, 1), 90),
        "I": second_of_i,
    }.items():
        assert np.abs(group_of(name) - element).max((1, 2)).min() < 1e-4


@pytest.mark.parametrize("name", ["C0", "C25", "D", "Q", "I5", "C2v"])
def test_an_unknown_group_is_refused(name: str) -> None:
    with pytest.raises(DiffraganError, match=f"no symmetry '{name}'"):
        group_name(name)
    with pytest.raises(DiffraganError, match="no symmetry"):
        load_settings(overrides=(f"many_views.symmetry={name}",))


def test_what_does_not_use_symmetry_refuses_it() -> None:
    for other in ("many_views.climb_by=likelihood", "many_views.find_by=lines", "classes.number=2"):
        words = (other, "many_views.symmetry=c2", "many_views.orientations=find")
        with pytest.raises(DiffraganError, match="symmetry"):
            load_settings(overrides=words)
    assert load_settings(overrides=("many_views.symmetry=c2",)).many_views.symmetry == "C2"


@pytest.mark.parametrize("name", ["C3", "D2", "O"])
def test_one_of_each_covers_every_orientation_once(name: str) -> None:
    group, grid = group_of(name), quasi_uniform(4000)
    kept = one_of_each(grid, group)
    assert abs(kept.mean() * len(group) - 1) < 0.05
    equivalents = grid[:50, None] @ group
    apart = np.linalg.norm(equivalents[:, :, None] - grid[kept][None, None], axis=(3, 4))
    assert apart.min((1, 2)).max() < 0.6


def test_orientations_apart_by_symmetry_are_the_same() -> None:
    group = torch.from_numpy(group_of("D3"))
    true = torch.from_numpy(quasi_uniform(60))
    kind = torch.arange(60) * 7 % 6
    turn = torch.from_numpy(about((0, 0, 1), 180.0))  # which takes D3's axes to themselves
    estimate = true @ group[kind] @ turn
    assert float(misorientation_deg(estimate, true, group).max()) < 0.01
    assert float(misorientation_deg(estimate, true).median()) > 30
