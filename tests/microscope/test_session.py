"""A virtual session keeps the laws of what it is made of."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from diffragan.errors import DiffraganError
from diffragan.files.store import open_simulation
from diffragan.microscope.exit_waves.by_abtem import exit_wave
from diffragan.microscope.exit_waves.field import Field
from diffragan.microscope.imaging import defocused_image
from diffragan.microscope.matter.carbon import carbon_structure_factor
from diffragan.microscope.session.exposures import Exposures, overlap
from diffragan.microscope.session.overview import Overview
from diffragan.microscope.session.raster import Beam, Raster
from diffragan.microscope.session.run import session_waves
from diffragan.microscope.session.square import Molecules, Square
from diffragan.settings import Settings
from session_world import clump, make_session, session_settings


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exit waves of one clump."""
    settings = session_settings(session__orientations=3)
    folder = tmp_path_factory.mktemp("waves")
    return session_waves([clump("one", 1, 130, 10.0)], folder / "w.zarr", settings, workers=1)


def exposed(waves: Path, places: list[tuple[float, float]], **values: object) -> Exposures:
    """A beam at 200, 200 Å over molecules at these places, and nothing else."""
    settings: Settings = session_settings(**values)
    n = len(places)
    zeros = np.zeros(n, np.int64)
    molecules = Molecules(np.array(places, float).reshape(n, 2), zeros, zeros, zeros - 1)
    raster = Raster(1, 1, np.full(2, 200.0), np.eye(2))
    square = Square((400.0, 400.0), raster, raster.positions(), molecules, (), None)
    half = settings.session.detector_px / 2
    return Exposures(square, open_simulation(waves), 3, (half, half), settings)


def test_a_beam_is_half_at_its_diameter_and_its_area_is_that_of_a_disc() -> None:
    beam = Beam(160.0, 16.0)
    assert beam.intensity(np.array([0.0, 80.0, 89.0])) == pytest.approx([1, 0.5, 0])
    assert beam.area_A2 == pytest.approx(math.pi * 80**2, rel=0.01)


def test_a_raster_is_its_parameters() -> None:
    rng = np.random.default_rng(0)
    raster = Raster(5, 7, rng.normal(size=2), rng.normal(size=(2, 2)), rng.normal(size=(3, 2)))
    again = Raster.of(5, 7, raster.parameters)
    np.testing.assert_allclose(again.positions(), raster.positions())
    plain = Raster(5, 7, raster.origin_A, raster.matrix_A).positions()
    np.testing.assert_allclose(plain[10], raster.origin_A + raster.matrix_A @ (1, 3))


@pytest.mark.parametrize("off", [0.0, 0.5])
def test_no_electron_is_lost(waves: Path, off: float) -> None:
    """The direct beam holds what was not scattered, wherever in a pixel it falls."""
    for places in ([], [(200.0, 200.0)]):
        exposures = exposed(waves, places)
        y, x = exposures.centre_px
        exposures = replace(exposures, centre_px=(y + off, x + off))
        expected = exposures.expected(0)
        assert expected.sum() == pytest.approx(1000 * exposures.beam.area_A2, rel=0.002)


