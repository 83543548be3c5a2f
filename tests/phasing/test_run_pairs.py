"""Proposals, methods and the pipeline: known phases, calibrated trust, nothing read of a truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from diffragan.engine.items import choose_items
from diffragan.errors import DiffraganError
from diffragan.files.store import open_results, open_simulation
from diffragan.fourier.correlation import centred_fourier, frc_fourier, ring_q
from diffragan.fourier.grids import frequency_grid, quarter_turn, shift
from diffragan.microscope.imaging import centre_wave, contrast_of_images, defocused_image
from diffragan.networks.generator import PublishedGenerator
from diffragan.networks.scaling import TargetScale
from diffragan.networks.weights import WeightsMetadata, save_weights
from diffragan.optics import Optics
from diffragan.pairs.imaged import ImagedPairs
from diffragan.pairs.open import open_pairs
from diffragan.pairs.pairs import Pairs
from diffragan.pairs.write import write_pairs
from diffragan.phasing.method import Context, PairBatch, Phased, method, phased_wave
from diffragan.phasing.methods import METHODS
from diffragan.phasing.proposals import propose_from_image
from diffragan.phasing.run import load_context, make_pair_batch, phase_pairs
from diffragan.phasing.stability import rotate_image, stability
from diffragan.settings import ImageSettings, Settings, load_settings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pairs(simulated: Path, published: Settings) -> Pairs:
    return open_pairs(simulated, settings=published)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, published: Settings) -> Path:
    """An untrained generator, narrow enough to be quick."""
    settings = published.model_copy(
        update={"network": published.network.model_copy(update={"width": 1 / 64})}
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    metadata = WeightsMetadata(settings, 256, 70.0, 200e3, TargetScale(0.6, 1.5, 0.5))
    save_weights(path, PublishedGenerator(1 / 64), metadata)
    return path


def with_method(settings: Settings, name: str) -> Settings:
    phase = settings.phase.model_copy(update={"method": name, "batch_size": 3})
    return settings.model_copy(update={"phase": phase})


def weak_phase_object(n: int = 112, box: float = 70.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A real potential of random blobs at the centre plane, and the wave just behind it."""
    generator = torch.Generator().manual_seed(3)
    q2 = frequency_grid(n, box)
    spectrum = torch.fft.fft2(torch.randn(2, n, n, generator=generator, dtype=torch.float64))
    phi = torch.fft.ifft2(spectrum * torch.exp(-20 * q2) * (q2 < 0.6)).real
    phi = 1e-3 * phi / phi.std()
    return phi, 1 + 1j * phi


@pytest.mark.parametrize("defocus_A", [-1000.0, -2000.0, -4000.0, 1500.0])
def test_image_phases_are_right_at_any_defocus(defocus_A: float) -> None:
    """A weak phase object without noise: past the first zero of the transfer function the
    image's phases flip, and the proposal's do not."""
    optics = Optics(200e3, 70.0, 36.0)
    phi, wave = weak_phase_object()
    settings = ImageSettings(defocus_A=defocus_A, snr=None, aperture_mrad=6.0)
    exit_plane = Optics(200e3, 70.0, 0.0)
    from diffragan.optics import propagate

    exit_wave = propagate(wave, 70.0, 200e3, optics.centre_to_exit_A)
    image = defocused_image(exit_wave, exit_plane, settings, 112)
    amplitude = torch.fft.fft2(wave - 1, norm="forward").abs()
    contrast = contrast_of_images(frequency_grid(112, 70.0), optics, settings)
    proposal = propose_from_image(image, amplitude, torch.full((2,), 1e9), contrast, 70.0)
    truth = torch.fft.fft2(1j * phi)
    truth = truth / truth.abs()
    q = frequency_grid(112, 70.0).sqrt()
    inside = (q > 0.02) & (q < 0.22)
    cosine = (proposal.phase.conj() * truth).real[:, inside]
    sure = proposal.trust[:, inside] > 0.9
    assert float(sure.float().mean()) > 0.5
    assert float(cosine[sure].mean()) > 0.97
    assert (proposal.trust[:, q > 0.26] == 0).all()


def test_trust_is_the_mean_cosine_of_the_phase_error() -> None:
    """Calibration under counting noise: where the trust says t, the cosine averages t."""
    optics = Optics(200e3, 70.0, 0.0)
    phi, wave = weak_phase_object()
    phi, wave = 10 * phi, 1 + 10j * phi
    settings = ImageSettings(snr=None, aperture_mrad=8.0)
    clean = defocused_image(wave, optics, settings, 112).double()
    dose = 400.0
    counts = dose * (70.0 / 112) ** 2
    generator = torch.Generator().manual_seed(0)
    truth = torch.fft.fft2(1j * phi)
    amplitude = torch.fft.fft2(wave - 1, norm="forward").abs()
    contrast = contrast_of_images(frequency_grid(112, 70.0), optics, settings)
    trusts, cosines = [], []
    for _ in range(12):
        image = torch.poisson(clean * counts, generator) / counts
        found = propose_from_image(image, amplitude, torch.full((2,), dose), contrast, 70.0)
        q = frequency_grid(112, 70.0).sqrt()
        inside = (q > 0.03) & (q < 0.28)
        cosines.append((found.phase.conj() * truth / truth.abs()).real[:, inside].flatten())
        trusts.append(found.trust[:, inside].flatten())
    trust, cosine = torch.cat(trusts), torch.cat(cosines)
    for low in (0.2, 0.4, 0.6, 0.8):
        bin_ = (trust > low) & (trust < low + 0.1)
        assert int(bin_.sum()) > 200
        assert float(cosine[bin_].mean()) == pytest.approx(float(trust[bin_].mean()), abs=0.06)


