"""Many views phase each other: laws of every part, and a small molecule solved end to end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from diffragan.fourier.correlation import fsc
from diffragan.fourier.slices import extract
from diffragan.fourier.volumes import moved, volume_spectrum
from diffragan.reconstruction import many_views as mv
from diffragan.reconstruction.maps.data_step import DataStep
from diffragan.reconstruction.maps.free_set import free_correlation
from diffragan.reconstruction.maps.image_map import (
    ImageMap,
    first_guess,
    image_map,
    power_by_voxel,
    ring_power,
    shift_onto,
)
from diffragan.reconstruction.maps.view_weights import view_r, view_weights
from diffragan.reconstruction.maps.views import Views
from diffragan.settings import ManyViewsSettings
from synthetic_views import (
    ball,
    correlation,
    data_step,
    make_views,
    mass_kda,
    molecule,
    pattern_mask,
    relative,
    some_balls,
    true_volume,
)

ATOMS = molecule(1)
KDA = mass_kda(ATOMS)
VIEWS = 80
SMALL = ManyViewsSettings(padding=1, resolution_steps_A=(), mask_blur_A=1.5, mask_margin_A=2)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def views() -> Views:
    """Exact patterns to 2 Å and noisy images to 4 Å."""
    return make_views(ATOMS, VIEWS)


@pytest.fixture(scope="module")
def counted() -> Views:
    """The same with 3e4 e/Å² on the pattern."""
    return make_views(ATOMS, VIEWS, dose=3e4)


@pytest.fixture(scope="module")
def truth(views: Views) -> Tensor:
    return true_volume(ATOMS, views.n)


@pytest.fixture(scope="module")
def solve(views: Views) -> mv.HalfMaps:
    """A run from images and patterns alone, to its end."""
    run = mv.start(views, SMALL, KDA, 0)
    while not run.done:
        run.step()
    return run


def test_a_half_in_the_others_frame_lies_in_its_images_as_before(
    views: Views, truth: Tensor
) -> None:
    """A half whose map has drifted, its shifts with it, is moved onto the other: map and shifts go
    together, so that its images' molecules are where they were."""
    settings = SMALL.model_copy(update={"orientations": "refine"})
    first, second = mv.start(views, settings, KDA, 0).halves
    for k, half in enumerate((first, second)):
        half._update(full=views.every_second(k), map=truth, x=truth)
    drift = torch.tensor([1.5, -2.0, 1.0])  # voxels, z, y, x
    seen = (second.full.rotations @ (drift.flip(0) * views.voxel_A))[:, :2]
    assert float(torch.linalg.vector_norm(seen, dim=1).median()) > 1
    drifted = replace(second.full, shifts_A=second.full.shifts_A - seen)
    map_ = moved(truth, drift)
    second._update(full=drifted, map=map_, x=map_)
    second.align_to(first)
    assert correlation(second.map, truth) > 0.99
    away = second.full.shifts_A - views.every_second(1).shifts_A
    assert float(torch.linalg.vector_norm(away, dim=1).max()) < 0.2


def test_the_images_map_is_the_molecule_at_their_resolution(views: Views) -> None:
    found = image_map(views)
    assert correlation(found.volume, true_volume(ATOMS, views.n, edge_A=4.2)) > 0.85
    assert float(found.known.min()) >= 0
    assert float(found.known.max()) <= 1
    beyond = power_by_voxel(torch.arange(17.0), views.n) > 10
    assert float(found.known[beyond].max()) < 0.05


def test_known_shifts_of_the_images_are_undone() -> None:
    shifts = np.random.default_rng(0).normal(0, 2, (30, 2))
    there = make_views(ATOMS, 30, image_shifts_A=shifts, image_dose=1e9)
    here = make_views(ATOMS, 30, image_dose=1e9)
    assert relative(image_map(there).volume, image_map(here).volume) < 0.02
    ignored = replace(there, shifts_A=torch.zeros(30, 2))
    low = true_volume(ATOMS, here.n, edge_A=4.2)
    assert correlation(image_map(ignored).volume, low) < 0.8 * correlation(
        image_map(there).volume, low
    )


