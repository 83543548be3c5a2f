"""An instrument with known faults: what a look at its files finds of them, and what it writes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import h5py
import mrcfile
import numpy as np
import pytest
from numpy.typing import NDArray

import diffragan as dg
from diffragan.errors import DiffraganError
from diffragan.files.store import MeasurementStore
from diffragan.inspection.agreement import placed
from diffragan.inspection.camera import Detector, camera_image, detector_counts
from diffragan.inspection.detector.bad_pixels import find_bad_pixels
from diffragan.inspection.detector.centre import wandering
from diffragan.inspection.detector.field import (
    Distortion,
    Geometry,
    image_on_field,
    pattern_on_grid,
    ring_distortion,
)
from diffragan.microscope.imaging import defocused_image
from diffragan.settings import load_settings
from quick_runs import run

SIDE, FIELD_A = 192, 100.0
TAKEN = load_settings(overrides=["image.defocus_A=-1000", "image.dose_e_per_A2=500"])
LENS = TAKEN.image


@dataclass(frozen=True)
class Session:
    """Files of six exposures of the bundled protein, and the truth."""

    patterns: Path
    images: Path
    detector: Detector
    hot: NDArray[np.bool_]
    stop: NDArray[np.bool_]
    store: MeasurementStore
    image_pixel_A: float


def bundled() -> MeasurementStore:
    path = resources.files("diffragan").joinpath("data", "example.zarr.zip")
    return MeasurementStore(Path(str(path)))


def faulty(rng: np.random.Generator, *, stop: bool) -> tuple[Detector, Any, Any]:
    """A detector off its centre with 0.3 % hot pixels, and perhaps a beam stop on a thin arm."""
    centre = (SIDE / 2 + 2.3, SIDE / 2 - 3.6)
    hot = rng.random((SIDE, SIDE)) < 0.003
    y, x = np.indices((SIDE, SIDE))
    shadow = np.hypot(y - centre[0], x - centre[1]) < 5
    shadow |= (np.abs(y - centre[0]) < 2) & (x < centre[1])
    shadow &= stop
    counts = np.where(hot & ~shadow, rng.lognormal(math.log(200), 1, hot.shape), 0.0)
    detector = Detector(SIDE, 1 / FIELD_A, centre, hot=counts, blind=shadow)
    return detector, hot & ~shadow, shadow


def taken(
    folder: Path, placement: str, *, stop: bool, off_A: tuple[float, ...] = (0.0,) * 6
) -> Session:
    """Written as a detector and a camera write, each image `off_A` from the common defocus."""
    rng, store = np.random.default_rng(1), bundled()
    detector, hot, shadow = faulty(rng, stop=stop)
    waves, optics = store.read("exit_wave"), store.optics
    counts = [detector_counts(w, optics, detector, 20_000, 90, rng) for w in waves]
    lenses = [LENS.model_copy(update={"defocus_A": LENS.defocus_A + off}) for off in off_A]
    images = np.stack(
        [
            camera_image(w, optics, lens, field_A=105, n_px=116, rng=rng)
            for w, lens in zip(waves, lenses, strict=True)
        ]
    )
    turned = images
    for _ in range(3 if placement == "turned" else 1 if placement != "as-is" else 0):
        turned = placed(turned, placement)
    with h5py.File(folder / "run.h5", "w") as file:
        file["entry/data/data_000001"] = np.stack(counts).astype(np.uint32)
        file["entry/instrument/detector/x_pixel_size"] = 75e-6
        file["entry/instrument/detector/detector_distance"] = 75e-6 * FIELD_A / optics.wavelength_A
        file["entry/instrument/beam/incident_energy"] = 200e3
    pixel = 105.0 / 116
    with mrcfile.new(folder / "overview.mrcs") as mrc:
        mrc.set_data(turned.astype(np.float32))
        mrc.set_image_stack()
        mrc.voxel_size = pixel
    files = folder / "run.h5", folder / "overview.mrcs"
    return Session(*files, detector, hot, shadow, store, pixel)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return taken(tmp_path_factory.mktemp("stopped"), "flipped", stop=True)


@pytest.fixture(scope="module")
def found(stopped: Session) -> tuple[Path, str, dict[str, Any]]:
    """One command, what it said, and its numbers."""
    out = stopped.patterns.parent / "pairs.zarr"
    code, text = run("inspect", stopped.patterns, "--image", stopped.images, "--out", out)
    assert code == 0, text
    return out, text, json.loads(out.with_suffix(".json").read_text("utf-8"))


def test_one_command_makes_pairs_that_phase_takes(
    found: tuple[Path, str, dict[str, Any]], tmp_path: Path
) -> None:
    out, text, _ = found
    pairs = dg.open_pairs(out)
    assert pairs.n == 6
    assert pairs.box_A == pytest.approx(FIELD_A, rel=0.005)
    assert out.with_suffix(".png").stat().st_size > 20_000
    assert "flipped" in text
    assert "180°" in text
    code, said = run("phase", out, "--out", tmp_path / "p.zarr", "--limit", "1", "--device", "cpu")
    assert code == 0, said


def test_the_centre_behind_a_beam_stop(
    found: tuple[Path, str, dict[str, Any]], stopped: Session
) -> None:
    """By Friedel's symmetry, to a tenth of a pixel, and as sure as it says."""
    numbers = found[2]
    off = np.subtract(numbers["centre_px"], stopped.detector.centre_px)
    assert np.abs(off).max() < 0.1
    assert 0.02 < numbers["centre_error_px"] < 0.15
    assert "Friedel" in numbers["centre_by"]


