"""The multislice in torch: a tabulated atom, abTEM where abTEM is exact, any place between pixels,
and a device that is not the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from conftest import cluster
from diffragan.errors import DiffraganError
from diffragan.files.store import open_simulation
from diffragan.fourier.grids import frequency_grid
from diffragan.microscope.exit_waves import by_abtem, by_torch
from diffragan.microscope.exit_waves.field import Field
from diffragan.microscope.exit_waves.form_factors import lobato_form_factor_A, phase_shift_per_A
from diffragan.microscope.simulate import simulate
from diffragan.optics import propagate
from diffragan.settings import load_settings
from quick_runs import QUICK
from stores_alike import differing
from strict_device import strict_device

ENERGY_EV = 200e3
# The authors' pixels of 0.05 Å and slices of 0.5 Å.
FINE = Field(box_A=18.0, depth_A=18.0, grid_px=360, slices=36, stored_px=64)
COARSE = replace(FINE, grid_px=96, slices=6)
RINGS_PER_A = (0.01, 0.2, 0.4, 0.6, 0.8, 1.2)
BALL = cluster("ball", 5, atoms=90, radius_A=7.0)

pytestmark = pytest.mark.usefixtures("one_thread")


def spectrum(wave: NDArray[np.complex64]) -> Tensor:
    """Fourier coefficients, beam amplitude 1, in double precision."""
    found: Tensor = torch.fft.fft2(torch.from_numpy(wave).to(torch.complex128), norm="forward")
    return found


def ring_errors(found: Tensor, expected: Tensor, box_A: float) -> list[float]:
    """norm(found - expected) / norm(expected) in every ring, phases included."""
    q = frequency_grid(found.shape[-1], box_A).sqrt()
    rings = [(q > low) & (q <= high) for low, high in pairwise(RINGS_PER_A)]
    return [float((found - expected)[r].norm() / expected[r].norm()) for r in rings]


def on_pixels(field: Field) -> NDArray[np.float64]:
    """The ball's atoms, each moved across the beam to a pixel of the field."""
    pixel = field.box_A / field.grid_px
    places = BALL.positions_A.copy()
    places[:, :2] = np.round(places[:, :2] / pixel) * pixel
    return places


def test_vacuum_leaves_the_wave_alone() -> None:
    far = np.array([[100.0, 0.0, 0.0]])
    np.testing.assert_array_equal(by_torch.exit_wave(np.array([6]), far, FINE, ENERGY_EV), 1)


def test_intensity_is_conserved() -> None:
    """A real potential absorbs nothing."""
    wave = by_torch.exit_wave(BALL.numbers, BALL.positions_A, FINE, ENERGY_EV)
    assert float((np.abs(wave) ** 2).mean()) == pytest.approx(1.0, abs=2e-4)


def test_one_atom_scatters_as_tabulated() -> None:
    """A hydrogen anywhere between pixels, to the first order, with the phase of its place."""
    place = np.array([[1.2345, -2.3456, 0.5]])
    q2 = frequency_grid(COARSE.stored_px, COARSE.box_A)
    wave = by_torch.exit_wave(np.array([1]), place, COARSE, ENERGY_EV)
    table = lobato_form_factor_A(1, q2) * phase_shift_per_A(ENERGY_EV, COARSE.box_A)
    q = torch.fft.fftfreq(COARSE.stored_px, COARSE.box_A / COARSE.stored_px).double()
    at = torch.from_numpy(place[0, :2]) + COARSE.box_A / 2
    ramp = torch.exp(-2j * torch.pi * (q[:, None] * at[1] + q[None] * at[0]))
    # From the entrance of its slice, 9 Å down the beam, to the exit, another 9 Å.
    there = torch.fft.ifft2(1j * table * ramp)[None]
    expected = torch.fft.fft2(propagate(there, COARSE.box_A, ENERGY_EV, 9.0)[0])
    band = (q2 > 0.2**2) & (q2 < 1.0)
    found = spectrum(wave)
    assert float((found - expected)[band].norm() / expected[band].norm()) < 0.02


def test_it_is_abtem_where_abtem_is_exact() -> None:
    """Within 0.1 % on the authors' grid in every ring, phases included.

    abTEM shares an atom out among the four pixels around it, which costs 0.4 % at 0.8 1/Å. On a
    pixel nothing is shared out, and what it then divides by stays within 0.04 %.
    """
    places = on_pixels(FINE)
    known = by_abtem.exit_wave(BALL.numbers, places, FINE, ENERGY_EV)
    here = by_torch.exit_wave(BALL.numbers, places, FINE, ENERGY_EV)
    assert max(ring_errors(spectrum(here), spectrum(known), FINE.box_A)) < 1e-3


def test_a_coarse_grid_errs_less_than_abtem_s() -> None:
    """Against a fine grid with the same slices, in every ring; atoms lie between pixels here."""
    sharp = replace(COARSE, grid_px=720)
    truth = spectrum(by_torch.exit_wave(BALL.numbers, BALL.positions_A, sharp, ENERGY_EV))
    errors = [
        ring_errors(spectrum(by(BALL.numbers, BALL.positions_A, COARSE, ENERGY_EV)), truth, 18.0)
        for by in (by_torch.exit_wave, by_abtem.exit_wave)
    ]
    assert all(ours < 0.01 for ours in errors[0][:4])
    assert all(ours < theirs / 1.5 for ours, theirs in zip(*errors, strict=True))


@pytest.fixture
def fresh() -> Iterator[None]:
    """What is kept lies on a device that ends with the test."""
    yield
    by_torch._form.cache_clear()
    by_torch._propagator.cache_clear()


def test_another_device_gives_the_same(fresh: None) -> None:
    """And nothing is computed on the CPU by mistake."""
    here = by_torch.exit_wave(BALL.numbers, BALL.positions_A, COARSE, ENERGY_EV)
    with strict_device() as device:
        there = by_torch.exit_wave(BALL.numbers, BALL.positions_A, COARSE, ENERGY_EV, device)
    np.testing.assert_allclose(there, here, atol=1e-6)


def test_a_store_by_torch(tmp_path: Path) -> None:
    """Interrupted and continued it has the same bytes, and its header tells the engine."""
    settings = load_settings(
        overrides=[*QUICK, "simulate.orientations=20", "simulate.engine=torch"]
    )
    simulate([BALL], tmp_path / "whole.zarr", settings, workers=1)

    def stop(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate([BALL], tmp_path / "again.zarr", settings, workers=1, progress=stop)
    simulate([BALL], tmp_path / "again.zarr", settings, workers=1)
    assert differing(tmp_path / "whole.zarr", tmp_path / "again.zarr") == []
    store = open_simulation(tmp_path / "whole.zarr")
    assert store.settings["simulate"]["engine"] == "torch"
    assert np.abs(store.exit_wave([3]) - 1).max() > 0.1


def test_abtem_has_no_gpu_here(tmp_path: Path) -> None:
    with pytest.raises(DiffraganError, match=r"simulate\.engine=torch"):
        simulate([BALL], tmp_path / "x.zarr", load_settings(overrides=QUICK), device="cuda")