def test_the_image_method_phases_to_the_aperture_and_claims_no_more(
    pairs: Pairs, published: Settings, tmp_path: Path
) -> None:
    settings = with_method(published, "image")
    results = open_results(phase_pairs(pairs, tmp_path / "p.zarr", settings))
    assert results.n == 8
    wave = results.wave(slice(0, 8))
    truth = pairs.truth_wave(slice(0, 8))
    assert wave is not None
    assert truth is not None
    mask = torch.from_numpy(pairs.pattern_mask)
    curves = frc_fourier(
        centred_fourier(torch.from_numpy(wave)), centred_fourier(torch.from_numpy(truth)), mask
    )
    q = ring_q(112, 70.0)
    assert float(curves[:, (q > 1 / 12) & (q < 1 / 7)].mean()) > 0.5
    assert float(curves[:, q > 0.25].abs().max()) < 1e-6
    assert results.trust is not None
    assert results.trust[:, q > 0.25].max() == 0


def test_batches_equal_singles(pairs: Pairs, published: Settings, weights: Path) -> None:
    for name, path in (("image", None), ("published", weights)):
        settings = with_method(published, name)
        context = load_context(name, path, CPU)
        items = np.array([4, 1, 6])
        together = METHODS[name](make_pair_batch(pairs, items, settings, CPU), context)
        for k, item in enumerate(items):
            batch = make_pair_batch(pairs, np.array([item]), settings, CPU)
            alone = METHODS[name](batch, context)
            torch.testing.assert_close(
                alone.projection[0], together.projection[k], rtol=1e-4, atol=1e-5
            )


def test_a_method_in_a_few_lines(pairs: Pairs, published: Settings, tmp_path: Path) -> None:
    """What a developer writes to add one; here it is told the phases, and so is right."""

    @method("flat")
    def flat(batch: PairBatch, context: Context) -> Phased:
        spectrum = batch.amplitude.to(torch.complex64)
        return phased_wave(torch.fft.ifft2(spectrum, norm="forward"), batch)

    try:
        settings = with_method(published, "flat")
        results = open_results(phase_pairs(pairs, tmp_path / "f.zarr", settings, limit=4))
    finally:
        del METHODS["flat"]
    assert results.method == "flat"
    found = results.wave([2])
    assert found is not None
    amplitude = np.fft.fftshift(np.abs(np.fft.fft2(found[0], norm="forward")))
    expected = np.sqrt(pairs.pattern([int(results.items[2])])[0])
    np.testing.assert_allclose(amplitude, expected, atol=1e-6)


def test_phasing_needs_no_truth(
    simulated: Path, published: Settings, weights: Path, tmp_path: Path
) -> None:
    """With the truth removed every method gives the same bits."""
    simulation = open_simulation(simulated)
    stores = [
        write_pairs(
            ImagedPairs(simulation, published),
            tmp_path / f"{truth}.zarr",
            items=slice(3),
            truth=truth,
        )
        for truth in (True, False)
    ]
    for name, path in (("image", None), ("published", weights)):
        found = []
        for k, store in enumerate(stores):
            given = open_pairs(store, settings=with_method(published, name))
            context = load_context(name, path)
            out = phase_pairs(given, tmp_path / f"{name}{k}.zarr", given.settings, context)
            found.append(open_results(out).projection(slice(0, 3)))
        np.testing.assert_array_equal(found[0], found[1])


