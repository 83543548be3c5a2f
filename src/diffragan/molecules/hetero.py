"""Hydrogens of what lies beside a protein chain: waters get theirs, metals take some away.

Nothing is known here of a ligand's chemistry: it keeps the hydrogens that its file gives it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import gemmi
import numpy as np
from numpy.typing import NDArray

from diffragan.molecules.clean import Edit
from diffragan.rotations import quasi_uniform

_OH_A, _HOH_DEG = 0.9572, 104.52
_TURNS = 1000  # about 25 degrees apart
_SWEEPS = 2  # the second knows the hydrogens of waters that came later in the first
_NEAR_A, _TOUCH_A = 6.0, 1.6
_WATER_H, _WATER_O = 0.4, -0.8
# Roughly, in electrons: enough to tell who gives and who takes a hydrogen bond.
_CHARGES = {"O": -0.5, "N": -0.4, "S": -0.2, "F": -0.5, "Cl": -0.5, "Br": -0.4}
_POLAR_H, _METAL = 0.35, 1.0
_BOUND_A, _OWN_A, _POINTS_AT_A = 2.7, 1.4, 2.4


def complete_hetero(
    chain: gemmi.Chain, hetero: Sequence[gemmi.Residue]
) -> tuple[gemmi.Chain, list[gemmi.Residue], list[Edit]]:
    """A complete chain and what lies beside it, with the hydrogens that both have together.

    A water gets two, turned so that electrostatics likes them best. Atoms of the chain that bind
    a metal lose the hydrogen that would point at it, a cysteine's sulphur its own. A ligand with
    carbon and no hydrogen in its file is reported.
    """
    out, changes = _without_protons(chain, hetero)
    done = [_heavy_water(r) if r.is_water() else r for r in (h.clone() for h in hetero)]
    lacking = Counter(
        r.name
        for r in done
        if any(a.element.name == "C" for a in r) and not any(a.is_hydrogen() for a in r)
    )
    changes += [
        Edit("hydrogens missing", chain.name, f"{n} x {name}: its file gives none")
        for name, n in lacking.items()
    ]
    waters = [r for r in done if r.is_water() and len(r)]
    if waters:
        _add_water_hydrogens(waters, [a for r in (*out, *done) if not r.is_water() for a in r])
        detail = f"{2 * len(waters)} of waters, turned to their hydrogen bonds"
        changes.append(Edit("hydrogens added", chain.name, detail))
    return out, done, changes


def _heavy_water(residue: gemmi.Residue) -> gemmi.Residue:
    """A water's oxygen alone."""
    for name in [atom.name for atom in residue if atom.element.name != "O"]:
        residue.remove_atom(name, "\0")
    return residue


def _without_protons(
    chain: gemmi.Chain, hetero: Sequence[gemmi.Residue]
) -> tuple[gemmi.Chain, list[Edit]]:
    """The chain without hydrogens where a metal is bound."""
    out, changes = chain.clone(), []
    metals = [atom for residue in hetero for atom in residue if atom.element.is_metal]
    for residue in out:
        for atom in [a for a in residue if a.element.name in ("N", "O", "S")]:
            near = [m for m in metals if m.pos.dist(atom.pos) <= _BOUND_A]
            own = [h for h in residue if h.is_hydrogen() and h.pos.dist(atom.pos) <= _OWN_A]
            for h in own if near else ():
                if atom.element.name == "S" or near[0].pos.dist(h.pos) <= _POINTS_AT_A:
                    detail = f"{residue.name} {h.name}: {atom.name} binds {near[0].element.name}"
                    where = f"{chain.name} {residue.seqid}"
                    changes.append(Edit("hydrogens removed", where, detail))
                    residue.remove_atom(h.name, "\0")
                    break
    return out, changes


def _add_water_hydrogens(waters: Sequence[gemmi.Residue], others: Sequence[gemmi.Atom]) -> None:
    """Two hydrogens on each water's oxygen, in the field of all other atoms."""
    places = np.array([atom.pos.tolist() for atom in others]).reshape(-1, 3)
    charges = _charges(others, places)
    oxygens = np.array([residue[0].pos.tolist() for residue in waters])
    turned = quasi_uniform(_TURNS) @ _two_hydrogens().T  # (turns, 3, 2)
    found = np.full((len(waters), 2, 3), np.nan)
    for _ in range(_SWEEPS):
        for k, oxygen in enumerate(oxygens):
            rest = np.arange(len(waters)) != k
            hydrogens = found[rest].reshape(-1, 3)
            hydrogens = hydrogens[np.isfinite(hydrogens[:, 0])]
            field = np.concatenate((places, oxygens[rest], hydrogens))
            charge = np.concatenate(
                (charges, np.full(rest.sum(), _WATER_O), np.full(len(hydrogens), _WATER_H))
            )
            near = np.linalg.norm(field - oxygen, axis=1) <= _NEAR_A
            tried = oxygen + turned.transpose(0, 2, 1)
            apart = np.linalg.norm(tried[:, :, None] - field[near], axis=-1)
            energy = (charge[near] / apart).sum((1, 2)) + 10.0 * (apart < _TOUCH_A).sum((1, 2))
            found[k] = tried[int(energy.argmin())]
    for residue, pair in zip(waters, found, strict=True):
        for name, place in zip(("H1", "H2"), pair, strict=True):
            atom = gemmi.Atom()
            atom.name, atom.element = name, gemmi.Element("H")
            atom.pos = gemmi.Position(*(round(float(x), 3) for x in place))
            atom.b_iso = residue[0].b_iso
            residue.add_atom(atom)


def _two_hydrogens() -> NDArray[np.float64]:
    """(2, 3) offsets of a water's hydrogens from its oxygen."""
    half = np.radians(_HOH_DEG / 2)
    x, y = _OH_A * np.cos(half), _OH_A * np.sin(half)
    return np.array([[x, y, 0.0], [x, -y, 0.0]])


def _charges(atoms: Sequence[gemmi.Atom], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) about what each atom's charge is; a hydrogen's by what it is bonded to."""
    from scipy.spatial import cKDTree

    out = np.zeros(len(atoms))
    heavy = np.array([not atom.is_hydrogen() for atom in atoms], dtype=bool)
    if not heavy.any():
        return out
    parents = np.flatnonzero(heavy)[cKDTree(places[heavy]).query(places)[1]]
    for k, atom in enumerate(atoms):
        if atom.is_hydrogen():
            out[k] = _POLAR_H if atoms[int(parents[k])].element.name in ("N", "O", "S") else 0.0
        else:
            out[k] = _METAL if atom.element.is_metal else _CHARGES.get(atom.element.name, 0.0)
    return out