@pytest.mark.parametrize("shift", [(2.0, -3.0, 1.0), (0.4, 0.3, -1.6)])
def test_a_shifted_map_is_laid_back_on_the_images(
    views: Views, truth: Tensor, shift: tuple[float, float, float]
) -> None:
    """`shift_onto` finds minus the shift that was made, in z, y, x, to a fifth of a voxel."""
    image = image_map(views)
    there = moved(truth, torch.tensor(shift))
    assert int(there.argmax()) != int(truth.argmax())
    found = shift_onto(there, image)
    assert float((found + torch.tensor(shift)).abs().max()) < 0.2
    assert correlation(moved(there, found), truth) > 0.97


def test_agreeing_data_leave_the_volume_alone(views: Views, truth: Tensor) -> None:
    """With the volume's own slices as data it comes back, but for the cut to band and ball."""
    x = truth * ball(views.n, 0.44)
    seen = extract(volume_spectrum(x), views.rotations, views.curved.points).abs()
    step = data_step(replace(views, measured=seen.reshape(VIEWS, 2, -1)))
    spectrum = torch.fft.rfftn(x) * step._band
    cut = torch.fft.irfftn(spectrum, s=(views.n,) * 3) * ball(views.n, 0.45)
    assert relative(step(x), cut) < 1e-5


def test_the_truth_is_almost_a_fixed_point(views: Views, truth: Tensor) -> None:
    """Analytic patterns differ from the window's slices by its ripple alone."""
    assert relative(data_step(views)(truth), truth) < 0.06
    assert float(view_r(truth, views, views.curved).max()) < 0.03
    mirrored = truth.flip(0).roll(1, 0)
    assert float(view_r(mirrored, views, views.curved).min()) > 0.2


def test_the_step_lowers_the_misfit(views: Views) -> None:
    image = image_map(views).volume
    before = view_r(image, views, views.curved).mean()
    assert float(view_r(data_step(views)(image), views, views.curved).mean()) < 0.6 * before


def test_corrections_of_counts_are_unbiased_at_the_truth(truth: Tensor) -> None:
    """The mean over 400 draws is 0 within four standard errors, also where less than one electron
    is expected and the root of the counts falls short."""
    dose, draws = 300.0, 400
    views = make_views(ATOMS, 1, dose=dose)
    step = data_step(views)
    slices = extract(volume_spectrum(truth), views.rotations, views.curved.points)
    mean = slices.abs() ** 2
    electrons = views.electrons
    assert electrons is not None
    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson((mean * electrons).expand(draws, -1), generator) / electrons
    changes = slices * step.correction(slices.expand(draws, -1), counts)
    error = changes.std(0).abs() / draws**0.5
    seen = (mean[0] * electrons * draws) > 40
    assert float((changes.mean(0).abs() < 4 * error)[seen].float().mean()) > 0.99
    # Its noise is 1 / (4 electrons) wherever the expectation is not floored.
    bright = (mean[0] * electrons) > 1
    assert int((seen & ~bright).sum()) > 50
    power = changes.abs().square().mean(0)[bright]
    assert float((power * 4 * electrons).median()) == pytest.approx(1.0, abs=0.1)
    roots = (counts.sqrt() - mean.sqrt()).mean(0)
    assert float(roots[seen & ~bright].mean()) < -4 * float(error[seen & ~bright].mean())


def test_masked_pixels_correct_nothing(truth: Tensor) -> None:
    """A measured value of 0 under the mask is not a measurement of 0."""
    mask = pattern_mask(34)
    mask[17 + 2 :, 17 + 2 :] = False
    views = make_views(ATOMS, 20, mask=mask)
    for curved in (True, False):
        assert relative(data_step(views, curved=curved)(truth), truth) < 0.06
        geometry = views.curved if curved else views.flat
        assert float(view_r(truth, views, geometry).max()) < 0.04


