"""Views of small made-up molecules, computed from their atoms without any grid of the package.

A molecule is a set of equal Gaussian atoms, a weak phase object: its transform is known at every
point of Fourier space, so patterns, images and the true volume are exact.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from diffragan.fourier.grids import even_fast_length
from diffragan.fourier.loops import WIDTH
from diffragan.fourier.slices import Slices, slices
from diffragan.fourier.volumes import radius_px
from diffragan.optics import Defocus, Optics, aberration, wavelength_A
from diffragan.reconstruction.maps.data_step import DataStep
from diffragan.reconstruction.maps.free_set import free_balls
from diffragan.reconstruction.maps.image_map import ring_power
from diffragan.reconstruction.maps.image_transfer import ImageTransfer, OwnDefocus
from diffragan.reconstruction.maps.views import Views
from diffragan.settings import ImageSettings

ENERGY_EV = 200e3
BOX_A, EDGE_A, APERTURE_A = 32.0, 2.0, 4.0
ATOM_A = 0.7  # standard deviation of an atom
ATOM_PHASE = 0.2  # rad Å², the integral of its phase shift: about that of two carbons
KDA_PER_ATOM = 0.024
_APART_A = 2.3


def molecule(
    seed: int, atoms: int = 60, axes_A: tuple[float, float, float] = (9.0, 7.0, 6.5)
) -> NDArray[np.float64]:
    """Atoms (atoms, 3) as x, y, z in Å: an ellipsoid with a piece missing, so chiral."""
    rng = np.random.default_rng(seed)
    found: list[NDArray[np.float64]] = []
    while len(found) < atoms:
        trial = rng.uniform(-1, 1, 3)
        if np.linalg.norm(trial) > 1 or (trial[0] > 0.2 and trial[1] > 0.1 and trial[2] > 0):
            continue
        trial = trial * axes_A
        if all(np.linalg.norm(trial - other) > _APART_A for other in found):
            found.append(trial)
    positions: NDArray[np.float64] = np.array(found)
    positions -= positions.mean(0)
    return positions


def mass_kda(positions: NDArray[np.float64]) -> float:
    """Molecular weight of a molecule."""
    return KDA_PER_ATOM * len(positions)


def transform(positions: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Fourier values (k,) at points q (k, 3), 1/Å as x, y, z, in units of the plane wave."""
    damping = np.exp(-2 * (math.pi * ATOM_A) ** 2 * (q**2).sum(-1))
    out = np.empty(len(q), dtype=np.complex128)
    for start in range(0, len(q), 8192):
        part = slice(start, start + 8192)
        out[part] = np.exp(-2j * math.pi * (q[part] @ positions.T)).sum(-1)
    out *= damping * ATOM_PHASE / BOX_A**2
    return out


