"""A model with names and numbers from docked residues, its geometry made ideal.

PDBFixer adds hydrogens and what is missing of residues that are there, never a residue. Amber
ff14SB then settles everything while each built atom is held where it was refined, as firmly as the
run knows it: by kT / noise², so that well determined atoms stay.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gemmi
import numpy as np
from numpy.typing import NDArray

from diffragan.atoms.molecule.molecule import Molecule, Residue
from diffragan.errors import DiffraganError
from diffragan.molecules.clean import BACKBONE, HEAVY_ATOMS, is_bonded
from diffragan.molecules.complete import (
    complete_chain,
    disulphide_templates,
    mmcif_text,
    open_gaps,
)

_PH = 7.0
_CUTOFF_A = 8.0
_KT_KJ_MOL = 2.494  # at 300 K
_LEAST_NOISE_A = 0.02
_ITERATIONS = 500
_NEW = 0.0  # occupancy of an atom that the map does not show


@dataclass(frozen=True)
class Model:
    """One chain of docked residues, numbered by the sequence, with hydrogens.

    residues: those it was built from, by number. rms_moved_A, most_moved_A: how far the force field
    moved built atoms. added: heavy atoms that the map does not show, by number.
    """

    chain: gemmi.Chain
    residues: dict[int, Residue]
    rms_moved_A: float
    most_moved_A: float
    added: dict[int, list[str]]


def build_model(molecule: Molecule) -> Model | None:
    """The model of a docked molecule; None where no residue is docked with its main chain.

    Where PDBFixer can't complete the chain it is left as it was built, without hydrogens.
    """
    residues = {r.number: r for r in molecule.residues if r.number is not None}
    whole = {
        number: residues[number]
        for number in sorted(residues)
        if all(name in residues[number].atoms for name in BACKBONE)
    }
    if not whole:
        return None
    chain = built_chain(molecule, whole)
    try:
        complete, _ = complete_chain(chain, _PH, "the model")
    except DiffraganError:
        unseen = {number: molecule.unseen(residue) for number, residue in whole.items()}
        return Model(chain, whole, 0.0, 0.0, {k: names for k, names in unseen.items() if names})
    ideal = _idealised(complete, chain, molecule.graph.noise_A)
    moved = []
    added: dict[int, list[str]] = {}
    last = len(molecule.docking.sequence) if molecule.docking else 0
    for residue, start in zip(ideal, chain, strict=True):
        end = residue.find_atom("OXT", "*")
        if end is not None and residue.seqid.num != last and start.find_atom("OXT", "*") is None:
            residue.remove_atom("OXT", "\0")
        for atom in residue:
            known: gemmi.Atom | None = start.find_atom(atom.name, "*")
            if known is not None and known.occ > _NEW:
                moved.append(atom.pos.dist(known.pos))
            elif not atom.is_hydrogen():
                atom.occ = _NEW
                added.setdefault(int(str(residue.seqid)), []).append(atom.name)
    shifts = np.array(moved)
    rms = float(np.sqrt((shifts**2).mean()))
    return Model(ideal, whole, rms, float(shifts.max()), added)


def built_chain(molecule: Molecule, residues: dict[int, Residue]) -> gemmi.Chain:
    """Residues as built, by number; the B column holds the refined B factor, and the occupancy is
    0 where an atom is inferred."""
    graph = molecule.graph
    chain = gemmi.Chain("A")
    for number, residue in residues.items():
        made = gemmi.Residue()
        made.name, made.seqid = residue.name, gemmi.SeqId(number, " ")
        made.entity_type = gemmi.EntityType.Polymer
        made.het_flag = "A"
        order = (*HEAVY_ATOMS[residue.name], "OXT")
        for name, k in sorted(residue.atoms.items(), key=lambda row: order.index(row[0])):
            atom = gemmi.Atom()
            atom.name, atom.element = name, gemmi.Element(name[0])
            atom.pos = gemmi.Position(*(round(float(x), 4) for x in graph.places_A[k]))
            atom.b_iso = float(graph.b_A2[k])
            atom.occ = 1.0 if k < molecule.built else _NEW
            made.add_atom(atom)
        chain.add_residue(made)
    return chain


def _idealised(complete: gemmi.Chain, start: gemmi.Chain, noise_A: float) -> gemmi.Chain:
    """The complete chain minimised, atoms of `start` held in place."""
    with warnings.catch_warnings():
        # OpenMM's SWIG classes raise DeprecationWarning at import from Python 3.12 on.
        warnings.simplefilter("ignore", DeprecationWarning)
        import openmm
        from openmm import app, unit

    numbered = complete.clone()
    for number, residue in enumerate(numbered, 1):
        residue.seqid = gemmi.SeqId(number, " ")
    file = app.PDBxFile(io.StringIO(mmcif_text(numbered, "model")))
    gaps = [i for i in range(len(start) - 1) if not is_bonded(start[i], start[i + 1])]
    topology, positions = open_gaps(file.topology, file.positions, gaps)
    try:
        system = app.ForceField("amber14/protein.ff14SB.xml").createSystem(
            topology,
            nonbondedMethod=app.CutoffNonPeriodic,
            nonbondedCutoff=_CUTOFF_A * unit.angstrom,
            rigidWater=False,
            ignoreExternalBonds=True,
            residueTemplates=disulphide_templates(topology),
        )
    except (ValueError, KeyError):
        return complete  # a residue's state that Amber does not know: left as it was built
    _without_charges(system)
    known = [{atom.name for atom in residue if atom.occ > _NEW} for residue in start]
    held = [a.index for a in topology.atoms() if a.name in known[a.residue.index]]
    _hold(system, held, positions, max(noise_A, _LEAST_NOISE_A))
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(
        system,
        openmm.VerletIntegrator(0.001),
        platform,
        {"Threads": "1", "DeterministicForces": "true"},
    )
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, 10, _ITERATIONS)
    state = context.getState(positions=True).getPositions(asNumpy=True)
    return _moved(complete, list(topology.atoms()), np.asarray(state.value_in_unit(unit.angstrom)))


def _without_charges(system: Any) -> None:
    """In vacuum charges on a surface would pull it together; shapes need none."""
    for force in system.getForces():
        if not hasattr(force, "getNumExceptions"):
            continue
        for k in range(force.getNumParticles()):
            _, sigma, epsilon = force.getParticleParameters(k)
            force.setParticleParameters(k, 0.0, sigma, epsilon)
        for k in range(force.getNumExceptions()):
            i, j, _, sigma, epsilon = force.getExceptionParameters(k)
            force.setExceptionParameters(k, i, j, 0.0, sigma, epsilon)


def _hold(system: Any, atoms: Sequence[int], positions: Any, noise_A: float) -> None:
    """Springs of kT / noise² from atoms to where they are."""
    from openmm import CustomExternalForce, unit

    force = CustomExternalForce("0.5 * k * ((x-x0)^2 + (y-y0)^2 + (z-z0)^2)")
    force.addGlobalParameter("k", _KT_KJ_MOL / (noise_A / 10) ** 2)
    for name in ("x0", "y0", "z0"):
        force.addPerParticleParameter(name)
    for k in atoms:
        place = positions[k].value_in_unit(unit.nanometer)
        force.addParticle(k, [place[0], place[1], place[2]])
    system.addForce(force)


def _moved(chain: gemmi.Chain, atoms: Sequence[Any], places_A: NDArray[np.float64]) -> gemmi.Chain:
    """The chain with its atoms at new places."""
    out = chain.clone()
    at = {(a.residue.index, a.name): k for k, a in enumerate(atoms)}
    for index, residue in enumerate(out):
        for atom in residue:
            k = at.get((index, atom.name))
            if k is not None:
                atom.pos = gemmi.Position(*(round(float(x), 4) for x in places_A[k]))
    return out
