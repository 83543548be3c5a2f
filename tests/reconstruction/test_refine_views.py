"""Patterns that are not as they are told: what is put in is found, and nothing else moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.microscope.geometry import PROFILE_PARTS, PatternErrors, seen_by_pixels
from diffragan.reconstruction import many_views as mv
from diffragan.reconstruction.likelihood.beside import PARTS
from diffragan.reconstruction.likelihood.patterns import pattern_target
from diffragan.reconstruction.likelihood.refine_views import refine_views
from diffragan.reconstruction.maps.views import Views
from diffragan.rotations import angle_deg, misorientation_deg, turned
from diffragan.settings import ManyViewsSettings, load_settings
from synthetic_views import BOX_A, make_views, mass_kda, molecule, transform, true_volume

ATOMS = molecule(1)
VIEWS = 60
CLIMB = ManyViewsSettings(
    padding=1,
    resolution_steps_A=(),
    mask_blur_A=1.5,
    mask_margin_A=2,
    climb_by="likelihood",
    likelihood_passes=12,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def put_in(*, centre_px: float = 0.0, scale: float = 0.0, ellipse: float = 0.0) -> PatternErrors:
    """Errors of so many standard deviations, the ellipse along 20°; the mean scale is right."""
    rng = np.random.default_rng(7)
    longer = scale * rng.standard_normal(VIEWS)
    angle = np.radians(2 * 20.0)
    return PatternErrors(
        torch.from_numpy(centre_px * rng.standard_normal((VIEWS, 2))).float(),
        torch.from_numpy(longer - longer.mean()).float(),
        torch.tensor([ellipse * np.cos(angle), ellipse * np.sin(angle)]).float(),
        torch.ones(VIEWS),
        torch.zeros(VIEWS, 3),
    )


def with_errors(errors: PatternErrors, *, dose: float = 3e4, ice: float = 0.0) -> Views:
    """Counts of patterns with these errors, which their views know nothing of; `ice` times the
    mean intensity lies beside, falling with q, centred where the beam is."""
    views = make_views(ATOMS, VIEWS, dose=1.0)
    rng = np.random.default_rng(3)
    points = errors.points(views.curved, len(views.curved)).double().numpy() / BOX_A
    electrons = dose * BOX_A**2
    turns = views.rotations.double().numpy()
    values = np.stack(
        [np.abs(transform(ATOMS @ t.T, p)) ** 2 for t, p in zip(turns, points, strict=True)]
    )
    q = np.linalg.norm(points[..., :2], axis=-1)
    each = errors.beside[:, None].numpy()
    values += ice * values.mean() * each * (1 + 3 * np.exp(-(((q - 0.27) / 0.05) ** 2)))
    counts = rng.poisson(values * electrons) / electrons
    counts = counts.reshape(VIEWS, 2, -1) * views.flat.valid.numpy()
    flat = torch.full((len(views.flat),), float(ice * values.mean()))
    return replace(
        views,
        measured=torch.from_numpy(counts.astype(np.float32)),
        electrons=electrons,
        background=flat if ice else None,
        molecules=10_000 if ice else 1,  # so that no speckle of ice is expected
    )


def refined(views: Views, *what: str, calls: int = 2) -> Views:
    """The views as they are found against the true volume."""
    volume = true_volume(ATOMS, views.n)
    for _ in range(calls):
        target = pattern_target(views, None, 1 if views.background is None else PARTS)
        sums = target.sums(torch.fft.rfftn(volume, norm="forward"))
        views = refine_views(volume, target.weighted_by(sums), sums, what)
    return views


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def test_points_are_where_the_detectors_code_has_them() -> None:
    """Each pixel of a distorted pattern shows what `seen_by_pixels` says, mates too."""
    views = make_views(ATOMS, 2, dose=1.0)
    geometry, m = views.curved, views.flat.m
    angle = np.radians(50.0)
    errors = PatternErrors(
        torch.tensor([[0.6, -0.3], [0.0, 0.0]]),
        torch.zeros(2),
        torch.tensor([0.03 * np.cos(angle), 0.03 * np.sin(angle)]).float(),
        torch.ones(2),
        torch.zeros(2, 3),
    )
    y, x = seen_by_pixels(m, (m // 2 - 0.3, m // 2 + 0.6), 0.03, 25.0)
    found = errors.points(geometry, len(geometry))[0, :, :2].numpy()
    inside = np.hypot(*found.T) < float(geometry.radius.max()) - 0.1
    pixels = np.concatenate((geometry.pixel, geometry.mate))
    side = np.repeat([1, -1], len(geometry))
    wanted = side[:, None] * np.stack((x.flatten()[pixels], y.flatten()[pixels]), -1)
    np.testing.assert_allclose(found[inside], wanted[inside], atol=1e-4)
    # On the sphere z goes with the square of the distance from the beam.
    points = errors.points(geometry, len(geometry))[0].numpy()
    bend = geometry.points[0, 2] / geometry.points[0, :2].square().sum()
    np.testing.assert_allclose(
        points[:, 2], side * float(bend) * (points[:, :2] ** 2).sum(-1), atol=1e-5
    )


def test_a_centre_that_is_off_is_found() -> None:
    true = put_in(centre_px=0.5)
    found = refined(with_errors(true), "centre").errors
    assert found is not None
    assert rms(found.centre_px - true.centre_px) < 0.03
    assert rms(true.centre_px) > 0.4


def test_scale_and_ellipse_are_found_beside_the_centre() -> None:
    true = put_in(centre_px=0.3, scale=0.01, ellipse=0.01)
    found = refined(with_errors(true), "centre", "scale", "ellipse", calls=3).errors
    assert found is not None
    assert rms(found.centre_px - true.centre_px) < 0.03
    assert rms(found.scale - true.scale) < 0.3 * rms(true.scale)
    assert float((found.ellipse - true.ellipse).abs().max()) < 5e-4


def test_an_ellipse_is_found_alone() -> None:
    true = put_in(ellipse=0.01)
    found = refined(with_errors(true), "ellipse", calls=3).errors
    assert found is not None
    assert float((found.ellipse - true.ellipse).abs().max()) < 5e-4
    assert rms(found.centre_px) == 0


def test_turns_are_found_with_the_centre() -> None:
    """A degree and a half off on each axis; the frame of all views stays."""
    views = with_errors(put_in(centre_px=0.3))
    rng = np.random.default_rng(1)
    off = turned(views.rotations, torch.from_numpy(np.radians(1.0) * rng.standard_normal((60, 3))))
    found = refined(replace(views, rotations=off), "orientation", "centre", calls=4)
    assert float(angle_deg(off, views.rotations).median()) > 1.2
    assert float(angle_deg(found.rotations, views.rotations).median()) < 0.3


def test_few_counts_do_not_make_errors_up() -> None:
    """Thirty electrons a pattern and nothing wrong: what is found is far below what each view
    would say alone."""
    found = refined(with_errors(put_in(), dose=30.0), "centre", "scale").errors
    assert found is not None
    assert rms(found.centre_px) < 0.1
    assert rms(found.scale) < 0.002


def test_ice_is_centred_where_the_beam_is() -> None:
    """Ten times the molecule's intensity beside it, more in some views than in others: centre and
    amount are found, and what is left is alike in all."""
    true = put_in(centre_px=0.5)
    amount = 1 + 0.3 * torch.from_numpy(np.random.default_rng(5).standard_normal(VIEWS)).float()
    true = replace(true, beside=amount / amount.mean())
    views = with_errors(true, dose=1e5, ice=10.0)
    found = refined(views, "centre", "background", calls=4)
    errors = found.errors
    assert errors is not None
    assert errors.profile is not None
    assert rms(errors.centre_px - true.centre_px) < 0.03
    assert rms(errors.beside - true.beside) < 0.02
    every = slice(0, VIEWS)
    means = [v.observed(every, v.curved).mean(1) for v in (views, found)]
    assert float(means[1].std()) < 0.15 * float(means[0].std())


def test_errors_of_nought_change_nothing() -> None:
    """Views whose errors are all nought have the likelihood and slope of views without."""
    views = make_views(ATOMS, 40, dose=2e3)
    volume = torch.fft.rfftn(true_volume(ATOMS, views.n), norm="forward")
    none = replace(views, errors=PatternErrors.none(len(views), views.device))
    target, same = (pattern_target(v) for v in (views, none))
    one, two = target.evaluate(volume), same.evaluate(volume)
    assert abs(one[0] - two[0]) < 1e-6 * abs(one[0])
    assert float((one[1] - two[1]).abs().max()) < 1e-4 * float(one[1].abs().max())


def test_a_climb_finds_centres_and_is_better_for_it() -> None:
    """From nothing but counts and images: the errors end far below what was put in, and the run's
    state keeps them."""
    true = put_in(centre_px=0.7)
    views = with_errors(true, dose=5e3)
    plain = climbed(views, CLIMB)
    better = climbed(views, CLIMB.model_copy(update={"refine_views": ("centre",)}))
    errors = [h.full.errors for h in better.halves]
    assert errors[0] is not None
    assert errors[1] is not None
    both = PatternErrors.interleaved(errors[0], errors[1])
    assert rms(both.centre_px - true.centre_px) < 0.3 * rms(true.centre_px)
    assert all(b.r_factor < p.r_factor for b, p in zip(better.halves, plain.halves, strict=True))
    state = mv.HalfMaps.from_state(
        better.state(), views, better.settings, mass_kda(ATOMS), 0
    ).halves[1]
    assert state.full.errors is not None
    assert torch.equal(state.full.errors.centre_px, errors[1].centre_px)
    whole = mv.combined(better, views)
    assert whole.full.errors is not None
    assert rms(whole.full.errors.centre_px - true.centre_px) < 0.3 * rms(true.centre_px)


def climbed(views: Views, settings: ManyViewsSettings) -> mv.HalfMaps:
    run = mv.start(views, settings, mass_kda(ATOMS), 0)
    while not run.done:
        run.step()
    return run


def test_it_is_for_scatterers() -> None:
    with pytest.raises(DiffraganError, match="refine_views is for climb_by"):
        load_settings(values={"many_views.refine_views": "centre"})
    words = {"many_views.refine_views": "centre, scale", "many_views.climb_by": "likelihood"}
    assert load_settings(values=words).many_views.refine_views == ("centre", "scale")
    assert PARTS == PROFILE_PARTS


def test_orientations_known_nearly_are_found_as_scatterers_climb() -> None:
    """Three degrees off, through twice the molecule's intensity: views end at half of that or
    less, in the frame that they were told in, and both halves in the same."""
    views = replace(make_views(ATOMS, VIEWS, dose=3e4, beside=2.0), molecules=1000)
    rng = np.random.default_rng(2)
    off = np.radians(3.0) / 3**0.5 * rng.standard_normal((VIEWS, 3))
    near = replace(views, rotations=turned(views.rotations, torch.from_numpy(off)))
    told = CLIMB.model_copy(
        update={"orientations": "refine", "refine_views": ("orientation",), "likelihood_passes": 25}
    )
    run = climbed(near, told)
    assert {row["phase"] for row in run.history} == {mv.CLIMB}
    for k, half in enumerate(run.halves):
        before = angle_deg(near.rotations[k::2], views.rotations[k::2])
        after = misorientation_deg(half.full.rotations, views.rotations[k::2])
        frame = angle_deg(half.full.rotations, views.rotations[k::2])
        assert float(before.median()) > 2
        assert float(frame.median()) < 0.75 * float(before.median())
        assert float(after.median()) < 0.5 * float(before.median())


def test_views_that_tell_nothing_stay_where_they_are() -> None:
    """Thirty electrons each: no view is turned by more than a hundredth of what it may be off."""
    views = make_views(ATOMS, VIEWS, dose=30.0, beside=4.0)
    found = refined(views, "orientation")
    assert float(angle_deg(found.rotations, views.rotations).max()) < 0.5
