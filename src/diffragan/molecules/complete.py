"""Missing heavy atoms and hydrogens of a cleaned chain, by PDBFixer, the same every time.

No residue is ever added: disordered tails and loops stay out.
"""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gemmi
import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.molecules.clean import HEAVY_ATOMS, Edit, empty_copy, is_bonded
from diffragan.molecules.structure import HETERO_KEPT

# Any number but 0, which OpenMM takes as "a new seed every time".
_SEED = 1


# Added atoms need their neighbourhood only: 10 Å costs four times as much and moves nothing.
_CUTOFF_A = 6.0
_RELAX_ITERATIONS = 200
_ROUGH = ", roughly placed: Amber has no template for every residue"


@dataclass(frozen=True)
class _Completion:
    """What PDBFixer made of a chain.

    residues: OpenMM's, in order. positions_A: (atoms, 3). heavy_atoms, terminal_atoms: names of
        those added, by the residue's index. relaxed: whether the force field placed what is new.
    """

    residues: list[Any]
    positions_A: NDArray[np.float64]
    heavy_atoms: dict[int, list[str]]
    terminal_atoms: dict[int, list[str]]
    relaxed: bool


def complete_chain(chain: gemmi.Chain, ph: float, name: str) -> tuple[gemmi.Chain, list[Edit]]:
    """The cleaned chain with its missing heavy atoms and all hydrogens at `ph`.

    Atoms already there keep their coordinates; residues stay as many. The same input gives the
    same atoms: PDBFixer runs on OpenMM's reference platform with fixed seeds.

    Raises:
        DiffraganError: PDBFixer can't complete the chain.
    """
    start = chain.clone()
    for number, residue in enumerate(start, start=1):
        residue.seqid = gemmi.SeqId(number, " ")
    placed = {i for i, residue in enumerate(start) if _place_cb(residue)}
    completion = _completed_by_pdbfixer(start, ph, name)
    changes: list[Edit] = []
    complete = gemmi.Chain(chain.name)
    hydrogens = 0
    for index, (residue, built) in enumerate(zip(chain, completion.residues, strict=True)):
        where = f"{chain.name} {residue.seqid}"
        heavy = (["CB"] if index in placed else []) + completion.heavy_atoms.get(index, [])
        if heavy:
            changes.append(Edit("heavy atoms added", where, f"{residue.name} {' '.join(heavy)}"))
        if index in completion.terminal_atoms:
            names = " ".join(completion.terminal_atoms[index])
            changes.append(Edit("terminal atoms added", where, names))
        full = _completed_residue(residue, built, completion.positions_A)
        hydrogens += sum(atom.is_hydrogen() for atom in full)
        complete.add_residue(full)
    how = "" if completion.relaxed else _ROUGH
    changes.append(Edit("hydrogens added", chain.name, f"{hydrogens} at pH {ph:g}{how}"))
    return complete, changes


def _completed_by_pdbfixer(start: gemmi.Chain, ph: float, name: str) -> _Completion:
    """All atoms of a chain whose residues are numbered from 1, with no residue added."""
    with warnings.catch_warnings():
        # OpenMM's SWIG classes raise DeprecationWarning at import from Python 3.12 on.
        warnings.simplefilter("ignore", DeprecationWarning)
        import openmm
        from openmm import unit
        from pdbfixer import PDBFixer

    gaps = [i for i in range(len(start) - 1) if not is_bonded(start[i], start[i + 1])]
    random_state = random.getstate()
    try:
        random.seed(_SEED)
        fixer = PDBFixer(
            pdbxfile=io.StringIO(mmcif_text(start, "start")),
            platform=openmm.Platform.getPlatformByName("Reference"),
        )
        fixer.missingResidues = {}
        fixer.findMissingAtoms()
        heavy = {r.index: [a.name for a in atoms] for r, atoms in fixer.missingAtoms.items()}
        ends = {r.index: list(atoms) for r, atoms in fixer.missingTerminals.items()}
        fixer.addMissingAtoms(seed=_SEED)
        fixer.topology, fixer.positions = open_gaps(fixer.topology, fixer.positions, gaps)
        fixer.addMissingHydrogens(ph)
        relaxed = _relax(fixer, start)
    except (ValueError, KeyError, ArithmeticError, openmm.OpenMMException) as error:
        raise DiffraganError(
            f"PDBFixer can't complete {name} ({error}); remove the residue it names, "
            "or complete the file with another program."
        ) from None
    finally:
        random.setstate(random_state)
    positions_A = np.asarray(fixer.positions.value_in_unit(unit.angstrom))
    return _Completion(list(fixer.topology.residues()), positions_A, heavy, ends, relaxed)


