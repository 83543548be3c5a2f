"""Views of several molecules are sorted, those of none thrown out, and the number told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from diffragan.fourier.volumes import volume_spectrum
from diffragan.progress import no_progress
from diffragan.reconstruction.maps.image_map import ring_power
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.sorting import placing
from diffragan.reconstruction.sorting.evidence import likelihood, ring_sums, spread_of
from diffragan.reconstruction.sorting.placing import (
    placed_from_nothing,
    searched_again,
    unlike_patterns,
)
from diffragan.reconstruction.sorting.sort import Sorting, SortPlan, how_many, sort_views
from diffragan.reconstruction.sorting.variability import directions_of
from diffragan.rotations import angle_deg
from mixed_views import bent, mixed_views, right, two_molecules
from synthetic_views import mass_kda, molecule, true_volume

KDA = mass_kda(molecule(1))
PLAN = SortPlan(KDA, starts=1)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_two_molecules_are_parted_without_an_error() -> None:
    """Orientations known, nothing else: every view comes to its own kind."""
    views, truth = mixed_views(two_molecules(), (50, 40))
    sorting = sort_views(views, 2, PLAN)
    assert sorting.classes == 2
    assert right(sorting.of, truth) == 1
    assert len(set(zip(sorting.of.tolist(), truth.tolist(), strict=True))) == 2


def test_one_molecule_is_one_class_and_two_are_two() -> None:
    """A class too many explains no view of the other half better, so it isn't there."""
    alone, _ = mixed_views([molecule(1)], (80,))
    assert how_many(alone, 3, PLAN)[0].classes == 1
    both, truth = mixed_views(two_molecules(), (50, 50))
    sorting, means = how_many(both, 4, PLAN)
    assert sorting.classes == 2
    assert means[1] > means[0]
    assert right(sorting.of, truth) == 1


def test_a_molecule_bent_by_34_degrees_is_told_from_itself() -> None:
    """Two conformations share most of their density; what differs is enough."""
    views, truth = mixed_views([molecule(1), bent(molecule(1), 34)], (60, 60))
    sorting = sort_views(views, 2, PLAN)
    assert right(sorting.of, truth) > 0.95
    assert float(sorting.probability.max(1).values.mean()) > 0.9


def test_views_of_another_molecule_are_thrown_out() -> None:
    """A tenth of foreign views: nearly all are of no class, and no view of the molecule is lost."""
    views, truth = mixed_views([molecule(1), molecule(7)], (108, 12))
    sorting = sort_views(views, 1, PLAN)
    assert not bool(sorting.foreign[truth == 0].any())
    assert int(sorting.foreign[truth == 1].sum()) >= 10
    # The threshold is the caller's: nothing falls below no odds at all.
    assert not bool(sort_views(views, 1, SortPlan(KDA, foreign_below=-1e9)).foreign.any())


def test_the_true_map_makes_a_view_likelier_than_another_molecules_does() -> None:
    """By image and pattern, for every single view."""
    views, truth = mixed_views(two_molecules(), (20, 20))
    limited = views.limited(5.0)
    spectra = [volume_spectrum(true_volume(m, limited.n, edge_A=5.0)) for m in two_molecules()]
    sums = ring_sums(spectra, limited)
    share = torch.nn.functional.one_hot(truth, 2).double()
    by_map = likelihood(sums, spread_of(sums, share))
    assert bool((by_map.argmax(1) == truth).all())


def test_what_views_differ_in_is_the_difference_of_their_molecules() -> None:
    """The strongest direction of a mixture parts it; the halves tell the same one."""
    views, truth = mixed_views(two_molecules(), (60, 60))
    (found,) = directions_of(views, ring_power(views), KDA, 1, resolution_A=7.0)
    low, high = (found.coordinate[truth == k] for k in (0, 1))
    apart = abs(float(low.mean() - high.mean()))
    assert apart > 1.5
    assert found.agreement > 0.7


def test_some_views_are_those_views() -> None:
    views, _ = mixed_views([molecule(1)], (20,))
    chosen = torch.tensor([3, 17, 4])
    some = views.some(chosen)
    assert some.items.tolist() == [3, 17, 4]
    assert bool((some.measured == views.measured[chosen]).all())
    assert bool((some.rotations == views.rotations[chosen]).all())