def test_an_interrupted_run_keeps_what_is_finished(
    pairs: Pairs, published: Settings, weights: Path, tmp_path: Path
) -> None:
    settings = with_method(published, "published")
    context = load_context("published", weights)
    whole = open_results(phase_pairs(pairs, tmp_path / "w.zarr", settings, context))

    def stop(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
        if done >= 3:
            raise KeyboardInterrupt

    out = tmp_path / "r.zarr"
    with pytest.raises(KeyboardInterrupt):
        phase_pairs(pairs, out, settings, context, progress=stop)
    assert not out.exists()
    counts: list[int] = []
    phase_pairs(pairs, out, settings, context, progress=lambda _, done, *rest: counts.append(done))
    assert counts[0] == 3
    every = slice(0, 8)
    np.testing.assert_array_equal(open_results(out).projection(every), whole.projection(every))
    assert open_results(out).weights_sha256 == whole.weights_sha256


def test_published_refuses_other_boxes_and_wrong_requests(
    pairs: Pairs, published: Settings, weights: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    settings = with_method(published, "published")
    batch = make_pair_batch(pairs, np.array([0]), settings, CPU)
    wide = replace(batch, optics=Optics(200e3, 105.0, 36.0))
    with pytest.raises(DiffraganError, match=r"published works in the paper's 70 Å.*105 Å"):
        METHODS["published"](wide, Context())
    with pytest.raises(DiffraganError, match=r"'image' does not take weights \(published, network"):
        load_context("image", weights)
    (tmp_path / "bad.safetensors").write_bytes(b"not weights")
    with pytest.raises(DiffraganError, match=r"bad\.safetensors"):
        load_context("published", tmp_path / "bad.safetensors")
    with pytest.raises(DiffraganError, match=r"w\.safetensors.*'published'.*published and hybrid"):
        load_context("network", weights)
    with pytest.raises(DiffraganError, match="'magic'; choose from image, published"):
        phase_pairs(pairs, tmp_path / "c.zarr", with_method(published, "magic"))
    assert not list(tmp_path.glob("*.part"))


def test_items_are_spread_over_the_store() -> None:
    assert choose_items(10, None).tolist() == list(range(10))
    assert choose_items(10, 99).tolist() == list(range(10))
    assert choose_items(48, 4).tolist() == [0, 12, 24, 36]


def test_shifts_and_turns_undo_themselves() -> None:
    generator = torch.Generator().manual_seed(0)
    q2 = frequency_grid(64, 40.0)
    noise = torch.fft.fft2(torch.randn(1, 64, 64, generator=generator, dtype=torch.float64))
    smooth = torch.fft.ifft2(noise * torch.exp(-60 * q2)).real
    back = shift(shift(smooth, (1.0, -0.6), 40.0), (-1.0, 0.6), 40.0)
    torch.testing.assert_close(back, smooth)
    torch.testing.assert_close(shift(smooth, (40.0 / 64 * 3, 0.0), 40.0), torch.roll(smooth, 3, -2))
    torch.testing.assert_close(quarter_turn(quarter_turn(smooth, 1), -1), smooth)
    torch.testing.assert_close(rotate_image(smooth, 90.0), quarter_turn(smooth), atol=1e-9, rtol=0)
    inner = (slice(None), slice(20, 44), slice(20, 44))
    there_and_back = rotate_image(rotate_image(smooth, 3.0), -3.0)
    torch.testing.assert_close(there_and_back[inner], smooth[inner], atol=2e-3, rtol=0)
    dot = torch.zeros(1, 8, 8)
    dot[0, 4, 4] = 1
    assert torch.equal(quarter_turn(dot), dot)


def test_stability_of_the_image_method(
    pairs: Pairs, published: Settings, simulated: Path, tmp_path: Path
) -> None:
    """The image's phases follow a shift and a turn closely, other noise less so, and what lies
    beyond the image is empty; a measured pair gives the changes that need no truth."""
    settings = with_method(published, "image")
    rows = stability(pairs, np.array([0, 5]), settings, Context())
    assert set(rows) == {"shifted by 1.2 Å", "turned by 3 degrees", "other noise"}
    for row in rows.values():
        assert row["n"] == 2
        assert 0.3 < row["band_mean_frc"]["image"] <= 1
    bare = write_pairs(
        ImagedPairs(open_simulation(simulated), settings), tmp_path / "b.zarr", items=slice(2)
    )
    given = open_pairs(bare, settings=settings)
    rows = stability(given, np.array([0, 1]), given.settings, Context())
    assert set(rows) == {"shifted by 1.2 Å", "turned by 90 degrees"}
    for row in rows.values():
        assert row["band_mean_frc"]["image"] > 0.98


def test_stability_keeps_each_images_lens(simulated: Path, tmp_path: Path) -> None:
    """Other noise comes with the same defocus, and astigmatism turns with a turned image."""
    lens = ["image.defocus_spread_A=1000", "image.astigmatism_A=900", "image.snr=50"]
    settings = with_method(load_settings(overrides=lens), "image")
    pairs = ImagedPairs(open_simulation(simulated), settings)
    rows = stability(pairs, np.array([0, 5]), settings, Context())
    assert rows["other noise"]["band_mean_frc"]["image"] > 0.9
    given = open_pairs(write_pairs(pairs, tmp_path / "b.zarr", items=slice(2)), settings=settings)
    rows = stability(given, np.array([0, 1]), given.settings, Context())
    assert rows["turned by 90 degrees"]["band_mean_frc"]["image"] > 0.98


def test_the_centre_plane_is_the_stores(pairs: Pairs) -> None:
    """The truth's wave is the exit wave carried back by `centre_to_exit_A` in the measured band."""
    exit_wave = pairs.exit_wave([2])
    truth = pairs.truth_wave([2])
    assert exit_wave is not None
    assert truth is not None
    mask = torch.from_numpy(pairs.pattern_mask)
    expected = centre_wave(torch.from_numpy(exit_wave), pairs.optics, mask)
    np.testing.assert_allclose(truth, expected.numpy(), atol=1e-6)
    assert pairs.optics.centre_to_exit_A != pairs.box_A / 2
