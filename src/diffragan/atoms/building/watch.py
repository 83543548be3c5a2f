"""The patterns that atoms are refined against, and the few that only say whether that helps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffragan.atoms.model.atoms import Atoms, Riding
from diffragan.atoms.model.density import AtomGrid
from diffragan.fourier.volumes import volume_spectrum
from diffragan.reconstruction.likelihood.patterns import PatternTarget, pattern_target
from diffragan.reconstruction.likelihood.ring_sums import RingSums
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.refine import refine_orientations

CORRELATION_BAND_A = (4.0, 1.25)  # the free correlation's band
WATCHED_EVERY = 20  # one view of so many is kept for watching
_FURTHEST_TURN_DEG = 1.0  # in one round
_FINEST_A = 1.3  # of the patterns that views are turned by


@dataclass(frozen=True)
class Watch:
    """v views of a molecule, of which most are refined against and one in twenty never.

    used: all of them, those that are only watched without weight. watched: these alone.
    """

    grid: AtomGrid
    views: Views
    used: PatternTarget
    watched: PatternTarget

    @property
    def rotations(self) -> Tensor:
        """(v, 3, 3) as they are now."""
        return self.views.rotations

    def sums(self, atoms: Atoms, riding: Riding) -> tuple[RingSums, RingSums]:
        """How atoms compare with the patterns that are used, and with those that are watched."""
        spectrum = self.grid.spectrum(atoms, riding)
        return self.used.sums(spectrum), self.watched.sums(spectrum)

    def score(self, atoms: Atoms, riding: Riding) -> float:
        """Mean expected correlation with the truth between 4 and 1.25 Å, by what is watched."""
        return self._mean(self.watched.sums(self.grid.spectrum(atoms, riding)))

    def row(self, atoms: Atoms, riding: Riding) -> tuple[dict[str, float], Watch]:
        """A row of the history, and the same patterns weighted by what is unexplained now."""
        used, watched = self.sums(atoms, riding)
        row = {
            "atoms": len(atoms),
            "hydrogens": riding.count,
            "r_work": used.r_factor,
            "r_watched": watched.r_factor,
            "watched_correlation": self._mean(watched),
        }
        return row, replace(self, used=self.used.weighted_by(used))

    def turned(self, atoms: Atoms, riding: Riding) -> Watch:
        """The same patterns, each view turned to where atoms explain its pattern best. An image
        has no say, as atoms are not held against images."""
        alignment = refine_orientations(
            volume_spectrum(self.grid.volume(atoms, riding)),
            self.views,
            resolution_A=_FINEST_A,
            max_step_deg=_FURTHEST_TURN_DEG,
            shift_reach_A=0.0,
            images=False,
        )
        return watch(alignment.put_into(self.views), self.grid).row(atoms, riding)[1]

    def scattering_as(self, used: PatternTarget) -> Watch:
        """The same patterns with the multiple scattering of `used`, which are these."""
        assert used.beyond is not None
        beyond = used.beyond[WATCHED_EVERY - 1 :: WATCHED_EVERY]
        return replace(self, used=used, watched=replace(self.watched, beyond=beyond))

    def _mean(self, sums: RingSums) -> float:
        curve = sums.correlation(self.views.electrons_by_ring)
        q = torch.arange(len(curve)) / self.views.optics.box_A
        coarse, fine = CORRELATION_BAND_A
        band = (q >= 1 / coarse) & (q <= 1 / fine) & torch.isfinite(curve)
        return float(curve[band].mean()) if bool(band.any()) else 0.0


def watch(views: Views, grid: AtomGrid) -> Watch:
    """Views before any atom is held against them."""
    every = torch.arange(len(views)) % WATCHED_EVERY == WATCHED_EVERY - 1
    used = replace(views, weights=views.weights * ~every.to(views.device))
    watched = views.every(WATCHED_EVERY, WATCHED_EVERY - 1)
    return Watch(grid, views, pattern_target(used), pattern_target(watched))
