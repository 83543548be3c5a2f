"""Training on maps: molecules as volumes are what multislice makes of them, and runs repeat."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import cluster
from diffragan.engine.processes import Processes
from diffragan.fourier.grids import frequency_grid, resized_spectrum
from diffragan.microscope.exit_waves.by_abtem import exit_wave
from diffragan.microscope.exit_waves.field import plan_field
from diffragan.networks.weights import load_weights
from diffragan.optics import propagate
from diffragan.settings import Settings, load_settings
from diffragan.training.on_maps.exposures import draw_batch, drawn_conditions
from diffragan.training.on_maps.loop import MapsLeg, split_molecules, train_on_maps
from diffragan.training.on_maps.losses import maps_loss, ring_correlation
from diffragan.training.on_maps.molecules import Molecules, molecules_of
from weak_objects import sentence

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def small(**values: Any) -> Settings:
    """A narrow generator of two stages in boxes of 30 and 40 Å."""
    usual = {
        "network__maps_channels": 8,
        "network__maps_stages": 2,
        "conditions__box_A": (30.0, 40.0),
        "train__batch_size": 3,
        "train__max_steps": 4,
        "train__validate_every_steps": 2,
        "train__validation_items": 2,
        "train__mixed_precision": False,
    }
    keys = {key.replace("__", "."): value for key, value in (usual | values).items()}
    return load_settings("network", values=keys)


@pytest.fixture(scope="module")
def molecules() -> Molecules:
    return molecules_of((cluster(f"m{k}", k, 80, 9.0) for k in range(4)), small())


def run(molecules: Molecules, out: Path, **values: Any) -> Path:
    train_on_maps(molecules, out, small(**values))
    return out


def test_a_slice_is_the_wave_of_multislice_to_the_resolution_of_maps() -> None:
    """Single scattering on the Ewald sphere and a phase grating, against abTEM."""
    structure = cluster("one", 5, 80, 9.0)
    made = molecules_of([structure], small())
    turn = torch.from_numpy(np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]).float()
    turn = turn * torch.linalg.det(turn)
    ours = made.waves([0], turn[None], torch.zeros(1, 2))[0]
    settings = load_settings("default", overrides=[f"simulate.box_A={made.field_A}"]).simulate
    field = plan_field([structure.diameter_A], settings)
    turned = structure.positions_A @ turn.double().numpy().T
    wave = torch.from_numpy(exit_wave(structure.numbers, turned, field, 200e3))
    theirs = propagate(wave, made.field_A, 200e3, -field.centre_to_exit_A)
    n = ours.shape[-1]
    a = torch.fft.fft2(ours, norm="forward")
    b = resized_spectrum(torch.fft.fft2(theirs, norm="forward"), n)
    inside = frequency_grid(n, made.field_A) < (0.95 / made.finest_A) ** 2
    inside[0, 0] = False
    # The form factors are Peng's here and Lobato's there: 4 % apart at the lowest frequencies.
    apart = torch.linalg.vector_norm((a - b)[inside]) / torch.linalg.vector_norm(b[inside])
    assert float(apart) < 0.12


def test_a_batch_follows_from_its_seed_alone(molecules: Molecules) -> None:
    one, same, other = (draw_batch(molecules, small(), seed, 3) for seed in (1, 1, 2))
    assert torch.equal(one.truth, same.truth)
    assert torch.equal(one.evidence[0].proposal, same.evidence[0].proposal)
    assert one.truth.shape != other.truth.shape or not torch.equal(one.truth, other.truth)


def test_without_counts_the_amplitudes_are_the_truth_s(molecules: Molecules) -> None:
    batch = draw_batch(molecules, small(), 3, 4, box_A=40.0)
    amplitude, truth = batch.evidence[0].amplitude, batch.truth.abs()
    assert float((amplitude - truth).norm() / truth.norm()) < 0.02  # mates differ a little
    assert torch.isinf(batch.evidence[0].counts).all()


def test_conditions_stay_inside_their_ranges() -> None:
    chosen = small(conditions__usual=0.0, conditions__counted=0.5)
    c = chosen.conditions
    doses = []
    for seed in range(60):
        drawn = drawn_conditions(chosen, np.random.default_rng(seed))
        assert c.defocus_A[0] <= abs(drawn.image.defocus_A) <= c.defocus_A[1]
        assert drawn.image.snr is not None
        assert c.snr[0] <= drawn.image.snr <= c.snr[1]
        doses.append(drawn.pattern.dose_e_per_A2)
    assert 15 < sum(dose is None for dose in doses) < 45
    assert all(dose is None or c.dose_e_per_A2[0] <= dose <= c.dose_e_per_A2[1] for dose in doses)


def test_the_loss_is_nothing_for_the_truth_and_one_ring_s_power_for_nothing() -> None:
    truth = torch.fft.fft2(torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0)))
    train = small(train__l1_weight=0.0).train
    amplitude = truth.abs()
    assert float(maps_loss([[truth]], truth, amplitude, train)[0]) == pytest.approx(0, abs=1e-9)
    nothing, l1 = maps_loss([[0 * truth]], truth, amplitude, train)
    assert float(nothing) == pytest.approx(1, rel=1e-5)
    assert float(l1) > 0


def test_of_two_draws_the_right_spread_costs_least() -> None:
    """Truths scatter with deviation 1; pairs of draws that do the same beat narrower and wider
    ones, where the squared error alone would have none."""
    generator = torch.Generator().manual_seed(4)
    train = small(train__l1_weight=0.0, train__draws=2).train

    def noise(size: float) -> Tensor:
        maps = size * torch.randn(200, 8, 8, generator=generator)
        spectra: Tensor = torch.fft.fft2(maps, norm="forward")
        return spectra

    truth = noise(1.0)
    cost = {
        size: float(maps_loss([[noise(size)], [noise(size)]], truth, truth.abs(), train)[0])
        for size in (0.3, 1.0, 2.0)
    }
    assert cost[1.0] < cost[0.3]
    assert cost[1.0] < cost[2.0]


def test_a_run_in_two_sittings_is_the_run_in_one(molecules: Molecules, tmp_path: Path) -> None:
    whole = run(molecules, tmp_path / "whole", train__adversarial_weight=0.01)
    run(molecules, tmp_path / "parts", train__adversarial_weight=0.01, train__max_steps=3)
    # The rate falls by the steps of the whole run, so a cut one has other rates near its end.
    parts = run(molecules, tmp_path / "parts", train__adversarial_weight=0.01)
    a, b = (torch.load(p / "checkpoint.pt", weights_only=True) for p in (whole, parts))
    assert a["progress"]["step"] == b["progress"]["step"] == 4
    for name in ("generator", "average", "discriminator"):
        for key, value in a[name].items():
            torch.testing.assert_close(b[name][key], value, atol=5e-3, rtol=0.2)


def test_training_learns(molecules: Molecules, tmp_path: Path) -> None:
    """Thirty steps bring phases beyond those of the image, on a molecule held out."""
    out = run(molecules, tmp_path / "run", train__max_steps=30, train__decay_from=1.0)
    weights = load_weights(out / "last.safetensors")
    held = {*weights.metadata.validation}
    assert held
    assert not held & {s.stem for s in weights.metadata.trained_on}
    kept = tuple(m for m in molecules.each if m.info.stem in held)
    alone = Molecules(kept, molecules.field_A, molecules.finest_A, molecules.energy_ev)
    batch = draw_batch(alone, small(), 0, 16, box_A=40.0)
    with torch.no_grad():
        drawn = weights.generator(batch.evidence[0])[-1]
    ours, image = (
        ring_correlation(x, batch.truth).mean() for x in (drawn, batch.evidence[0].proposal)
    )
    assert float(ours) > float(image) + 0.03


def test_a_run_begins_from_earlier_weights_and_tells_what_they_learned_from(
    molecules: Molecules, tmp_path: Path
) -> None:
    held = {"train__validation_structures": ("m3",)}
    first = run(molecules, tmp_path / "first", **held) / "last.safetensors"
    fewer = replace(molecules, each=molecules.each[1:])
    still = {**held, "train__begin_from": first, "train__learning_rate": 1e-12}
    on = load_weights(run(fewer, tmp_path / "on", **still) / "last.safetensors")
    before = load_weights(first).generator.state_dict()
    for key, value in on.generator.state_dict().items():
        torch.testing.assert_close(value, before[key], atol=1e-6, rtol=1e-5)
    assert {s.stem for s in on.metadata.trained_on} == {"m0", "m1", "m2"}
    wider = {**still, "network__maps_channels": 16}
    sentence(lambda: run(fewer, tmp_path / "wider", **wider), "maps_channels = 8", "16")
    seen = {**still, "train__validation_structures": ("m1",)}
    sentence(lambda: run(fewer, tmp_path / "seen", **seen), "m1 first", "validation_structures")


def test_what_can_t_be_split_or_does_not_fit_is_told(molecules: Molecules, tmp_path: Path) -> None:
    one = Molecules(molecules.each[:1], molecules.field_A, molecules.finest_A, 200e3)
    sentence(lambda: split_molecules(one, small()), "validate on", "prepare more")
    other = small(train__validation_structures=("elsewhere",))
    sentence(lambda: split_molecules(molecules, other), "elsewhere", "4 molecules")
    sentence(lambda: molecules.that_fit(15.0), "15 Å", "conditions.box_A")
    large = Molecules(tuple(replace(m, radius_A=60.0) for m in molecules.each), 150.0, 2.5, 200e3)
    sentence(lambda: split_molecules(large, small()), "70 Å box", "validation_structures")
    wide = [cluster("wide", 1, 80, 30.0)]
    sentence(lambda: molecules_of(wide, small()), "40 Å", "conditions.box_A")


def test_a_loss_that_is_not_finite_stops(
    molecules: Molecules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leg = MapsLeg(molecules, tmp_path, small(), CPU, Processes())
    with torch.no_grad():
        next(leg.state.generator.parameters()).fill_(math.nan)
    batch = next(leg.batches())
    sentence(lambda: leg.step(batch), "not finite", "step 1")
