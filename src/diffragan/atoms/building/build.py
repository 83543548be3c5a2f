"""Atoms from a map: peaks, then cycles of refinement, dropping and adding.

First against the map's Fourier values, which is quick and tells where atoms are missing; then
against the patterns, which hold all that was measured. Some views are never refined against: they
say when to stop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffragan.atoms.building.multiple_scattering import with_multiple_scattering
from diffragan.atoms.building.peaks import heights, peaks
from diffragan.atoms.building.refine import refine
from diffragan.atoms.building.targets import Target, map_target
from diffragan.atoms.model.atoms import Atoms, Riding, atoms_at, no_hydrogens, together
from diffragan.atoms.model.density import AtomGrid
from diffragan.atoms.model.hydrogens import riding_hydrogens
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.likelihood.patterns import RingSums, pattern_target
from diffragan.reconstruction.maps.views import Views
from diffragan.settings import AtomsSettings

DALTON_PER_ATOM = 14.1  # of a protein, its hydrogens shared out over the other atoms
FAINT = 0.45  # carbons: what scatters less is no atom
_NEW_WEIGHT, _NEW_B_A2 = 0.6, 6.0
_HEAVY, _MOST = 1.8, 4.0  # of the median peak's height
CORRELATION_BAND_A = (4.0, 1.25)  # the free correlation's band
_PATTERN_RATES, _LAST_RATES = (0.006, 0.02, 0.3), (0.004, 0.01, 0.2)
_FALLS = 0.02  # of the watched correlation, which ends the cycles
_SATURATED, _TRIAL_STEPS = 0.98, 4
_WATCHED_EVERY = 20  # one view of so many is kept for watching


@dataclass(frozen=True)
class Built:
    """Atoms of one map and its views.

    history: a row for each cycle. watched: how they compare with the views kept apart, by ring;
    used: with those refined against. asked_for: atoms beyond the expected number that the patterns
    took when they were tried.
    """

    atoms: Atoms
    riding: Riding
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
            kept = atoms.chosen(atoms.weights > FAINT)
            atoms = renewed(kept, no_hydrogens(), grid, target, count, mask)
        atoms = refine(atoms, grid, target, settings.map_steps)
        progress("building atoms", cycle + 1, total, f"({len(atoms)} atoms)")
    return _against_patterns(atoms, grid, views, mask, count, settings, progress)


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
    atoms: Atoms,
    grid: AtomGrid,
    views: Views,
    mask: Tensor,
    count: int,
    s: AtomsSettings,
    progress: Progress,
) -> Built:
    every = torch.arange(len(views)) % _WATCHED_EVERY == _WATCHED_EVERY - 1
    used = replace(views, weights=views.weights * ~every.to(views.device))
    watched = pattern_target(views.every(_WATCHED_EVERY, _WATCHED_EVERY - 1))
    target = pattern_target(used)

    def score(atoms: Atoms, riding: Riding) -> float:
        return _score(watched.sums(grid.spectrum(atoms, riding)), views)

    riding = no_hydrogens()
    best, best_score, history = (atoms, riding), score(atoms, riding), []
    for cycle in range(s.pattern_cycles):
        last = cycle + 1 == s.pattern_cycles
        rates = _LAST_RATES if last else _PATTERN_RATES
        steps = s.pattern_steps * (1 + last)
        atoms = refine(atoms, grid, target, steps, riding=riding, rates=rates)
        atoms, riding = _with_hydrogens(atoms, score)
        spectrum = grid.spectrum(atoms, riding)
        sums, apart = target.sums(spectrum), watched.sums(spectrum)
        target = target.weighted_by(sums)
        misfits = _misfits(sums, apart, views)
        now = misfits["watched_correlation"]
        history.append(_row(cycle + 1, atoms, riding) | misfits)
        done, total = s.map_cycles + cycle + 1, s.map_cycles + s.pattern_cycles
        progress("building atoms", done, total, f"({len(atoms)} atoms, R {sums.r_factor:.3f})")
        if now < best_score - _FALLS:
            break  # what is refined now is the noise of the views refined against
        if now >= best_score - _FALLS / 2:
            best, best_score = (atoms, riding), max(now, best_score)
        if not last:
            atoms = renewed(atoms, riding, grid, target, count, mask)
    asked_for = _asked_for(*best, grid, target, count, mask)
    for cycle in range(s.multislice_cycles):
        target = with_multiple_scattering(target, *best, grid, s.slice_A, progress)
        assert target.beyond is not None
        watched = replace(watched, beyond=target.beyond[_WATCHED_EVERY - 1 :: _WATCHED_EVERY])
        rates = _LAST_RATES
        atoms = refine(best[0], grid, target, s.pattern_steps, riding=best[1], rates=rates)
        best = _with_hydrogens(atoms, score)
        spectrum = grid.spectrum(*best)
        sums, apart = target.sums(spectrum), watched.sums(spectrum)
        row = _row(s.pattern_cycles + cycle + 1, *best)
        history.append(row | _misfits(sums, apart, views))
    spectrum = grid.spectrum(*best)
    return Built(*best, tuple(history), target.sums(spectrum), watched.sums(spectrum), asked_for)


def _row(cycle: int, atoms: Atoms, riding: Riding) -> dict[str, float]:
    return {"cycle": cycle, "atoms": len(atoms), "hydrogens": len(riding)}


def _misfits(sums: RingSums, apart: RingSums, views: Views) -> dict[str, float]:
    now = _score(apart, views)
    return {"r_work": sums.r_factor, "r_watched": apart.r_factor, "watched_correlation": now}


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


def _with_hydrogens(atoms: Atoms, score: Callable[[Atoms, Riding], float]) -> tuple[Atoms, Riding]:
    """The atoms that are not faint, and the hydrogens that their geometry tells, if patterns that
    were never refined against agree with them."""
    kept = atoms.chosen(atoms.weights > FAINT)
    riding = riding_hydrogens(kept)
    if score(kept, riding) < score(kept, no_hydrogens()):
        return kept, no_hydrogens()
    return kept, riding


def renewed(
    atoms: Atoms, riding: Riding, grid: AtomGrid, target: Target, count: int, mask: Tensor
) -> Atoms:
    """The atoms, with as many new ones where the data ask for them, up to `count`."""
    if len(atoms) >= count:
        return atoms
    asked = target.difference(grid.spectrum(atoms, riding))
    places = peaks(asked, grid.box_A, count - len(atoms), away_from=atoms.positions_A, inside=mask)
    return together(atoms, atoms_at(places.to(atoms.weights.device), _NEW_WEIGHT, _NEW_B_A2))


def _score(sums: RingSums, views: Views) -> float:
    """Mean expected correlation with the truth between two resolutions, by patterns never used."""
    curve = sums.correlation(views.electrons_by_ring)
    q = torch.arange(len(curve)) / views.optics.box_A
    coarse, fine = CORRELATION_BAND_A
    band = (q >= 1 / coarse) & (q <= 1 / fine) & torch.isfinite(curve)
    return float(curve[band].mean()) if bool(band.any()) else 0.0
