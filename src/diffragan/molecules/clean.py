"""From the atoms of an entry to one clean protein chain, with every change on record.

Here atoms are only left out and renamed; `complete` adds what is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

import gemmi

from diffragan.errors import DiffraganError

EditKind = Literal[
    "models dropped",
    "chain chosen",
    "chain dropped",
    "waters removed",
    "hetero atoms removed",
    "waters kept",
    "hetero atoms kept",
    "residue removed",
    "alternative resolved",
    "residue replaced",
    "atoms removed",
    "hydrogens rebuilt",
    "heavy atoms added",
    "terminal atoms added",
    "hydrogens added",
    "hydrogens missing",
    "hydrogens removed",
    "gap not filled",
    "tail not built",
]

HEAVY_ATOMS = {
    name: ("N", "CA", "C", "O", *side_chain.split())
    for name, side_chain in {
        "ALA": "CB",
        "ARG": "CB CG CD NE CZ NH1 NH2",
        "ASN": "CB CG OD1 ND2",
        "ASP": "CB CG OD1 OD2",
        "CYS": "CB SG",
        "GLN": "CB CG CD OE1 NE2",
        "GLU": "CB CG CD OE1 OE2",
        "GLY": "",
        "HIS": "CB CG ND1 CD2 CE1 NE2",
        "ILE": "CB CG1 CG2 CD1",
        "LEU": "CB CG CD1 CD2",
        "LYS": "CB CG CD CE NZ",
        "MET": "CB CG SD CE",
        "PHE": "CB CG CD1 CD2 CE1 CE2 CZ",
        "PRO": "CB CG CD",
        "SER": "CB OG",
        "THR": "CB OG1 CG2",
        "TRP": "CB CG CD1 CD2 NE1 CE2 CE3 CZ2 CZ3 CH2",
        "TYR": "CB CG CD1 CD2 CE1 CE2 CZ OH",
        "VAL": "CB CG1 CG2",
    }.items()
}

ONE_LETTER = {name: gemmi.find_tabulated_residue(name).one_letter_code for name in HEAVY_ATOMS}

_THREE_LETTER = {letter: name for name, letter in ONE_LETTER.items()}

# Names of force fields for protonation states, and three that the tables leave open.
_PARENT = {
    **dict.fromkeys(("HID", "HIE", "HIP", "HSD", "HSE", "HSP"), "HIS"),
    **{"CYX": "CYS", "CYM": "CYS", "ASH": "ASP", "GLH": "GLU", "LYN": "LYS"},
    **{"SEC": "CYS", "PYL": "LYS", "ASX": "ASP", "GLX": "GLU"},
}

_ATOM_ALIAS = {
    **{("ILE", "CD"): "CD1", ("MET", "SE"): "SD", ("CYS", "SE"): "SG"},
    **{(name, other): "O" for name in HEAVY_ATOMS for other in ("OT1", "OC1")},
    **{(name, other): "OXT" for name in HEAVY_ATOMS for other in ("OT2", "OC2")},
}

BACKBONE = ("N", "CA", "C")

_LONGEST_PEPTIDE_BOND_A = 2.0


@dataclass(frozen=True)
class Edit:
    """One difference between the file read and the structure written."""

    kind: EditKind
    where: str
    detail: str


def clean_chain(
    structure: gemmi.Structure, wanted: str | None, name: str, keep: Collection[str] = ()
) -> tuple[gemmi.Chain, list[Edit]]:
    """One protein chain of the first model: standard residues, heavy atoms only, no alternatives.

    Args:
        structure: as read, with entities set up; not altered.
        wanted: the chain's (author's) name; None takes A, or else the first protein chain.
        name: what error messages call the input.
        keep: "ligands" and "waters" that `hetero_residues` gives: here they are named as kept.

    Raises:
        DiffraganError: no protein, no such chain, or no residue with a backbone.
    """
    changes: list[Edit] = []
    if len(structure) > 1:
        changes.append(Edit("models dropped", "", f"the first of {len(structure)} models kept"))
    source = _choose_chain(structure[0], wanted, name, changes)
    for other in structure[0]:
        if other.name != source.name:
            changes.append(Edit("chain dropped", other.name or "blank", _contents(other)))

    # What the entry itself says of its modified residues.
    parents = {m.res_id.name: m.parent_comp_id for m in structure.mod_residues}
    cleaned = gemmi.Chain(source.name.strip() or "A")
    waters = 0
    hetero: Counter[str] = Counter()
    hydrogens = 0
    for _, conformers in groupby(source, key=lambda r: (str(r.seqid), r.subchain)):
        residue = one_conformer(list(conformers), cleaned.name, changes)
        where = f"{cleaned.name} {residue.seqid}"
        if residue.is_water():
            waters += 1
        elif not _in_protein(residue):
            hetero[residue.name] += 1
        elif not all(residue.find_atom(atom, "*") for atom in BACKBONE):
            detail = f"{residue.name}: its backbone is incomplete"
            changes.append(Edit("residue removed", where, detail))
        else:
            hydrogens += sum(atom.is_hydrogen() for atom in residue)
            cleaned.add_residue(_standard_residue(residue, parents, where, changes))
    if len(cleaned) == 0:
        raise DiffraganError(
            f"Chain {cleaned.name} of {name} has no residue with N, CA and C atoms; "
            "give an all-atom model."
        )
    if waters:
        kind: EditKind = "waters kept" if "waters" in keep else "waters removed"
        changes.append(Edit(kind, cleaned.name, f"{waters} water{'s' * (waters > 1)}"))
    kind = "hetero atoms kept" if "ligands" in keep else "hetero atoms removed"
    changes += [Edit(kind, cleaned.name, f"{n} x {het}") for het, n in hetero.items()]
    if hydrogens:
        changes.append(Edit("hydrogens rebuilt", cleaned.name, f"{hydrogens} in the input"))
    for residue in list(cleaned)[:-1]:
        if residue.find_atom("OXT", "*") is not None:
            residue.remove_atom("OXT", "\0")
            where = f"{cleaned.name} {residue.seqid}"
            changes.append(Edit("atoms removed", where, "OXT within the chain"))
    return cleaned, changes + _gaps(cleaned) + _tails(structure, source, cleaned)


def chain_sequence(chain: gemmi.Chain) -> str:
    """One-letter sequence of a cleaned chain."""
    return "".join(ONE_LETTER[residue.name] for residue in chain)


def hetero_residues(
    structure: gemmi.Structure, wanted: str | None, name: str, keep: Collection[str]
) -> list[gemmi.Residue]:
    """Ligands, metals and waters of the chain that `clean_chain` takes, no alternatives.

    Args:
        keep: "ligands", "waters", or both.

    Raises:
        DiffraganError: as `clean_chain`.
    """
    source = _choose_chain(structure[0], wanted, name, [])
    kept = []
    for _, conformers in groupby(source, key=lambda r: (str(r.seqid), r.subchain)):
        residue = one_conformer(list(conformers), source.name, [])
        kind = "waters" if residue.is_water() else "ligands"
        if kind in keep and not _in_protein(residue):
            residue.het_flag = "H"
            kept.append(residue)
    return kept


def _choose_chain(
    model: gemmi.Model, wanted: str | None, name: str, changes: list[Edit]
) -> gemmi.Chain:
    proteins = {chain.name: chain for chain in model if any(map(_in_protein, chain))}
    if not proteins:
        raise DiffraganError(f"There is no protein in {name}; give a file with a protein chain.")
    choice = wanted if wanted is not None else "A"
    if choice in proteins:
        return proteins[choice]
    names = ", ".join(chain or "blank" for chain in proteins)
    if wanted is not None:
        raise DiffraganError(
            f"There is no protein chain {wanted} in {name}; its protein chains are {names}."
        )
    first = next(iter(proteins))
    detail = f"there is no protein chain A; the first of {names}"
    changes.append(Edit("chain chosen", first or "blank", detail))
    return proteins[first]


def _in_protein(residue: gemmi.Residue) -> bool:
    """Part of a protein chain: in a polymer or an ATOM record, with an amino acid's atoms."""
    if residue.is_water():
        return False
    in_chain = residue.entity_type == gemmi.EntityType.Polymer or residue.het_flag == "A"
    tabulated = gemmi.find_tabulated_residue(residue.name)
    return in_chain and (
        residue.name in HEAVY_ATOMS
        or (tabulated.is_amino_acid() and residue.find_atom("CA", "*") is not None)
        or all(residue.find_atom(atom, "*") for atom in BACKBONE)
    )


