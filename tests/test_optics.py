"""Laws of free space and of the lens, and agreement with abTEM's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffragan.fourier.grids import (
    double_angle_grid,
    even_fast_length,
    frequency_grid,
    resample,
)
from diffragan.microscope.imaging import defocused_image
from diffragan.optics import (
    Defocus,
    Optics,
    aberration,
    defocus_along,
    image_contrast,
    pattern_pixels,
    propagate,
    q_from_angle,
    transfer_function,
    wavelength_A,
)
from diffragan.settings import ImageSettings

ENERGY = 200e3


def random_wave(n: int = 48, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.complex(
        torch.randn(2, n, n, generator=generator, dtype=torch.float64),
        torch.randn(2, n, n, generator=generator, dtype=torch.float64),
    )


def test_known_wavelengths() -> None:
    """Tabulated relativistic wavelengths (Williams and Carter, table 1.2)."""
    assert wavelength_A(100e3) == pytest.approx(0.03701, abs=1e-5)
    assert wavelength_A(200e3) == pytest.approx(0.025079, abs=1e-6)
    assert wavelength_A(300e3) == pytest.approx(0.01969, abs=1e-5)
    assert 1 / q_from_angle(20, ENERGY) == pytest.approx(1.254, abs=1e-3)


def test_vacuum_leaves_a_plane_wave_and_the_intensity_alone() -> None:
    plane = torch.ones(1, 32, 32, dtype=torch.complex128)
    torch.testing.assert_close(propagate(plane, 20.0, ENERGY, 123.0), plane)
    wave = random_wave()
    moved = propagate(wave, 20.0, ENERGY, 500.0)
    torch.testing.assert_close((moved.abs() ** 2).sum((-2, -1)), (wave.abs() ** 2).sum((-2, -1)))
    assert not torch.allclose(moved, wave)


def test_propagation_adds_up_and_reverses() -> None:
    wave = random_wave()
    twice = propagate(propagate(wave, 20.0, ENERGY, 30.0), 20.0, ENERGY, 12.0)
    torch.testing.assert_close(twice, propagate(wave, 20.0, ENERGY, 42.0))
    torch.testing.assert_close(propagate(twice, 20.0, ENERGY, -42.0), wave)


def test_a_tilted_wave_picks_up_the_tilt_times_the_distance() -> None:
    """A plane wave of frequency q gains exp(-i pi lambda z q²), nothing else."""
    n, box = 32, 16.0
    x = torch.arange(n, dtype=torch.float64)
    wave = torch.exp(2j * math.pi * 3 * x / n)[None, None, :].expand(1, n, n)
    expected = wave * np.exp(-1j * math.pi * wavelength_A(ENERGY) * 200.0 * (3 / box) ** 2)
    torch.testing.assert_close(propagate(wave, box, ENERGY, 200.0), expected)


@pytest.mark.parametrize("defocus_A", [-1000.0, 700.0])
@pytest.mark.parametrize("focal_spread_A", [0.0, 40.0])
def test_transfer_function_is_abtems(defocus_A: float, focal_spread_A: float) -> None:
    """Same sign of defocus, same Cs; abTEM's focal spread is sqrt(2) of the standard deviation."""
    from abtem.transfer import CTF

    ctf = CTF(
        energy=ENERGY,
        defocus=defocus_A,
        Cs=1.2e7,
        semiangle_cutoff=12.0,
        focal_spread=focal_spread_A * math.sqrt(2),
        soft=False,
    )
    angle = np.linspace(0, 11.5e-3, 60)
    theirs = ctf._evaluate_from_angular_grid(angle, np.zeros_like(angle))
    q2 = torch.from_numpy((angle / wavelength_A(ENERGY)) ** 2)
    ours = transfer_function(
        q2,
        ENERGY,
        defocus_A=defocus_A,
        cs_mm=1.2,
        focal_spread_A=focal_spread_A,
        aperture_mrad=12.0,
    )
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-3)


def test_defocus_is_propagation_by_its_negative() -> None:
    q2 = frequency_grid(16, 10.0)
    chi = aberration(q2, ENERGY, defocus_A=-1000.0)
    torch.testing.assert_close(chi, math.pi * wavelength_A(ENERGY) * 1000.0 * q2)