def mmcif_text(chain: gemmi.Chain, name: str, hetero: Sequence[gemmi.Residue] = ()) -> str:
    """A one-chain structure as mmCIF, complete with sequence; no dates, no program names.

    Args:
        hetero: ligands, metals and waters, written after the chain under its name.
    """
    entity = gemmi.Entity("1")
    entity.entity_type = gemmi.EntityType.Polymer
    entity.polymer_type = gemmi.PolymerType.PeptideL
    entity.subchains = [chain.name]
    entity.full_sequence = [residue.name for residue in chain]
    model = gemmi.Model(1)
    model.add_chain(chain)
    for number, residue in enumerate(model[0], start=1):
        residue.subchain = chain.name
        residue.entity_id = entity.name
        residue.entity_type = entity.entity_type
        residue.label_seq = number
    structure = gemmi.Structure()
    structure.name = name
    structure.info["_entry.id"] = name
    structure.entities.append(entity)
    structure.add_model(model)
    if hetero:
        _add_hetero(structure, hetero)
    structure.assign_serial_numbers()
    groups = gemmi.MmcifOutputGroups(False)
    for group in ("block_name", "entry", "entity", "entity_poly", "entity_poly_seq"):
        setattr(groups, group, True)
    for group in ("struct_asym", "atoms", "group_pdb", "auth_all"):
        setattr(groups, group, True)
    groups.title_keywords = bool(hetero)
    options = gemmi.cif.WriteOptions()
    options.misuse_hash = True
    options.align_loops = 20
    return str(structure.make_mmcif_block(groups).as_string(options)).rstrip() + "\n"


def _add_hetero(structure: gemmi.Structure, hetero: Sequence[gemmi.Residue]) -> None:
    """Residues beside the chain, each a molecule of its own, and the word that they were kept."""
    chain = structure[0][0]
    for name in dict.fromkeys(residue.name for residue in hetero):
        entity = gemmi.Entity(str(len(structure.entities) + 1))
        water = gemmi.find_tabulated_residue(name).is_water()
        kind = gemmi.EntityType
        entity.entity_type = kind.Water if water else kind.NonPolymer
        for residue in hetero:
            if residue.name == name:
                added = chain.add_residue(residue)
                added.subchain, added.entity_id = f"{chain.name}x{len(chain)}", entity.name
                added.entity_type, added.het_flag, added.label_seq = entity.entity_type, "H", None
                entity.subchains = [*entity.subchains, added.subchain]
        structure.entities.append(entity)
    structure.info["_struct_keywords.text"] = HETERO_KEPT


def _place_cb(residue: gemmi.Residue) -> bool:
    """Puts a missing CB where an L-amino acid has it; True if one was placed.

    PDBFixer overlays a template on the atoms there are, and its overlay may mirror: with N, CA,
    C and O alone, a third of the residues came out as D-amino acids.
    """
    if "CB" not in HEAVY_ATOMS[residue.name] or residue.find_atom("CB", "*") is not None:
        return False
    n, ca, c = (np.array(residue.find_atom(name, "*").pos.tolist()) for name in ("N", "CA", "C"))
    b = ca - n
    d = c - ca
    # Ideal tetrahedral geometry, CA-CB 1.52 Å.
    cb = ca - 0.58273431 * np.cross(b, d) + 0.56802827 * b - 0.54067466 * d
    atom = gemmi.Atom()
    atom.name = "CB"
    atom.element = gemmi.Element("C")
    atom.pos = gemmi.Position(*(round(float(x), 3) for x in cb))
    atom.b_iso = residue.find_atom("CA", "*").b_iso
    residue.add_atom(atom)
    return True