def test_doses_and_defocus_follow_from_image_and_pattern(
    found: tuple[Path, str, dict[str, Any]],
) -> None:
    """Nobody told them; the defocus counts from the molecule's plane, 36.5 Å before the store's."""
    numbers = found[2]
    assert numbers["dose_e_per_A2"] == pytest.approx(20_000, rel=0.1)
    assert numbers["defocus_A"] == pytest.approx(-1036.5, abs=75)
    assert numbers["placement"] == "flipped"
    doses = dg.open_pairs(found[0]).image_dose(slice(None))
    assert doses == pytest.approx(500, rel=0.1)


def test_images_that_differ_in_defocus_have_their_own(tmp_path: Path) -> None:
    """Found where nobody tells them, each from its own pattern; alike where they are alike."""
    off = (-280.0, 150.0, 40.0, 260.0, -120.0, -50.0)
    session = taken(tmp_path, "as-is", stop=False, off_A=off)
    out = tmp_path / "pairs.zarr"
    beam = ("--beam-diameter-A", "90")
    code, text = run("inspect", session.patterns, "--image", session.images, *beam, "--out", out)
    assert code == 0, text
    assert "The images differ in it" in text
    pairs = dg.open_pairs(out)
    assert pairs.defocus is not None
    apart = pairs.defocus.u_A - (-1036.5 + np.array(off))
    assert np.median(np.abs(apart)) < 60
    assert np.corrcoef(pairs.defocus.u_A, off)[0, 1] > 0.95


def test_images_of_one_defocus_share_it(found: tuple[Path, str, dict[str, Any]]) -> None:
    assert "differ in it" not in found[1]
    assert dg.open_pairs(found[0]).defocus is None


def test_bad_pixels_and_the_shadow_of_the_stop(stopped: Session) -> None:
    """99 % of hot pixels are found with under 0.1 % false ones, and the whole stop with its arm."""
    with h5py.File(stopped.patterns) as file:
        counts = np.asarray(file["entry/data/data_000001"]).astype(float).sum(0)
    bad = find_bad_pixels(counts, 6)
    lit = ~stopped.stop
    assert bad.any[stopped.hot].mean() >= 0.99
    assert bad.hot[lit & ~stopped.hot].mean() < 0.001
    assert bad.any[stopped.stop].mean() > 0.95
    assert bad.stop[lit].mean() < 0.02


def test_dead_pixels_show_in_many_counts() -> None:
    """A pixel that stays dark among bright ones is dead, one at a zero of a pattern is not."""
    rng = np.random.default_rng(0)
    y, x = np.indices((96, 96))
    expected = 300 * np.exp(-np.hypot(y - 48, x - 48) / 20) * (1 + np.sin(x / 2)) + 40
    dead = rng.random((96, 96)) < 0.005
    counts = np.where(dead, 0, rng.poisson(expected)).astype(float)
    bad = find_bad_pixels(counts, 50)
    near = np.hypot(y - 48, x - 48) < 40
    assert bad.dead[dead & near].mean() > 0.95
    assert bad.any[~dead].mean() < 0.002


def test_a_direct_beam_tells_centre_and_dose(tmp_path: Path) -> None:
    session = taken(tmp_path, "turned", stop=False)
    settings = load_settings(values={"inspect.beam_diameter_A": 90.0})
    found = dg.inspect(
        session.patterns, tmp_path / "pairs.zarr", image=session.images, settings=settings
    )
    centre = found.patterns.centre
    assert np.abs(np.subtract((centre.y, centre.x), session.detector.centre_px)).max() < 0.02
    assert found.pairs is not None
    assert found.pairs.dose == pytest.approx(20_000, rel=0.02)
    assert found.pairs.placement == "turned"


