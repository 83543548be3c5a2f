"""The published networks, what goes into and comes out of them, and their weight files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffragan.errors import DiffraganError
from diffragan.fourier.correlation import ring_index
from diffragan.networks.discriminator import (
    STRIDED_LAYERS,
    PatchDiscriminator,
    layer_stack,
    receptive_field,
)
from diffragan.networks.generator import (
    ENCODER_CHANNELS,
    NORM_EPSILON,
    ItemNorm,
    PublishedGenerator,
    initialise,
    parameter_count,
    propose,
)
from diffragan.networks.scaling import (
    lanczos_matrix,
    lanczos_resize,
    measure_target_scale,
    prepare_inputs,
    prepare_target,
    projection_from_output,
    shown_pattern,
    to_16_bit,
)
from diffragan.settings import NetworkSettings, load_settings
from tiny_networks import generator, random

PUBLISHED = NetworkSettings(preparation="published")
AMPLITUDE = NetworkSettings(preparation="amplitude")
SHOWN = [NetworkSettings(pattern_as=name) for name in ("root", "log", "rings", "blank")]


pytestmark = pytest.mark.usefixtures("one_thread")


# The generator.


def as_published(g: PublishedGenerator, x: Tensor) -> Tensor:
    """The authors' network for one item, layer by layer, with whole 4 x 4 kernels.

    Kernel weights that the class leaves out are filled with noise, which must not matter.
    """

    def whole(weight: Tensor) -> Tensor:
        kernel = 100 * random(*weight.shape[:2], 4, 4, seed=7)
        first = 0 if weight.shape[-1] == 4 else 1
        kernel[..., first : first + weight.shape[-2], first : first + weight.shape[-1]] = weight
        return kernel

    def same(x: Tensor, layer: nn.Module) -> Tensor:
        """'Same' padding as in Keras: the odd pixel of an odd total goes to the far side."""
        total = 2 if x.shape[-1] > 1 else 3
        x = F.pad(x, (1, total - 1, 1, total - 1))
        return F.conv2d(x, whole(layer.weight), layer.bias, stride=2)  # type: ignore[arg-type]

    def up(x: Tensor, layer: nn.Module) -> Tensor:
        kernel = whole(layer.weight)  # type: ignore[arg-type]
        return F.conv_transpose2d(x, kernel, layer.bias, stride=2, padding=1)  # type: ignore[arg-type]

    def batch_norm(x: Tensor, norm: nn.Module) -> Tensor:
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
        scale, offset = (p[None, :, None, None] for p in (norm.weight, norm.bias))  # type: ignore[index]
        return (x - mean) / (variance + NORM_EPSILON).sqrt() * scale + offset

    e = [F.leaky_relu(same(x, g.encoders[0]), 0.2)]
    for encoder, norm in zip(g.encoders[1:], g.encoder_norms, strict=True):
        e.append(F.leaky_relu(batch_norm(same(e[-1], encoder), norm), 0.2))
    d = F.relu(same(e[7], g.bottleneck))
    for i in range(7):
        d = batch_norm(up(d, g.decoders[i]), g.decoder_norms[i])
        d = F.relu(torch.cat([d, e[6 - i]], dim=1))
    return torch.tanh(up(d, g.output))


def test_generator_is_the_published_network_written_out() -> None:
    """Leaving out kernel weights that only meet padding changes nothing."""
    g = generator(dropout=0)
    x = random(1, 2, 256, 256)
    with torch.no_grad():
        torch.testing.assert_close(g(x, [0]), as_published(g, x), atol=1e-5, rtol=1e-4)


def test_channels_are_the_published_ones() -> None:
    with torch.device("meta"):
        g = PublishedGenerator(1.0)
    down = tuple(e.out_channels for e in g.encoders if isinstance(e, nn.Conv2d))
    up = [d.out_channels for d in g.decoders if isinstance(d, nn.ConvTranspose2d)]
    assert down == ENCODER_CHANNELS
    assert g.bottleneck.out_channels == 4096
    assert up == [2048, 1024, 1024, 512, 512, 256, 128]


@pytest.mark.parametrize("width", [1.0, 0.25, 0.125, 1 / 64, 0.01])
def test_parameter_count_is_the_formula(width: float) -> None:
    with torch.device("meta"):
        g = PublishedGenerator(width)
    assert sum(p.numel() for p in g.parameters()) == parameter_count(width)
    # The authors' own count: every kernel has 16 weights.
    whole = sum(p.shape[0] * p.shape[1] * 16 if p.ndim == 4 else p.numel() for p in g.parameters())
    assert whole == parameter_count(width, every_kernel_weight=True)


def test_parameter_counts_at_full_width() -> None:
    """The numbers that the documentation states."""
    assert parameter_count() == 255_379_457
    assert parameter_count(every_kernel_weight=True) == 532_203_521


def test_output_is_a_bounded_image_that_depends_on_both_inputs() -> None:
    g = generator()
    x = random(1, 2, 256, 256).requires_grad_()
    y = g(x, [0])
    assert y.shape == (1, 1, 256, 256)
    assert y.abs().max() <= 1
    y.square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().amax((-2, -1)) > 0).all()


def test_norm_is_batch_norm_of_one_item() -> None:
    norm, x = ItemNorm(5), random(1, 5, 6, 6)
    wanted = F.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, NORM_EPSILON)
    torch.testing.assert_close(norm(x), wanted)


def test_norm_of_one_value_gives_the_offset() -> None:
    """One value less its own mean is zero; torch's batch norm refuses to say so."""
    norm, x = ItemNorm(3), random(2, 3, 1, 1)
    norm.bias.data = torch.tensor([1.0, -2.0, 0.5])
    assert torch.equal(norm(x)[:, :, 0, 0], norm.bias.expand(2, 3))


