"""The detector and the exposures' places: each error does what it says, by known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffragan.microscope.detector import converged, integrated
from diffragan.microscope.geometry import as_detected, seen_by_pixels
from diffragan.microscope.imaging import measure, mistold, posed
from diffragan.microscope.noise import GEOMETRY, POSE
from diffragan.optics import Optics, q_from_angle
from diffragan.settings import DetectorSettings, ImageSettings, load_settings

BOX = Optics(200e3, 40.0, 22.0)
SIDE, SIGMA_A = 96, 1.2


def blob(y_A: float = 0.0, x_A: float = 0.0) -> torch.Tensor:
    """(1, n, n) exit wave of a Gaussian phase of width `SIGMA_A`, so far from the middle."""
    place = (torch.arange(SIDE, dtype=torch.float64) - SIDE // 2) * BOX.box_A / SIDE
    r2 = (place[:, None] - y_A) ** 2 + (place[None, :] - x_A) ** 2
    return (1 + 0.01j * torch.exp(-r2 / (2 * SIGMA_A**2)))[None]


def detected(detector: DetectorSettings, seed: int = 5) -> np.ndarray:
    spectrum = torch.fft.fft2(blob(), norm="forward")
    none = torch.zeros(1, SIDE, SIDE, dtype=torch.float64)
    direct = torch.ones(1, dtype=torch.complex128)
    return as_detected(spectrum, direct, none, 64, detector, [seed])[0].numpy()


def expected(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Intensity of the blob at y, x in pixels of 1 / field."""
    height = 0.01 * 2 * np.pi * SIGMA_A**2 / BOX.box_A**2
    result: np.ndarray = height**2 * np.exp(
        -4 * np.pi**2 * SIGMA_A**2 * (y**2 + x**2) / BOX.box_A**2
    )
    return result


def test_a_detector_without_faults_shows_the_pattern() -> None:
    y, x = np.indices((64, 64)) - 32
    away = np.hypot(y, x) > 0.5
    np.testing.assert_allclose(
        detected(DetectorSettings())[away], expected(y, x)[away], rtol=1e-3, atol=1e-15
    )


def test_centre_scale_and_ellipse() -> None:
    """Each, drawn by the item's seed, on a pattern that is known everywhere."""
    faults = DetectorSettings(centre_error_px=2.0, scale_error=0.05, ellipse=0.08, ellipse_deg=30.0)
    rng = np.random.default_rng([5, GEOMETRY])
    off, longer = 2.0 * rng.standard_normal(2), 1 + 0.05 * float(rng.standard_normal())
    y, x = np.indices((64, 64), dtype=float)
    dy, dx = y - 32 - off[0], x - 32 - off[1]
    turn = np.pi / 6
    along, across = np.cos(turn) * dx + np.sin(turn) * dy, -np.sin(turn) * dx + np.cos(turn) * dy
    known = expected(along / 1.08 / longer, across / 0.92 / longer) / (longer**2 * 1.08 * 0.92)
    away = np.hypot(dy, dx) > 1.5
    got = detected(faults)
    np.testing.assert_allclose(got[away], known[away], rtol=0.02, atol=1e-4 * known.max())
    assert got[~away].sum() == pytest.approx(1, abs=1e-3)  # the direct beam, beside its centre


def test_pixels_of_a_round_detector() -> None:
    y, x = seen_by_pixels(5, (2.0, 1.0))
    assert y[:, 0].tolist() == [-2, -1, 0, 1, 2]
    assert x[0].tolist() == [-1, 0, 1, 2, 3]


