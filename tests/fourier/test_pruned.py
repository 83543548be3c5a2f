"""Transforms that leave out what is cut or zero, against the plain ones."""

from __future__ import annotations

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
