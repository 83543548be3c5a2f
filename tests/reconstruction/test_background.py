"""Counts of a molecule that fades, beside other scattering: what they are worth and tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffragan.microscope.effective_dose import protein_intensity
from diffragan.reconstruction import many_views as mv
from diffragan.reconstruction.likelihood.patterns import pattern_target
from diffragan.reconstruction.maps.image_map import ring_of, ring_power
from diffragan.reconstruction.maps.load_views import background_doubt, with_background
from diffragan.reconstruction.maps.views import Views
from diffragan.settings import ManyViewsSettings
from synthetic_views import correlation, make_views, mass_kda, molecule, true_volume

ATOMS = molecule(1)
KDA = mass_kda(ATOMS)
SPARSE = ManyViewsSettings(
    padding=1, resolution_steps_A=(), mask_blur_A=1.5, mask_margin_A=2, climb_by="likelihood"
)
DENSE = SPARSE.model_copy(update={"climb_by": "projections", "iterations": 40})

pytestmark = pytest.mark.usefixtures("one_thread")


def reached(views: Views, settings: ManyViewsSettings) -> float:
    """Correlation with the truth of the map of all views."""
    run = mv.start(views, settings, KDA, 0)
    while not run.done:
        run.step()
    return correlation(mv.combined(run, views).map, true_volume(ATOMS, views.n))


def test_few_counts_are_worth_about_their_effective_dose() -> None:
    """Half of the coherence lost and twice the molecule's intensity beside it: twelve times the
    electrons make up for it, nearly, for scatterers."""
    few = make_views(ATOMS, 80, dose=1.2e4, left=0.5, beside=2.0)
    assert reached(few, SPARSE) > 0.9


def test_projections_take_off_the_background() -> None:
    """With as many electrons as make up for it the map is as good as the ideal one; a run that
    knows of no background finds nothing."""
    ideal = reached(make_views(ATOMS, 80, dose=2.5e4), DENSE)
    views = make_views(ATOMS, 80, dose=3e5, left=0.5, beside=2.0)
    assert reached(views, DENSE) > ideal - 0.03
    assert reached(replace(views, background=None), DENSE) < 0.6


def test_the_background_is_what_the_weight_does_not_explain() -> None:
    """Ring by ring beyond 5 Å; and not where a molecule's shape shows."""
    views = make_views(ATOMS, 8, dose=1e3)
    rings = ring_of(views)
    q = views.flat.radius.double() / views.optics.box_A
    own = protein_intensity(rings.double() / views.optics.box_A, views.optics, 5.0)
    beside = 3e-7 * torch.exp(-2 * q)
    shape = 1 + 40 * torch.exp(-((q / 0.08) ** 2))
    level = (own * shape + beside).float().expand(8, 2, -1)
    found = with_background(replace(views, measured=level.contiguous()), 5.0)
    assert found.background is not None
    far = q > 0.25
    torch.testing.assert_close(
        found.background[far], beside[far].float(), rtol=0.03, atol=0.02 * float(own[far].max())
    )
    assert float(found.background[q < 0.1].max()) < 1.5 * float(beside.max())
    near = ring_power(found)[rings][q < 0.1]
    torch.testing.assert_close(near, (own * shape)[q < 0.1].float(), rtol=0.2, atol=0)


def test_summed_exposures_count_as_they_would_one_by_one() -> None:
    """Every view twice, or once with both molecules' electrons in it: the same likelihood."""
    once = make_views(ATOMS, 12, dose=1.2e4)
    assert once.electrons is not None
    twice = replace(
        once,
        measured=once.measured.repeat(2, 1, 1),
        contrast=once.contrast.repeat(2, 1),
        image_noise=once.image_noise.repeat(2),
        rotations=once.rotations.repeat(2, 1, 1),
        shifts_A=once.shifts_A.repeat(2, 1),
        weights=once.weights.repeat(2),
        items=np.arange(24),
    )
    summed = replace(once, electrons=2 * once.electrons, molecules=2)
    spectrum = torch.fft.rfftn(true_volume(ATOMS, once.n), norm="forward")
    apart, together = (
        pattern_target(views).adapted(spectrum).evaluate(spectrum) for views in (twice, summed)
    )
    assert together[0] == pytest.approx(apart[0], rel=1e-6)
    torch.testing.assert_close(
        together[1], apart[1], rtol=1e-4, atol=1e-4 * float(apart[1].abs().max())
    )


def test_much_more_beside_a_molecule_than_runs_bore_out_is_told() -> None:
    """Forty times the molecule's intensity: a sentence that names it; twice: none; and none where
    nothing was told to lie beside it."""
    much = make_views(ATOMS, 12, dose=1e5, beside=40.0)
    doubt = background_doubt(with_background(much, KDA), KDA)
    assert doubt is not None
    assert "not to be relied on" in doubt
    little = make_views(ATOMS, 12, dose=1e5, beside=2.0)
    assert background_doubt(with_background(little, KDA), KDA) is None
    assert background_doubt(replace(little, background=None), KDA) is None