def _contents(chain: gemmi.Chain) -> str:
    waters = sum(residue.is_water() for residue in chain)
    proteins = sum(map(_in_protein, chain))
    counts = {"protein residues": proteins, "waters": waters}
    counts["other residues"] = len(chain) - proteins - waters
    return ", ".join(f"{what}: {n}" for what, n in counts.items() if n)


def one_conformer(
    conformers: list[gemmi.Residue], chain: str, changes: list[Edit]
) -> gemmi.Residue:
    """The best-occupied alternative of a residue (ties: first letter), which may name it too."""
    occupancies: dict[str, list[float]] = {}
    for residue in conformers:
        for atom in residue:
            if atom.has_altloc():
                occupancies.setdefault(atom.altloc, []).append(atom.occ)
    means = {letter: sum(occ) / len(occ) for letter, occ in sorted(occupancies.items())}
    # max keeps the first of equals, here the first letter.
    chosen = max(means, key=lambda letter: round(means[letter], 4)) if means else None
    source = next((r for r in conformers if any(a.altloc == chosen for a in r)), conformers[0])
    residue = empty_copy(source)
    best: dict[str, gemmi.Atom] = {}
    for atom in source:
        # An atom without a letter beside one of the same name is an alternative as well.
        rival = best.get(atom.name)
        if atom.has_altloc() and atom.altloc != chosen:
            continue
        if rival is None or atom.occ > rival.occ:
            best[atom.name] = atom
    for atom in best.values():
        kept = atom.clone()
        kept.altloc = "\0"
        kept.occ = 1.0
        residue.add_atom(kept)
    if means or len(conformers) > 1:
        names = list(dict.fromkeys(r.name for r in conformers))
        letters = ", ".join(f"{letter} {mean:.2f}" for letter, mean in means.items())
        kept_name = f"{source.name} {chosen}" if chosen else source.name
        detail = f"{kept_name} kept of {letters or '/'.join(names)}"
        if letters and len(names) > 1:
            detail += f" ({'/'.join(names)})"
        if _in_protein(residue):
            changes.append(Edit("alternative resolved", f"{chain} {residue.seqid}", detail))
    return residue


