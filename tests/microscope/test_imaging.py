"""Patterns, images and projections: Parseval, known noise, agreement with abTEM."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from diffragan.files.store import open_simulation
from diffragan.fourier.grids import frequency_grid
from diffragan.microscope.imaging import (
    centre_wave,
    defocused_image,
    diffraction_pattern,
    drawn_defocus,
    measure,
    projection,
    projection_of_centre_wave,
)
from diffragan.microscope.noise import image_dose, item_seed
from diffragan.optics import Optics
from diffragan.settings import ImageSettings, PatternSettings, ProjectionSettings, Settings


@pytest.fixture(scope="module")
def waves(simulated: Path) -> torch.Tensor:
    return torch.from_numpy(open_simulation(simulated).exit_wave([0, 3, 6]))


@pytest.fixture(scope="module")
def optics(simulated: Path) -> Optics:
    return open_simulation(simulated).optics


def with_image(settings: Settings, **values: object) -> Settings:
    return settings.model_copy(update={"image": settings.image.model_copy(update=values)})


def test_parseval(waves: torch.Tensor, optics: Optics) -> None:
    """Over all angles the pattern holds the whole beam: the mean intensity of the exit wave."""
    every = PatternSettings(max_angle_mrad=100.0, beam_mask_px=0.0)
    pattern, mask = diffraction_pattern(waves, optics, every)
    mean = (waves.abs() ** 2).mean((-2, -1))
    direct = waves.mean((-2, -1)).abs() ** 2
    torch.testing.assert_close(pattern.sum((-2, -1)) + direct, mean, rtol=1e-4, atol=0)
    m = mask.shape[-1]
    assert not mask[m // 2, m // 2]


def test_pattern_is_abtems(waves: torch.Tensor, optics: Optics) -> None:
    """Same intensities, same orientation of axes as abTEM's diffraction patterns."""
    import abtem

    pattern, mask = diffraction_pattern(waves[:1], optics, PatternSettings())
    with abtem.config.set({"dask.lazy": False, "local_diagnostics.progress_bar": False}):
        theirs = abtem.Waves(
            waves[0].numpy().T.copy(), energy=optics.energy_ev, extent=optics.box_A
        ).diffraction_patterns(max_angle=None, block_direct=False)
        array = np.asarray(theirs.array, dtype=np.float64).T
    # abTEM leaves patterns of waves that it did not make itself unnormalised.
    array *= float((waves[0].abs() ** 2).mean()) / array.sum()
    n, m = array.shape[0], pattern.shape[-1]
    cut = array[n // 2 - m // 2 : n // 2 + m // 2, n // 2 - m // 2 : n // 2 + m // 2]
    np.testing.assert_allclose(
        pattern[0].numpy()[mask.numpy()], cut[mask.numpy()], rtol=2e-3, atol=1e-11
    )


def test_image_is_abtems(waves: torch.Tensor, optics: Optics) -> None:
    import abtem

    settings = ImageSettings(defocus_A=-800.0, aperture_mrad=8.0, cs_mm=1.0)
    ours = defocused_image(waves[:1], optics, settings, 256)[0]
    with abtem.config.set({"dask.lazy": False, "local_diagnostics.progress_bar": False}):
        ctf = abtem.CTF(defocus=-800.0, semiangle_cutoff=8.0, Cs=1e7, soft=False)
        array = waves[0].numpy().T.copy()
        image = abtem.Waves(array, energy=optics.energy_ev, extent=optics.box_A).apply_ctf(ctf)
        theirs = np.asarray(image.intensity().array).T
    theirs = theirs / theirs.mean()
    contrast = np.linalg.norm(theirs - 1)
    assert np.linalg.norm(ours.numpy() - theirs) < 0.02 * contrast


def test_counts_have_poissons_scale(
    waves: torch.Tensor, optics: Optics, published: Settings
) -> None:
    """At D e/Å² the pattern's counts add up to D L² x the scattered fraction, and each scatters
    about its expectation by its root; abTEM's `total_dose` is that product of dose and area."""
    dose = 5000.0
    settings = published.model_copy(update={"pattern": PatternSettings(dose_e_per_A2=dose)})
    expected, mask = diffraction_pattern(waves[:1], optics, PatternSettings())
    many = torch.cat([measure(waves[:1], optics, settings, [seed]).pattern for seed in range(60)])
    electrons = dose * optics.box_A**2
    counts = many * electrons
    torch.testing.assert_close(counts, counts.round(), atol=1e-2, rtol=0)
    mu = expected[0] * electrons
    bright = mask & (mu > 5)
    z = (counts - mu)[:, bright] / mu[bright].sqrt()
    assert abs(float(z.mean())) < 5 / math.sqrt(z.numel())
    assert float((z**2).mean()) == pytest.approx(1.0, abs=8 / math.sqrt(z.numel()))


@pytest.mark.parametrize("snr", [0.8, 3.0])
def test_an_image_has_the_snr_asked_for(
    waves: torch.Tensor, optics: Optics, published: Settings, snr: float
) -> None:
    settings = with_image(published, snr=snr)
    clean = defocused_image(waves[:1], optics, settings.image, 112)
    q = frequency_grid(112, optics.box_A).sqrt()
    band = (q >= 1 / 8) & (q <= 1 / 5)

    def power(image: torch.Tensor) -> float:
        spectrum = torch.fft.fft2(image.double(), norm="forward")
        return float((spectrum.abs() ** 2 * band).sum((-2, -1)).mean())

    noisy = torch.cat([measure(waves[:1], optics, settings, [s]).image for s in range(40)])
    assert power(clean) / power(noisy - clean) == pytest.approx(snr, rel=0.05)


def test_an_snr_means_the_same_dose_in_every_box(optics: Optics) -> None:
    """The same contrast in a field of twice the side: equal SNR finds the equal dose."""
    n = 112
    r2 = torch.cdist(torch.arange(n)[:, None].float(), torch.tensor([[n / 2]]))[:, 0] ** 2
    blob = torch.exp(-(r2[:, None] + r2[None, :]) / (2 * 2.0**2)).double()
    small = 1 + 0.1 * blob[None]
    large = torch.ones(1, 2 * n, 2 * n, dtype=torch.float64)
    large[0, :n, :n] += 0.1 * blob
    settings = ImageSettings()
    wide = Optics(optics.energy_ev, 2 * optics.box_A, optics.centre_to_exit_A)
    one = image_dose(small, optics, settings)
    two = image_dose(large, wide, settings)
    assert float(two) == pytest.approx(float(one), rel=0.03)


def test_a_dose_wins_over_an_snr_and_none_of_both_is_no_noise(
    waves: torch.Tensor, optics: Optics, published: Settings
) -> None:
    dosed = with_image(published, dose_e_per_A2=77.0)
    assert measure(waves, optics, dosed, [0, 1, 2]).image_dose_e_per_A2.tolist() == [77.0] * 3
    clean = with_image(published, snr=None)
    found = measure(waves, optics, clean, [0, 1, 2])
    assert torch.isinf(found.image_dose_e_per_A2).all()
    torch.testing.assert_close(found.image, defocused_image(waves, optics, clean.image, 112))


def test_a_spread_of_defoci_follows_the_seeds(
    waves: torch.Tensor, optics: Optics, published: Settings
) -> None:
    """Other seeds, as in another epoch of training, give other defoci; given ones are kept."""
    spread = with_image(published, defocus_spread_A=300.0, snr=None)
    drawn = drawn_defocus(spread.image, [1, 2, 3])
    assert drawn is not None
    images = [measure(waves, optics, spread, seeds).image for seeds in ([1, 2, 3], [1, 2, 4])]
    torch.testing.assert_close(
        images[0], defocused_image(waves, optics, spread.image, 112, drawn), rtol=0, atol=0
    )
    torch.testing.assert_close(images[0][:2], images[1][:2], rtol=0, atol=0)
    assert not torch.allclose(images[0][2], images[1][2])
    given = measure(waves, optics, spread, [7, 8, 9], drawn).image
    torch.testing.assert_close(given, images[0], rtol=0, atol=0)


def test_an_items_noise_depends_on_its_seed_alone(
    waves: torch.Tensor, optics: Optics, published: Settings
) -> None:
    """Batch = loop of singles, in any order."""
    settings = published.model_copy(update={"pattern": PatternSettings(dose_e_per_A2=300.0)})
    seeds = [item_seed(7, i) for i in range(3)]
    together = measure(waves, optics, settings, seeds)
    for i in (2, 0, 1):
        alone = measure(waves[i : i + 1], optics, settings, seeds[i : i + 1])
        torch.testing.assert_close(alone.pattern[0], together.pattern[i], rtol=0, atol=0)
        torch.testing.assert_close(alone.image[0], together.image[i], rtol=1e-5, atol=1e-6)
    other = measure(waves[:1], optics, settings, [seeds[1]])
    assert not torch.equal(other.pattern[0], together.pattern[0])
    assert len({item_seed(s, i, k) for s in range(4) for i in range(4) for k in range(3)}) == 48


def test_the_centre_wave_gives_back_the_projection(waves: torch.Tensor, optics: Optics) -> None:
    """Carried on from the centre plane, the band-limited wave projects to the target wherever
    its own frequencies reach."""
    settings = ProjectionSettings()
    _, mask = diffraction_pattern(waves, optics, PatternSettings())
    target = projection(waves, optics, settings)
    found = projection_of_centre_wave(centre_wave(waves, optics, mask), optics, settings, 256)
    q = frequency_grid(256, optics.box_A).sqrt()
    band = (q > 0) & (q < 0.6)
    a, b = torch.fft.fft2(target), torch.fft.fft2(found)
    error = ((a - b).abs() ** 2 * band).sum() / (a.abs() ** 2 * band).sum()
    assert float(error) < 2e-3
    torch.testing.assert_close(target.mean((-2, -1)), torch.ones(3))
