"""Many views on a device other than the CPU: nothing is left behind there or here, and the map is
the CPU's but for rounding. The device is made up (`strict_device`), so that this runs everywhere;
where there is a GPU, on that as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from diffragan import cli
from diffragan.commands.demo import views_path
from diffragan.devices import to_device
from diffragan.errors import DiffraganError
from diffragan.fourier.slices import extract
from diffragan.fourier.volumes import CPU, volume_spectrum
from diffragan.optics import Defocus
from diffragan.pairs.open import open_pairs
from diffragan.reconstruction import many_views as mv
from diffragan.reconstruction import phased_map as half_set
from diffragan.reconstruction.checkpoint import restored, save_state
from diffragan.reconstruction.choose_views import choose_views
from diffragan.reconstruction.maps.image_map import image_map
from diffragan.reconstruction.maps.mask import envelope, largest_piece
from diffragan.reconstruction.maps.merge_waves import merge_waves
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.hand import hand_of
from diffragan.reconstruction.orientations.refine import (
    align_to_images,
    image_agreement,
    refine_orientations,
)
from diffragan.reconstruction.solve import solve_views
from diffragan.rotations import turned
from diffragan.settings import ManyViewsSettings, load_settings
from strict_device import DeviceError, strict_device
from synthetic_views import correlation, make_views, mass_kda, molecule, relative, true_volume

ATOMS = molecule(1)
KDA = mass_kda(ATOMS)
# Every part of a run is due within its few iterations.
SHORT = ManyViewsSettings(
    resolution_steps_A=(4.5,), mask_blur_A=1.5, mask_margin_A=2, iterations=3,
    image_weight_iterations=2, error_reduction_iterations=1,
    mask_every=2, register_every=2, check_every=2, realign_every=2,
)  # fmt: skip
SAME = 5e-4  # both take the window's weights from a table, at most one entry apart

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def views() -> Views:
    """Twelve exact patterns to 2.7 Å."""
    return make_views(ATOMS, 12, edge_A=2.7)


@pytest.fixture(scope="module")
def counted() -> Views:
    """The same with 3e4 e/Å² on the pattern."""
    return make_views(ATOMS, 12, edge_A=2.7, dose=3e4)


@pytest.fixture(scope="module")
def own_lenses() -> Views:
    """The same whose images differ in defocus and are astigmatic."""
    mean = np.linspace(-900, -1500, 12)
    return make_views(ATOMS, 12, edge_A=2.7, defocus=Defocus.of(mean, 200.0, 30.0))


@pytest.fixture
def strict() -> Iterator[torch.device]:
    with strict_device() as found:
        yield found


@pytest.fixture(params=["strict", "cuda:0"] if torch.cuda.is_available() else ["strict"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    if request.param == "strict":
        with strict_device() as found:
            yield found
    else:
        yield torch.device(request.param)


def whole_run(views: Views, settings: ManyViewsSettings) -> tuple[mv.HalfMaps, Any]:
    """A run to its end, and the map of all views."""
    solve = mv.start(views, settings, KDA, 0)
    while not solve.done:
        solve.step()
    return solve, mv.combined(solve, views)


def close(found: Tensor, wanted: Tensor, tolerance: float = SAME) -> None:
    """The device's answer, and the CPU's."""
    assert found.device != CPU
    assert wanted.device == CPU
    assert float((found.cpu() - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


MISTAKES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "operands on two devices": lambda here, there: here + there,
    "an index left on the CPU": lambda here, there: there[here.long()],
    "a mask left on the device": lambda here, there: here[there > 0],
    "a value set from the CPU": lambda here, there: there.__setitem__(slice(0, 3), here),
    "sums into the CPU": lambda here, there: here.index_add_(0, there.long(), there),
    "a library's array": lambda here, there: there.numpy(),
    "an array without being asked": lambda here, there: np.asarray(there),
    "a product": lambda here, there: torch.outer(there, here),
    "a list of numbers from both": lambda here, there: torch.stack((here.sum(), there.sum())),
    "a sum on the CPU": lambda here, there: here.sum().add_(there.sum()),
    "what a factory makes": lambda here, there: there * torch.ones(3),
    "a view": lambda here, there: there[None].mT.copy_(here[:, None]),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=list(MISTAKES))
def test_the_made_up_device_shows_mistakes(mistake: str, strict: torch.device) -> None:
    here = torch.arange(3.0)
    if "array" not in mistake:
        MISTAKES[mistake](here.clone(), here.clone())  # on one device it is none
    with pytest.raises((DeviceError, RuntimeError)):
        MISTAKES[mistake](here, here.to(strict))


def test_the_made_up_device_computes(device: torch.device) -> None:
    """Views, conjugates, in-place changes and numbers are as on the CPU."""

    def work(x: Tensor) -> Tensor:
        wave = torch.fft.rfftn(x).conj()
        wave[1, 0] += torch.tensor([1.0, 2.0], device=x.device)[0]
        torch.view_as_real(wave.resolve_conj()).mul_(2)
        x = torch.fft.irfftn(torch.where(wave.real > 0, wave.conj(), wave), s=x.shape)
        x[x > float(x.mean())] = 0.5
        return x * torch.tensor(3.0)

    start = torch.randn((6, 6, 6), generator=torch.Generator().manual_seed(0))
    close(work(start.to(device)), work(start), 1e-6)


@pytest.mark.parametrize("dose", [None, 3e4])
def test_a_run_on_a_device_is_the_cpus(
    dose: float | None, views: Views, counted: Views, device: torch.device
) -> None:
    """From the start to the map of all views, halves, masks, weights and agreement."""
    seen = views if dose is None else counted
    here, here_whole = whole_run(seen, SHORT)
    there, there_whole = whole_run(to_device(seen, device), SHORT)
    assert there.halves[0].full.measured.device == CPU
    assert there.halves[0].full.contrast.device == CPU
    for a, b in zip((*there.halves, there_whole), (*here.halves, here_whole), strict=True):
        close(a.map, b.map)
        close(a.views.weights, b.views.weights, 1e-3)
        assert float((a.mask.cpu() != b.mask).float().mean()) < 1e-4
        assert a.r_factor == pytest.approx(b.r_factor, abs=1e-4)
    assert there.iteration == here.iteration
    assert there.measure is not None
    assert here.measure is not None
    for name in ("q", "fsc", "free"):
        torch.testing.assert_close(
            getattr(there.measure, name), getattr(here.measure, name),
            atol=1e-3, rtol=0, equal_nan=True,
        )  # fmt: skip
    back = to_device(there_whole, CPU)
    assert relative(back.project(back.map), here_whole.project(here_whole.map)) < SAME
    to_device(there, CPU).halves[1].iterate(1, 0.5)


def test_scatterers_climb_on_a_device_as_here(counted: Views, device: torch.device) -> None:
    """Two passes and the map of all views. Adam divides by gradients that may be nearly nothing, so
    that rounding shows more than elsewhere."""
    climb = SHORT.model_copy(update={"climb_by": "likelihood", "likelihood_passes": 2})
    here, here_whole = whole_run(counted, climb)
    there, there_whole = whole_run(to_device(counted, device), climb)
    for a, b in zip((*there.halves, there_whole), (*here.halves, here_whole), strict=True):
        assert a.map.device == device
        close(a.map, b.map, 0.02)


def test_a_run_goes_on_wherever_its_state_is_taken(
    counted: Views, tmp_path: Path, device: torch.device
) -> None:
    """Begun on either, ended on either: the same map."""
    settings = load_settings().model_copy(update={"many_views": SHORT})
    found = []
    for first, second in ((device, CPU), (CPU, device), (device, device)):
        solve = mv.start(to_device(counted, first), SHORT, KDA, settings.seed)
        for _ in range(4):
            solve.step()
        state = tmp_path / "state.pt"
        save_state(state, solve, 1.0)
        # Without any device the file opens all the same.
        solve, seconds = restored(state, to_device(counted, second), settings, KDA)
        assert seconds == 1.0
        assert solve.stage == 1
        assert solve.halves[0].map.device == solve.halves[0].full.rotations.device == second
        solve.step()
        found.append(solve.halves[0].map.cpu())
    assert max(relative(other, found[0]) for other in found[1:]) < SAME


@pytest.mark.parametrize("kind", ["views", "counted", "own_lenses"])
def test_orientations_are_refined_there_as_here(
    kind: str,
    request: pytest.FixtureRequest,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against a map and against the images, in several blocks; shifts and the hand with them."""
    monkeypatch.setattr("diffragan.reconstruction.maps.views.BLOCK", 5)
    monkeypatch.setattr("diffragan.reconstruction.maps.views._POINTS", 1)
    seen: Views = request.getfixturevalue(kind)
    generator = torch.Generator().manual_seed(1)
    wrong = 0.03 * torch.randn((len(seen), 3), generator=generator)
    here = replace(seen, rotations=turned(seen.rotations, wrong))
    there = to_device(here, device)
    truth = volume_spectrum(true_volume(ATOMS, seen.n, edge_A=2.7))
    given = {"resolution_A": 3.0, "max_step_deg": 1.0, "rounds": 2, "shift_reach_A": 2.0}
    a = refine_orientations(truth.to(device), there, **given)  # type: ignore[arg-type]
    b = refine_orientations(truth, here, **given)  # type: ignore[arg-type]
    for name in ("rotations", "shifts_A", "score", "turned_deg"):
        close(getattr(a, name), getattr(b, name), 2e-3)
    assert float(b.turned_deg.mean()) > 0.5
    one, two = (align_to_images(v, schedule_A=(8.0,), rounds=1) for v in (there, here))
    close(one.rotations, two.rotations, 2e-3)
    close(image_agreement(truth.to(device), there, 6.0), image_agreement(truth, here, 6.0), 2e-3)
    close(image_map(there).volume, image_map(here).volume, 2e-3)
    hand, other = hand_of(truth.to(device), there), hand_of(truth, here)
    assert hand.sigma == pytest.approx(other.sigma, rel=1e-2)


