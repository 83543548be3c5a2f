"""A model as an mmCIF file that gemmi, ChimeraX and Coot read."""

from __future__ import annotations

from pathlib import Path

import gemmi

from diffragan.atoms.molecule.docking import UNKNOWN
from diffragan.atoms.molecule.model import Model
from diffragan.atoms.molecule.molecule import Molecule, Residue
from diffragan.files.atomic import write_atomically
from diffragan.molecules.clean import HEAVY_ATOMS, ONE_LETTER

_THREE_LETTER = {letter: name for name, letter in ONE_LETTER.items()} | {UNKNOWN: "UNK"}


def confidence(residue: Residue, molecule: Molecule) -> float:
    """0 to 100: the probability of the residue's place and type, times the part of its heavy atoms
    that were built and both half sets confirm."""
    sure = sum(bool(molecule.graph.sure[k]) for name, k in residue.atoms.items() if name != "OXT")
    return 100 * residue.probability * min(1.0, sure / len(HEAVY_ATOMS[residue.name]))


def write_model_cif(path: Path, molecule: Molecule, model: Model, name: str) -> None:
    """Chain A the docked residues, numbered by the sequence, which the file holds whole: what is
    not built is a gap. B is the residue's confidence, 0 to 100, also as `_ma_qa_metric_local`;
    occupancy 0 marks heavy atoms that the map does not show. The refined B factors stand in
    `_atom_site.diffragan_b_A2`.

    Raises:
        DiffraganError: the disk refuses.
    """
    assert molecule.docking is not None
    values = {str(number): confidence(r, molecule) for number, r in model.residues.items()}
    structure = gemmi.Structure()
    structure.name = name
    structure.info["_entry.id"] = name
    entity = gemmi.Entity("1")
    entity.entity_type = gemmi.EntityType.Polymer
    entity.polymer_type = gemmi.PolymerType.PeptideL
    entity.subchains = ["A"]
    entity.full_sequence = [_THREE_LETTER[letter] for letter in molecule.docking.sequence]
    structure.entities.append(entity)
    refined = []
    chain = model.chain.clone()
    for residue in chain:
        residue.subchain, residue.entity_id = "A", "1"
        residue.entity_type, residue.label_seq = gemmi.EntityType.Polymer, residue.seqid.num
        for atom in residue:
            refined.append(f"{atom.b_iso:.2f}")
            atom.b_iso = values[str(residue.seqid)]
    only = gemmi.Model(1)
    only.add_chain(chain)
    structure.add_model(only)
    _add_disulphides(structure, molecule, model)
    structure.assign_serial_numbers()
    block = structure.make_mmcif_document().sole_block()
    column = block.find_loop("_atom_site.id").get_loop()
    column.add_columns(["_atom_site.diffragan_b_A2"], "?")
    for row, value in enumerate(refined):
        column[row, column.width() - 1] = value
    _add_confidence(block, chain, values)
    write_atomically(path, block.as_string().encode())


def _add_disulphides(structure: gemmi.Structure, molecule: Molecule, model: Model) -> None:
    """Bonds between cysteines that are both in the model."""
    where = {r.atoms["SG"]: n for n, r in model.residues.items() if "SG" in r.atoms}
    for k, (i, j) in enumerate(molecule.disulphides, 1):
        if i not in where or j not in where:
            continue
        bond = gemmi.Connection()
        bond.name, bond.type = f"disulf{k}", gemmi.ConnectionType.Disulf
        bond.asu = gemmi.Asu.Same
        for end, number in zip((bond.partner1, bond.partner2), (where[i], where[j]), strict=True):
            end.chain_name, end.atom_name = "A", "SG"
            end.res_id.name, end.res_id.seqid = "CYS", gemmi.SeqId(number, " ")
        structure.connections.append(bond)


def _add_confidence(block: gemmi.cif.Block, chain: gemmi.Chain, values: dict[str, float]) -> None:
    """The categories of ModelCIF for a local score of each residue."""
    metric = block.init_loop("_ma_qa_metric.", ["id", "mode", "name", "type"])
    metric.add_row(["1", "local", "'place, type and atoms'", "other"])
    names = ["model_id", "label_asym_id", "label_seq_id", "label_comp_id", "metric_id"]
    local = block.init_loop("_ma_qa_metric_local.", ["ordinal_id", *names, "metric_value"])
    for k, residue in enumerate(chain, 1):
        number = str(residue.seqid)
        local.add_row([str(k), "1", "A", number, residue.name, "1", f"{values[number]:.1f}"])
