"""Waves with known orientations merged into a map: phased ones, or the true ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.files.store import ResultStore
from diffragan.fourier.correlation import ring_index
from diffragan.fourier.slices import Extractor, Inserter, Slices
from diffragan.fourier.volumes import radius_px, spectrum_volume, volume_spectrum
from diffragan.microscope.imaging import pattern_mask
from diffragan.settings import settings_from_dict

Waves = Callable[[NDArray[np.int64]], NDArray[np.complex64]]


BLOCK = 32
_DAMPING = 0.1  # slices that a voxel must hold before their mean counts in full
_CORRECTIONS = 2  # passes over what the map does not yet explain
_BALL = 0.45  # of the volume's side: corrections beyond it are the window's


def object_spectrum(waves: Tensor) -> Tensor:
    """(b, m * m) complex64 Fourier values of o, where wave = beam (1 + i o), space's origin at
    the field's centre, zero frequency at [m//2, m//2].

    Args:
        waves: (b, m, m) complex, at the molecule's centre plane.
    """
    m = waves.shape[-1]
    spectrum = torch.fft.fftshift(
        torch.fft.fft2(torch.fft.ifftshift(waves, dim=(-2, -1)), norm="forward"), dim=(-2, -1)
    )
    beam = spectrum[:, m // 2, m // 2]
    turned = spectrum * (torch.sgn(beam).conj() / 1j)[:, None, None]
    result: Tensor = turned.flatten(-2).to(torch.complex64)
    return result


def wave_from_object(spectrum: Tensor, beam: Tensor, m: int) -> Tensor:
    """Waves (b, m, m) from the spectra (b, m * m) of o and the beams' amplitudes (b,)."""
    with_beam = (1j * spectrum).reshape(-1, m, m)
    with_beam[:, m // 2, m // 2] = beam.to(with_beam)
    waves = torch.fft.ifft2(torch.fft.ifftshift(with_beam, dim=(-2, -1)), norm="forward")
    result: Tensor = torch.fft.fftshift(waves, dim=(-2, -1))
    return result


def slices_of_waves(waves: Tensor, geometry: Slices) -> Tensor:
    """(b, k) or (b, 2 k) values of waves (b, m, m) on the slices that a geometry takes.

    The flat slice takes the mean of a pixel and its mate's conjugate: a real object's part.
    """
    spectrum = object_spectrum(waves)
    pixel, mate = spectrum[:, geometry.pixel], spectrum[:, geometry.mate].conj()
    if geometry.curved:
        return torch.cat((pixel, mate), 1) * geometry.valid.reshape(-1)
    valid = geometry.valid.float()
    return (pixel * valid[0] + mate * valid[1]) / valid.sum(0).clamp_min(1)


def merge_waves(
    waves: Waves,
    items: NDArray[np.int64],
    rotations: Tensor,
    geometry: Slices,
    n: int,
    *,
    weight: Callable[[NDArray[np.int64]], NDArray[np.float32]] | None = None,
) -> Tensor:
    """The volume (n, n, n), FFT order, that waves make together.

    A voxel's mean over the slices near it smooths what changes from voxel to voxel, by a quarter
    of the amplitude in the innermost shells. So what the map's own slices lack is merged again,
    twice.

    Args:
        waves: gives the waves (b, m, m) of some items. rotations: (len(items), 3, 3).
        weight: gives the trust (b, rings) of some items, ring r at r / box; none: 1.
    """
    device = rotations.device
    blocks = [slice(k, k + BLOCK) for k in range(0, len(items), BLOCK)]

    def weights(block: slice) -> Tensor:
        return _weights(items[block], geometry, weight).to(device)

    counted = Inserter(n, device)
    for block in blocks:
        counted.add((weights(block) + 0j).contiguous(), rotations[block], geometry.points)
    share = 1 / (counted.spectrum().real + _DAMPING)
    ball = radius_px(n, device) <= _BALL * n
    volume = torch.zeros(n, n, n, device=device)
    for round_ in range(1 + _CORRECTIONS):
        sliced, total = Extractor(volume_spectrum(volume)), Inserter(n, device)
        for block in blocks:
            values = slices_of_waves(torch.from_numpy(waves(items[block])).to(device), geometry)
            values = values - sliced(rotations[block], geometry.points)
            total.add((values * weights(block)).contiguous(), rotations[block], geometry.points)
        change = spectrum_volume(total.spectrum() * share)
        volume = volume + (change * ball if round_ else change)
    return volume


def _weights(
    items: NDArray[np.int64],
    geometry: Slices,
    weight: Callable[[NDArray[np.int64]], NDArray[np.float32]] | None,
) -> Tensor:
    """(b, k) or (b, 2 k) how much each value of some items counts; 0 where none was measured."""
    each = geometry.valid.reshape(-1) if geometry.curved else geometry.valid.any(0)
    if weight is None:
        return each.float().expand(len(items), -1)
    rings = (geometry.radius + 0.5).long()
    rings = rings.repeat(2) if geometry.curved else rings
    trust = torch.from_numpy(weight(items)).float().to(each.device)
    return each * trust[:, rings.clamp_max(trust.shape[1] - 1)].clamp_min(0)


def merge_stored(
    results: ResultStore, rows: NDArray[np.int64], rotations: Tensor, geometry: Slices, n: int
) -> Tensor:
    """The volume (n, n, n), FFT order, of some waves of a result store, weighted by their trust
    where it tells one.

    Args:
        rows: their places in the store. rotations: (len(rows), 3, 3).
    """

    def waves(some: NDArray[np.int64]) -> NDArray[np.complex64]:
        wave = results.wave(some)
        assert wave is not None
        return wave

    def trust(some: NDArray[np.int64]) -> NDArray[np.float32]:
        assert results.trust is not None
        return results.trust[some]

    weight = None if results.trust is None else trust
    return merge_waves(waves, rows, rotations, geometry, n, weight=weight)


def measured_band(results: ResultStore) -> Tensor:
    """(m, m) bool, zero frequency at [m//2, m//2]: where the patterns were measured, the direct
    beam left out.

    A store of an earlier version does not record it; then it is what the settings say. The waves
    do not tell: rounding leaves none of their frequencies at nothing.
    """
    wave = results.wave([0])
    assert wave is not None
    m = wave.shape[-1]
    if results.has("pattern_mask"):
        mask = torch.from_numpy(results.read("pattern_mask").astype(bool))
    else:
        settings = settings_from_dict(results.settings)
        mask = pattern_mask(m, results.optics, settings.pattern)
    mask[m // 2, m // 2] = False
    return mask


def phased_band(results: ResultStore, measured: Tensor) -> Tensor:
    """(m, m) bool: of the measured band the rings in which any view's phases are trusted.

    Raises:
        DiffraganError: there are none.
    """
    if results.trust is None:
        return measured
    rings = ring_index(measured.shape[-1])
    trusted = torch.from_numpy(np.append((results.trust > 0).any(0), False))
    band = measured & trusted[rings.clamp_max(len(trusted) - 1)]
    if not bool(band.any()):
        raise DiffraganError(
            f"The phases of {results.path} are trusted nowhere, so they make no map; phase the "
            "pairs by another method."
        )
    return band