def test_a_cone_of_directions_makes_discs() -> None:
    """A point becomes an even disc of the cone's radius; no electron is lost; a narrow cone stays
    within its pixel."""
    point = torch.zeros(1, 64, 64, dtype=torch.float64)
    point[0, 10, 20] = 1
    mrad = 1.0
    radius = q_from_angle(mrad, 200e3) * BOX.box_A
    disc = converged(point, mrad, BOX)[0]
    assert float(disc.sum()) == pytest.approx(1)
    y, x = np.indices((64, 64))
    r2 = float((disc.numpy() * ((y - 10) ** 2 + (x - 20) ** 2)).sum())
    assert r2 == pytest.approx(radius**2 / 2, rel=0.1)
    assert float(disc[10, 20]) == pytest.approx(1 / (np.pi * radius**2), rel=0.05)
    torch.testing.assert_close(converged(point, 0.2, BOX), point, rtol=0, atol=1e-12)


def test_charge_that_is_added_up() -> None:
    """n electrons of a spread s, read with r: mean n, variance n (1 + s²) + r²."""
    counts = torch.poisson(torch.full((1, 300, 300), 4.0), torch.Generator().manual_seed(0)) / 100
    sums = integrated(counts, 100.0, DetectorSettings(gain_spread=0.7, readout_noise_e=1.5), [3])
    electrons = sums.double() * 100
    assert float(electrons.mean()) == pytest.approx(4, abs=0.04)
    assert float(electrons.var()) == pytest.approx(4 * (1 + 0.49) + 2.25, rel=0.03)
    assert float(electrons.min()) < 0


def centre_of(wave: torch.Tensor) -> tuple[float, float]:
    """(y, x) in Å from the middle of what a wave adds."""
    size = (wave[0] - 1).abs().double().numpy()
    place = (np.arange(SIDE) - SIDE // 2) * BOX.box_A / SIDE
    return float((size.sum(1) @ place) / size.sum()), float((size.sum(0) @ place) / size.sum())


def test_the_image_sees_the_molecule_elsewhere() -> None:
    """Moved by what the seed draws, and turned about the beam's middle."""
    moved = posed(blob(2.0, -1.0), BOX, ImageSettings(shift_A=3.0), [7])
    draw = np.random.default_rng([7, POSE]).standard_normal(3)
    y, x = centre_of(moved)
    assert (y, x) == pytest.approx((2 + 3 * draw[0], -1 + 3 * draw[1]), abs=0.05)
    turned = posed(blob(6.0, 0.0), BOX, ImageSettings(turn_deg=20.0), [7])
    y, x = centre_of(turned)
    assert np.hypot(y, x) == pytest.approx(6, abs=0.05)
    assert np.degrees(np.arctan2(y, x)) - 90 == pytest.approx(20 * draw[2], abs=0.5)


def test_a_defocus_that_is_told_wrong() -> None:
    """Image and what is told part; without an error the very same object comes back."""
    assert mistold(None, ImageSettings(), [1, 2]) is None
    true = mistold(None, ImageSettings(defocus_error_A=100.0), [1, 2])
    assert true is not None
    errors = [100 * np.random.default_rng([s, POSE, 1]).standard_normal() for s in (1, 2)]
    assert true.u_A == pytest.approx(ImageSettings().defocus_A + np.array(errors))


def test_presets_of_detectors() -> None:
    """Laid over another preset, and over nothing."""
    both = load_settings("experiment,counting-detector")
    assert both.specimen.ice_nm == load_settings("experiment").specimen.ice_nm
    assert both.detector.blur_px > 0
    summing = load_settings("integrating-detector").detector
    assert summing.readout_noise_e > 0
    assert summing.gain_spread > 0


def test_measured_with_all_of_it() -> None:
    """All together run, and what is masked stays empty."""
    pairs = (
        "detector.centre_error_px=0.5",
        "detector.readout_noise_e=0.2",
        "specimen.convergence_mrad=0.3",
    )
    settings = load_settings(overrides=("pattern.dose_e_per_A2=20", *pairs, "image.shift_A=1"))
    measured = measure(blob().to(torch.complex64), BOX, settings, [1])
    assert not bool(measured.pattern[:, ~measured.pattern_mask].any())
    assert bool(torch.isfinite(measured.image).all())