def open_gaps(topology: Any, positions: Any, gaps: list[int]) -> tuple[Any, Any]:
    """An OpenMM topology and its positions without the bonds across gaps, which OpenMM draws
    between all neighbours.

    Otherwise the hydrogen on the nitrogen after a gap would point away from a distant carbon.

    Args:
        gaps: indices of the residues after which there is one.
    """
    from openmm import app

    across = [
        (one, other)
        for one, other in topology.bonds()
        if abs(one.residue.index - other.residue.index) == 1
        and {one.name, other.name} == {"C", "N"}
        and min(one.residue.index, other.residue.index) in gaps
    ]
    if not across:
        return topology, positions
    modeller = app.Modeller(topology, positions)
    modeller.delete(across)
    return modeller.topology, modeller.positions


def _relax(fixer: Any, start: gemmi.Chain) -> bool:
    """Moves the atoms that `start` lacks, and no others, to where Amber ff14SB wants them.

    PDBFixer leaves hydrogens about 1.2 Å from their atom, with angles between 77 and 164 degrees
    in ubiquitin. False, and nothing moved, where the force field doesn't know a residue's state.
    """
    from openmm import Context, LocalEnergyMinimizer, VerletIntegrator, app, unit

    force_field = app.ForceField("amber14/protein.ff14SB.xml")
    try:
        system = force_field.createSystem(
            fixer.topology,
            nonbondedMethod=app.CutoffNonPeriodic,
            nonbondedCutoff=_CUTOFF_A * unit.angstrom,
            rigidWater=False,
            # Residues at a gap lack a bond that their template has.
            ignoreExternalBonds=True,
            residueTemplates=disulphide_templates(fixer.topology),
        )
    except (ValueError, KeyError):
        return False
    known = [{atom.name for atom in residue} for residue in start]
    for atom in fixer.topology.atoms():
        if atom.name in known[atom.residue.index]:
            # A massless particle stays where it is.
            system.setParticleMass(atom.index, 0)
    context = Context(system, VerletIntegrator(0.001), fixer.platform)
    context.setPositions(fixer.positions)
    LocalEnergyMinimizer.minimize(context, 10, _RELAX_ITERATIONS)
    fixer.positions = context.getState(positions=True).getPositions()
    return True


def disulphide_templates(topology: Any) -> dict[Any, str]:
    """Cysteines without HG: their atoms alone don't tell a disulfide from a thiolate."""
    residues = list(topology.residues())
    ends = {residues[0]: "N", residues[-1]: "C"}
    return {
        residue: f"{ends.get(residue, '')}CYX"
        for residue in residues
        if residue.name == "CYS" and "HG" not in {atom.name for atom in residue.atoms()}
    }


def _completed_residue(
    residue: gemmi.Residue, built: Any, positions_A: NDArray[np.float64]
) -> gemmi.Residue:
    """The residue with the atoms that PDBFixer built; those it had keep their coordinates."""
    complete = empty_copy(residue)
    for atom in built.atoms():
        known: gemmi.Atom | None = residue.find_atom(atom.name, "*")
        if known is not None:
            complete.add_atom(known)
            continue
        new = gemmi.Atom()
        new.name = atom.name
        new.element = gemmi.Element(atom.element.symbol)
        new.pos = gemmi.Position(*(round(float(x), 3) for x in positions_A[atom.index]))
        new.b_iso = residue.find_atom("CA", "*").b_iso
        complete.add_atom(new)
    return complete
