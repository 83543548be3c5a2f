"""Counts of a molecule that fades, beside other scattering: what they are worth and tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.fourier.volumes import frequency_radius
from diffragan.microscope.effective_dose import protein_intensity
from diffragan.reconstruction import many_views as mv
from diffragan.reconstruction.likelihood.beside import PARTS
from diffragan.reconstruction.likelihood.patterns import pattern_target
from diffragan.reconstruction.maps.agreement import agreement
from diffragan.reconstruction.maps.free_set import other_half_correlation
from diffragan.reconstruction.maps.image_map import ring_of, ring_power
from diffragan.reconstruction.maps.load_views import (
    background_doubt,
    with_background,
    with_empty_positions,
)
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


def test_empty_positions_tell_the_background(tmp_path: Path) -> None:
    """Ring by ring what their patterns show, counts or fractions of the beam, over what damage
    leaves; and the same run as one that is given that background."""
    views = make_views(ATOMS, 8, dose=1e4, left=0.5, beside=2.0)
    assert views.electrons is not None
    m = views.flat.m
    y, x = np.indices((m, m)) - m // 2
    even = 1e-6 * np.exp(-np.hypot(y, x) / 9)
    counts = np.random.default_rng(0).poisson(even * views.electrons, (50, m, m))
    np.save(tmp_path / "counts.npy", counts.astype(np.float32))
    np.save(tmp_path / "fractions.npy", np.repeat(even[None], 3, 0))
    for name, tolerance in (("counts", 0.05), ("fractions", 1e-5)):
        found = with_empty_positions(views, tmp_path / f"{name}.npy").background
        assert found is not None
        rings = ring_of(views)
        radius = views.flat.radius.double()
        wanted = 1e-6 * torch.exp(-radius / 9) / (1 if views.fade is None else views.fade)
        mean = torch.zeros(int(rings.max()) + 1).double().index_add_(0, rings, wanted.double())
        mean = (mean / torch.bincount(rings).clamp_min(1))[rings]
        torch.testing.assert_close(found.double(), mean, rtol=tolerance, atol=0)


def test_empty_positions_that_will_not_do_are_refused(tmp_path: Path) -> None:
    views = make_views(ATOMS, 4, dose=1e4)
    np.save(tmp_path / "small.npy", np.zeros((2, 8, 8)))
    with pytest.raises(DiffraganError, match="8 pixels a side"):
        with_empty_positions(views, tmp_path / "small.npy")
    np.save(tmp_path / "below.npy", np.full((2, views.flat.m, views.flat.m), -1.0))
    with pytest.raises(DiffraganError, match="not counts"):
        with_empty_positions(views, tmp_path / "below.npy")
    with pytest.raises(DiffraganError, match="no file"):
        with_empty_positions(views, tmp_path / "none.npy")


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


def test_what_lies_beside_may_be_steep_within_a_ring() -> None:
    """Ice's rings rise by many times the molecule's intensity within 1 / field: by parts of a ring
    what is left beside the truth is what was put there, to a part of the molecule's own."""
    views = make_views(ATOMS, 60, dose=3e6, beside=40.0)
    assert views.background is not None
    steep = 1 + views.flat.radius - (views.flat.radius + 0.5).floor()
    wanted = (steep * views.background).repeat(2)
    views = replace(views, measured=views.measured + (steep - 1) * views.background)
    spectrum = torch.fft.rfftn(true_volume(ATOMS, views.n), norm="forward")
    own = ring_power(views)[ring_of(views)].repeat(2)
    far = (views.curved.radius > 6).repeat(2)

    def missed(parts: int) -> float:
        target = pattern_target(views, parts=parts).adapted(spectrum)
        return float(((target.unexplained[target.rings] - wanted) / own)[far].abs().median())

    assert missed(PARTS) < 0.5
    assert missed(1) > 2