def test_astigmatism_is_relions() -> None:
    """Its CTF (`CTF::initialise`, `CTF::getGamma`) has the defocus as a bilinear form of x and y,
    -Q^T diag(U, V) Q with Q a turn by the angle; abTEM has C12 and phi12 for the same."""
    from abtem.transfer import CTF

    defocus = Defocus(
        np.array([9000.0, -800.0]), np.array([8000.0, -1400.0]), np.array([30.0, 115.0])
    )
    n, box, cs_mm = 32, 40.0, 1.2
    q2, double = frequency_grid(n, box), double_angle_grid(n)
    along = defocus_along(torch.from_numpy(defocus.terms_A), double)
    found = aberration(q2, ENERGY, along, cs_mm).numpy()
    q = np.fft.fftfreq(n, box / n)
    y, x = np.meshgrid(q, q, indexing="ij")
    wavelength = wavelength_A(ENERGY)
    k1, k2 = math.pi * wavelength, math.pi / 2 * cs_mm * 1e7 * wavelength**3
    for chi, u, v, angle in zip(found, *vars(defocus).values(), strict=True):
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        turn = np.array([[cos, sin], [-sin, cos]])
        form = turn.T @ np.diag([-u, -v]) @ turn
        bilinear = form[0, 0] * x**2 + 2 * form[0, 1] * x * y + form[1, 1] * y**2
        np.testing.assert_allclose(chi, k1 * bilinear + k2 * (x**2 + y**2) ** 2, atol=1e-9)
        phi = np.arctan2(y, x)
        by_angle = (u + v) / 2 + (u - v) / 2 * np.cos(2 * (phi - np.radians(angle)))
        np.testing.assert_allclose(
            chi, -k1 * by_angle * q2.numpy() + k2 * q2.numpy() ** 2, atol=1e-9
        )
        theirs = CTF(
            energy=ENERGY, defocus=(u + v) / 2, Cs=cs_mm * 1e7, soft=False,
            C12=(v - u) / 2, phi12=math.radians(angle),
        )._evaluate_from_angular_grid(np.sqrt(q2.numpy()) * wavelength, phi)  # fmt: skip
        np.testing.assert_allclose(np.exp(-1j * chi), theirs, atol=2e-3)


def test_a_weak_objects_image_is_its_spectrum_times_the_contrast() -> None:
    """To first order in the phase, and with every property of the lens: defocus from the exit
    plane, spherical aberration, focal spread, aperture."""
    n, optics = 48, Optics(ENERGY, 40.0, 25.0)
    q2 = frequency_grid(n, optics.box_A)
    drawn = torch.randn(n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    phase = 1e-5 * torch.fft.ifft2(torch.fft.fft2(drawn) * (q2 < 0.4**2)).real
    exit_wave = propagate((1 + 1j * phase)[None], optics.box_A, ENERGY, optics.centre_to_exit_A)
    lens = {"defocus_A": -700.0, "cs_mm": 1.2, "focal_spread_A": 60.0, "aperture_mrad": 8.0}
    image = defocused_image(exit_wave, optics, ImageSettings(**lens), n)[0].double()
    expected = torch.fft.fft2(phase) * image_contrast(q2, optics, **lens)
    error = torch.fft.fft2(image - 1) - expected
    error[0, 0] = 0
    assert float(error.norm()) < 0.02 * float(expected.norm())


def test_resampling_keeps_values_and_inverts() -> None:
    n = 24
    y = torch.arange(n, dtype=torch.float64) / n
    wave = torch.cos(2 * math.pi * 3 * y)[:, None] * torch.sin(2 * math.pi * 2 * y)[None, :] + 0.3
    fine = resample(wave[None], 48)
    torch.testing.assert_close(fine[0, ::2, ::2], wave)
    torch.testing.assert_close(resample(fine, n)[0], wave)
    assert not fine.is_complex()


def test_grids_are_even_and_fast() -> None:
    assert pattern_pixels(70.0, 20.0, ENERGY) == 112
    for wanted in (1, 57, 113, 211, 1023):
        n = even_fast_length(wanted)
        assert n >= wanted
        assert n % 2 == 0
        rest = n
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        assert rest == 1