def _standard_residue(
    residue: gemmi.Residue, parents: Mapping[str, str], where: str, changes: list[Edit]
) -> gemmi.Residue:
    """The residue as one of the twenty, hydrogens and atoms of other residues left out."""
    parent = _parent_name(residue, parents)
    standard = empty_copy(residue)
    standard.name = parent
    standard.het_flag = "A"
    removed: list[str] = []
    for atom in residue:
        if atom.is_hydrogen():
            continue
        kept = atom.clone()
        kept.name = _ATOM_ALIAS.get((parent, atom.name), atom.name)
        if kept.name not in (*HEAVY_ATOMS[parent], "OXT") or standard.find_atom(kept.name, "*"):
            removed.append(atom.name)
            continue
        if kept.name in ("SD", "SG"):
            kept.element = gemmi.Element("S")
        kept.charge = 0
        standard.add_atom(kept)
    left_out = f"; left out {' '.join(removed)}" if removed else ""
    if parent != residue.name:
        detail = f"{residue.name} to {parent}{left_out}"
        changes.append(Edit("residue replaced", where, detail))
    elif removed:
        changes.append(Edit("atoms removed", where, f"{parent}{left_out.lstrip(';')}"))
    return standard


def _parent_name(residue: gemmi.Residue, parents: Mapping[str, str]) -> str:
    """Which of the twenty a residue derives from; alanine or glycine where nothing is known."""
    if residue.name in HEAVY_ATOMS:
        return residue.name
    if residue.name in _PARENT:
        return _PARENT[residue.name]
    letter = gemmi.find_tabulated_residue(residue.name).one_letter_code.upper()
    if letter in _THREE_LETTER:
        return _THREE_LETTER[letter]
    if parents.get(residue.name) in HEAVY_ATOMS:
        return parents[residue.name]
    from pdbfixer.pdbfixer import substitutions

    fallback = "ALA" if residue.find_atom("CB", "*") is not None else "GLY"
    return str(substitutions.get(residue.name, fallback))


def is_bonded(residue: gemmi.Residue, following: gemmi.Residue) -> bool:
    """A peptide bond joins the two: C and N lie within 2 Å."""
    c, n = residue.find_atom("C", "*"), following.find_atom("N", "*")
    return c is not None and n is not None and c.pos.dist(n.pos) <= _LONGEST_PEPTIDE_BOND_A


def empty_copy(residue: gemmi.Residue) -> gemmi.Residue:
    """The residue's name, numbers and kind, without its atoms."""
    copy = gemmi.Residue()
    copy.name = residue.name
    copy.seqid = residue.seqid
    copy.label_seq = residue.label_seq
    copy.subchain = residue.subchain
    copy.entity_type = residue.entity_type
    copy.het_flag = residue.het_flag
    return copy


def _gaps(chain: gemmi.Chain) -> list[Edit]:
    changes = []
    for residue, following in pairwise(chain):
        if is_bonded(residue, following):
            continue
        missing = _number(following) - _number(residue) - 1
        what = f"{missing} residues by number" if missing > 0 else "the numbering goes on"
        where = f"{chain.name} {residue.seqid} to {following.seqid}"
        changes.append(Edit("gap not filled", where, what))
    return changes


def _number(residue: gemmi.Residue) -> int:
    number = residue.seqid.num
    return 0 if number is None else number


def _tails(structure: gemmi.Structure, source: gemmi.Chain, cleaned: gemmi.Chain) -> list[Edit]:
    """Residues of the entry's sequence before the first and after the last one modelled."""
    entity = structure.get_entity_of(source.get_polymer())
    length = len(entity.full_sequence) if entity is not None else 0
    first, last = cleaned[0].label_seq, cleaned[-1].label_seq
    if not length or first is None or last is None:
        return []
    tails = {"before": (first - 1, cleaned[0]), "after": (length - last, cleaned[-1])}
    return [
        Edit("tail not built", f"{side} {cleaned.name} {residue.seqid}", f"{n} residues")
        for side, (n, residue) in tails.items()
        if n > 0
    ]