def test_one_half_is_laid_onto_the_other_there_as_here(views: Views, device: torch.device) -> None:
    settings = SHORT.model_copy(update={"orientations": "find", "padding": 1.0})
    made = [mv.start(v, settings, KDA, 0) for v in (to_device(views, device), views)]
    for solve in made:
        first, second = solve.halves
        second.realign()
        second.align_to(first)
        first.take_hand(mirror=True)
        first.find_shifts()
    for a, b in zip(made[0].halves, made[1].halves, strict=True):
        close(a.map, b.map, 0.01)
        close(a.views.rotations, b.views.rotations, 0.01)


@pytest.mark.parametrize("mode", ["refine", "find"])
def test_runs_that_turn_views_end_there(
    mode: str, views: Views, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding grows in them, so that no map is compared: all parts are, in the tests before."""
    brief_start = partial(align_to_images, schedule_A=(8.0,), rounds=1)
    monkeypatch.setattr(half_set, "align_to_images", brief_start)
    brief = {"orientations": mode, "iterations": 2, "resolution_steps_A": (), "padding": 1.0}
    _, whole = whole_run(to_device(views, device), SHORT.model_copy(update=brief))
    assert whole.map.device == whole.views.rotations.device == device
    assert bool(whole.map.isfinite().all())
    assert correlation(whole.map.cpu(), true_volume(ATOMS, views.n, edge_A=2.7)) > 0.2


def test_without_a_weight_and_from_waves(views: Views, device: torch.device) -> None:
    """What an ordinary run leaves out: Otsu's level, pieces, and a start from phased waves."""
    truth = true_volume(ATOMS, views.n, edge_A=2.7)
    mask = envelope(truth.to(device), views.volume_box_A, None)
    assert bool((mask.cpu() == envelope(truth, views.volume_box_A, None)).all())
    two = torch.zeros((12, 12, 12), dtype=torch.bool)
    two[1, 1, 1], two[4:6, 4, 4] = True, True
    close(largest_piece(two.to(device)).float(), largest_piece(two).float(), 0)
    random = np.random.default_rng(0).normal(size=(len(views), 2, views.flat.m, views.flat.m))
    waves = (random[:, 0] + 1j * random[:, 1] + 5).astype(np.complex64)
    trust = np.linspace(1, 0, 12 * len(views), dtype=np.float32).reshape(len(views), 12)
    a, b = (
        merge_waves(
            lambda items: waves[items], v.items, v.rotations, v.flat, v.n,
            weight=lambda items: trust[items],
        )
        for v in (to_device(views, device), views)
    )  # fmt: skip
    close(a, b)


def test_slices_go_out_and_back_with_the_same_weights(views: Views, device: torch.device) -> None:
    """With points of every view's own, as well as with those of all."""
    volume = true_volume(ATOMS, views.n, edge_A=2.7)
    shared = views.curved.points
    for points in (shared, shared.expand(len(views), -1, -1).contiguous()):
        a = extract(
            volume_spectrum(volume.to(device)), views.rotations.to(device), points.to(device)
        )
        close(a, extract(volume_spectrum(volume), views.rotations, points), 2e-3)


def test_a_folder_is_solved_on_a_device(tmp_path: Path, device: torch.device) -> None:
    """What comes back lies on the CPU, as all that writes results expects."""
    few = ("iterations=1", "error_reduction_iterations=1", "resolution_steps_A=[8.0]", "padding=1")
    settings = load_settings(overrides=[f"many_views.{word}" for word in few])
    pairs = open_pairs(views_path(), settings=settings)
    settings = pairs.settings.model_copy(update={"many_views": settings.many_views})
    chosen = choose_views(pairs, limit=10)
    found = solve_views(pairs, chosen, tmp_path / "there", settings, device=device)
    assert found.device == str(device)
    whole, halves = found.combined, found.half_maps.halves
    for tensor in (whole.map, whole.mask, found.views.weights, *(h.map for h in halves)):
        assert tensor.device == CPU
    assert whole.project.geometry.points.device == whole.views.device == CPU
    for place in ("here", "there"):  # "there" goes on from what was left, on the other device
        other = solve_views(pairs, chosen, tmp_path / place, settings)
        assert relative(whole.map, other.combined.map) < SAME
    again = solve_views(pairs, chosen, tmp_path / "here", settings, device=device)
    assert relative(whole.map, again.combined.map) < SAME


@pytest.mark.parametrize("command", ["reconstruct", "phase --method many-views"])
def test_a_gpu_that_is_not_there_is_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = [*command.split(), str(views_path()), "--out", str(tmp_path / "o.zarr")]
    result = CliRunner().invoke(cli.app, [*words, "--device", "cuda"])
    assert isinstance(result.exception, DiffraganError)
    assert str(result.exception) == "No CUDA device was found; use --device cpu."
    assert list(tmp_path.iterdir()) == []
