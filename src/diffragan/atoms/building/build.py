"""Atoms from a map: peaks, then cycles of refinement, dropping and adding.

First against the map's Fourier values, which is quick and tells where atoms are missing; then
against the patterns, which hold all that was measured. Some views are never refined against: they
say when to stop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffragan.atoms.building.multiple_scattering import with_multiple_scattering
from diffragan.atoms.building.peaks import heights, peaks
from diffragan.atoms.building.refine import refine
from diffragan.atoms.building.targets import Target, map_target
from diffragan.atoms.building.watch import Watch, watch
from diffragan.atoms.model.atoms import Atoms, Riding, atoms_at, no_hydrogens, together
from diffragan.atoms.model.density import AtomGrid
from diffragan.atoms.model.hydrogens import riding_hydrogens
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.likelihood.ring_sums import RingSums
from diffragan.reconstruction.maps.views import Views
from diffragan.settings import AtomsSettings

DALTON_PER_ATOM = 14.1  # of a protein, its hydrogens shared out over the other atoms
_NEW_WEIGHT, _NEW_B_A2 = 0.6, 6.0
_FAINT = 0.45  # carbons: what scatters less is no atom
_HEAVY, _MOST = 1.8, 4.0  # of the median peak's height
_PATTERN_RATES, _LAST_RATES = (0.006, 0.02, 0.3), (0.004, 0.01, 0.2)
_FALLS = 0.02  # of the watched correlation, which ends the cycles
_SATURATED, _TRIAL_STEPS = 0.98, 4


@dataclass(frozen=True)
class Built:
    """Atoms of one map and its views.

    rotations: (v, 3, 3) of the views, as given or refined. history: a row for each cycle. watched:
    how atoms compare with the views kept apart, by ring; used: with those refined against.
    asked_for: atoms beyond the expected number that the patterns
    took when they were tried.
    """

    atoms: Atoms
    riding: Riding
    rotations: Tensor
    history: tuple[dict[str, float], ...]
    used: RingSums
    watched: RingSums
    asked_for: int = 0


def expected_atoms(mass_kda: float) -> int:
    """Atoms other than hydrogen in a protein of this weight, within a few per cent."""
    return round(1e3 * mass_kda / DALTON_PER_ATOM)


def build(
    volume: Tensor,
    mask: Tensor,
    trust: Tensor,
    views: Views,
    count: int,
    settings: AtomsSettings,
    progress: Progress = no_progress,
) -> Built:
    """Atoms of a map, refined against its own views.

    Args:
        volume: (n, n, n) in FFT order, on the views' grid. mask: the same, bool.
        trust: (rings,) expected correlation of the map with the truth, by ring of 1 / field.
        views: those that made the map. count: about how many atoms there are.
    """
    box_A, field_A = views.volume_box_A, views.optics.box_A
    grid = AtomGrid(views.n, box_A, field_A, views.optics.energy_ev)
    padding = views.flat.padding
    spread = torch.arange(int((len(trust) - 1) * padding) + 1) / padding
    by_ring = trust[(spread + 0.5).long().clamp_max(len(trust) - 1)]
    target: Target = map_target(
        volume, box_A, (settings.coarsest_A, settings.finest_A), by_ring, count
    )
    atoms = _starting(volume, box_A, peaks(volume, box_A, count, inside=mask))
    total = settings.map_cycles + settings.pattern_cycles
    for cycle in range(settings.map_cycles):
        if cycle > 1:
            atoms = renewed(present(atoms), no_hydrogens(), grid, target, count, mask)
        atoms = refine(atoms, grid, target, settings.map_steps)
        progress("building atoms", cycle + 1, total, f"({len(atoms)} atoms)")
    return _against_patterns(atoms, watch(views, grid), mask, count, settings, progress)


def _starting(volume: Tensor, box_A: float, places: Tensor) -> Atoms:
    """Atoms of weight 1 at places; where the map is far higher than at the others, its share of
    their height, since a weight moves slowly."""
    atoms = atoms_at(places)
    height = heights(volume, box_A, places)
    share = height / height.median() if len(height) else height
    return replace(
        atoms, weights=torch.where(share > _HEAVY, share.clamp_max(_MOST), atoms.weights)
    )


def _against_patterns(
    atoms: Atoms, against: Watch, mask: Tensor, count: int, s: AtomsSettings, progress: Progress
) -> Built:
    riding, grid = no_hydrogens(), against.grid
    best, best_score, history = (atoms, riding), against.score(atoms, riding), []
    for cycle in range(s.pattern_cycles):
        last = cycle + 1 == s.pattern_cycles
        rates = _LAST_RATES if last else _PATTERN_RATES
        steps = s.pattern_steps * (1 + last)
        atoms = present(refine(atoms, grid, against.used, steps, riding=riding, rates=rates))
        # Atoms that were refined without hydrogens have grown and moved to stand for them, and fit
        # worse with than without: only a cycle with them tells whether they are there.
        riding = riding_hydrogens(atoms) if cycle else no_hydrogens()
        row, against = against.row(atoms, riding)
        now = row["watched_correlation"]
        history.append(row)
        done, total = s.map_cycles + cycle + 1, s.map_cycles + s.pattern_cycles
        progress("building atoms", done, total, f"({len(atoms)} atoms, R {row['r_work']:.3f})")
        if now < best_score - _FALLS:
            break  # what is refined now is the noise of the views refined against
        if now >= best_score - _FALLS / 2:
            best, best_score = (atoms, riding), max(now, best_score)
        if not last:
            riding = riding_hydrogens(atoms)
            atoms = renewed(atoms, riding, grid, against.used, count, mask)
    asked_for = _asked_for(*best, grid, against.used, count, mask)
    best, against, rows = _last_cycles(*best, against, s, progress)
    numbered = tuple({"cycle": k + 1} | row for k, row in enumerate(history + rows))
    used, watched = against.sums(*best)
    return Built(*best, against.rotations, numbered, used, watched, asked_for)


def _last_cycles(
    atoms: Atoms, riding: Riding, against: Watch, s: AtomsSettings, progress: Progress
) -> tuple[tuple[Atoms, Riding], Watch, list[dict[str, float]]]:
    """With no more atoms to add, first views are turned, then multiple scattering is seen to, as
    often as is asked for; atoms are refined after each. With rows of the history."""
    best, rows = (atoms, riding), []
    total = s.orientation_cycles + s.multislice_cycles
    for cycle in range(total):
        if cycle < s.orientation_cycles:
            against = against.turned(*best)
        else:
            grid = against.grid
            target = with_multiple_scattering(against.used, *best, grid, s.slice_A, progress)
            against = against.scattering_as(target)
        moved = refine(
            best[0],
            against.grid,
            against.used,
            s.pattern_steps,
            riding=best[1],
            rates=_LAST_RATES,
        )
        atoms = present(moved)
        best = (atoms, riding_hydrogens(atoms) if len(riding) else riding)
        row, against = against.row(*best)
        rows.append(row)
        progress("refining atoms", cycle + 1, total, f"(R {row['r_work']:.3f})")
    return best, against, rows


def present(atoms: Atoms) -> Atoms:
    """Those that scatter enough to be atoms."""
    return atoms.chosen(atoms.weights > _FAINT)


def _asked_for(
    atoms: Atoms, riding: Riding, grid: AtomGrid, target: Target, count: int, mask: Tensor
) -> int:
    """Of a tenth more atoms than expected, those that gain weight against the patterns; none are
    tried where there is still room below the expected number."""
    if len(atoms) < _SATURATED * count:
        return 0
    more = renewed(atoms, riding, grid, target, len(atoms) + max(1, count // 10), mask)
    tried = refine(more, grid, target, _TRIAL_STEPS, riding=riding, rates=_PATTERN_RATES)
    return int((tried.weights[len(atoms) :] > _NEW_WEIGHT).sum())


def renewed(
    atoms: Atoms, riding: Riding, grid: AtomGrid, target: Target, count: int, mask: Tensor
) -> Atoms:
    """The atoms, with as many new ones where the data ask for them, up to `count`."""
    if len(atoms) >= count:
        return atoms
    asked = target.difference(grid.spectrum(atoms, riding))
    places = peaks(asked, grid.box_A, count - len(atoms), away_from=atoms.positions_A, inside=mask)
    return together(atoms, atoms_at(places.to(atoms.weights.device), _NEW_WEIGHT, _NEW_B_A2))
