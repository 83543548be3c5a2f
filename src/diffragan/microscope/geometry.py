"""Where a detector's pixels lie in the pattern: centre, camera length, elliptical distortion; as
they are made, and as they are found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from torch import Tensor

from diffragan.fourier.slices import Slices
from diffragan.microscope.noise import GEOMETRY
from diffragan.settings import DetectorSettings

PROFILE_PARTS = 8  # of a ring, in the mean of what lies beside a molecule
OVERSAMPLED = 4  # far field computed on a grid so much finer than 1 / box

Grid = NDArray[np.float64]


def seen_by_pixels(
    n_px: int, centre_px: tuple[float, float], ellipse: float = 0.0, ellipse_deg: float = 0.0
) -> tuple[Grid, Grid]:
    """(n, n) y and x, in pixels from the beam, of the undistorted pattern at each pixel of a
    detector.

    Args:
        centre_px: (y, x) of the beam. ellipse, ellipse_deg: distances from it come out longer by
            this fraction along the angle (from x towards y) and shorter across it.
    """
    y, x = np.indices((n_px, n_px), dtype=np.float64)
    dy, dx = y - centre_px[0], x - centre_px[1]
    turn = math.radians(ellipse_deg)
    along = (math.cos(turn) * dx + math.sin(turn) * dy) / (1 + ellipse)
    across = (-math.sin(turn) * dx + math.cos(turn) * dy) / (1 - ellipse)
    return (
        math.sin(turn) * along + math.cos(turn) * across,
        math.cos(turn) * along - math.sin(turn) * across,
    )


def far_field(scattered: NDArray[np.complexfloating]) -> Grid:
    """(k n, k n) intensity of what an object (n, n) scatters out of the beam, zero frequency in the
    middle, on a grid `OVERSAMPLED` times as fine as 1 / its field; `fft2` unscaled."""
    n = scattered.shape[-1]
    wide = np.zeros((n * OVERSAMPLED,) * 2, np.complex128)
    wide[:n, :n] = scattered
    result: Grid = np.fft.fftshift(np.abs(np.fft.fft2(wide)) ** 2)
    return result


def at(values: Grid, y: Grid, x: Grid, *, order: int = 3) -> Grid:
    """Values (n, n), zero in the middle, at places y, x in their pixels from there."""
    middle = len(values) // 2
    result: Grid = map_coordinates(values, (middle + y, middle + x), order=order, mode="nearest")
    return result


def as_detected(
    wave: Tensor,
    direct: Tensor,
    smooth: Tensor,
    m: int,
    detector: DetectorSettings,
    seeds: Sequence[int],
) -> Tensor:
    """Intensities (b, m, m), zero frequency at [m // 2, m // 2], as a detector shows them whose
    centre, camera length and roundness are off; each item's errors by its seed.

    Args:
        wave: (b, y, x) Fourier values, FFT order. direct: (b,) complex, of the direct beam in it.
        smooth: (b, y, x) intensity beside it.
    """
    out = []
    for one, beam, beside, seed in zip(wave, direct, smooth, seeds, strict=True):
        rng = np.random.default_rng([seed, GEOMETRY])
        off = detector.centre_error_px * rng.standard_normal(2)
        longer = 1 + detector.scale_error * float(rng.standard_normal())
        centre = (m // 2 + float(off[0]), m // 2 + float(off[1]))
        y, x = seen_by_pixels(m, centre, detector.ellipse, detector.ellipse_deg)
        scattered = one.clone()
        scattered[0, 0] -= beam
        n = scattered.shape[-1]
        space = torch.fft.ifft2(scattered, norm="forward").numpy()
        fine = far_field(space) / n**4
        shown = at(fine, OVERSAMPLED * y / longer, OVERSAMPLED * x / longer).clip(min=0)
        even = np.fft.fftshift(beside.numpy())
        shown += at(even, y / longer, x / longer, order=1).clip(min=0)
        # A pixel of a longer camera sees less of the pattern.
        shown /= longer**2 * (1 + detector.ellipse) * (1 - detector.ellipse)
        shown += float(beam.abs()) ** 2 * _spot(m, centre)
        out.append(torch.from_numpy(shown))
    return torch.stack(out)


@dataclass(frozen=True)
class PatternErrors:
    """In what each of v patterns differs from what is told of all, as far as a run has found it.

    centre_px: (v, 2) x and y of the beam from the middle pixel, in pixels of 1 / field. scale: (v,)
    by which the camera is longer. ellipse: (2,) by which distances come out longer along x, and
    along the diagonal, the same in all patterns: e cos 2a and e sin 2a for an ellipse along angle
    a. beside: (v,) what scatters beside the molecule, in parts of the mean of all patterns.
    turn: (v, 3) rad, by which the views were turned from where they were told to lie.
    profile: (bins,) that mean, in the patterns' units, by eighths of a ring; None where there is
    none, or it is taken as centred and alike in all.
    """

    centre_px: Tensor
    scale: Tensor
    ellipse: Tensor
    beside: Tensor
    turn: Tensor
    profile: Tensor | None = None

    @classmethod
    def none(cls, v: int, device: torch.device) -> PatternErrors:
        """Patterns that are as they are told to be."""
        blank = torch.zeros(v, device=device)
        return cls(
            blank.new_zeros(v, 2), blank, blank.new_zeros(2), blank + 1, blank.new_zeros(v, 3)
        )

    @classmethod
    def interleaved(cls, even: PatternErrors, odd: PatternErrors) -> PatternErrors:
        """Those of all patterns, from those of every second one; shared ones are averaged."""
        count = len(even.scale) + len(odd.scale)
        both = {}
        for name in ("centre_px", "scale", "beside", "turn"):
            one, two = getattr(even, name), getattr(odd, name)
            both[name] = one.new_empty((count, *one.shape[1:]))
            both[name][0::2], both[name][1::2] = one, two
        profile = None
        if even.profile is not None and odd.profile is not None:
            profile = 0.5 * (even.profile + odd.profile)
        return cls(**both, ellipse=0.5 * (even.ellipse + odd.ellipse), profile=profile)

    def some(self, chosen: slice | Tensor) -> PatternErrors:
        """Those of some patterns."""
        names = ("centre_px", "scale", "beside", "turn")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def arrays(self) -> dict[str, Tensor | None]:
        """The fields by name, on the CPU."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: None if x is None else x.cpu() for k, x in found.items()}

    def rows(self, items: NDArray[np.int64]) -> list[dict[str, float | int]]:
        """The numbers of every pattern, by name, with the item that it is of."""
        names = ("item", "centre_x_px", "centre_y_px", "scale", "background", "turned_deg")
        x, y = self.centre_px.double().cpu().unbind(1)
        turned = torch.rad2deg(torch.linalg.vector_norm(self.turn.double().cpu(), dim=1))
        columns = (items, x, y, self.scale.double().cpu(), self.beside.double().cpu(), turned)
        values = zip(*(column.tolist() for column in columns), strict=True)
        return [dict(zip(names, row, strict=True)) for row in values]

    def summary(self) -> dict[str, float]:
        """How far off patterns are: standard deviations, and the ellipse."""
        a, b = self.ellipse.tolist()
        return {
            "centre_px": float(self.centre_px.square().mean().sqrt()),
            "scale": float(self.scale.square().mean().sqrt()),
            "ellipse": math.hypot(a, b),
            "ellipse_deg": 0.5 * math.degrees(math.atan2(b, a)),
            "background": float((self.beside - 1).square().mean().sqrt()),
            "turned_deg": math.degrees(float(self.turn.square().sum(1).mean().sqrt())),
        }

    def points(self, geometry: Slices, count: int) -> Tensor:
        """(v, k, 3) where the first `count` pairs of pixels look, as `Slices.inner` has the points
        of patterns without errors. No point moves beyond the outermost: there it stays.

        A pixel and its mate are moved by an error of the centre in opposite directions, so that
        their mean, which a flat slice has, stays.
        """
        points = geometry.inner(count)
        plane = points[:, :2]
        away = plane.expand(len(self.scale), -1, -1)
        if geometry.curved:
            side = torch.ones(len(plane), device=plane.device)
            side[count:] = -1  # a mate's value is conjugated: its point lies opposite to it
            away = away - geometry.padding * side[:, None] * self.centre_px[:, None]
        moved = away @ self.straightened()
        length = torch.linalg.vector_norm(moved, dim=-1, keepdim=True)
        longest = torch.linalg.vector_norm(plane, dim=-1).max()
        moved = moved * (longest / length.clamp_min(1e-6)).clamp(max=1)
        grown = moved.square().sum(-1) / plane.square().sum(-1).clamp_min(1e-6)
        return torch.cat((moved, (points[:, 2] * grown)[..., None]), -1).contiguous()

    def straightened(self) -> Tensor:
        """(v, 2, 2) by which a distance on the detector gives that in the pattern."""
        a, b = self.ellipse
        stretch = torch.stack((torch.stack((1 + a, b)), torch.stack((b, 1 - a))))
        result: Tensor = torch.linalg.inv(stretch) / (1 + self.scale)[:, None, None]
        return result

    def excess(self, geometry: Slices, count: int) -> Tensor | float:
        """(v, k) what lies beside the molecule at pixels as `points` has them, less what lies there
        in a pattern without errors."""
        if self.profile is None:
            return 0.0
        here = torch.linalg.vector_norm(self.points(geometry, count)[..., :2], dim=-1)
        told = torch.linalg.vector_norm(geometry.inner(count)[:, :2], dim=-1)
        here, told = here / geometry.padding, told / geometry.padding
        return self.beside[:, None] * self.profile_at(here) - self.profile_at(told)

    def profile_at(self, radius: Tensor) -> Tensor:
        """The mean intensity beside the molecule at radii in pixels of 1 / field, any shape."""
        assert self.profile is not None
        place = (PROFILE_PARTS * radius).clamp(0, len(self.profile) - 1.001)
        low = place.long()
        return torch.lerp(self.profile[low], self.profile[low + 1], place - low)


def _spot(m: int, centre_px: tuple[float, float]) -> Grid:
    """(m, m) a point shared by the pixels around it."""
    near = [np.clip(1 - np.abs(np.arange(m) - c), 0, None) for c in centre_px]
    result: Grid = np.outer(*near)
    return result
