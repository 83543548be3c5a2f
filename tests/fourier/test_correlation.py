"""Laws and known answers of the metrics in Fourier space and on images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import j0
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.evaluation.similarity import (
    VIEW_PX,
    difference_mask,
    eight_bit,
    energy_outside,
    molecule_mask,
    ssim,
)
from diffragan.fourier.correlation import (
    band_means,
    centred_fourier,
    frc,
    frc_2d,
    frc_2d_accumulate,
    frc_fourier,
    fsc,
    half_bit_curve,
    one_bit_curve,
    patch_frc,
    phase_error_deg,
    resolution_at,
    ring_counts,
    ring_index,
    ring_q,
    smooth_curve,
    solved,
)

BOX_A = 70.0


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def blob(n: int, radius: float, centre: tuple[float, float] = (0, 0)) -> Tensor:
    """A smooth disc of mean intensity 1 around it, at `centre` from the grid's middle."""
    y, x = torch.meshgrid(torch.arange(n) - n / 2, torch.arange(n) - n / 2, indexing="ij")
    distance = torch.hypot(y - centre[0], x - centre[1])
    return 1 + 0.3 * torch.sigmoid((radius - distance) / 2)


def test_rings_round_to_the_nearest_pixel() -> None:
    """Ring k holds |q| from (k - 1/2) / L to (k + 1/2) / L."""
    rings = ring_index(8)
    assert rings[4, 4] == 0
    assert rings[4, 5] == rings[3, 3] == 1  # sqrt(2) = 1.41
    assert rings[5, 6] == 2  # sqrt(5) = 2.24
    assert rings[6, 6] == 3  # sqrt(8) = 2.83
    assert ring_counts(8).tolist()[:3] == [1, 8, 12]
    assert ring_q(8, 4.0).tolist() == [0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("n", [15, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_equal_images_correlate_fully_and_a_negative_inversely(n: int, dtype: torch.dtype) -> None:
    a = noise(2, 3, n, n, dtype=dtype)
    assert frc(a, a).shape == (2, 3, n // 2 + 1)
    torch.testing.assert_close(frc(a, a), torch.ones_like(frc(a, a)))
    torch.testing.assert_close(frc(a, -a), -torch.ones_like(frc(a, a)))
    torch.testing.assert_close(frc(a, 3 * a), torch.ones_like(frc(a, a)))


def test_independent_noise_scatters_by_one_over_the_root_of_the_pixels() -> None:
    """A ring of n pixels of two real noise images has n / 2 independent pairs: sd 1 / sqrt(n)."""
    repeats = 300
    values = frc(noise(repeats, 48, 48, seed=1), noise(repeats, 48, 48, seed=2))[:, 5:24]
    pixels = ring_counts(48)[5:24]
    spread = (values**2 * pixels).mean()
    # The mean of chi-squared over 300 x 19 rings has a standard deviation of sqrt(2 / 5700).
    assert abs(float(spread) - 1) < 5 * math.sqrt(2 / 5700)
    assert float((values.mean(0).abs() * (pixels * repeats).sqrt()).max()) < 5


@pytest.mark.parametrize(("shift", "tolerance"), [(1, 0.02), (3, 0.07)])
def test_a_shift_gives_the_mean_cosine_over_the_ring(shift: int, tolerance: float) -> None:
    """Two points s apart: the FRC is the mean of cos(2 pi q.s), which tends to J0(2 pi q s)."""
    n = 128
    a, b = torch.zeros(n, n), torch.zeros(n, n)
    a[10, 20] = b[10, 20 + shift] = 1
    found = frc(a, b)
    rings = ring_index(n)
    phase = torch.cos(2 * math.pi * (torch.arange(n) - n // 2) * shift / n).expand(n, n)
    exact = torch.stack([phase[rings == k].mean() for k in range(n // 2 + 1)])
    torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-5)
    q_s = np.arange(n // 2 + 1) * shift / n
    np.testing.assert_allclose(found[8:-1], j0(2 * np.pi * q_s)[8:-1], atol=tolerance)


def test_noise_of_known_strength_gives_the_known_correlation() -> None:
    """FRC of two noisy copies is S / (1 + S); of one against the clean image its square root."""
    snr, shape = 2.0, (200, 32, 32)
    signal = noise(*shape, seed=3)
    one, two = (signal + noise(*shape, seed=s) / math.sqrt(snr) for s in (4, 5))
    expected = snr / (1 + snr)
    assert frc(one, two)[:, 8:16].mean() == pytest.approx(expected, abs=0.01)
    assert frc(one, signal)[:, 8:16].mean() == pytest.approx(math.sqrt(expected), abs=0.01)


def test_no_power_counts_as_zero_and_keeps_gradients_finite() -> None:
    low = torch.zeros(32, 32, dtype=torch.complex64)
    low[14:19, 14:19] = noise(5, 5, dtype=torch.complex64)
    image = torch.fft.ifft2(torch.fft.ifftshift(low)).requires_grad_()
    full = noise(32, 32, dtype=torch.complex64)
    values = frc(image, full)
    assert (values[4:] == 0).all()
    assert (values[:3] != 0).all()
    (gradient,) = torch.autograd.grad(values.sum(), image)
    assert bool(torch.isfinite(torch.view_as_real(gradient)).all())
    assert (frc(torch.zeros(32, 32), torch.zeros(32, 32)) == 0).all()


def test_gradients_follow_a_first_call_in_inference_mode() -> None:
    """Validation may come before training."""
    image = noise(22, 22).requires_grad_()
    with torch.inference_mode():
        frc(image, noise(22, 22, seed=1))
    (gradient,) = torch.autograd.grad(frc(image, noise(22, 22, seed=1)).sum(), image)
    assert bool(torch.isfinite(gradient).all())
    assert bool(gradient.abs().max() > 0)


def test_masked_fourier_pixels_do_not_count() -> None:
    """Whatever stands in masked pixels, the FRC is that of the others; an empty ring is 0."""
    a = noise(32, 32, dtype=torch.complex64)
    wrong, mask = a.clone(), torch.ones(32, 32, dtype=torch.bool)
    wrong[:, :16] = noise(32, 16, seed=9)
    mask[:, :16] = False
    values = frc_fourier(wrong, a, mask)
    torch.testing.assert_close(values, torch.ones_like(values))
    mask[:] = ring_index(32) > 3
    assert (frc_fourier(a, a, mask)[:4] == 0).all()
    torch.testing.assert_close(
        frc(a, a, mask), frc_fourier(centred_fourier(a), centred_fourier(a), mask)
    )


def test_batches_equal_loops() -> None:
    a, b = noise(2, 3, 24, 24), noise(2, 3, 24, 24, seed=1)
    for function in (frc, lambda x, y: phase_error_deg(centred_fourier(x), centred_fourier(y))):
        whole = function(a, b)
        single = torch.stack([function(x, y) for x, y in zip(a[1], b[1], strict=True)])
        torch.testing.assert_close(whole[1], single)
    torch.testing.assert_close(ssim(a, b)[0][1, 0], ssim(a[1, 0], b[1, 0])[0])
    torch.testing.assert_close(ssim(a, b)[1][1, 0], ssim(a[1, 0], b[1, 0])[1])
    assert torch.equal(difference_mask(a, b).edges[0, 1], difference_mask(a[0, 1], b[0, 1]).edges)
    torch.testing.assert_close(
        energy_outside(a, b, 1.0)[1, 2], energy_outside(a[1, 2], b[1, 2], 1.0)
    )


def test_mismatched_shapes_are_refused_with_both() -> None:
    a, b = torch.zeros(8, 8), torch.zeros(3, 8, 8)
    for function in (frc, frc_fourier, phase_error_deg, frc_2d_accumulate, ssim, difference_mask):
        with pytest.raises(DiffraganError, match=r"\(8, 8\) and \(3, 8, 8\)"):
            function(a, b)
    with pytest.raises(DiffraganError, match=r"\(4, 8\)"):
        frc(torch.zeros(4, 8), torch.zeros(4, 8))
    with pytest.raises(DiffraganError, match=r"\(9, 9\).*\(8, 8\)"):
        frc(a, a, torch.ones(9, 9, dtype=torch.bool))
    with pytest.raises(DiffraganError, match=r"\(5,\).*\(4,\)"):
        resolution_at(torch.zeros(5), torch.zeros(4))


def test_shells_of_volumes_follow_the_same_conventions() -> None:
    a, b = noise(2, 12, 12, 12), noise(2, 12, 12, 12, seed=1)
    torch.testing.assert_close(fsc(a, a), torch.ones(2, 7))
    pixels = ring_counts(12, dims=3)
    assert pixels[:2].tolist() == [1, 18]  # distances 1 and sqrt(2); sqrt(3) = 1.73 rounds to 2
    assert float((fsc(a, b) * pixels.sqrt()).abs()[:, 2:].max()) < 5


def test_2d_frc_accumulates_over_batches() -> None:
    a, b = noise(40, 16, 16), noise(40, 16, 16, seed=1)
    fa, fb = centred_fourier(a), centred_fourier(b)
    sums = None
    for k in range(0, 40, 7):
        sums = frc_2d_accumulate(fa[k : k + 7], fb[k : k + 7], sums)
    assert sums is not None
    torch.testing.assert_close(frc_2d(sums), frc_2d(frc_2d_accumulate(fa, fb)))
    torch.testing.assert_close(
        frc_2d(frc_2d_accumulate(fa, fa)), torch.ones(16, 16, dtype=torch.float64)
    )
    assert float(frc_2d(sums).square().mean()) == pytest.approx(1 / 80, rel=0.3)


def test_bit_curves_have_their_published_limits() -> None:
    """Half a bit at many pixels is SNR 0.2071 per half set; one bit is SNR 0.5."""
    many = torch.tensor([1e12])
    assert float(half_bit_curve(many)) == pytest.approx(0.2071 / 1.2071, abs=1e-5)
    assert float(one_bit_curve(many)) == pytest.approx(1 / 3, abs=1e-5)
    assert float(half_bit_curve(torch.tensor([1.0]))) == pytest.approx(1, abs=1e-3)


def test_resolution_of_known_curves() -> None:
    q = torch.arange(1, 126, dtype=torch.float64) / 100
    assert resolution_at(1 - q, q) == pytest.approx(2.0, abs=1e-9)  # smoothing keeps a line
    step = (q < 0.4).double()
    assert resolution_at(step, q) == pytest.approx(2.5, abs=0.05)
    assert resolution_at(torch.ones_like(q), q) == pytest.approx(0.8)
    assert resolution_at(torch.zeros_like(q), q) == 10.0
    # What happens before 10 Å does not count, and the first fall does, not the last.
    dip = torch.where((q > 0.3) & (q < 0.4), 0.0, 1.0) * (q > 0.08)
    assert resolution_at(dip, q) == pytest.approx(1 / 0.305, abs=0.1)
    with pytest.raises(DiffraganError, match="20 Å"):
        resolution_at(torch.ones(5), q[:5])


def test_smoothing_averages_five_per_cent_to_either_side() -> None:
    q = torch.arange(1, 101, dtype=torch.float64)
    spike = torch.zeros(100, dtype=torch.float64)
    spike[79] = 1  # q = 80
    smooth = smooth_curve(spike, q)
    assert smooth[79] == pytest.approx(1 / 9)  # 76 to 84
    assert smooth[75] == 0  # 76 reaches to 79.8
    assert smooth[76] == pytest.approx(1 / 7)  # 77 reaches from 74 to 80


def test_bands_and_solved() -> None:
    q = ring_q(256, BOX_A)
    curve = torch.where(q < 1 / 5.02, 0.9, torch.where(q <= 1 / 1.254, 0.6, 0.1))
    means = band_means(curve, q)
    assert {k: round(float(v), 6) for k, v in means.items() if v is not None} == {
        "image": 0.9,
        "diffraction": 0.6,
        "extrapolated": 0.1,
    }
    assert band_means(curve[:20], q[:20])["extrapolated"] is None
    assert solved(torch.stack([curve, curve * 0.8]), q).tolist() == [True, False]
    assert not bool(solved(curve[:35], q[:35]))  # ends at 2.06 Å


def test_phase_errors() -> None:
    """A common turn is the error of every ring; random phases err by 90 degrees."""
    f = noise(64, 64, dtype=torch.complex64)
    turned = f * torch.polar(torch.tensor(2.5), torch.tensor(math.radians(-30)))
    torch.testing.assert_close(phase_error_deg(turned, f), torch.full((33,), 30.0))
    other = noise(400, 16, 16, seed=3, dtype=torch.complex64)
    random = phase_error_deg(other, noise(400, 16, 16, seed=4, dtype=torch.complex64))
    assert float(random.mean()) == pytest.approx(90, abs=1)
    torch.testing.assert_close(phase_error_deg(torch.zeros_like(f), f), torch.full((33,), 90.0))
    assert phase_error_deg(f, f * 0)[3] == 90
    # Amplitude-weighted: a strong right pixel outweighs a faint wrong one.
    true, found = torch.zeros(4, 4, dtype=torch.complex64), torch.zeros(4, 4, dtype=torch.complex64)
    true[2, 3], true[2, 1] = 3, 1
    found[2, 3], found[2, 1] = 1, -5
    assert phase_error_deg(found, true)[1] == pytest.approx(45)


def test_ssim_agrees_with_scikit_image() -> None:
    from skimage.metrics import structural_similarity

    target = blob(VIEW_PX, 60) + 0.02 * noise(VIEW_PX, VIEW_PX)
    image = target + 0.03 * noise(VIEW_PX, VIEW_PX, seed=5)
    low, span = target.min(), target.max() - target.min()
    direct = structural_similarity(  # type: ignore[no-untyped-call]
        ((image - low) / span * 255).numpy(),
        ((target - low) / span * 255).numpy(),
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    value, full = ssim(image, target)
    assert float(value) == pytest.approx(direct, abs=1e-5)
    assert full.shape == (VIEW_PX, VIEW_PX)
    assert float(ssim(target, target)[0]) == pytest.approx(1)
    # Scale and offset of both don't matter; the grid is resampled.
    assert float(ssim(7 * image - 2, 7 * target - 2)[0]) == pytest.approx(direct, abs=1e-4)
    assert float(ssim(blob(128, 30), blob(128, 30))[0]) == pytest.approx(1)


def test_eight_bit_scale_is_the_targets() -> None:
    target = blob(VIEW_PX, 40)
    image, scaled = eight_bit(2 * target - target.min(), target)
    assert float(scaled.min()) == pytest.approx(0, abs=1e-3)
    assert float(scaled.max()) == pytest.approx(255)
    assert float(image.max()) == pytest.approx(510, rel=1e-4)
    assert not bool(eight_bit(torch.ones(8, 8), torch.ones(8, 8))[0].abs().max() > 1e-3)


def test_difference_mask_finds_a_patch() -> None:
    target = torch.zeros(VIEW_PX, VIEW_PX)
    target[0, 0] = 255
    image = target.clone()
    image[100:120, 60:90] += 20  # half of 20 at a straight edge: the threshold
    found = difference_mask(image, target)
    assert int(found.mask.sum()) == pytest.approx(600, rel=0.1)
    assert bool(found.mask[110, 75])
    assert not bool(found.edges[110, 75])
    assert bool((found.mask | ~found.edges).all())
    assert int(found.edges.sum()) == pytest.approx(96, rel=0.15)
    assert not bool(difference_mask(target, target).mask.any())


def test_energy_outside_counts_hot_pixels() -> None:
    pixel_A = 0.5
    target = blob(128, 25)
    mask = molecule_mask(target, pixel_A)
    radius_A = math.sqrt(float(mask.sum()) / math.pi) * pixel_A
    assert 12.5 < radius_A < 20  # the disc's 12.5 Å, grown
    assert float(energy_outside(target, target, pixel_A)) < 1e-3
    hot = target.clone()
    hot[5, 5] += 3.0
    contrast = float(((target - 1) ** 2).sum())
    expected = 9 / (contrast + 9)
    assert float(energy_outside(hot, target, pixel_A)) == pytest.approx(expected, abs=2e-3)
    flat = torch.ones(128, 128)
    assert float(energy_outside(flat, target, pixel_A)) == 0
    assert not bool(molecule_mask(flat, pixel_A).any())


def test_patches_tell_where_two_images_agree() -> None:
    """One image and another that shares its left half alone: 1 there, chance elsewhere; a level
    that is added to a patch changes nothing."""
    generator = torch.Generator().manual_seed(4)
    one = torch.randn(2, 64, 64, generator=generator, dtype=torch.float64)
    half = one.clone()
    half[:, :, 32:] = torch.randn(2, 64, 32, generator=generator, dtype=torch.float64)
    found = patch_frc(one, half + 100, 16)
    assert found.shape == (2, 7, 7, 9)
    torch.testing.assert_close(found[:, :, :3, 1:], torch.ones(2, 7, 3, 8, dtype=torch.float64))
    assert abs(float(found[:, :, 4:, 1:].mean())) < 0.1
    with pytest.raises(DiffraganError, match="patch of 65 pixels is larger than images of 64"):
        patch_frc(one, half, 65)
