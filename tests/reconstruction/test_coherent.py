"""What is coherent in patterns: found where they cross, beside a background, by no map; applied."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffragan.microscope.effective_dose import protein_intensity
from diffragan.reconstruction import many_views as mv
from diffragan.reconstruction.likelihood import damage
from diffragan.reconstruction.likelihood.coherent import coherent_part, ring_intensity
from diffragan.reconstruction.likelihood.damage import faded_further
from diffragan.reconstruction.maps.image_map import ring_of
from diffragan.reconstruction.maps.views import Views
from diffragan.settings import ManyViewsSettings
from synthetic_views import make_views, mass_kda, molecule

ATOMS = molecule(1)

pytestmark = pytest.mark.usefixtures("one_thread")


def means(views: Views) -> Tensor:
    """(rings,) mean intensity of exact patterns."""
    rings = ring_of(views)
    each = views.observed(slice(0, len(views)), views.flat).double().square().mean(0)
    total = torch.zeros(int(rings.max()) + 1, dtype=torch.float64).index_add_(0, rings, each)
    return total / torch.bincount(rings).clamp_min(1)


OWN = means(make_views(ATOMS, 100))


def faded(views: Views, b_A2: float) -> Views:
    """Views whose intensities fell by a B that they do not know of."""
    q = views.flat.radius / views.optics.box_A
    return replace(views, measured=views.measured * torch.exp(-b_A2 * q**2 / 2))


def halves(views: Views) -> tuple[Views, Views]:
    return views.every_second(0), views.every_second(1)


def test_what_fades_beyond_what_was_told_is_found() -> None:
    """Half of the intensity coherent, told; a further B that was not; three times the molecule's
    intensity beside it. Sixty atoms obey Wilson's statistics to a quarter."""
    told = make_views(ATOMS, 100, dose=2e4, left=0.5, beside=3.0)
    fitted = []
    for b_A2 in (0.0, 6.0):
        found = coherent_part(halves(faded(told, b_A2)), OWN)
        far = found.q > 0.2
        wanted = torch.exp(-b_A2 * found.q**2 / 2)
        assert float((found.part / wanted)[far].mean()) == pytest.approx(1, abs=0.25)
        assert [row["coherent"] for row in found.rows()] == found.part[1:].tolist()
        b = found.b_A2()
        assert b is not None
        fitted.append(b)
    assert fitted[0] == pytest.approx(0, abs=2.5)
    assert fitted[1] - fitted[0] == pytest.approx(6, abs=0.6)


def test_ice_that_differs_from_view_to_view_is_not_taken_for_the_molecule() -> None:
    """A speckle of each view's own, as strong as the molecule: it doubles the counts' variance, and
    the coherent part stays."""
    views = make_views(ATOMS, 100, dose=2e4)
    mean = views.measured.mean((0, 1))
    drawn = torch.empty_like(views.measured).exponential_(
        generator=torch.Generator().manual_seed(1)
    )
    speckled = replace(views, measured=views.measured + mean * drawn)
    plain, beside = (coherent_part(halves(v), OWN).part for v in (views, speckled))
    far = torch.arange(len(plain)) > 6
    assert float((beside / plain)[far].mean()) == pytest.approx(1, abs=0.1)


def test_views_that_do_not_cross_where_they_are_told_to_tell_nothing() -> None:
    views = make_views(ATOMS, 40, dose=2e4, beside=3.0)
    elsewhere = replace(views, rotations=make_views(ATOMS, 40, seed=1).rotations)
    found = coherent_part(halves(elsewhere), OWN)
    assert found.b_A2() is None


def test_proteins_scatter_as_their_weight_tells() -> None:
    """The profile moves intensity from ring to ring, and takes none away."""
    views = make_views(ATOMS, 2)
    shape = ring_intensity(views, 5.0)
    q = torch.arange(len(shape), dtype=torch.float64) / views.optics.box_A
    far = q > 0.2
    atoms = protein_intensity(q, views.optics, 5.0)
    assert float((shape / atoms)[far].mean()) == pytest.approx(1, abs=0.1)


def test_a_b_that_is_told_afterwards_is_as_if_told_before() -> None:
    """Counts, their worth and what lies beside, by part and as a whole; and back again."""
    views = make_views(ATOMS, 4, dose=2e4, left=0.5, beside=1.0)
    kda = mass_kda(ATOMS)
    once = faded_further(views, 9.0, kda)
    twice = faded_further(faded_further(views, 4.0, kda), 5.0, kda)
    back = faded_further(twice, -9.0, kda)
    q = views.flat.radius / views.optics.box_A
    left = torch.exp(-9.0 * q**2 / 2)
    every = slice(0, 4)
    observed = views.observed(every, views.flat)
    torch.testing.assert_close(once.observed(every, views.flat), observed / left)
    for found, wanted in ((twice, once), (back, views)):
        torch.testing.assert_close(found.fade, wanted.fade)
        torch.testing.assert_close(found.background, wanted.background, rtol=1e-4, atol=1e-10)
        torch.testing.assert_close(
            found.observed(every, views.flat), wanted.observed(every, views.flat)
        )
    assert once.fade is not None
    torch.testing.assert_close(once.fade, 0.5 * left)


def test_a_run_that_is_not_told_of_damage_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight Å² not told: both halves take them on alike, the run's state keeps them, and all views
    together have them."""
    monkeypatch.setattr(damage, "ring_intensity", lambda views, mass_kda: OWN)
    settings = ManyViewsSettings(
        padding=1,
        resolution_steps_A=(),
        climb_by="likelihood",
        likelihood_passes=2,
        refine_views=("damage",),
        refine_views_every=1,
    )
    told = make_views(ATOMS, 60, dose=2e4, beside=0.1)
    untold, kda = faded(told, 8.0), mass_kda(ATOMS)
    run = climbed(untold, settings)
    found = run.further_b_A2
    assert found - damage.found_further(halves(told), kda) == pytest.approx(8, abs=0.8)
    again = mv.HalfMaps.from_state(run.state(), untold, settings, kda, 0)
    assert again.further_b_A2 == found
    wanted = faded_further(untold, found, kda)
    whole = mv.combined(run, untold)
    for one in (*run.halves, *again.halves, whole):
        assert one.full.further_b_A2 == pytest.approx(found)
        torch.testing.assert_close(one.full.fade, wanted.fade)
        torch.testing.assert_close(one.full.background, wanted.background)
    plain = climbed(untold, settings.model_copy(update={"refine_views": ()}))
    assert plain.further_b_A2 == 0
    assert plain.halves[0].full.fade is None


def climbed(views: Views, settings: ManyViewsSettings) -> mv.HalfMaps:
    run = mv.start(views, settings, mass_kda(ATOMS), 0)
    while not run.done:
        run.step()
    return run