def test_views_put_wrong_are_found_in_their_class_s_map() -> None:
    """Of 80 views ten lie anyhow and count as foreign; looked for again, most come back."""
    views, _ = mixed_views([molecule(1)], (80,))
    true, wrong = views.rotations, torch.arange(10)
    turned = views.rotations.clone()
    turned[wrong] = views.rotations[wrong + 20]
    views = replace(views, rotations=turned).limited(5.0)
    plan = SortPlan(KDA, starts=1)
    sorting = sort_views(views, 1, plan)
    assert int(sorting.foreign[wrong].sum()) >= 7
    placed, after = searched_again(views, sorting, plan)
    error = angle_deg(placed.rotations[wrong], true[wrong])
    assert int(after.foreign[wrong].sum()) <= 3
    assert int((error < 15).sum()) >= 7


def test_views_that_a_search_left_over_are_searched_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first round finds one molecule's views alone; those of the other get a search of their
    own, and are a class. (Of so small molecules the first one's map would explain them too.)"""
    views, truth = mixed_views(two_molecules(), (50, 50))
    views = views.limited(5.0)
    for name in ("searched_again", "turned_and_resorted"):
        monkeypatch.setattr(placing, name, lambda views, sorting, *_: (views, sorting))
    groups_of = placing._groups
    asked: list[list[int]] = []

    def search(some: Views, number: int) -> tuple[Views, list[str]]:
        return some, [f"search {number}"]

    def groups(some: Views, *rest: Any) -> tuple[list[placing.Group], list[str]]:
        asked.append(some.items.tolist())
        if len(asked) > 1:
            return groups_of(some, *rest)
        first = torch.nonzero(truth == 0).flatten()
        kept = some.some(first)
        return [placing.Group(first, kept, sort_views(kept, 1, SortPlan(KDA, starts=1)))], []

    monkeypatch.setattr(placing, "_groups", groups)
    found = placed_from_nothing(views, search, 2, 2, SortPlan(KDA, starts=1))
    others = set(torch.nonzero(truth == 1).flatten().tolist())
    assert others <= set(asked[1])
    assert found.warnings == ["search 2"]
    assert found.sorting.classes == 2
    of = found.sorting.of
    assert float((of[truth == 0] == 0).double().mean()) > 0.9
    assert float((of[truth == 1] == 1).double().mean()) > 0.9


def test_a_class_that_lies_in_another_s_map_is_searched_by_itself() -> None:
    """All views of one molecule are sorted right and lie wrong, so that their patterns do not fit:
    that class alone gets a search, and lies as that has it."""
    views, truth = mixed_views(two_molecules(), (60, 60))
    views = views.limited(5.0)
    true, second = views.rotations, torch.nonzero(truth == 1).flatten()
    turned = true.clone()
    turned[second] = true[second].flip(0)
    views = replace(views, rotations=turned)
    probability = torch.nn.functional.one_hot(truth, 2).double()
    fit = torch.where(truth == 0, 0.9, 0.3).double()
    none = torch.zeros(len(truth), dtype=torch.bool)
    sorting = Sorting(probability, torch.ones(len(truth)), none, fit, torch.zeros(len(truth)))
    asked: list[list[int]] = []

    def search(some: Views, _: int) -> tuple[Views, list[str]]:
        asked.append(some.items.tolist())
        return replace(some, rotations=true[torch.from_numpy(some.items)]), ["doubtful"]

    plan = SortPlan(KDA, starts=1)
    placed, after, told = placing._misplaced_classes(views, sorting, search, plan, no_progress)
    assert asked == [second.tolist()]
    assert told == ["doubtful"]
    assert float((angle_deg(placed.rotations, true) < 15).double().mean()) > 0.9
    assert right(after.of, truth) > 0.9


@pytest.mark.parametrize("level", [0.1, 0.6])
def test_a_view_whose_pattern_does_not_fit_its_class_is_of_none(level: float) -> None:
    """One view of each of two classes does not fit at all, the others alike within a tenth;
    nobody is thrown out where the fit of all scatters as far as that."""
    generator = torch.Generator().manual_seed(0)
    fit = level * (1 + 0.1 * torch.randn(200, generator=generator, dtype=torch.float64))
    fit[[20, 150]] = 0.0
    probability = torch.zeros(200, 2, dtype=torch.float64)
    probability[:100, 0], probability[100:, 1] = 1, 1
    none = torch.zeros(200, dtype=torch.bool)
    sorting = Sorting(probability, torch.ones(200), none, fit, torch.zeros(200))
    assert torch.nonzero(unlike_patterns(sorting)).flatten().tolist() == [20, 150]
    loose = level * torch.rand(200, generator=generator, dtype=torch.float64)
    assert not bool(unlike_patterns(replace(sorting, fit=loose)).any())
