"""Orientations and shifts against a map, and the hand: on small random objects."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from diffragan.fourier.slices import extract, slices
from diffragan.fourier.volumes import frequency_radius, volume_spectrum
from diffragan.optics import Optics, wavelength_A
from diffragan.reconstruction.maps.image_transfer import ImageTransfer
from diffragan.reconstruction.maps.views import Views, side_of
from diffragan.reconstruction.orientations.hand import hand_of, mirror_image
from diffragan.reconstruction.orientations.refine import align_to_images, refine_orientations
from diffragan.rotations import angle_deg, mirrored, misorientation_deg, quasi_uniform, turned

BOX_A = 40.0
ENERGY_EV = 30e3  # a long wave, so that the sphere's curvature shows in a small box


def blobs(n: int, seed: int = 0, atoms: int = 60) -> Tensor:
    """Gaussian blobs of 1.2 Å in a ball of 0.28 of the box, FFT order."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randn((atoms, 3), generator=generator)
    place = place / torch.linalg.vector_norm(place, dim=1, keepdim=True)
    place = place * 0.28 * torch.rand((atoms, 1), generator=generator) ** (1 / 3)
    place = place - place.mean(0)
    axis, last = torch.fft.fftfreq(n, 1 / n), torch.arange(n // 2 + 1.0)
    z, y, x = torch.meshgrid(axis, axis, last, indexing="ij")
    half = torch.zeros((n, n, n // 2 + 1), dtype=torch.complex64)
    for atom in place:
        cycles = x * atom[0] + y * atom[1] + z * atom[2]
        half += torch.polar(torch.ones_like(cycles), -2 * torch.pi * cycles)
    radius = frequency_radius(n)
    half *= torch.exp(-2 * (math.pi * 1.2 / BOX_A * radius) ** 2) * (radius < n / 2 - 1)
    volume: Tensor = torch.fft.irfftn(half, s=(n, n, n), norm="forward")
    return volume


def views_of(
    seed: int = 0,
    count: int = 30,
    m: int = 32,
    *,
    curved: bool = False,
    electrons: float | None = None,
    shift_A: float = 0.0,
    noise: float = 0.0,
) -> tuple[Views, Tensor]:
    """Views of blobs and their volume. noise: of an image frequency, in mean signals."""
    axis = torch.arange(m) - m // 2
    radius = torch.hypot(axis[:, None].float(), axis[None, :].float())
    mask = (radius > 1.2) & (radius <= m // 2 - 1)
    flat = slices(mask, BOX_A, wavelength_A(ENERGY_EV), curved=False)
    sphere = slices(mask, BOX_A, wavelength_A(ENERGY_EV), curved=True)
    n = side_of(flat)
    volume = blobs(n, seed)
    half = volume_spectrum(volume)
    rotations = torch.from_numpy(quasi_uniform(count, seed)).float()
    generator = torch.Generator().manual_seed(seed)
    slice_values = extract(half, rotations, flat.points)
    if curved:
        both = extract(half, rotations, sphere.points).abs().reshape(count, 2, -1)
    else:
        both = slice_values.abs()[:, None].repeat(1, 2, 1)
    if electrons is not None:
        scale = electrons / float(both.square().sum((1, 2)).mean())
        both = torch.poisson(both.square() * scale, generator=generator) / scale
        electrons = scale
    inside = int((flat.radius <= 8).sum())
    transfer = 2 * torch.sin(0.035 * flat.radius[:inside] ** 2 + 0.3)
    shifts = shift_A * torch.randn((count, 2), generator=generator) / math.sqrt(2)
    contrast = transfer * slice_values[:, :inside]
    power = noise * float(contrast.abs().square().mean())
    drawn = torch.randn(contrast.shape, generator=generator, dtype=torch.complex64)
    views = Views(
        optics=Optics(ENERGY_EV, BOX_A, BOX_A / 2),
        flat=flat,
        curved=sphere,
        n=n,
        measured=both,
        contrast=contrast,
        transfer=ImageTransfer(transfer),
        image_noise=torch.full((count,), power),
        rotations=rotations,
        shifts_A=shifts,
        weights=torch.ones(count),
        items=np.arange(count),
        electrons=electrons,
    )
    ramp = torch.cat([views.image_phase_ramp(block) for block in views.blocks()])
    return replace(views, contrast=contrast * ramp.conj() + math.sqrt(power) * drawn), volume


def wrong_by(rotations: Tensor, rms_deg: float, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn((len(rotations), 3), generator=generator)
    return turned(rotations, vectors * math.radians(rms_deg) / math.sqrt(3))


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def test_misorientation_ignores_a_turn_of_the_whole_map_and_a_few_strays() -> None:
    true = torch.from_numpy(quasi_uniform(20)).float()
    turn = torch.from_numpy(quasi_uniform(3, 5)[1]).float()
    found = true @ turn
    found[:2] = found[2:4].clone()
    angle = misorientation_deg(turned(found, torch.tensor([[0.0, 0.0, math.radians(2)]])), true)
    assert torch.allclose(angle[2:], torch.tensor(2.0), atol=0.5)
    assert (angle[:2] > 10).all()


@pytest.mark.parametrize("images", [True, False])
def test_refinement_finds_orientations_and_shifts_against_the_true_map(images: bool) -> None:
    views, volume = views_of(shift_A=3.0, noise=0.1)
    start = replace(
        views, rotations=wrong_by(views.rotations, 4.0), shifts_A=torch.zeros_like(views.shifts_A)
    )
    for resolution_A in (8.0, 4.0):
        refined = refine_orientations(
            volume_spectrum(volume), start, resolution_A=resolution_A, max_step_deg=4, images=images
        )
        start = refined.put_into(start)
    assert rms(angle_deg(start.rotations, views.rotations)) < 0.1
    assert rms(start.shifts_A - views.shifts_A) < 0.2  # of 3 Å, and so with the right sign
    assert refined.score.min() > 0.98


def test_refinement_from_counts() -> None:
    views, volume = views_of(electrons=1500.0, noise=0.1)
    start = replace(views, rotations=wrong_by(views.rotations, 3.0))
    for resolution_A in (8.0, 4.0):
        refined = refine_orientations(
            volume_spectrum(volume), start, resolution_A=resolution_A, max_step_deg=4
        )
        start = refined.put_into(start)
    assert rms(angle_deg(start.rotations, views.rotations)) < 1.2


def test_a_step_limit_of_nothing_leaves_the_rotations() -> None:
    views, volume = views_of(shift_A=2.0, count=10)
    start = replace(views, shifts_A=torch.zeros_like(views.shifts_A))
    refined = refine_orientations(
        volume_spectrum(volume), start, resolution_A=6.0, max_step_deg=0, rounds=0
    )
    assert torch.equal(refined.rotations, views.rotations)
    assert rms(refined.shifts_A - views.shifts_A) < 0.05
    assert refined.turned_deg.abs().max() == 0


def test_shifts_do_not_follow_what_a_map_has_wrong() -> None:
    """A map whose lowest frequencies are strong and not the molecule's, as few electrons may leave
    them: shifts go by what it has right, whether views are turned as well or not."""
    views, volume = views_of(count=40, shift_A=1.5, noise=0.3)
    spectrum = volume_spectrum(volume)
    n = volume.shape[-1]
    low = (frequency_radius(n) < 4.5) & (frequency_radius(n) > 0)
    other = volume_spectrum(blobs(n, seed=9))
    wrong = torch.where(low, 8 * other, spectrum)
    for rounds in (0, 1):
        found = refine_orientations(
            wrong, views, resolution_A=5.0, max_step_deg=0, rounds=rounds
        ).shifts_A
        away = torch.linalg.vector_norm(found - views.shifts_A, dim=1)
        assert float(away.max()) < 1


def test_strays_stand_out_by_their_score() -> None:
    views, volume = views_of()
    other, _ = views_of(seed=7)
    measured = views.measured.clone()
    measured[:3] = other.measured[:3]
    mixed = replace(views, measured=measured, rotations=wrong_by(views.rotations, 2.0))
    refined = refine_orientations(volume_spectrum(volume), mixed, resolution_A=4.0, max_step_deg=3)
    assert refined.score[:3].max() < 0.5
    assert refined.score[3:].min() > 0.8


@pytest.mark.usefixtures("one_thread")
def test_alignment_to_the_images_own_map() -> None:
    views, _ = views_of(shift_A=2.0, noise=0.05, count=60)
    start = replace(
        views, rotations=wrong_by(views.rotations, 5.0), shifts_A=torch.zeros_like(views.shifts_A)
    )
    refined = align_to_images(start, schedule_A=(10.0, 8.0, 6.0, 5.0, 5.0, 5.0))
    assert rms(misorientation_deg(refined.rotations, views.rotations)) < 2.5
    assert len(refined.shifts_A) == 60


def test_hand_is_told_by_the_curved_sphere_and_open_without_it() -> None:
    views, volume = views_of(curved=True)
    here = hand_of(volume_spectrum(volume), views)
    assert here.decision == "this"
    assert here.score_this > 0.9
    assert here.score_other == -here.score_this
    seen_other_way = replace(views, rotations=mirrored(views.rotations))
    there = hand_of(volume_spectrum(mirror_image(volume)), seen_other_way)
    assert there.decision == "other"
    assert there.sigma < -4


def test_mirror_image_has_the_same_flat_slices() -> None:
    views, volume = views_of(count=4)
    a = extract(volume_spectrum(volume), views.rotations, views.flat.points)
    b = extract(volume_spectrum(mirror_image(volume)), mirrored(views.rotations), views.flat.points)
    assert torch.allclose(a, b, atol=1e-4 * float(a.abs().max()))


@pytest.mark.parametrize("electrons", [None, 500.0])
def test_hand_is_open_for_flat_patterns(electrons: float | None) -> None:
    views, volume = views_of(curved=False, electrons=electrons)
    assert hand_of(volume_spectrum(volume), views).decision == "open"
