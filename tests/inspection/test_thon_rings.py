"""Rings of carbon or ice in an image tell the size of its defocus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import mrcfile
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from diffragan.inspection.frames import open_frames
from diffragan.inspection.images import DEFOCI_A, shown_defocus, with_aberration
from diffragan.inspection.thon_rings import radial_power, thon_rings
from diffragan.optics import aberration
from diffragan.settings import load_settings

PIXEL_A, SETTINGS = 1.2, load_settings(overrides=["image.aperture_mrad=5"])


def film(defocus_A: float, dose: float = 20, seed: int = 0) -> NDArray[Any]:
    """Counts of a film of random phase at this defocus, through an aperture of 5 mrad."""
    rng, n = np.random.default_rng(seed), 700
    f = np.fft.fftfreq(n, PIXEL_A)
    q2 = f[:, None] ** 2 + f[None] ** 2
    chi = aberration(torch.from_numpy(q2), 200e3, defocus_A, 0.0).numpy()
    phase = np.fft.fft2(rng.standard_normal((n, n))) / np.sqrt(1 + q2 / 0.02)
    passed = np.sqrt(q2) < 5e-3 / 0.025079
    contrast = np.fft.ifft2(2 * np.sin(chi) * phase * passed).real
    contrast *= 0.06 / contrast.std()
    counts: NDArray[Any] = rng.poisson((1 + contrast).clip(0) * dose * PIXEL_A**2).astype(float)
    return counts


@pytest.mark.parametrize("defocus_A", [-2500.0, -6000.0, 4000.0, 12_000.0])
def test_rings_tell_the_size_of_the_defocus(defocus_A: float) -> None:
    """To 1 %, from 20 e/Å² of a film."""
    rings = thon_rings(film(defocus_A), PIXEL_A, SETTINGS, DEFOCI_A)
    assert rings is not None
    assert rings.defocus_A == pytest.approx(abs(defocus_A), rel=0.01)


def test_where_there_are_no_rings_none_are_seen() -> None:
    """Counting noise, and a defocus whose second zero the aperture stops."""
    noise = np.random.default_rng(1).poisson(30, (700, 700)).astype(float)
    assert thon_rings(noise, PIXEL_A, SETTINGS, DEFOCI_A) is None
    assert thon_rings(film(-1000.0), PIXEL_A, SETTINGS, DEFOCI_A) is None
    assert thon_rings(noise[:40, :40], PIXEL_A, SETTINGS, DEFOCI_A) is None


def test_white_noise_has_the_same_power_everywhere() -> None:
    noise = np.random.default_rng(2).poisson(100, (700, 700)).astype(float)
    q, power = radial_power(noise, PIXEL_A)
    assert q[1] == pytest.approx(1 / 400, rel=0.01)
    assert np.std(power[5:]) / np.mean(power[5:]) < 0.1


def test_the_lens_of_a_file_is_used(tmp_path: Path) -> None:
    """Unless another was given by hand."""
    with h5py.File(tmp_path / "image.h5", "w") as file:
        file["image"] = film(4000.0)[None]
        file.attrs["cs_mm"] = 2.7
    frames = open_frames([tmp_path / "image.h5"], "image", None)
    assert with_aberration(frames, SETTINGS).image.cs_mm == 2.7
    by_hand = load_settings(overrides=["image.cs_mm=1.2"])
    assert with_aberration(frames, by_hand).image.cs_mm == 1.2


def test_a_file_without_a_defocus_shows_it(tmp_path: Path) -> None:
    """Its sign is the setting's, and said to be open."""
    with mrcfile.new(tmp_path / "film.mrc") as mrc:
        mrc.set_data(film(4000.0).astype(np.float32))
    frames = open_frames([tmp_path / "film.mrc"], "image", None)
    told = shown_defocus(frames, PIXEL_A, SETTINGS)
    assert told is not None
    assert told.value_A == pytest.approx(-4000, rel=0.01)
    assert not told.signed