def test_patterns_keep_their_amplitudes_on_the_new_grid() -> None:
    """From 192 pixels off their centre to 160 at it, against the far field computed there."""
    store = bundled()
    wave = store.read("exit_wave", slice(0, 1))[0]
    centre = (97.3, 92.4)
    seen = detector_counts(wave, store.optics, Detector(SIDE, 1 / FIELD_A, centre), 1e6, 90, None)
    y, x = np.indices(seen.shape)
    good = np.hypot(y - centre[0], x - centre[1]) > 5
    grid, mask = pattern_on_grid(seen, good, Geometry(centre, 1 / FIELD_A), FIELD_A, 160)
    there = detector_counts(wave, store.optics, Detector(160, 1 / FIELD_A, (80, 80)), 1e6, 90, None)
    ring = mask & (np.hypot(*(np.indices(mask.shape) - 80)) > 8)
    apart = np.sqrt(grid[ring]) - np.sqrt(there[ring])
    assert np.linalg.norm(apart) / np.linalg.norm(np.sqrt(there[ring])) < 0.03


def test_electrons_stay_electrons_on_a_coarser_grid() -> None:
    """Every one is in one pixel, the same each time; on a flat field all pixels hold as much and
    vary by counting; a bad pixel hides those that it reaches."""
    flat = np.random.default_rng(1).poisson(0.6, (192, 192)).astype(float)
    good = np.ones(flat.shape, bool)
    way = Geometry((95.3, 96.8), 1 / 120, Distortion(0.01, 30.0))
    grid, mask = pattern_on_grid(flat, good, way, 76.0, 126, seed=3)
    inner = grid[20:-20, 20:-20]
    assert mask[20:-20, 20:-20].all()
    np.testing.assert_array_equal(grid, np.rint(grid))
    np.testing.assert_array_equal(grid, pattern_on_grid(flat, good, way, 76.0, 126, seed=3)[0])
    expected = 0.6 * (120 / 76) ** 2
    assert inner.mean() == pytest.approx(expected, rel=0.02)
    assert inner.var() == pytest.approx(expected, rel=0.06)
    assert abs(np.corrcoef(inner[:, 1:].ravel(), inner[:, :-1].ravel())[0, 1]) < 0.04
    everywhere, _ = pattern_on_grid(flat, good, Geometry((95.3, 96.8), 1 / 120), 76.0, 140, seed=3)
    assert everywhere.sum() <= flat.sum()
    good[100, 90] = False
    _, hidden = pattern_on_grid(flat, good, way, 76.0, 126, seed=3)
    assert 1 <= (mask & ~hidden).sum() <= 4


def test_a_coarser_grid_shows_the_same_pattern() -> None:
    """The mean over each of its pixels, of a pattern that is distorted on the detector."""
    way = Geometry((95.3, 96.8), 1 / 120, Distortion(0.01, 30.0))
    axes = [np.arange(192.0) - c for c in way.centre]
    qy, qx = way.distortion.undone(*np.meshgrid(*axes, indexing="ij"))

    def shape(qy: Any, qx: Any) -> Any:
        return 1 + np.cos(2 * np.pi * qy * 15) * np.cos(2 * np.pi * qx * 10)

    counts = 50.5 * shape(qy / 120, qx / 120)
    grid, mask = pattern_on_grid(counts, np.ones((192, 192), bool), way, 76.0, 120)
    axis = (np.arange(120) - 60) / 76
    there = 50.5 * (120 / 76) ** 2 * shape(axis[:, None], axis[None])
    inner = np.s_[15:-15, 15:-15]
    assert mask[inner].all()
    # A mean over pixels takes from what a field of 76 Å hardly holds: sinc of 15/76 and of 15/120.
    assert np.corrcoef(grid[inner].ravel(), there[inner].ravel())[0, 1] > 0.99
    assert np.linalg.norm(grid[inner] - there[inner]) / np.linalg.norm(there[inner]) < 0.12


def test_images_are_placed_to_a_third_of_an_angstrom() -> None:
    """Cut from a wider field with another pixel about a point off the pixels, an image lies where
    that point says."""
    from skimage.registration import phase_cross_correlation

    store = bundled()
    wave, optics = store.read("exit_wave", slice(1, 2))[0], store.optics
    lens = LENS.model_copy(update={"dose_e_per_A2": None, "snr": None})
    moved = (7.3, -11.9)
    camera = camera_image(wave, optics, lens, field_A=140, n_px=156, shift_A=moved)
    pixel = 140 / 156
    middle = (78 + moved[0] / pixel, 78 + moved[1] / pixel)
    image, outside = image_on_field(camera, pixel, middle, 70.0, 112)
    import torch

    truth = defocused_image(torch.from_numpy(wave)[None], optics, lens, 112)[0].numpy()
    apart, *_ = phase_cross_correlation(truth - 1, image - 1, upsample_factor=50)  # type: ignore[no-untyped-call]
    assert outside == 0
    assert np.abs(apart).max() * 70 / 112 < 0.3
    inner = slice(20, 92)
    assert np.corrcoef(truth[inner, inner].ravel(), image[inner, inner].ravel())[0, 1] > 0.99


