"""Slices of a Fourier volume: known answers, the exact transpose, and the signs of space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.fourier import slices as F
from diffragan.fourier.correlation import fsc
from diffragan.fourier.interpolation import extract_points, insert_points, window_voxels
from diffragan.fourier.loops import PAD
from diffragan.fourier.volumes import (
    centred,
    resized,
    spectrum_volume,
    volume_spectrum,
    window_gain,
)
from diffragan.optics import propagate, wavelength_A
from diffragan.reconstruction.maps.free_set import free_balls
from diffragan.reconstruction.maps.merge_waves import slices_of_waves
from synthetic_views import ENERGY_EV, ball, correlation, make_views, molecule, rotations_of
from synthetic_views import pattern_mask as round_mask
from weak_objects import sentence

BOX_A, N, M = 30.0, 36, 32
WAVELENGTH_A = wavelength_A(ENERGY_EV)
REACH_PX = 15  # of the patterns, in 1 / box
CURVES = pytest.mark.parametrize("curved", [False, True], ids=["flat", "curved"])


def geometry(curved: bool, padding: float = 1.0) -> F.Slices:
    """Points of a round pattern to 2 Å."""
    mask = round_mask(M, BOX_A, BOX_A / REACH_PX)
    return F.slices(mask, BOX_A, WAVELENGTH_A, curved=curved, padding=padding)


@dataclass
class Inserted:
    """Weighted sums of values and of weights at every voxel of a spectrum, (n, n, n // 2 + 1)."""

    spectrum: Tensor
    weight: Tensor

    def mean(self) -> Tensor:
        """Weighted mean; 0 without any weight."""
        return torch.where(self.weight > 0, self.spectrum / self.weight.clamp_min(1e-20), 0)


def insert(
    values: Tensor, rotations: Tensor, points: Tensor, n: int, weights: Tensor | None = None
) -> Inserted:
    """Slices (v, k) put back with weights (v, k) or (v, 1), 1 if not given."""
    weights = torch.ones_like(values.real) if weights is None else weights.expand(values.shape)
    total, weight = F.Inserter(n, values.device), F.Inserter(n, values.device)
    total.add(values * weights, rotations, points)
    weight.add(weights.to(values.dtype).contiguous(), rotations, points)
    return Inserted(total.spectrum(), weight.spectrum().real)


def turns(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(rotations_of(count, seed)).float()


def blobs(places_A: NDArray[np.float64], width_A: float, n: int, box_A: float) -> Tensor:
    """Sum of Gaussians of integral box³ at places (j, 3) as x, y, z: volume (n, n, n), FFT order.

    Summed in real space, so nothing of the package's Fourier side is used.
    """
    axis = np.fft.fftfreq(n, 1 / n) * box_A / n
    total = np.zeros((n, n, n))
    for place in places_A:
        x, y, z = (np.exp(-((axis - p) ** 2) / (2 * width_A**2)) for p in place)
        total += z[:, None, None] * y[None, :, None] * x[None, None, :]
    scale = box_A**3 / (width_A * math.sqrt(2 * math.pi)) ** 3
    return torch.from_numpy(total * scale).float()


def blob_transform(
    places_A: NDArray[np.float64], width_A: float, q: NDArray[np.float64]
) -> NDArray[np.complex128]:
    """What `blobs` give at points q (..., 3) in 1/Å."""
    size = np.exp(-2 * (math.pi * width_A) ** 2 * (q**2).sum(-1))
    found: NDArray[np.complex128] = size * np.exp(-2j * math.pi * (q @ places_A.T)).sum(-1)
    return found


CHIRAL = np.array([[0.0, 0, 0], [6, 0, 0], [6, 5, 0], [6, 5, 4], [-3, 2, 1]])


@CURVES
@pytest.mark.parametrize("padding", [1.0, 1.25])
def test_insertion_is_the_exact_transpose_of_extraction(curved: bool, padding: float) -> None:
    """Re <g, A V> = <A^T g, V> for every real volume V and slice values g."""
    points, turn = geometry(curved, padding).points, turns(5)
    generator = torch.Generator().manual_seed(1)
    n = 48
    volume = torch.randn((n, n, n), generator=generator)
    seen = F.extract(volume_spectrum(volume), turn, points)
    g = torch.randn((*seen.shape, 2), generator=generator)
    values = torch.view_as_complex(g)
    back = F.volume_gradient(insert(values, turn, points, n).spectrum)
    one = float((values.conj() * seen).real.double().sum())
    other = float((volume.double() * back.double()).sum())
    assert abs(one - other) < 1e-6 * float(values.norm() * seen.norm())


@CURVES
def test_an_analytic_blob_off_centre_is_seen_to_three_percent(curved: bool) -> None:
    """The window's fall-off, a quarter of the value at this place, is divided out; what is left
    is the ripple of a window of three voxels."""
    place = np.array([[5.0, -4.0, 3.0]])
    shape, turn = geometry(curved), turns(6)
    found = F.extract(volume_spectrum(blobs(place, 1.2, N, BOX_A)), turn, shape.points).numpy()
    q = (shape.points @ turn).double().numpy() / BOX_A
    true = blob_transform(place, 1.2, q)
    assert np.abs(found - true).max() < 0.04
    assert np.linalg.norm(found - true) < 0.03 * np.linalg.norm(true)
    assert abs(np.vdot(true, found) / np.vdot(true, true) - 1) < 0.01
    fall = 1 / window_gain(N, 10.0)[4, -5, 6]
    assert 0.5 < float(fall) < 0.85


@CURVES
def test_padding_changes_the_grid_and_not_the_slices(curved: bool) -> None:
    turn, n = turns(4), 48
    found = []
    for padding in (1.0, 1.25):
        volume = blobs(CHIRAL, 1.2, n, BOX_A * padding)
        # A volume of a larger box with the same integral: both are values of one transform.
        found.append(F.extract(volume_spectrum(volume), turn, geometry(curved, padding).points))
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 0.03


def test_a_smooth_volume_returns_from_its_slices() -> None:
    """Extract and insert with 400 views, a plain mean with no iteration: FSC above 0.995 beyond
    the third shell, where slices fill voxels evenly, and above 0.98 in it; error below 10 %."""
    generator = torch.Generator().manual_seed(3)
    smooth = ball(N, 0.2) * torch.randn((N, N, N), generator=generator)
    axis = torch.fft.fftfreq(N, 1 / N) ** 2
    q2 = axis[:, None, None] + axis[None, :, None] + axis[None, None, : N // 2 + 1]
    half = torch.fft.rfftn(smooth) * torch.exp(-q2 / (2 * 5.0**2)) * (q2 < (REACH_PX - 2) ** 2)
    volume = torch.fft.irfftn(half, s=(N, N, N)) * ball(N, 0.4)
    turn, points = turns(400), geometry(False).points
    seen = F.extract(volume_spectrum(volume), turn, points)
    # The mask of patterns lacks the direct beam: zero frequency is put in beside them.
    seen = torch.cat((seen, F.extract(volume_spectrum(volume), turn, torch.zeros(1, 3))), 1)
    all_points = torch.cat((points, torch.zeros(1, 3)))
    back = spectrum_volume(insert(seen, turn, all_points, N).mean()) * ball(N, 0.4)
    shells = fsc(back, volume)[: REACH_PX - 3]
    assert float(shells.min()) > 0.98
    assert float(shells[4:].min()) > 0.995
    assert float((back - volume).norm() / volume.norm()) < 0.1


def test_a_blob_at_the_rotation_centre_looks_alike_from_everywhere() -> None:
    """Real, positive slices, the same in all views: voxel [0, 0, 0] is what turns about itself."""
    half = volume_spectrum(blobs(np.zeros((1, 3)), 1.5, N, BOX_A))
    seen = F.extract(half, turns(30), geometry(False).points)
    assert float(seen.imag.abs().max()) < 1e-3
    assert float((seen.real - seen.real.mean(0)).abs().max()) < 0.05
    assert float(seen.real.min()) > -1e-3
    inner = geometry(False).radius < 4
    assert float(seen.real[:, inner].min()) > 0.3
    assert int(centred(blobs(np.zeros((1, 3)), 1.5, N, BOX_A)).argmax()) == (
        (N // 2 * N + N // 2) * N + N // 2
    )


def projected(places_A: NDArray[np.float64], width_A: float) -> NDArray[np.complex128]:
    """(M * M,) Fourier values, zero frequency at [M//2, M//2], of blobs projected along z."""
    axis = (np.arange(M) - M // 2) * BOX_A / M
    image = np.zeros((M, M))
    for x, y, _ in places_A:
        image += np.exp(-((axis - y) ** 2) / (2 * width_A**2))[:, None] * np.exp(
            -((axis - x) ** 2) / (2 * width_A**2)
        )
    image *= BOX_A**2 / (2 * math.pi * width_A**2)
    spectrum = np.fft.fft2(np.fft.ifftshift(image)) / M**2
    return np.fft.fftshift(spectrum).ravel()


def test_a_slice_is_the_projection_of_the_turned_molecule() -> None:
    """View R sees R r along z, in the pixels of the pattern; the mirror image does not fit."""
    shape, turn = geometry(False), rotations_of(8, 2)
    volume = blobs(CHIRAL, 1.2, N, BOX_A)
    mirrored = blobs(CHIRAL * [1, 1, -1], 1.2, N, BOX_A)
    right = F.extract(volume_spectrum(volume), torch.from_numpy(turn).float(), shape.points)
    wrong = F.extract(volume_spectrum(mirrored), torch.from_numpy(turn).float(), shape.points)
    inverse = torch.from_numpy(turn).float().transpose(1, 2)
    backward = F.extract(volume_spectrum(volume), inverse, shape.points)
    true = torch.from_numpy(np.stack([projected(CHIRAL @ r.T, 1.2)[shape.pixel] for r in turn]))

    def misfit(found: Tensor) -> Tensor:
        error: Tensor = (found - true).norm(dim=1) / true.norm(dim=1)
        return error

    assert float(misfit(right).max()) < 0.03
    assert float(misfit(wrong).mean()) > 0.3
    assert float(misfit(backward).mean()) > 0.3


def test_depth_turns_the_phase_as_the_ewald_sphere_says() -> None:
    """Curved points have z = - lambda q² / 2 (+ for mates), and a scatterer at depth z gets
    exp(+ i pi lambda z q²): what carrying its wave back to the centre plane gives."""
    shape = geometry(True)
    k, energy = len(shape), 20e3  # a slow beam: a strongly curved sphere
    shape = F.slices(round_mask(M, BOX_A, 2.0), BOX_A, wavelength_A(energy), curved=True)
    q2 = (shape.radius.double() / BOX_A) ** 2
    lam = wavelength_A(energy)
    torch.testing.assert_close(shape.points[:k, 2].double() / BOX_A, -lam * q2 / 2)
    torch.testing.assert_close(shape.points[k:, 2], -shape.points[:k, 2])
    place = np.array([[2.0, -3.0, 6.0]])
    flat = torch.from_numpy(projected(place, 1.2))
    grid = torch.fft.ifftshift(flat.reshape(M, M))
    o = torch.fft.fftshift(torch.fft.ifft2(grid, norm="forward"))
    at_depth = 1 + 1e-3j * o
    carried = propagate(at_depth, BOX_A, energy, -place[0, 2])
    wave = slices_of_waves(carried[None], shape)[0] / 1e-3
    inside = q2 < 0.4**2
    both = inside.repeat(2)
    phase = torch.polar(torch.ones_like(q2), math.pi * lam * 6.0 * q2)
    law = torch.cat((flat[shape.pixel] * phase, (flat[shape.mate] * phase).conj()))
    assert float((wave - law)[both].norm() / law.norm()) < 1e-3
    assert float(phase.angle()[inside].max()) > 0.2
    seen = F.extract(
        volume_spectrum(blobs(place, 1.2, N, BOX_A)), torch.eye(3)[None], shape.points
    )[0]
    # The blob is as deep as wide, which damps the sphere's points a little.
    damped = torch.exp(-2 * (math.pi * 1.2 * shape.points[:, 2] / BOX_A) ** 2)
    assert float((seen - law * damped)[both].norm() / law.norm()) < 0.01
    anti = torch.cat((flat[shape.pixel] * phase.conj(), (flat[shape.mate] * phase.conj()).conj()))
    assert float((seen - anti * damped)[both].norm() / law.norm()) > 0.05


@CURVES
def test_the_compiled_loops_and_the_gathers_agree(curved: bool) -> None:
    """Numba on the CPU and torch elsewhere take the same voxels with the same weights."""
    points, turn, n = geometry(curved).points, turns(3), N
    generator = torch.Generator().manual_seed(5)
    padded = torch.randn((n, n, n // 2 + 1 + 2 * PAD, 2), generator=generator)
    volume = torch.view_as_complex(padded)
    conjugate, neighbours = window_voxels(turn, points, n)
    around = list(neighbours)
    flat = volume.reshape(-1)
    total = sum((flat[i] * w for i, w in around), torch.zeros(()))
    gathered = torch.where(conjugate, total.conj(), total)
    compiled = extract_points(volume, turn, points)
    assert float((gathered - compiled).abs().max()) < 1e-3 * float(compiled.abs().max())

    values = torch.view_as_complex(torch.randn((*compiled.shape, 2), generator=generator))
    filled = torch.zeros((2, *volume.shape), dtype=torch.complex64)
    insert_points(filled, values, turn, points)
    scattered = torch.zeros_like(flat)
    turned = torch.where(conjugate, values.conj(), values)
    for i, w in around:
        scattered.index_add_(0, i.reshape(-1), (turned * w).reshape(-1))
    both = filled.sum(0).reshape(-1)
    assert float((both - scattered).abs().max()) < 1e-3 * float(scattered.abs().max())


def test_insertion_does_not_depend_on_how_views_are_batched() -> None:
    points, turn = geometry(True).points, turns(7)
    values = F.extract(volume_spectrum(blobs(CHIRAL, 1.2, N, BOX_A)), turn, points)
    whole = insert(values, turn, points, N)
    pieces = F.Inserter(N, values.device)
    for span in (slice(0, 2), slice(2, 7)):
        pieces.add(values[span].contiguous(), turn[span], points)
    torch.testing.assert_close(pieces.spectrum(), whole.spectrum, rtol=1e-4, atol=1e-4)


def test_a_weight_is_a_number_of_views() -> None:
    """Weight 2 equals the view twice, weight 0 none."""
    points, turn = geometry(False).points, turns(3)
    values = F.extract(volume_spectrum(blobs(CHIRAL, 1.2, N, BOX_A)), turn, points)
    weighed = insert(values, turn, points, N, torch.tensor([[2.0], [0.0], [1.0]]))
    pick = torch.tensor([0, 0, 2])
    plain = insert(values[pick], turn[pick], points, N)
    torch.testing.assert_close(weighed.spectrum, plain.spectrum, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(weighed.weight, plain.weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("finer", [48, 54])
def test_resizing_keeps_values(finer: int) -> None:
    """Coinciding voxels keep their values, and the way back is exact."""
    n = 24
    volume = blobs(CHIRAL * 0.5, 2.5, n, BOX_A)
    volume = resized(resized(volume, finer), n)  # without the Nyquist planes
    larger = resized(volume, finer)
    assert larger.shape == (finer,) * 3
    step = math.gcd(n, finer)
    a, b = n // step, finer // step
    torch.testing.assert_close(larger[::b, ::b, ::b], volume[::a, ::a, ::a], rtol=0, atol=1e-2)
    assert correlation(resized(larger, n), volume) > 1 - 1e-6
    assert resized(volume, n) is volume


def test_rings_run_outward_and_mates_lie_opposite() -> None:
    shape = geometry(True)
    ring = (shape.radius + 0.5).floor()
    assert bool((ring.diff() >= 0).all())
    y, x = shape.pixel // M - M // 2, shape.pixel % M - M // 2
    mate_y, mate_x = shape.mate // M - M // 2, shape.mate % M - M // 2
    assert bool(((mate_y == -y) & (mate_x == -x)).all())
    assert bool(((x > 0) | ((x == 0) & (y > 0))).all())
    torch.testing.assert_close(shape.points[: len(shape), 0], x.float())
    torch.testing.assert_close(shape.points[: len(shape), 1], y.float())
    inside = round_mask(M, BOX_A, 2.0)
    assert 2 * len(shape) == int(inside.sum())
    assert len(set(torch.cat((shape.pixel, shape.mate)).tolist())) == 2 * len(shape)


def test_a_pair_stays_while_one_of_its_pixels_is_measured() -> None:
    """One mate masked: the pair stays and says which; both masked: it goes."""
    mask, c = round_mask(M, BOX_A, 2.0), M // 2
    mask[c + 3, c + 4] = False
    mask[c - 2, c + 5] = mask[c + 2, c - 5] = False
    mask[c, c - 7] = False
    shape = F.slices(mask, BOX_A, WAVELENGTH_A, curved=True)
    whole = geometry(True)
    assert len(shape) == len(whole) - 1
    at = {int(p): k for k, p in enumerate(shape.pixel)}
    assert (c - 2) * M + c + 5 not in at
    assert shape.valid[:, at[(c + 3) * M + c + 4]].tolist() == [False, True]
    assert shape.valid[:, at[c * M + c + 7]].tolist() == [True, False]
    assert int((~shape.valid).sum()) == 2


def test_unpaired_nyquist_lines_are_left_out() -> None:
    """On an even grid the first row and column have no mate."""
    shape = F.slices(torch.ones(16, 16, dtype=torch.bool), BOX_A, WAVELENGTH_A, curved=False)
    assert bool((shape.pixel // 16 > 0).all())
    assert bool((shape.pixel % 16 > 0).all())
    assert 2 * len(shape) == 15 * 15 - 1


def test_a_resolution_limit_is_a_leading_run() -> None:
    """`leading` keeps the first pairs of both halves; `limited` all within a resolution but those
    beyond in the last ring."""
    shape = geometry(True)
    k, whole = 40, len(shape)
    short = shape.leading(k)
    torch.testing.assert_close(short.pixel, shape.pixel[:k])
    expected = torch.cat((shape.points[:k], shape.points[whole : whole + k]))
    torch.testing.assert_close(short.points, expected)
    torch.testing.assert_close(shape.inner(k), expected)
    views = make_views(molecule(1, atoms=5), 2)
    coarse = views.limited(3.0)
    n = len(coarse.flat)
    torch.testing.assert_close(coarse.flat.pixel, views.flat.pixel[:n])
    torch.testing.assert_close(coarse.curved.points, views.curved.inner(n))
    assert coarse.measured.shape == (2, 2, n)
    assert coarse.n < views.n
    assert float(coarse.flat.radius.max()) < views.optics.box_A / 3.0 + 1
    assert float(views.flat.radius[n:].min()) > views.optics.box_A / 3.0 - 1
    assert views.limited(1.0) is views


def test_points_beyond_the_grid_are_refused_by_name() -> None:
    points, turn = geometry(False).points, turns(2)
    small = volume_spectrum(torch.zeros(24, 24, 24))
    sentence(lambda: F.extract(small, turn, points), "15", "12", "larger volume")
    values = torch.zeros((2, len(points)), dtype=torch.complex64)
    sentence(lambda: insert(values, turn, points, 24), "larger volume")


def test_balls_lie_at_the_same_places_whatever_the_grid() -> None:
    """And come with their Friedel mates, outside the inner limit."""
    small, large = (free_balls(n, 1.0, 12.0, 0.08, 4, 6.0) for n in (36, 48))
    assert bool(small.any())
    for z in range(-15, 16):
        for y in range(-15, 16):
            assert torch.equal(small[z, y, :16], large[z, y, :16])
            assert bool(small[z, y, 0]) == bool(small[-z, -y, 0])
    assert not torch.equal(small, free_balls(36, 1.0, 12.0, 0.08, 5, 6.0))
    assert not bool(small[:3, :3, :3].any())
    wide = free_balls(48, 1.25, 12.0, 0.08, 4, 6.0)
    assert bool(wide.float().mean() > large.float().mean())