def test_a_view_without_weight_says_nothing(views: Views) -> None:
    """Dropping its weight equals leaving the view out."""
    silent = replace(views, weights=torch.ones(VIEWS))
    silent.weights[1::2] = 0
    image = image_map(views.every_second(0)).volume
    assert relative(data_step(silent)(image), data_step(views.every_second(0))(image)) < 1e-4


def test_data_inside_the_balls_do_not_act_there(views: Views, truth: Tensor) -> None:
    """Voxels in balls keep the volume's values, whatever was measured; the others do not."""
    free = some_balls(views)
    step = data_step(views, free=free)
    factor = torch.rand(views.measured.shape, generator=torch.Generator().manual_seed(0))
    wrong = replace(views, measured=views.measured * (1 + factor))
    other = data_step(wrong, free=free)
    x = truth * ball(views.n, 0.4)

    def change(of: DataStep) -> Tensor:
        # The step in Fourier space before the ball of space is applied.
        for name in ("_ball", "_gain"):
            object.__setattr__(of, name, torch.ones_like(getattr(of, name)))
        spectrum: Tensor = torch.fft.rfftn(of(x) - x, norm="forward")
        return spectrum

    scale = float(torch.fft.rfftn(x, norm="forward").abs().max())
    free = free & step._band  # beyond the band all is cut
    for of in (step, other):
        assert float(change(of)[free].abs().max()) < 1e-6 * scale
    assert float(change(other)[~free].abs().max()) > 1e-3 * scale


@pytest.mark.parametrize("dose", [None, 3e4])
def test_the_free_correlation_knows_right_from_wrong(
    dose: float | None, views: Views, counted: Views, truth: Tensor
) -> None:
    """Near 1 for the truth; near 0 for another molecule, and for noise in the molecule's place."""
    seen = views if dose is None else counted
    step = data_step(seen, free=some_balls(seen))

    def score(volume: Tensor) -> float:
        return float(torch.nanmean(free_correlation(volume, step)[7:]))

    assert bool(free_correlation(truth, step)[:3].isnan().all())  # no ball, no judgement
    assert score(truth) > 0.93
    assert abs(score(true_volume(molecule(2), seen.n))) < 0.3
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((seen.n,) * 3, generator=generator) * ball(seen.n, 0.3)
    assert abs(score(noise)) < 0.3


def test_images_to_4_A_and_patterns_are_a_map_to_2_A(
    views: Views, truth: Tensor, solve: mv.HalfMaps
) -> None:
    """From nothing but pairs and weight: FSC with the truth above 0.75 in every shell and 0.9 in
    the mean, where the images alone have none; and each view's wave with it."""
    whole = mv.combined(solve, views)
    shells = fsc(whole.map, truth)[1:16]
    assert float(shells.min()) > 0.75
    assert float(shells.mean()) > 0.9
    image = fsc(image_map(views).volume, truth)
    assert float(image[10:16].abs().max()) < 0.3
    assert whole.r_factor < 0.05
    found = extract(volume_spectrum(whole.map), views.rotations, views.curved.points)
    true = extract(volume_spectrum(truth), views.rotations, views.curved.points)
    outer = (views.flat.radius > 10).repeat(2)
    a, b = found[:, outer], true[:, outer]
    frc = (a * b.conj()).real.sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    assert float(frc.mean()) > 0.75


def test_a_run_ends_by_itself(solve: mv.HalfMaps) -> None:
    assert solve.done
    assert not solve.exhausted
    assert solve.iteration < SMALL.iterations + SMALL.error_reduction_iterations
    assert solve.history[-1]["phase"] == "error reduction"
    assert {row["half"] for row in solve.history} == {"1", "2"}
    assert solve.measure is not None
    assert solve.measure.resolution_A < 2.2


def test_a_run_cut_short_says_so(views: Views) -> None:
    run = mv.start(
        views, SMALL.model_copy(update={"iterations": 6, "error_reduction_iterations": 1}), KDA, 0
    )
    while not run.done:
        run.step()
    assert run.exhausted
    assert run.iteration == 7


