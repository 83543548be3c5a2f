"""Pairs as the 3D methods see them: amplitudes on half planes, and the images' contrast.

Nothing is kept in memory that grows with the number of views, apart from a few numbers for each:
the two arrays lie in files of a scratch folder and are mapped. Where the work is done on another
device, they go there a block of views at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.devices import STAYS
from diffragan.engine.processes import joined
from diffragan.fourier.grids import even_fast_length
from diffragan.fourier.loops import WIDTH
from diffragan.fourier.slices import Slices
from diffragan.microscope.geometry import PatternErrors
from diffragan.optics import Optics
from diffragan.reconstruction.maps.image_transfer import ImageTransfer

BLOCK = 64  # views read or sliced at a time


_POINTS = 2_000_000  # the same on a device other than the CPU, in pixels; each takes some 200 bytes


@dataclass(frozen=True, repr=False)
class Views:
    """v views of one molecule.

    Frequencies are the k pixel pairs of `flat` (innermost first); a pair's second pixel is the
    Friedel mate. Fourier values are in units of the plane wave, zero of space at the field's
    centre. `measured` and `contrast` stay on the CPU; all else lies on `device`, and so does what
    `observed` and `spectra` give.

    measured: (v, 2, k) float32 on disk, pixel and mate: amplitudes, or where `electrons` is given
        intensities (counts / electrons); 0 where masked.
    contrast: (v, ki) complex64 on disk: the images' spectra at the first ki pairs.
    transfer: contrast of each image per unit of object at these pairs.
    image_noise: (v,) noise power of one image frequency; 0 for noise-free images.
    rotations: (v, 3, 3) float32. shifts_A: (v, 2) float32, x and y of the molecule in its image.
    weights: (v,) float32, how much each view counts.
    electrons: total electrons of one pattern's exposure, None for exact intensities.
    fade: (k,) part of the coherent intensities that damage left, by which what was measured is
        divided; None where nothing faded.
    further_b_A2: of exp(-B q² / 2), a factor of `fade` that was found and not told: `observed`
        divides by it, `measured` is not.
    background: (k,) intensity of what scatters beside the molecule, in the units of `measured`,
        as far as it is known; None where there is none.
    symmetry: (g, 3, 3) the molecule's own rotations (`symmetry.group_of`), the identity first;
        None where it has no other.
    molecules: whose exposures each view is the sum of.
    errors: in what patterns differ from what is told of them; None: in nothing.
    """

    optics: Optics
    flat: Slices
    curved: Slices
    n: int
    measured: Tensor = field(metadata=STAYS)
    contrast: Tensor = field(metadata=STAYS)
    transfer: ImageTransfer
    image_noise: Tensor
    rotations: Tensor
    shifts_A: Tensor
    weights: Tensor
    items: NDArray[np.int64]
    electrons: float | None = None
    fade: Tensor | None = None
    background: Tensor | None = None
    symmetry: Tensor | None = None
    molecules: int = 1
    errors: PatternErrors | None = None
    further_b_A2: float = 0.0

    def __len__(self) -> int:
        return len(self.rotations)

    def __repr__(self) -> str:
        finest_A = self.optics.box_A / float(self.flat.radius.max())
        counted = "exact" if self.electrons is None else f"{self.electrons:g} electrons each"
        return (
            f"<Views: {len(self)} of a field of {self.optics.box_A:g} Å, to {finest_A:.2f} Å, "
            f"{counted}, on {self.n} voxels a side>"
        )

    @property
    def device(self) -> torch.device:
        """Where the work on these views is done."""
        return self.rotations.device

    @property
    def electrons_by_pair(self) -> float | Tensor | None:
        """Electrons with which an intensity was counted: damage leaves fewer to tell of it. One
        number, or (k,)."""
        if self.electrons is None or self.fade is None:
            return self.electrons
        return self.electrons * self.fade

    @property
    def electrons_by_ring(self) -> float | Tensor | None:
        """The same by ring of 1 / field: one number, or (rings,)."""
        each = self.electrons_by_pair
        if not isinstance(each, Tensor):
            return each
        rings = (self.flat.radius + 0.5).long()
        total = each.new_zeros(int(rings.max()) + 1).index_add_(0, rings, each)
        return total / torch.bincount(rings).clamp_min(1)

    @property
    def volume_box_A(self) -> float:
        """Side of the volume, Å: that of the field, times the padding."""
        return self.optics.box_A * self.flat.padding

    @property
    def voxel_A(self) -> float:
        """Side of a voxel, Å."""
        return self.volume_box_A / self.n

    def equivalents(self, rotations: Tensor) -> Iterator[Tensor]:
        """Orientations (b, 3, 3), and each turn of them that the molecule's symmetry leaves unseen:
        a slice lies at all of these in its map."""
        if self.symmetry is None:
            yield rotations.contiguous()
            return
        for own in self.symmetry:
            yield (rotations @ own).contiguous()

    def free_directions(self) -> Tensor | None:
        """(3, 3) that takes of a vector what the symmetry leaves free, along which a map may turn
        and move and keep its axes: the part along the axis of a Cn, else nothing. None: all."""
        return None if self.symmetry is None else self.symmetry.mean(0)

    def with_symmetry(self, symmetry: Tensor) -> Views:
        """The same views of a molecule with these rotations (g, 3, 3), the identity first, each
        turned by another of them: so what a map has against its symmetry meets patterns too."""
        if len(symmetry) == 1:
            return self
        own = symmetry.to(self.rotations)
        kind = torch.arange(len(self), device=self.device) // 2 % len(own)
        return replace(self, symmetry=own, rotations=self.rotations @ own[kind])

    def padded(self, padding: float) -> Views:
        """The same views for a volume of another side."""
        if padding == self.flat.padding:
            return self
        flat, curved = (
            replace(s, points=s.points * (padding / s.padding), padding=padding)
            for s in (self.flat, self.curved)
        )
        return replace(self, flat=flat, curved=curved, n=side_of(flat))

    def limited(self, resolution_A: float) -> Views:
        """The same views out to a resolution, for a smaller volume of the same side."""
        count = int((self.flat.radius <= self.optics.box_A / resolution_A).sum())
        if count >= len(self.flat):
            return self
        flat, curved = (s.leading(count) for s in (self.flat, self.curved))
        return replace(
            self,
            flat=flat,
            curved=curved,
            n=side_of(flat),
            measured=self.measured[:, :, :count],
            contrast=self.contrast[:, :count],
            transfer=self.transfer.leading(count),
            fade=None if self.fade is None else self.fade[:count],
            background=None if self.background is None else self.background[:count],
        )

    def every_second(self, first: int) -> Views:
        """Half of the views: the even (first = 0) or the odd ones (1)."""
        return self.every(2, first)

    def every(self, step: int, first: int) -> Views:
        """One view in `step`, from the place `first` on."""
        return self._strided(slice(first, None, step))

    def _strided(self, span: slice) -> Views:
        return replace(
            self,
            measured=self.measured[span],
            contrast=self.contrast[span],
            transfer=self.transfer.some(span),
            image_noise=self.image_noise[span],
            rotations=self.rotations[span].clone(),
            shifts_A=self.shifts_A[span].clone(),
            weights=self.weights[span].clone(),
            items=self.items[span],
            errors=None if self.errors is None else self.errors.some(span),
        )

    def some(self, chosen: Tensor) -> Views:
        """The views at places `chosen` (c,), int64. Their arrays are copied, so limit the views to
        the resolution that is needed first."""
        on_cpu = chosen.cpu()
        return replace(
            self,
            measured=self.measured[on_cpu],
            contrast=self.contrast[on_cpu],
            transfer=self.transfer.some(chosen),
            image_noise=self.image_noise[chosen],
            rotations=self.rotations[chosen],
            shifts_A=self.shifts_A[chosen],
            weights=self.weights[chosen],
            items=self.items[on_cpu.numpy()],
            errors=None if self.errors is None else self.errors.some(chosen),
        )

    def sample(self, count: int) -> Views:
        """About `count` of the views, spread evenly: every so many."""
        step = max(1, len(self) // count)
        return self._strided(slice(None, None, step))

    def blocks(self, size: int | None = None, count: int | None = None) -> Iterator[slice]:
        """Runs of views that are worked on together: longer ones elsewhere than on the CPU, where
        short ones would leave the device waiting for its next order."""
        if size is None:
            many = 0 if self.device.type == "cpu" else _POINTS // (2 * len(self.flat))
            size = max(BLOCK, many)
        count = len(self) if count is None else count
        for start in range(0, count, size):
            yield slice(start, min(start + size, count))

    def own_blocks(self, size: int | None = None) -> Iterator[slice]:
        """The same of this process's share of the views: what is summed over them is to be `summed`
        over the processes of the run."""
        own = joined().share(len(self))
        for block in self.blocks(size, own.stop - own.start):
            yield slice(own.start + block.start, own.start + block.stop)

    def points(self, views: slice, geometry: Slices, count: int | None = None) -> Tensor:
        """Where the first `count` pairs of pixels of some views look: (k, 3) alike for all, as
        `Slices.inner` has them, or (b, k, 3) where patterns have errors of their own."""
        if self.errors is not None:
            return self.errors.some(views).points(geometry, count or len(geometry))
        return geometry.points if count is None else geometry.inner(count)

    def observed(self, views: slice, geometry: Slices, count: int | None = None) -> Tensor:
        """What was measured at the first `count` pairs: (b, count) for the flat slice, the mean
        over the valid mates, or (b, 2 count) for the curved one; less what a view has beside the
        molecule beyond the mean of all, where that was found."""
        count = len(geometry) if count is None else count
        both = self.measured[views, :, :count].to(self.device)
        if self.further_b_A2:
            q2 = (self.flat.radius[:count] / self.optics.box_A) ** 2
            both = both * torch.exp(self.further_b_A2 * q2 / (2 if self.electrons else 4))
        valid = geometry.valid[:, :count].float()
        if geometry.curved:
            result, seen = both.reshape(len(both), 2 * count), valid.reshape(-1)
        else:
            result = (both * (valid / valid.sum(0).clamp_min(1))).sum(1)
            seen = valid.amax(0)
        if self.errors is None or self.errors.profile is None:
            return result
        return result - self.errors.some(views).excess(geometry, count) * seen

    def spectra(self, views: slice) -> Tensor:
        """(b, ki) complex64 spectra of the images."""
        return self.contrast[views].to(self.device)

    def image_phase_ramp(self, views: slice) -> Tensor:
        """(b, ki) factor that moves the images' molecules to the field's centre."""
        points = self.flat.points[: self.contrast.shape[1], :2]
        cycles = (self.shifts_A[views] / self.volume_box_A) @ points.T
        return torch.polar(torch.ones_like(cycles), 2 * torch.pi * cycles)


def side_of(geometry: Slices) -> int:
    """Side of a volume whose Fourier grid holds every slice with its window."""
    return even_fast_length(2 * float(geometry.radius.max()) * geometry.padding + WIDTH + 1)
