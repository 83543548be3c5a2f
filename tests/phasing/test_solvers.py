"""The contract of solvers, checked over their registry."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.phasing.modulus import (
    Modulus,
    ObjectModel,
    friedel_mate,
    from_fourier,
    measured_modulus,
    to_fourier,
)
from diffragan.phasing.solvers import (
    SOLVERS,
    ProposalPull,
    RealSpace,
    Run,
    Steps,
    find_solver,
    iterate,
    solver,
)
from diffragan.settings import load_settings

M = 25  # odd: every frequency has its mate
MODELS: tuple[ObjectModel, ...] = ("real", "complex")
CASES = list(product(sorted(SOLVERS), MODELS))


def support() -> Tensor:
    """A lopsided region of a quarter of the field."""
    inside = torch.zeros(M, M, dtype=torch.bool)
    inside[6:17, 7:18] = True
    inside[6:10, 7:12] = False
    inside[14:17, 18:20] = True
    return inside


def mask() -> Tensor:
    """Everything but the direct beam."""
    valid = torch.ones(M, M, dtype=torch.bool)
    valid[0, 0] = False
    return valid


def truth(model: ObjectModel, dtype: torch.dtype = torch.float64, batch: int = 2) -> Tensor:
    """Objects that obey the constraints: in the support, positive."""
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(batch, 2, M, M, generator=generator, dtype=torch.float64) * support()
    objects = x[:, 0] if model == "real" else torch.complex(x[:, 0], 0.3 * x[:, 1])
    wide = {torch.float32: torch.complex64, torch.float64: torch.complex128}
    return objects.to(dtype if model == "real" else wide[dtype])


def modulus_of(x: Tensor, model: ObjectModel) -> Modulus:
    return measured_modulus(torch.fft.fft2(x, norm="forward").abs(), mask(), model)


def noise(shape: tuple[int, ...], model: ObjectModel, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, 2, generator=generator, dtype=torch.float64)
    return x[..., 0] if model == "real" else torch.complex(x[..., 0], x[..., 1])


@pytest.mark.parametrize(("name", "model"), CASES)
def test_the_truth_is_a_fixed_point(name: str, model: ObjectModel) -> None:
    x = truth(model)
    run = iterate(name, x, modulus_of(x, model), RealSpace(support()), beta=0.8)
    for _ in range(10):
        state = run.step()
    torch.testing.assert_close(state.x, x, atol=1e-9, rtol=0)
    torch.testing.assert_close(state.modulus, x, atol=1e-9, rtol=0)
    assert float(modulus_of(x, model).r_factor(state.x).max()) < 1e-8


@pytest.mark.parametrize(("name", "model"), CASES)
def test_a_batch_is_a_loop_of_singles(name: str, model: ObjectModel) -> None:
    x = truth(model)
    start = noise((2, 3, M, M), model)
    together = iterate(name, start, modulus_of(x[:, None], model), RealSpace(support()))
    for _ in range(20):
        state = together.step()
    for pair, k in product(range(2), range(3)):
        alone = iterate(name, start[pair, k], modulus_of(x[pair], model), RealSpace(support()))
        for _ in range(20):
            single = alone.step()
        torch.testing.assert_close(single.x, state.x[pair, k])


@pytest.mark.parametrize(("name", "model"), CASES)
def test_single_precision_follows_double(name: str, model: ObjectModel) -> None:
    x = truth(model)
    start = noise((2, M, M), model)
    found = []
    for dtype in (torch.float32, torch.float64):
        goal = truth(model, dtype)
        first = start.to(goal.dtype)
        run = iterate(name, first, modulus_of(goal, model), RealSpace(support()))
        for _ in range(4):
            state = run.step()
        assert state.x.dtype == goal.dtype
        assert state.x.device == x.device
        found.append(state.x)
    torch.testing.assert_close(found[0].to(found[1].dtype), found[1], atol=2e-4, rtol=0)


@pytest.mark.parametrize(("name", "model"), CASES)
def test_translation_covariance(name: str, model: ObjectModel) -> None:
    """A shifted start in a shifted support gives the shifted run: no pixel is special."""
    x = truth(model)[0]
    start, shift = noise((M, M), model), (5, -3)
    a = iterate(name, start, modulus_of(x, model), RealSpace(support()))
    b = iterate(
        name,
        torch.roll(start, shift, (0, 1)),
        modulus_of(x, model),
        RealSpace(torch.roll(support(), shift, (0, 1))),
    )
    for _ in range(15):
        one, other = a.step(), b.step()
    torch.testing.assert_close(torch.roll(one.x, shift, (0, 1)), other.x)


@pytest.mark.parametrize(("name", "model"), [c for c in CASES if c[0] != "er"])
def test_solvers_find_the_object_from_nothing(name: str, model: ObjectModel) -> None:
    """From random starts with the support known, the amplitudes come to agree."""
    x = truth(model)
    modulus, space = modulus_of(x[:, None], model), RealSpace(support())
    run = iterate(name, noise((2, 4, M, M), model).mul_(0.1), modulus, space, beta=0.8)
    for state in run:
        if state.iteration == 600:
            break
    best = modulus.r_factor(space(state.modulus)).min(1).values
    assert float(best.max()) < (0.03 if model == "real" else 0.12)


@pytest.mark.parametrize("model", MODELS)
def test_projections_are_idempotent(model: ObjectModel) -> None:
    x = noise((2, M, M), model)
    for project in (modulus_of(truth(model), model), RealSpace(support())):
        once = project(x.clone())
        torch.testing.assert_close(project(once.clone()), once)


@pytest.mark.parametrize("model", MODELS)
def test_projections_give_the_nearest_point(model: ObjectModel) -> None:
    """No point of the set, of many drawn near and far, is nearer."""
    goal = truth(model)[0]
    modulus, space = modulus_of(goal, model), RealSpace(support())
    x = noise((M, M), model)
    distances = [(project(x.clone()) - x).abs().square().sum() for project in (modulus, space)]
    spectrum = to_fourier(x)
    for seed in range(150):
        turn = (0.02, 0.3, 3.0)[seed % 3]
        other = noise((M, M), model, seed + 1)
        angles = turn * to_fourier(other).angle()
        # Elements of the sets: any phases with the measured amplitudes; any obeying object.
        turned = modulus.project_spectrum(spectrum * torch.polar(torch.ones_like(angles), angles))
        member = from_fourier(turned, M)
        assert (member - x).abs().square().sum() >= distances[0] * (1 - 1e-9)
        member = space(x + turn * other)
        assert (member - x).abs().square().sum() >= distances[1] * (1 - 1e-9)


def test_masked_pixels_are_free_and_nothing_lies_beyond_the_band() -> None:
    valid = mask()
    axis = torch.fft.fftfreq(M, 1 / M)
    radius = (axis[:, None] ** 2 + axis[None, :] ** 2).sqrt()
    valid &= radius <= 9
    valid[2:4, 3:5] = False  # a gap of the detector
    x = noise((M, M), "complex")
    modulus = measured_modulus(torch.full((M, M), 0.5, dtype=torch.float64), valid, "complex")
    before = to_fourier(x)
    after = to_fourier(modulus(x.clone()))
    torch.testing.assert_close(after.abs()[valid], torch.full_like(after.abs()[valid], 0.5))
    torch.testing.assert_close(after[2:4, 3:5], before[2:4, 3:5])
    torch.testing.assert_close(after[0, 0], before[0, 0])
    assert float(after[radius > 9].abs().max()) < 1e-12
    # What is masked does not count in R.
    changed = after.clone()
    changed[2:4, 3:5] = 7
    assert float(modulus.r_factor(from_fourier(changed, M))) < 1e-9


def test_a_real_object_takes_the_mean_of_friedel_mates() -> None:
    amplitude = noise((M, M), "real").abs()
    valid = mask()
    valid[1, 2] = False
    modulus = measured_modulus(amplitude, valid, "real")
    mean = (amplitude + friedel_mate(amplitude)) / 2
    torch.testing.assert_close(modulus.amplitude[3, 4], mean[3, 4])
    torch.testing.assert_close(modulus.amplitude[1, 2], amplitude[-1, -2])
    whole = torch.fft.fft2(modulus(noise((M, M), "real")), norm="forward").abs()
    torch.testing.assert_close(whole[3, 4], mean[3, 4])
    torch.testing.assert_close(whole[-3, -4], mean[3, 4])


def test_uncertain_amplitudes_go_to_the_edge_of_their_interval() -> None:
    amplitude = torch.full((M, M), 1.0, dtype=torch.float64)
    modulus = measured_modulus(amplitude, mask(), "complex", uncertainty=0.2)
    valid = mask().nonzero()[:3]
    spectrum = torch.zeros(M, M, dtype=torch.complex128)
    for (y, x), size in zip(valid.tolist(), (0.5, 1.1, 4.0), strict=True):
        spectrum[y, x] = torch.tensor(size * 1j)
    found = modulus.project_spectrum(spectrum)
    got = [found[y, x] for y, x in valid.tolist()]
    expected = [0.8j, 1.1j, 1.2j]
    torch.testing.assert_close(torch.stack(got), torch.tensor(expected, dtype=torch.complex128))
    with pytest.raises(ValueError, match="not both"):
        measured_modulus(amplitude, mask(), "real", uncertainty=0.1, poisson_weight=1.0)


@pytest.mark.parametrize("rho", [0.0, 0.5, 3.0])
def test_counts_go_to_the_likelihoods_optimum(rho: float) -> None:
    """Against a fine scan of the penalised Poisson likelihood."""
    electrons, counts = 50.0, torch.tensor([0.0, 1.0, 7.0], dtype=torch.float64)
    sizes = torch.tensor([0.4, 0.05, 0.2], dtype=torch.float64)
    amplitude = torch.zeros(M, M, dtype=torch.float64)
    spectrum = torch.zeros(M, M, dtype=torch.complex128)
    amplitude[3, 3:6], spectrum[3, 3:6] = (counts / electrons).sqrt(), sizes.to(torch.complex128)
    modulus = measured_modulus(amplitude, mask(), "complex", poisson_weight=rho)
    found = modulus.project_spectrum(spectrum)[3, 3:6].abs()
    a = torch.linspace(1e-6, 1, 200_001, dtype=torch.float64)
    for k in range(3):
        likelihood = counts[k] * (electrons * a**2).log() - electrons * a**2
        score = likelihood - 2 * electrons * rho * (a - sizes[k]) ** 2
        assert float(found[k]) == pytest.approx(float(a[score.argmax()]), abs=2e-5)


def test_damping_shrinks_the_imaginary_part_and_may_change_along_a_run() -> None:
    x = noise((M, M), "complex")
    space = RealSpace(support(), damping=0.5)
    got = space(x)
    torch.testing.assert_close(got.imag, 0.5 * x.imag * support())
    torch.testing.assert_close(got.real, x.real.clamp_min(0) * support())
    assert not torch.equal(space(got), got)
    goal = truth("complex")[0]
    run = iterate("er", noise((M, M), "complex"), modulus_of(goal, "complex"), space)
    parts = []
    for damping in (1.0, 0.0):
        space.damping = damping
        for _ in range(30):
            state = run.step()
        parts.append(float(state.x.imag.norm()))
    assert parts[0] > 0
    assert parts[1] == 0


def test_a_caller_watches_stops_and_switches() -> None:
    goal = truth("real")[0]
    modulus, space = modulus_of(goal, "real"), RealSpace(support())
    seen = []
    for state in iterate("hio", noise((M, M), "real"), modulus, space):
        seen.append(float(modulus.r_factor(space(state.modulus))))
        if state.iteration == 30:
            break
    assert len(seen) == 30
    switched = iterate("er", state.x, modulus, space)
    errors = [float(modulus.r_factor(switched.step().x)) for _ in range(20)]
    assert errors == sorted(errors, reverse=True)  # error reduction never rises (Fienup 1982)
    with pytest.raises(DiffraganError, match="no solver 'magic'; choose from er, hio, raar, rrr"):
        iterate("magic", state.x, modulus, space)


def test_the_run_is_pulled_towards_the_proposal() -> None:
    goal = truth("complex")[0]
    modulus, space = modulus_of(goal, "complex"), RealSpace(support())
    pull = ProposalPull(to_fourier(goal), torch.ones(M, M, dtype=torch.float64))
    run = Run(noise((M, M), "complex"), modulus, space, SOLVERS["rrr"](0.5), pull)
    torch.testing.assert_close(run.step().modulus, goal)
    pull.strength = 0.0
    assert not torch.allclose(run.step().modulus, goal)


def test_the_callers_start_is_left_alone() -> None:
    goal = truth("real")[0]
    start = noise((M, M), "real")
    kept = start.clone()
    for name in SOLVERS:
        run = iterate(name, start, modulus_of(goal, "real"), RealSpace(support()))
        run.step()
        run.step()
    assert torch.equal(start, kept)


def test_a_registered_solver_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines make a solver that `--set phase.solver=` and `many_views.solver=` accept."""
    monkeypatch.setattr("diffragan.phasing.solvers.SOLVERS", dict(SOLVERS))

    @solver("mine")
    def mine(beta: float) -> Steps:
        return Steps(1, 0, 1, 0, 0)

    settings = load_settings(overrides=["phase.solver=mine", "many_views.solver=mine"])
    assert find_solver(settings.phase.solver) is mine
    assert find_solver(settings.many_views.solver) is mine
