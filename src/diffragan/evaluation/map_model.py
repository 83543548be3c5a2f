"""A map held against a known structure: how it lies, how far both agree, residue by residue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.atoms.model.atoms import atoms_at
from diffragan.atoms.model.density import AtomGrid
from diffragan.errors import DiffraganError
from diffragan.evaluation.fit_model import Fit, fit_to_map
from diffragan.evaluation.known_model import KnownModel
from diffragan.fourier.correlation import fsc, resolution_at
from diffragan.fourier.volumes import centred, frequency_radius

_AROUND_A = 1.8  # of a residue's atoms: the voxels that count as its own
UNMATCHED = 0.5  # correlation below which a residue does not lie in density
_OTHER_HAND = 0.9  # of the better fit's height: above it the map does not tell the hand


@dataclass(frozen=True)
class ResidueMatch:
    """How a residue lies in a map. chain, number and name as its file has them."""

    chain: str
    number: str
    name: str
    correlation: float


@dataclass(frozen=True)
class MapModel:
    """A map against a model.

    fit: how the model lies on the map. other: the best fit of its mirror image.
    fsc: (shells,) of map and model, shell k at k / box.
    """

    fit: Fit
    other: Fit
    fsc: Tensor
    box_A: float
    residues: tuple[ResidueMatch, ...]

    def fsc_at(self, q: Tensor) -> Tensor:
        """(s,) the curve at frequencies in 1/Å."""
        at = np.arange(len(self.fsc)) / self.box_A
        return torch.from_numpy(np.interp(q.numpy(), at, self.fsc.numpy())).float()

    @property
    def unmatched(self) -> list[str]:
        """Stretches of the chain outside the density, such as "A 12-15"."""
        return stretches(self.residues)

    @property
    def hand(self) -> str:
        """Whether the map has the model's hand, in words."""
        if self.other.covered > _OTHER_HAND * self.fit.covered:
            return "not told by the map"
        return "mirrored" if self.fit.mirrored else "that of the model"

    def metrics(self, q: Tensor) -> dict[str, Any]:
        """The numbers of metrics.json.

        Args:
            q: (s,) 1/Å, the measured rings.
        """
        curve = self.fsc_at(q)
        try:
            reached: float | None = resolution_at(curve, q, 0.5)
        except DiffraganError:  # rings that end before 10 Å tell no resolution
            reached = None
        each = [r.correlation for r in self.residues]
        return {
            "fsc_0p5_A": reached,
            "fsc": {"resolution_A": (1 / q).tolist(), "fsc": curve.tolist()},
            "hand": self.hand,
            "residues": len(each),
            "residue_correlation_median": float(np.median(each)),
            "unmatched": self.unmatched,
            "turn": self.fit.turn.tolist(),
            "shift_A": self.fit.shift_A.tolist(),
        }


def compare_map(
    volume: Tensor, support: Tensor, box_A: float, finest_A: float, model: KnownModel
) -> MapModel:
    """Lay a model on a map and compare the two.

    Args:
        volume: (n, n, n) in FFT order. support: the same, bool, where it is not zero; the model's
            density counts there alone.
        finest_A: to which resolution residues are compared.
    """
    heavy = model.places_A[model.heavy]
    fit, other = fit_to_map(heavy, volume, box_A)
    true = model_density(model, fit, volume.shape[-1], box_A)
    shells = fsc(volume.cpu(), true * support.cpu())
    both = [_cut(v, box_A, finest_A) for v in (volume.cpu(), true)]
    return MapModel(fit, other, shells, box_A, _by_residue(model, fit, both, box_A))


def model_density(model: KnownModel, fit: Fit, n: int, box_A: float) -> Tensor:
    """(n, n, n), FFT order: the potential of a model's atoms where a fit lays them, hydrogens
    included, to the grid's own resolution and in an arbitrary scale."""
    grid = AtomGrid(n, box_A, box_A, 2e5)
    total = torch.zeros(n, n, n // 2 + 1, dtype=torch.complex64)
    laid = fit(model.places_A)
    for number in np.unique(model.numbers):
        places = torch.from_numpy(laid[model.numbers == number])
        total += grid.of_element(atoms_at(places, b_A2=0.0), int(number))
    result: Tensor = torch.fft.irfftn(total, s=(n, n, n), norm="forward")
    return result


def stretches(residues: Sequence[ResidueMatch], threshold: float = UNMATCHED) -> list[str]:
    """Runs of neighbours whose correlation is below a threshold, "A 12-15" or "A 12"."""
    out = []
    for (low, chain), run in groupby(residues, lambda r: (r.correlation < threshold, r.chain)):
        some = list(run)
        if low:
            end = f"-{some[-1].number}" if len(some) > 1 else ""
            out.append(f"{chain} {some[0].number}{end}")
    return out


def _cut(volume: Tensor, box_A: float, finest_A: float) -> NDArray[np.float32]:
    """A map without what is finer than a resolution, centred, as x, y, z."""
    n = volume.shape[-1]
    keep = frequency_radius(n) <= box_A / finest_A
    spectrum = torch.fft.rfftn(volume) * keep
    spectrum[0, 0, 0] = 0
    cut = torch.fft.irfftn(spectrum, s=(n, n, n))
    result: NDArray[np.float32] = centred(cut).numpy().transpose(2, 1, 0)
    return result


def _by_residue(
    model: KnownModel, fit: Fit, both: Sequence[NDArray[np.float32]], box_A: float
) -> tuple[ResidueMatch, ...]:
    """Correlation of two densities around each residue's heavy atoms."""
    n = both[0].shape[0]
    voxel = box_A / n
    reach = int(np.ceil(_AROUND_A / voxel))
    axis = np.arange(-reach, reach + 1)
    ball = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    ball = ball[np.linalg.norm(ball, axis=1) * voxel <= _AROUND_A]
    places = np.rint(fit(model.places_A) / voxel).astype(int) + n // 2
    out = []
    for residue in dict.fromkeys(model.residues):
        own = (np.array(model.residues) == residue) & model.heavy
        at = np.unique((places[own][:, None] + ball).reshape(-1, 3), axis=0)
        at = at[((at >= 0) & (at < n)).all(1)]
        correlation = 0.0
        if len(at) > 2:
            one, two = (volume[tuple(at.T)] for volume in both)
            spread = one.std() * two.std()
            correlation = float(
                ((one - one.mean()) * (two - two.mean())).mean() / max(spread, 1e-12)
            )
        chain, number, name = residue.split()
        out.append(ResidueMatch(chain, number, name, correlation))
    return tuple(out)