def test_more_molecules_in_a_view_do_not_make_a_model_more_exact() -> None:
    """With many of them a wrong model weighs what its error lets it, and the truth far more; with
    so few electrons that counting rules, both have the same."""
    views = make_views(ATOMS, 60, dose=3e6, beside=40.0)
    assert views.electrons is not None

    def weight(model: NDArray[np.float64], electrons: float, molecules: int) -> float:
        seen = replace(views, electrons=electrons, molecules=molecules)
        spectrum = torch.fft.rfftn(true_volume(model, views.n), norm="forward")
        target = pattern_target(seen, parts=PARTS).adapted(spectrum)
        low = (views.curved.radius < 4).repeat(2)
        return float(target.weights()[target.rings[low]].median())

    many, few = (1e3 * views.electrons, 100_000), (1e-3 * views.electrons, 2)
    assert weight(ATOMS, *many) > 5 * weight(molecule(2), *many)
    assert weight(ATOMS, *few) == pytest.approx(weight(molecule(2), *few), rel=0.05)


def test_patterns_of_other_views_tell_a_map_s_correlation_through_a_background() -> None:
    """Through forty times the molecule's intensity, steep within a ring: of what the truth has, a
    map mixed with that of another molecule has its part, the other alone nothing."""
    views = make_views(ATOMS, 60, dose=3e6, beside=40.0)
    assert views.background is not None
    steep = views.flat.radius - (views.flat.radius + 0.5).floor()
    level = 1 + 0.5 * steep * views.background / views.background.mean()
    views = replace(views, measured=views.measured + (level - 1) * views.background)
    truth = true_volume(ATOMS, views.n)
    foreign = true_volume(molecule(2), views.n)
    far = slice(6, 15)
    whole, error = other_half_correlation(truth, views, views.curved)[:, far]
    assert float(whole.mean()) == pytest.approx(0.9, abs=0.15)
    assert float(error.max()) < 0.1
    for part in (0.6, 0.0):
        mixed = part**0.5 * truth + (1 - part) ** 0.5 * foreign
        found = other_half_correlation(mixed, views, views.curved)[0, far]
        assert float((found / whole).mean()) == pytest.approx(part, abs=0.1)


def test_half_maps_that_agree_in_what_no_pattern_bears_out_claim_nothing_of_it() -> None:
    """One half's map in place of both agrees with itself; patterns of the other half know which
    part of it is right, and where they are too few to tell they set no limit."""
    views = make_views(ATOMS, 60, dose=3e6, beside=40.0)
    run = mv.start(views, SPARSE, KDA, 0)
    steps = run.halves[0].project, run.halves[1].project
    truth = true_volume(ATOMS, steps[0].views.n)
    spectrum = torch.fft.rfftn(truth)
    foreign = torch.fft.rfftn(true_volume(molecule(2), len(truth)))
    radius = frequency_radius(len(truth), truth.device)
    half = torch.fft.irfftn(torch.where(radius > 9, foreign, spectrum), s=truth.shape)
    found = [agreement(v, v, steps) for v in (truth, half)]
    right, false = (replace(one, free=torch.full_like(one.free, torch.nan)) for one in found)
    assert false.fsc_resolution_A == right.fsc_resolution_A
    assert right.resolution_A < 2.3
    assert false.resolution_A > 3.0
    assert false.other is not None
    vague = replace(false, other=torch.stack((false.other[0], false.other[1] + 1)))
    assert vague.resolution_A == right.resolution_A


def test_much_more_beside_a_molecule_than_runs_bore_out_is_told() -> None:
    """Forty times the molecule's intensity: a sentence that names it, unless patterns tell; twice:
    none; and none where nothing was told to lie beside it."""
    much = make_views(ATOMS, 12, dose=1e5, beside=40.0)
    vague, telling = (torch.full((2, 16), error) for error in (0.3, 0.03))
    doubt = background_doubt(with_background(much, KDA), KDA, vague)
    assert doubt is not None
    assert "not to be relied on" in doubt
    assert background_doubt(with_background(much, KDA), KDA, telling) is None
    little = make_views(ATOMS, 12, dose=1e5, beside=2.0)
    assert background_doubt(with_background(little, KDA), KDA, vague) is None
    assert background_doubt(replace(little, background=None), KDA, vague) is None