@pytest.mark.parametrize("place", [(203.0, 196.0), (222.0, 178.0)])
@pytest.mark.parametrize("off", [(0.0, 0.0), (0.41, -0.3)])
def test_a_molecule_in_a_wide_beam_scatters_as_its_exit_wave(
    waves: Path, place: tuple[float, float], off: tuple[float, float]
) -> None:
    """|F(wave - 1)|² at the detector's frequencies, summed directly: with the molecule across the
    beam's middle and beside it, and the beam between pixels."""
    exposures = exposed(waves, [place])
    half = exposures.settings.session.detector_px // 2
    exposures = replace(exposures, centre_px=(half + off[0], half + off[1]))
    seen = exposures.expected(0)
    wave = exposures.scattered(0)
    side, n = len(wave), len(seen)
    pixel = exposures.optics.box_A / n
    x = np.arange(side)[None, :] * pixel
    for q in ((12, -7), (-20, 5), (3, 30)):
        turn = (q[0] - off[0]) * x.T + (q[1] - off[1]) * x
        phase = np.exp(-2j * math.pi / exposures.optics.box_A * turn)
        intensity = abs((wave * phase).sum()) ** 2 * pixel**4 / exposures.optics.box_A**2
        got = seen[n // 2 + q[0], n // 2 + q[1]]
        assert got == pytest.approx(1000 * intensity, rel=1e-3)


def test_where_the_beam_does_not_reach_nothing_scatters(waves: Path) -> None:
    far = exposed(waves, [(200.0, 300.0)]).expected(0)
    np.testing.assert_allclose(far, exposed(waves, []).expected(0))


def test_neighbours_apart_scatter_as_in_one_multislice(waves: Path) -> None:
    """Waves of single molecules, added, against both in one multislice: side by side no electron
    meets two of them."""
    one, settings = clump("one", 1, 130, 10.0), session_settings()
    field = Field(60.0, 24.0, 216, 3, 96)
    alone = exit_wave(one.numbers, one.positions_A, field, settings.energy_ev) - 1
    places = np.array([[-13.75, 0.0, 0.0], [13.75, 0.0, 0.0]])
    numbers = np.concatenate([one.numbers, one.numbers])
    atoms = np.concatenate([one.positions_A + place for place in places])
    both = exit_wave(numbers, atoms, field, settings.energy_ev) - 1
    step = round(13.75 / (60 / 96))
    added = np.roll(alone, -step, 1) + np.roll(alone, step, 1)
    true, approximate = (np.abs(np.fft.fft2(w)) ** 2 for w in (both, added))
    assert np.abs(true - approximate).sum() / true.sum() < 0.02


def test_the_overview_shows_a_molecule_as_its_image(waves: Path) -> None:
    """A molecule's patch is the image of its exit wave through the same lens."""
    overview = Overview(exposed(waves, [(200.0, 200.0)], session__overview_pixel_A=1.0))
    rows = np.arange(overview.shape[0])
    strip = overview._strip(rows, np.random.default_rng(0))
    exposures = overview.exposures
    store, image = exposures.store, exposures.settings.image
    wave = torch.from_numpy(exposures.scattered(0) + 1)[None]
    alone = defocused_image(wave, store.optics, image, store.n_px)[0].double().numpy()
    fine = round(overview.pixel_A / (store.optics.box_A / store.n_px))
    middle = round(200 / overview.pixel_A)
    reach = 8
    own = strip[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
    centre = store.n_px // 2
    span = slice(centre - reach * fine, centre + reach * fine + 1, fine)
    assert np.corrcoef(own.ravel(), alone[span, span].ravel())[0, 1] > 0.98


def test_damage_takes_the_detail_and_the_second_exposure_has_less(waves: Path) -> None:
    """Of coherent speckle less is left, and of electrons as many."""
    whole = exposed(waves, [(200.0, 200.0)])
    faded = exposed(waves, [(200.0, 200.0)], specimen__damage="grant_grigorieff",
                    pattern__dose_e_per_A2=10.0)  # fmt: skip
    a, b = whole.expected(0) / 1000, faded.expected(0) / 10
    ring = (whole.q.numpy() > 0.4) & (whole.q.numpy() < 0.7)
    ring = np.fft.fftshift(ring)
    assert b[ring].std() / b[ring].mean() < 0.7 * a[ring].std() / a[ring].mean()
    assert b[ring].sum() == pytest.approx(a[ring].sum(), rel=0.15)


def test_discs_overlap_as_they_must() -> None:
    assert overlap(np.array([0.0]), 50, 80) == pytest.approx(50**2 / 80**2)
    assert overlap(np.array([140.0]), 50, 80) == pytest.approx(0)
    half = overlap(np.array([80.0]), 8000.0, 80.0)  # nearly a straight edge through the middle
    assert overlap(np.array([8000.0]), 8000.0, 80.0) == pytest.approx(0.5, abs=0.01)
    assert half == pytest.approx(1)


def test_carbon_has_the_rings_of_carbon() -> None:
    """Amorphous films have rings near 2.1 and 1.2 Å; two shells of neighbours alone put them within
    a sixth of that."""
    q = torch.linspace(0.42, 1.0, 400, dtype=torch.float64)
    factor = carbon_structure_factor(q).numpy()
    half = int((q < 0.7).sum())
    first = float(q[factor[:half].argmax()])
    second = float(q[half + factor[half:].argmax()])
    assert 1 / first == pytest.approx(2.1, rel=1 / 6)
    assert 1 / second == pytest.approx(1.2, rel=1 / 6)


def test_what_was_interrupted_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are there are kept, and those that are not come out as they would have."""
    monkeypatch.setattr("diffragan.microscope.session.run.FRAMES_A_FILE", 8)
    small = session_settings(
        session__rows=4, session__columns=5, session__molecules=6, session__orientations=2,
        session__aggregates=1, session__ice_crystals=1, session__margin_A=60.0,
    )  # fmt: skip
    session = make_session(tmp_path / "s", small)
    with h5py.File(session / "scan.h5") as file:
        before = [file["entry/data"][k][()] for k in file["entry/data"]]
    assert [len(frames) for frames in before] == [8, 8, 4]
    (session / "scan.h5").unlink()
    (session / "scan_data_000002.h5").unlink()
    make_session(session, small)
    with h5py.File(session / "scan.h5") as file:
        for name, frames in zip(file["entry/data"], before, strict=True):
            np.testing.assert_array_equal(file["entry/data"][name][()], frames)
    with pytest.raises(DiffraganError, match="another --out"):
        make_session(session, session_settings())


def test_a_session_needs_doses(tmp_path: Path) -> None:
    with pytest.raises(DiffraganError, match="--dose"):
        make_session(tmp_path, session_settings(pattern__dose_e_per_A2="none"))