def test_a_single_item_passes_nothing_through_the_bottleneck() -> None:
    """A consequence of the published design: the 1 px map is all offset after its norm."""
    g = generator(dropout=0)
    x = random(1, 2, 256, 256)
    with torch.no_grad():
        before = g(x, [0])
        next(g.encoders[7].parameters()).mul_(-3)
        assert torch.equal(g(x, [0]), before)
        for parameter in g.encoder_norms[6].parameters():
            parameter.add_(1)
        assert not torch.equal(g(x, [0]), before)


def test_dropout_is_active_and_follows_the_seed() -> None:
    g = generator().eval()
    x = random(1, 2, 256, 256)
    first, again, other = (propose(g, x, [seed]) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_dropout_keeps_the_mean() -> None:
    """Half of the values go, the rest doubles: on average factor one."""
    g = generator(width=1 / 8)
    factors = g._dropout_factors(range(20), torch.zeros(1))
    assert [tuple(f.shape[2:]) for f in factors] == [(2, 2), (4, 4), (8, 8)]
    for factor in factors:
        assert set(factor.flatten().tolist()) == {0.0, 2.0}
        assert abs(float(factor.mean()) - 1) < 5 / factor.numel() ** 0.5


def test_batch_is_a_loop_of_singles() -> None:
    g = generator()
    x, seeds = random(3, 2, 256, 256), [11, 12, 13]
    singles = torch.cat([propose(g, x[i : i + 1], seeds[i : i + 1]) for i in range(3)])
    assert torch.equal(propose(g, x, seeds), singles)
    with torch.no_grad():  # and the network itself mixes nothing
        torch.testing.assert_close(g(x, seeds), singles, atol=1e-5, rtol=1e-4)


def test_initial_weights_are_normal_and_follow_the_seed() -> None:
    a, b, c = (PublishedGenerator(1 / 8) for _ in range(3))
    for made, seed in ((a, 3), (b, 3), (c, 4)):
        initialise(made, seed)
    of_a, of_b, of_c = (made.bottleneck.weight.detach() for made in (a, b, c))
    assert abs(float(of_a.std()) / 0.02 - 1) < 0.02
    assert torch.equal(of_a, of_b)
    assert not torch.equal(of_a, of_c)


def test_generator_refuses_another_size() -> None:
    with pytest.raises(ValueError, match="256"):
        generator()(random(1, 2, 128, 128), [0])


# The discriminator.


@pytest.mark.parametrize("patch_px", sorted(STRIDED_LAYERS))
def test_patch_is_the_footprint_of_one_output(patch_px: int) -> None:
    """Computed field = asked field = pixels that the gradient of one output reaches.

    The norms are taken out: their statistics see the whole image, faintly, by design.
    """
    assert receptive_field(layer_stack(patch_px)) == patch_px
    d = PatchDiscriminator(1 / 512, patch_px)
    initialise(d, 0)
    for parameter in d.parameters():  # positive weights can't cancel
        parameter.data.abs_().add_(0.01)
    d.norms = nn.ModuleList(nn.Identity() for _ in d.norms)
    size = 128 if patch_px < 100 else 640
    x = torch.ones(1, 2, size, size, requires_grad=True)
    candidate = torch.ones(1, 1, size, size, requires_grad=True)
    logits = d(x, candidate)
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    for touched in (x.grad, candidate.grad):
        assert touched is not None
        for axis in (-2, -1):
            hit = torch.nonzero(touched[0].abs().sum(0).sum(axis)).flatten()
            assert int(hit[-1] - hit[0]) + 1 == patch_px == len(hit)


@pytest.mark.parametrize(("patch_px", "outputs"), [(16, 128), (34, 64), (70, 32), (286, 8)])
def test_discriminator_gives_one_logit_per_patch(patch_px: int, outputs: int) -> None:
    d = PatchDiscriminator(1 / 128, patch_px)
    logits = d(random(2, 2, 256, 256), random(2, 1, 256, 256))
    assert logits.shape == (2, 1, outputs, outputs)


# Preparation.


def test_lanczos_keeps_constants_and_symmetry() -> None:
    for n_in in (112, 300):
        matrix = lanczos_matrix(256, n_in)
        torch.testing.assert_close(matrix.sum(1), torch.ones(256, dtype=torch.float64))
        torch.testing.assert_close(matrix.flip(0, 1), matrix)


@pytest.mark.parametrize("n_in", [100, 112, 300])
def test_lanczos_agrees_with_pillow(n_in: int) -> None:
    image_module = pytest.importorskip("PIL.Image")
    array = random(n_in, n_in).numpy()
    wanted = image_module.fromarray(array).resize((256, 256), image_module.Resampling.LANCZOS)
    found = lanczos_resize(torch.from_numpy(array), 256)
    np.testing.assert_allclose(found.numpy(), np.asarray(wanted), atol=2e-5)


def test_lanczos_interpolates_smooth_waves() -> None:
    """A wave of 14 px is known between its pixels, to better than one percent inside."""
    position = torch.arange(112, dtype=torch.float64)
    fine = (torch.arange(256, dtype=torch.float64) + 0.5) * 112 / 256 - 0.5
    wave = torch.cos(2 * torch.pi * position / 14 + 0.3)
    found = lanczos_matrix(256, 112) @ wave
    wanted = torch.cos(2 * torch.pi * fine / 14 + 0.3)
    assert (found - wanted)[10:-10].abs().max() < 1e-2


def test_16_bit_levels_are_whole_and_span_the_range() -> None:
    levels = to_16_bit(random(2, 9, 9))
    assert torch.equal(levels, levels.round())
    assert levels.amin((-2, -1)).tolist() == [0, 0]
    assert levels.amax((-2, -1)).tolist() == [65535, 65535]


def measured(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    mask = torch.ones(112, 112, dtype=torch.bool)
    mask[50:60, 50:60] = False
    pattern = random(2, 112, 112, seed=seed).square() * mask * 1e-6
    return pattern, mask, 1 + 0.1 * random(2, 112, 112, seed=seed + 1)


@pytest.mark.parametrize("network", [PUBLISHED, AMPLITUDE, *SHOWN])
def test_inputs_are_bounded_and_do_not_depend_on_exposure(network: NetworkSettings) -> None:
    """Seven times the intensity in both exposures is the same input."""
    pattern, mask, image = measured()
    found = prepare_inputs(pattern, mask, image, network)
    assert found.shape == (2, 2, 256, 256)
    assert found.abs().max() <= 1
    brighter = prepare_inputs(7 * pattern, mask, 1 + 7 * (image - 1), network)
    torch.testing.assert_close(brighter, found, atol=2e-4, rtol=0)


@pytest.mark.parametrize("network", [PUBLISHED, AMPLITUDE, *SHOWN])
def test_inputs_of_a_batch_are_those_of_singles(network: NetworkSettings) -> None:
    pattern, mask, image = measured()
    together = prepare_inputs(pattern, mask, image, network)
    alone = torch.cat(
        [prepare_inputs(pattern[i : i + 1], mask, image[i : i + 1], network) for i in range(2)]
    )
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("network", [PUBLISHED, AMPLITUDE, *SHOWN])
def test_blank_exposures_give_finite_inputs(network: NetworkSettings) -> None:
    """No count at all, and an image without contrast."""
    mask = torch.ones(112, 112, dtype=torch.bool)
    blank = torch.zeros(1, 112, 112)
    assert prepare_inputs(blank, mask, blank + 1, network).isfinite().all()


def test_what_is_shown_of_a_pattern_is_what_its_name_says() -> None:
    pattern, mask, _ = measured()
    assert torch.equal(shown_pattern(pattern, mask, "linear"), pattern)
    torch.testing.assert_close(shown_pattern(pattern, mask, "root").square(), pattern)
    logs = shown_pattern(pattern, mask, "log")
    middle = pattern[0][mask].median()
    torch.testing.assert_close(logs[0].expm1() * middle, pattern[0])
    assert not shown_pattern(pattern, mask, "blank").any()


def test_amplitudes_in_parts_of_their_ring_s_lose_the_fall_and_keep_the_speckle() -> None:
    """Valid pixels of every ring have a mean square of one, but for those cut at three times; a
    pattern that falls by e^-8 to its rim is shown as one that does not fall."""
    pattern, mask, _ = measured()
    rings = ring_index(112)
    fall = torch.exp(-8 * rings / rings.max())
    shown = shown_pattern(pattern * fall, mask, "rings")
    torch.testing.assert_close(shown, shown_pattern(pattern, mask, "rings"))
    power = torch.stack([shown[0][(rings == k) & mask].square().mean() for k in range(15, 56)])
    assert ((power > 0.9) & (power < 1 + 1e-4)).all()
    assert not shown[:, ~mask].any()


def test_a_pattern_is_shown_in_one_way() -> None:
    with pytest.raises(DiffraganError, match="pattern_as = 'log' belongs to preparation"):
        load_settings(overrides=["network.preparation=amplitude", "network.pattern_as=log"])


def test_amplitude_input_is_differentiable_at_zero_counts() -> None:
    pattern, mask, image = measured()
    pattern.requires_grad_()
    total = prepare_inputs(pattern, mask, image, AMPLITUDE).sum()
    (gradient,) = torch.autograd.grad(total, [pattern])
    assert gradient.isfinite().all()


@pytest.mark.parametrize("network", [PUBLISHED, AMPLITUDE])
@pytest.mark.parametrize("n_px", [256, 192])
def test_target_and_projection_are_inverse(network: NetworkSettings, n_px: int) -> None:
    """For one projection its own scale is exact; other pixel counts keep what is band limited."""
    x = 2 * torch.pi * torch.arange(n_px) / n_px
    projection = (1 + 0.2 * torch.cos(3 * x)[:, None] * torch.sin(5 * x)[None, :])[None]
    scale = measure_target_scale([projection])
    target = prepare_target(projection, network, scale)
    assert target.shape == (1, 1, 256, 256)
    assert float(target.abs().max()) == pytest.approx(1, abs=0.01)
    back = projection_from_output(target, network, scale, n_px)
    torch.testing.assert_close(back, projection, atol=2e-3, rtol=0)


def test_target_scale_is_the_mean_of_extremes() -> None:
    one, two = torch.ones(1, 4, 4), torch.ones(1, 4, 4)
    one[0, 0, 0], one[0, 1, 1], two[0, 2, 2] = 0.5, 1.2, 1.4
    scale = measure_target_scale([one, two])
    assert (scale.minimum, scale.maximum, scale.scale) == pytest.approx((0.75, 1.3, 0.45))
