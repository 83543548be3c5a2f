"""Transforms that leave out what is cut or zero, against the plain ones."""

from __future__ import annotations

import numpy as np
import torch

from diffragan.fourier.pruned import corners, cut_spectrum, fine_volume

SIDE, N = 30, 16


def test_a_cut_spectrum_is_the_middle_of_the_plain_one() -> None:
    """Leaving out what is cut changes nothing of what is kept; unpaired planes are 0."""
    volume = torch.randn((SIDE,) * 3, generator=torch.Generator().manual_seed(0))
    cut, plain = cut_spectrum(volume, N), torch.fft.rfftn(volume)
    for corner in corners(N):
        torch.testing.assert_close(cut[corner], plain[corner], rtol=1e-5, atol=1e-3)
        cut[corner] = 0
    assert float(cut.abs().max()) == 0


def test_a_fine_volume_has_the_coarse_spectrum() -> None:
    """There and back is the identity but for the planes without mates."""
    volume = torch.randn((SIDE,) * 3, generator=torch.Generator().manual_seed(1))
    spectrum = cut_spectrum(volume, N) / SIDE**3
    back = cut_spectrum(fine_volume(spectrum, SIDE), N) / SIDE**3
    torch.testing.assert_close(back, spectrum, rtol=1e-5, atol=1e-5)


def test_planes_and_rows_that_hold_a_volume_are_enough() -> None:
    """What is zero beside them adds nothing there, and what is asked for comes back the same."""
    z, y = np.array([0, 1, 7, 29]), np.array([2, 3, 4, 28])
    volume = torch.zeros((SIDE,) * 3)
    block = torch.randn((4, 4, SIDE), generator=torch.Generator().manual_seed(2))
    volume[z[:, None], y] = block
    spectrum = cut_spectrum(volume, N)
    torch.testing.assert_close(cut_spectrum(volume, N, (z, y)), spectrum, rtol=1e-5, atol=1e-4)
    asked, whole = (fine_volume(spectrum / SIDE**3, SIDE, rows) for rows in ((z, y), None))
    torch.testing.assert_close(asked[z[:, None], y], whole[z[:, None], y], rtol=1e-5, atol=1e-6)


def test_nothing_has_no_spectrum() -> None:
    nothing = np.array([], np.int64)
    spectrum = cut_spectrum(torch.zeros((SIDE,) * 3), N, (nothing, nothing))
    assert float(spectrum.abs().max()) == 0
    assert float(fine_volume(spectrum + 1, SIDE, (nothing, nothing)).abs().max()) == 0