def true_volume(
    positions: NDArray[np.float64], n: int, edge_A: float = EDGE_A, box_A: float = BOX_A
) -> Tensor:
    """The volume (n, n, n), FFT order, to a resolution; `box_A` is its side, with any padding."""
    axis, last = np.fft.fftfreq(n, 1 / n), np.arange(n // 2 + 1.0)
    z, y, x = np.meshgrid(axis, axis, last, indexing="ij")
    q = np.stack((x, y, z), -1).reshape(-1, 3) / box_A
    values = np.zeros(len(q), dtype=np.complex128)
    inside = np.linalg.norm(q, axis=1) <= 1 / edge_A
    values[inside] = transform(positions, q[inside])
    half = torch.from_numpy(values.reshape(n, n, -1))
    volume: Tensor = torch.fft.irfftn(half, s=(n, n, n), norm="forward").float()
    return volume


def rotations_of(count: int, seed: int) -> NDArray[np.float64]:
    """Random orientations (count, 3, 3)."""
    found: NDArray[np.float64] = Rotation.random(count, random_state=seed).as_matrix()
    return found


def pattern_mask(m: int, box_A: float = BOX_A, edge_A: float = EDGE_A) -> Tensor:
    """(m, m) bool: inside the edge, off the direct beam."""
    axis = torch.arange(m) - m // 2
    radius = torch.hypot(axis[:, None].double(), axis[None, :].double())
    return (radius <= box_A / edge_A) & (radius > 0.5)


def make_views(
    positions: NDArray[np.float64],
    count: int,
    *,
    seed: int = 0,
    dose: float | None = None,
    image_dose: float = 1000.0,
    mask: Tensor | None = None,
    edge_A: float = EDGE_A,
    image_shifts_A: NDArray[np.float64] | None = None,
    defocus: Defocus | None = None,
    left: float = 1.0,
    beside: float = 0.0,
) -> Views:
    """Views of a molecule in random orientations; doses in e/Å², `dose` None for exact patterns.
    Without a defocus of their own the images are at -1000 Å. Of the intensity a part `left` is
    coherent, the rest even, and `beside` times the mean of each ring lies beside it, all known.

    Patterns lie on the Ewald sphere; images hold their transfer times the flat slice, and noise.
    """
    rng = np.random.default_rng([seed, 3])
    optics = Optics(ENERGY_EV, BOX_A, 0.0)
    m = 2 * math.ceil(BOX_A / edge_A) + 2
    mask = pattern_mask(m, edge_A=edge_A) if mask is None else mask
    flat = slices(mask, BOX_A, wavelength_A(ENERGY_EV), curved=False)
    curved = slices(mask, BOX_A, wavelength_A(ENERGY_EV), curved=True)
    rotations = rotations_of(count, seed)
    ki = int((flat.radius <= BOX_A / APERTURE_A).sum())
    chi = aberration((flat.radius[:ki].double() / BOX_A) ** 2, ENERGY_EV, -1000.0)
    transfer = ImageTransfer((2 * torch.sin(chi)).float())
    curves = transfer.of(slice(0, count)).numpy().repeat(count, 0)
    if defocus is not None:
        transfer, curves = own_transfer(flat, ki, optics, defocus)
    noise = 1 / (image_dose * BOX_A**2)
    shifts = np.zeros((count, 2)) if image_shifts_A is None else image_shifts_A
    measured = np.empty((count, 2, len(flat)), dtype=np.float32)
    contrast = np.empty((count, ki), dtype=np.complex64)
    even = np.zeros(2 * len(flat))
    if left < 1 or beside:
        points = curved.points.double().numpy() / BOX_A
        every = [np.abs(transform(positions @ turn.T, points)) ** 2 for turn in rotations]
        even = (1 - left + beside) * ring_means(np.mean(every, 0), flat)
    for v, turn in enumerate(rotations):
        # k @ R for column vectors r' = R r: the atoms turn instead.
        turned = positions @ turn.T
        values = np.abs(transform(turned, curved.points.double().numpy() / BOX_A)) ** 2
        if left < 1 or beside:
            values = left * values + even
        if dose is not None:
            values = rng.poisson(values * dose * BOX_A**2) / (dose * BOX_A**2)
        values = values if dose is not None else np.sqrt(values)
        measured[v] = values.reshape(2, -1) * flat.valid.numpy() / left
        q = flat.points[:ki].double().numpy() / BOX_A
        ramp = np.exp(-2j * math.pi * (q[:, :2] @ shifts[v]))
        drawn = rng.normal(size=(2, ki)) * math.sqrt(noise / 2)
        contrast[v] = curves[v] * transform(turned, q) * ramp + drawn[0] + 1j * drawn[1]
    return Views(
        optics=optics,
        flat=flat,
        curved=curved,
        n=even_fast_length(2 * float(flat.radius.max()) + WIDTH + 1),
        measured=torch.from_numpy(measured),
        contrast=torch.from_numpy(contrast),
        transfer=transfer,
        image_noise=torch.full((count,), noise),
        rotations=torch.from_numpy(rotations).float(),
        shifts_A=torch.from_numpy(shifts).float(),
        weights=torch.ones(count),
        items=np.arange(count),
        electrons=None if dose is None else dose * BOX_A**2,
        fade=torch.full((len(flat),), left) if left < 1 else None,
        background=torch.from_numpy(even[: len(flat)] / left).float() if even.any() else None,
    )


def ring_means(values: NDArray[np.float64], flat: Slices) -> NDArray[np.float64]:
    """(2 k,) mean over each pixel's ring of 1 / box."""
    rings = np.tile((flat.radius + 0.5).long().numpy(), 2)
    means: NDArray[np.float64] = (np.bincount(rings, values) / np.bincount(rings).clip(min=1))[
        rings
    ]
    return means


def own_transfer(
    flat: Slices, ki: int, optics: Optics, defocus: Defocus
) -> tuple[ImageTransfer, NDArray[np.float64]]:
    """The package's transfer of images that differ in defocus, without an aperture, and the curves
    (v, ki) from RELION's formula."""
    x, y, _ = flat.points[:ki].double().numpy().T / BOX_A
    q2, phi = x**2 + y**2, np.arctan2(y, x)
    double = torch.from_numpy(np.stack((np.cos(2 * phi), np.sin(2 * phi))))
    terms = torch.from_numpy(defocus.terms_A)
    lens = ImageSettings(aperture_mrad=100)
    own = OwnDefocus(terms, torch.from_numpy(q2), double, optics, lens)
    u, v, angle = (column[:, None] for column in vars(defocus).values())
    along = (u + v) / 2 + (u - v) / 2 * np.cos(2 * (phi - np.deg2rad(angle)))
    curves = 2 * np.sin(-math.pi * optics.wavelength_A * along * q2)
    return ImageTransfer(torch.ones(ki), own), curves


def atoms_inside(mask: Tensor, positions: NDArray[np.float64], box_A: float = BOX_A) -> float:
    """Part of the atoms that lie in a mask (n, n, n) in FFT order."""
    n = mask.shape[-1]
    x, y, z = np.rint(positions * n / box_A).astype(int).T % n
    return float(mask.numpy()[z, y, x].mean())


def correlation(a: Tensor, b: Tensor) -> float:
    """Correlation of two volumes about their means."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    return float((a * b).sum() / (a.norm() * b.norm()))


def ball(n: int, part: float) -> Tensor:
    """(n, n, n) bool, FFT order: within a part of the box of the centre."""
    return radius_px(n) <= part * n


def relative(a: Tensor, b: Tensor) -> float:
    """Norm of the difference over that of b."""
    return float((a - b).norm() / b.norm())


def data_step(views: Views, *, curved: bool = True, free: Tensor | None = None) -> DataStep:
    """The data's projection of views, with the damping that runs use."""
    geometry = views.curved if curved else views.flat
    return DataStep(views, geometry, ring_power(views), 0.3, free)


def some_balls(views: Views) -> Tensor:
    """A tenth of Fourier space beyond ring 6, to be left out."""
    return free_balls(views.n, 1.0, float(views.flat.radius.max()), 0.1, 0, 6.0)