def test_rings_tell_the_scale_and_the_ellipse(tmp_path: Path) -> None:
    """A powder of known spacings: scale to 0.5 %, ellipticity to a quarter of a per cent."""
    rng = np.random.default_rng(2)
    y, x = np.indices((256, 256))
    turn, size = math.radians(30), 0.01
    dy, dx = y - 126.2, x - 130.7
    along = (math.cos(turn) * dx + math.sin(turn) * dy) / (1 + size)
    across = (-math.sin(turn) * dx + math.cos(turn) * dy) / (1 - size)
    radius = np.hypot(along, across)
    counts = 400 * np.exp(-radius / 25) + 5
    for spacing in (2.355, 2.039):
        counts += 60 * np.exp(-((radius - 1 / spacing / 0.005) ** 2) / 4.5)
    counts += 1e5 * np.exp(-(radius**2) / 2)
    np.save(tmp_path / "gold.npy", rng.poisson(counts).astype(np.uint32))
    code, text = run(
        "inspect", tmp_path / "gold.npy", "--rings-A", "2.355,2.039", "--reciprocal-pixel",
        "0.0053", "--out", tmp_path / "gold.zarr",
    )  # fmt: skip
    assert code == 0, text
    assert "No pairs are written" in text
    numbers = json.loads((tmp_path / "gold.json").read_text("utf-8"))
    assert numbers["pixel_per_A"] == pytest.approx(0.005, rel=0.005)
    assert numbers["distortion"]["size"] == pytest.approx(0.01, abs=0.0025)
    assert numbers["distortion"]["angle_deg"] == pytest.approx(30, abs=8)
    round_ring = ring_distortion(
        60 * np.exp(-((np.hypot(dy, dx) - 90) ** 2) / 4.5), np.ones((256, 256), bool),
        (126.2, 130.7), (82, 98),
    )  # fmt: skip
    assert round_ring[0].size < 0.001


def test_a_wandering_centre_is_a_plane_over_the_scan() -> None:
    """Descan moves the beam evenly; single frames that went wrong do not bend the plane."""
    rng = np.random.default_rng(0)
    row, column = np.divmod(np.arange(64), 8)
    truth = np.stack((50 + 0.3 * row / 7, 60 - 0.5 * column / 7), -1)
    seen = truth + rng.normal(0, 0.05, truth.shape)
    seen[[5, 20]] += 3
    seen[40] = np.nan
    plane, moves = wandering(seen, np.full(64, 0.05), (8, 8))
    assert np.abs(plane - truth).max() < 0.05
    assert moves == pytest.approx(0.5, abs=0.08)


def refused(*words: str | Path) -> str:
    code, text = run("inspect", *words)
    assert code == 2, text
    return text


def test_what_is_missing_is_named(tmp_path: Path, stopped: Session) -> None:
    """The option that supplies it stands in the message."""
    bare = tmp_path / "bare.npy"
    with h5py.File(stopped.patterns) as file:
        np.save(bare, np.asarray(file["entry/data/data_000001"]))
    out = ("--out", tmp_path / "x.zarr")
    assert "--camera-length-mm and --detector-pixel-um" in refused(bare, *out)
    images = tmp_path / "images.npy"
    np.save(images, np.ones((6, 40, 40)))
    known = ("--reciprocal-pixel", "0.01")
    assert "--image-pixel-A" in refused(bare, *known, "--image", images, *out)
    np.save(images, np.ones((5, 40, 40)))
    assert "6 patterns and 5 images" in refused(bare, *known, "--image", images, *out)
    assert "holds 6 frames and not 2 x 4" in refused(bare, *known, "--scan-shape", "2,4", *out)
    np.save(tmp_path / "mask.npy", np.ones((9, 9)))
    assert "(9, 9)" in refused(bare, *known, "--mask", tmp_path / "mask.npy", *out)
    np.save(bare, np.ones((2, 64, 64)))
    assert "--centre" in refused(bare, *known, *out)
    assert not (tmp_path / "x.zarr").exists()
    with pytest.raises(DiffraganError, match=r"ends in \.zarr"):
        dg.inspect(bare, tmp_path / "x.h5")