def test_halves_share_no_view_no_start_and_no_balls(views: Views) -> None:
    one, two = mv.start(views, SMALL, KDA, 0).halves
    assert not set(one.full.items.tolist()) & set(two.full.items.tolist())
    assert set(one.full.items.tolist()) | set(two.full.items.tolist()) == set(range(VIEWS))
    assert one.project.free is not None
    assert two.project.free is not None
    assert float((one.project.free & two.project.free).sum() / one.project.free.sum()) < 0.3
    beyond = power_by_voxel(torch.arange(17.0), one.views.n) > 10
    a, b = (torch.fft.rfftn(h.x)[beyond] for h in (one, two))
    assert abs(float((a * b.conj()).real.sum() / (a.norm() * b.norm()))) < 0.2
    one.full.weights[:] = 0
    assert float(two.full.weights.min()) == 1


def test_the_same_seed_gives_the_same_run(views: Views) -> None:
    """Bit for bit, and another seed another start."""

    def run(seed: int) -> Tensor:
        made = mv.start(views, SMALL, KDA, seed)
        for _ in range(6):
            made.step()
        return made.halves[0].map

    first = run(0)
    assert torch.equal(run(0), first)
    assert not torch.equal(run(1), first)


def test_views_of_another_molecule_lose_their_say(views: Views) -> None:
    """Every tenth pattern and image is of another molecule: weight 0, all others keep theirs."""
    other = make_views(molecule(7), VIEWS)
    mixed = replace(views, measured=views.measured.clone(), contrast=views.contrast.clone())
    stray = torch.arange(VIEWS) % 20 < 2
    mixed.measured[stray], mixed.contrast[stray] = other.measured[stray], other.contrast[stray]
    run = mv.start(mixed, SMALL, KDA, 0)
    while not run.done:
        run.step()
    whole = mv.combined(run, mixed)
    assert float(whole.views.weights[stray].max()) < 0.1
    assert float(whole.views.weights[~stray].mean()) > 0.9
    assert float(fsc(whole.map, true_volume(ATOMS, whole.views.n))[1:16].mean()) > 0.85
    kept = mv.start(mixed, SMALL.model_copy(update={"reject": False}), KDA, 0)
    for _ in range(5):
        kept.step()
    assert float(kept.halves[0].views.weights.min()) == 1


def test_weights_fall_between_three_and_six_deviations() -> None:
    r = torch.linspace(0.1, 0.12, 101)
    r[-3:] = torch.tensor([0.15, 0.18, 0.5])
    weights = view_weights(r)
    assert float(weights[:98].min()) == 1
    assert 0 < float(weights[98]) < 1
    assert float(weights[99:].max()) == 0


def test_the_climb_ends_with_all_that_was_measured(views: Views) -> None:
    """Resolutions of the settings that lie near the edge or beyond are left out."""
    marching = ManyViewsSettings(resolution_steps_A=(2.05, 5.0, 3.0))
    assert mv.resolution_limits(views, marching) == [5.0, 3.0, None]


def test_noise_beyond_the_images_is_where_the_molecule_is(views: Views) -> None:
    """The start's noise lies in the mask, has the data's power, and leaves the images be."""
    n = views.n
    image, inside = image_map(views), ball(n, 0.3)
    signal = power_by_voxel(ring_power(views), n)
    nothing = ImageMap(torch.zeros(n, n, n), torch.zeros_like(image.spectrum), 0 * image.known)
    noise = first_guess(nothing, signal, inside, 0, 1.0)
    spectrum = torch.fft.rfftn(noise, norm="forward").abs().square()
    beyond = power_by_voxel(torch.arange(17.0), n) > 6
    ratio = spectrum[beyond].sum() / signal[beyond].sum()
    assert float(ratio) == pytest.approx(1.0, abs=0.15)
    assert relative(first_guess(image, signal, inside, 0, 0.0), image.volume) < 1e-5
    assert not torch.equal(noise, first_guess(nothing, signal, inside, 1, 1.0))
