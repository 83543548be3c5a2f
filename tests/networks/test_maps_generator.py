"""The generator of maps: what it keeps to whatever its weights are."""

from __future__ import annotations

import pytest
import torch

from diffragan.networks.maps_generator import (
    Evidence,
    MapsGenerator,
    ring_weight,
    to_map,
    to_spectrum,
    with_amplitude,
)
from diffragan.phasing.modulus import friedel_mate
from diffragan.training.on_maps.losses import by_ring


def evidence(n: int = 24, b: int = 2, seed: int = 0) -> Evidence:
    generator = torch.Generator().manual_seed(seed)
    thing = to_spectrum(torch.randn(b, n, n, generator=generator))
    amplitude = thing.abs()
    amplitude[:, n // 2] = amplitude[:, :, n // 2] = amplitude[:, 0, 0] = 0
    proposal = 0.5 * torch.sgn(thing) * amplitude
    noise = torch.randn(b, n, n, generator=generator)
    return Evidence(amplitude, proposal, torch.full((b,), torch.inf), noise)


def stirred(seed: int = 0, **options: str) -> MapsGenerator:
    """A generator whose last layers, zero at first, draw something."""
    torch.manual_seed(seed)
    network = MapsGenerator(8, 2, **options)
    for name, weight in network.named_parameters():
        if name.endswith("last.weight"):
            torch.nn.init.normal_(weight, std=0.05)
    return network


def test_before_training_it_returns_what_the_image_tells() -> None:
    given = evidence()
    for spectrum in MapsGenerator(8, 2)(given):
        torch.testing.assert_close(spectrum, given.proposal, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("n", [16, 22, 40])
def test_it_draws_real_objects_inside_the_measured_band(n: int) -> None:
    given = evidence(n)
    for spectrum in stirred()(given):
        assert (spectrum - given.proposal).abs().max() > 1e-3
        torch.testing.assert_close(friedel_mate(spectrum).conj(), spectrum, atol=1e-5, rtol=1e-4)
        assert (spectrum[given.amplitude == 0] == 0).all()


def test_an_item_does_not_depend_on_its_neighbours() -> None:
    given, network = evidence(b=3), stirred()
    alone = Evidence(*(x[1:2] for x in vars(given).values()))
    torch.testing.assert_close(network(given)[-1][1:2], network(alone)[-1], atol=1e-5, rtol=1e-4)


def test_the_unit_of_the_amplitudes_does_not_matter() -> None:
    given, network = evidence(), stirred()
    scaled = Evidence(7 * given.amplitude, 7 * given.proposal, given.counts, given.noise)
    torch.testing.assert_close(network(scaled)[-1], 7 * network(given)[-1], atol=1e-4, rtol=1e-3)


def test_only_a_generator_that_imposes_them_sees_measured_amplitudes_between_its_stages() -> None:
    """The proposal alone is the same; with twice the amplitude of one pair of mates only what is
    imposed changes, but for the rings' common weight."""
    given = evidence()
    amplitude = given.amplitude.clone()
    amplitude[:, 3, 4] = amplitude[:, -3, -4] = 0  # no longer measured
    less = Evidence(amplitude, given.proposal, given.counts, given.noise)

    def change(network: MapsGenerator) -> float:
        first = network(less)[0] - network(given)[0]
        return float((first / given.amplitude.clamp_min(1e-6))[:, 8:10, 8:10].abs().mean().detach())

    assert change(stirred(pattern="imposed")) > 2 * change(stirred(pattern="blank"))


def test_rings_are_brought_half_way_to_one_power() -> None:
    n = 32
    generator = torch.Generator().manual_seed(1)
    white = to_spectrum(torch.randn(3, n, n, generator=generator)).abs()
    radius = torch.fft.fftfreq(n, 1 / n).square()
    amplitude = white * torch.exp(-0.004 * (radius[:, None] + radius[None]))
    weighted = amplitude * ring_weight(amplitude)
    before, after = by_ring(amplitude**2), by_ring(weighted**2)
    pixels = by_ring(torch.ones_like(amplitude))
    ratio = (after / pixels) ** 2 / (before / pixels)  # one number for each item
    torch.testing.assert_close(ratio, ratio.mean(1, keepdim=True).expand_as(ratio))
    whole = to_map(with_amplitude(to_spectrum(torch.randn(3, n, n)), weighted))
    torch.testing.assert_close((weighted**2).sum((1, 2)), torch.ones(3))
    assert torch.allclose(whole.square().mean((1, 2)), torch.ones(3), atol=0.2)


def test_gradients_are_finite_where_nothing_was_drawn() -> None:
    spectrum = torch.zeros(1, 8, 8, dtype=torch.complex64, requires_grad=True)
    total = with_amplitude(spectrum, torch.ones(1, 8, 8)).abs().sum()
    (slope,) = torch.autograd.grad(total, spectrum)
    assert torch.isfinite(torch.view_as_real(slope)).all()
