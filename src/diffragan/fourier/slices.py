"""Central slices of a 3D Fourier volume: taken out, put back, and their exact transpose.

Volumes are (z, y, x), real, of one side n, with the rotation centre at voxel [0, 0, 0] (FFT order;
`centred` and `uncentred` move it to [n//2]*3 and back). A volume's spectrum is its `rfftn`,
(n, n, n // 2 + 1). View v with orientation R (r' = R r) shows the slice k = (qx, qy, qz) @ R,
where qz = 0 on the flat central slice and qz = - lambda q² / 2 on the Ewald sphere: a scatterer
z downstream of the centre plane has its wave carried back by z, which multiplies it by
exp(+ i pi lambda z q²) (DeRosier, Ultramicroscopy 81, 83 (2000)).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.fourier.interpolation import extract_points, insert_points, loop_threads
from diffragan.fourier.loops import PAD, WIDTH
from diffragan.fourier.volumes import deconvolution


@dataclass(frozen=True)
class Slices:
    """Which Fourier pixels of a pattern are used, and where they lie in 3D.

    Pixels come in Friedel pairs, of which `pixel` is the one with x > 0 (or x = 0, y > 0). Because
    the volume is real, the mate of pixel (x, y) on the sphere is the conjugate of the value at
    (x, y, - qz): so both are told by points over the same half plane.

    points: (k, 3) float32, x, y, z in voxels of the volume's Fourier grid, for the flat slice;
        (2 k, 3) for the curved one, first the pixels, then their mates (values conjugated).
    pixel, mate: (k,) int64, flat index in the (m, m) pattern, zero frequency at [m//2, m//2].
    valid: (2, k) bool, whether the pixel and its mate are measured.
    radius: (k,) in-plane distance from the origin in pixels of the pattern, 1 / box.
    padding: side of the volume in sides of the field; points are radius x padding.
    """

    points: Tensor
    pixel: Tensor
    mate: Tensor
    valid: Tensor
    radius: Tensor
    m: int
    curved: bool
    padding: float = 1.0

    def __len__(self) -> int:
        return len(self.pixel)

    def inner(self, count: int) -> Tensor:
        """Points of the first `count` pixel pairs, (count, 3) or (2 count, 3)."""
        if not self.curved:
            return self.points[:count]
        return torch.cat((self.points[:count], self.points[len(self) : len(self) + count]))

    def leading(self, count: int) -> Slices:
        """The first `count` pixel pairs alone."""
        return replace(
            self,
            points=self.inner(count),
            pixel=self.pixel[:count],
            mate=self.mate[:count],
            valid=self.valid[:, :count],
            radius=self.radius[:count],
        )


def slices(
    mask: Tensor, box_A: float, wavelength_A: float, *, curved: bool, padding: float = 1.0
) -> Slices:
    """The valid pixels of a pattern as points of the volume, innermost ring first.

    Rings run outward, so that a resolution limit is a leading run of points, and along a ring
    neighbours follow each other, which keeps the volume's voxels in the processor's cache.

    Args:
        mask: (m, m) bool, zero frequency at [m//2, m//2]. A pair counts if either pixel is valid.
        box_A: side of the field. wavelength_A: of the electrons, for the sphere's curvature.
        padding: side of the volume in sides of the field; above 1 for a molecule that nearly
            fills its field, where interpolation between 1 / box is too coarse.
    """
    m = mask.shape[-1]
    axis = torch.arange(m) - m // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    pixel = torch.arange(m * m).reshape(m, m)
    mate = ((m // 2 - y) % m) * m + (m // 2 - x) % m
    paired = (x > -(m // 2)) & (y > -(m // 2))
    valid = mask.cpu() & paired
    either = valid | (valid.flatten()[mate] & paired)
    first = (either & ((x > 0) | ((x == 0) & (y > 0)))).flatten()
    xs, ys = x.flatten()[first].double(), y.flatten()[first].double()
    ring = torch.floor((xs**2 + ys**2).sqrt() + 0.5)
    order = torch.argsort(ring * 10 + torch.atan2(ys, xs), stable=True)
    xs, ys = xs[order], ys[order]
    pixel, mate = pixel.flatten()[first][order], mate.flatten()[first][order]
    both = torch.stack((valid.flatten()[pixel], valid.flatten()[mate]))
    if curved:
        z = -0.5 * wavelength_A / box_A * (xs**2 + ys**2)
        points = torch.cat((torch.stack((xs, ys, z), -1), torch.stack((xs, ys, -z), -1)))
    else:
        points = torch.stack((xs, ys, torch.zeros_like(xs)), -1)
    radius = torch.hypot(xs, ys).float()
    points = (points * padding).float().contiguous()
    return Slices(points, pixel, mate, both, radius, m, curved, padding)


def extract(spectrum: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
    """Fourier values (v, k) complex64 on the slices of v views.

    Args:
        spectrum: from `volume_spectrum`, (n, n, n // 2 + 1).
        rotations: (v, 3, 3) float32. points: (k, 3) or (v, k, 3) float32, in voxels.

    Raises:
        DiffraganError: a point lies too close to the edge of the volume's Fourier grid.
    """
    return Extractor(spectrum)(rotations, points)


class Extractor:
    """Takes slices out of one spectrum, of any number of batches; arguments as `extract`."""

    def __init__(self, spectrum: Tensor) -> None:
        self._padded = _padded(spectrum)

    def __call__(self, rotations: Tensor, points: Tensor) -> Tensor:
        _check_reach(self._padded.shape[0], points)
        return extract_points(self._padded, rotations, points)


class Inserter:
    """Collects slices of any number of batches into one spectrum."""

    def __init__(self, n: int, device: torch.device, parts: int | None = None) -> None:
        parts = (parts or loop_threads()) if device.type == "cpu" else 1
        shape = (parts, n, n, n // 2 + 1 + 2 * PAD)
        self._sum = torch.zeros(shape, dtype=torch.complex64, device=device)

    def add(self, values: Tensor, rotations: Tensor, points: Tensor) -> None:
        """Add values (v, k), already weighted, on their slices; arguments as `extract`."""
        _check_reach(self._sum.shape[1], points)
        insert_points(self._sum, values, rotations, points)

    def spectrum(self) -> Tensor:
        """What was collected, each value with its Friedel mate: (n, n, n // 2 + 1)."""
        return _folded(self._sum.sum(0))


def volume_gradient(collected: Tensor) -> Tensor:
    """The gradient in a volume (n, n, n), FFT order, of a function of its slices.

    Completes the exact transpose of `volume_spectrum` followed by `extract`: where g is the
    gradient in the slices' values (dL = Re sum conj(g) dP), `collected` is the spectrum of an
    `Inserter` that g was added to.
    """
    n = collected.shape[0]
    volume = torch.fft.irfftn(collected, s=(n, n, n), norm="forward") * 0.5 / n**3
    result: Tensor = volume * deconvolution(n, collected.device)
    return result


def _check_reach(n: int, points: Tensor) -> None:
    reach = float(torch.linalg.vector_norm(points, dim=-1).max()) if points.numel() else 0.0
    if reach + WIDTH / 2 > n // 2 + 0.5:
        raise DiffraganError(
            f"Slices reach {reach:.1f} voxels from the origin and the volume's Fourier grid ends "
            f"at {n // 2}; use a larger volume."
        )


def _mirror(plane: Tensor) -> Tensor:
    """Columns (n, n, c) at (-z, -y)."""
    return torch.roll(plane.flip(0, 1), (1, 1), (0, 1))


def _padded(spectrum: Tensor) -> Tensor:
    n = spectrum.shape[0]
    out = spectrum.new_zeros((n, n, n // 2 + 1 + 2 * PAD), dtype=torch.complex64)
    out[..., PAD : PAD + n // 2 + 1] = spectrum
    out[..., :PAD] = _mirror(spectrum[..., 1 : PAD + 1]).flip(-1).conj()
    return out


def _folded(padded: Tensor) -> Tensor:
    n = padded.shape[0]
    spectrum = padded[..., PAD : PAD + n // 2 + 1].clone()
    spectrum[..., 1 : PAD + 1] += _mirror(padded[..., :PAD]).flip(-1).conj()
    spectrum[..., 0] += _mirror(padded[..., PAD : PAD + 1])[..., 0].conj()
    return spectrum
