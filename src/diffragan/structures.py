"""Protein structures: prepared from entries, and read for simulation.

`prepare_structure` turns a PDB ID or a coordinate file into one clean chain with hydrogens and
a report of every change; `load_structure` reads what it wrote.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gemmi
import numpy as np
from numpy.typing import NDArray

from diffragan.entries import locate, path_stem, read_coordinates, source_stem
from diffragan.errors import DiffraganError
from diffragan.files import write_atomically
from diffragan.preparation import HEAVY_ATOMS, Change, chain_sequence, clean_chain
from diffragan.settings import PrepareSettings

if TYPE_CHECKING:
    from rich.table import Table

# Settings that decide what is written; the others only say where it comes from.
_DECISIVE = ("chain", "ph")
_SOFTWARE = ("diffragan", "gemmi", "openmm", "pdbfixer")


@dataclass(frozen=True, eq=False)
class Structure:
    """The atoms of one prepared molecule about its centre of mass.

    Attributes:
        stem: the name under which stores and reports keep it.
        numbers: (atoms,) atomic numbers.
        positions_A: (atoms, 3) x, y, z in Å; the centre of mass is the origin.
        sequence: one letter per residue.
        sha256: hex digest of the file's bytes.
    """

    stem: str
    numbers: NDArray[np.int64]
    positions_A: NDArray[np.float64]
    sequence: str
    sha256: str

    @cached_property
    def mass_kda(self) -> float:
        """Sum of the atomic masses, kDa."""
        return float(_masses_da(self.numbers).sum() / 1000)

    @cached_property
    def radius_A(self) -> float:
        """Largest distance of an atom from the centre of mass, Å."""
        return float(np.linalg.norm(self.positions_A, axis=1).max())

    @property
    def diameter_A(self) -> float:
        """Twice the radius, Å."""
        return 2 * self.radius_A

    @property
    def n_residues(self) -> int:
        """Number of residues."""
        return len(self.sequence)


@dataclass(frozen=True)
class PreparationReport:
    """What was written for one source, and every change made on the way.

    `changes` are in the order in which they were made. `unchanged` says that the output was
    there already, made from the same bytes by the same settings and software.
    """

    stem: str
    source: str
    output: Path
    sha256_in: str
    sha256_out: str
    chain: str
    residues: int
    atoms: int
    hydrogens: int
    mass_kda: float
    radius_A: float
    diameter_A: float
    sequence: str
    changes: tuple[Change, ...]
    settings: Mapping[str, Any]
    software: Mapping[str, str]
    unchanged: bool = False


def load_structure(path: Path) -> Structure:
    """A prepared structure from PDB or mmCIF, plain or gzipped, centred on its mass.

    Raises:
        DiffraganError: the file is missing, empty, cut short or can't be parsed; it holds no
            protein; or it is not prepared (several models or chains, waters or hetero atoms,
            alternative locations, no hydrogens).
    """
    structure, sha256 = read_coordinates(path)
    _require_prepared(structure, path)
    chain = structure[0][0]
    atoms = [atom for residue in chain for atom in residue]
    numbers = np.array([atom.element.atomic_number for atom in atoms], dtype=np.int64)
    positions_A = np.array([atom.pos.tolist() for atom in atoms], dtype=np.float64)
    masses = _masses_da(numbers)
    positions_A -= masses @ positions_A / masses.sum()
    return Structure(
        stem=path_stem(path),
        numbers=numbers,
        positions_A=positions_A,
        sequence=chain_sequence(chain),
        sha256=sha256,
    )


def read_sequence(source: str, settings: PrepareSettings) -> str:
    """One-letter sequence of the chain that `prepare_structure` would write, as modelled.

    Args:
        source: PDB ID, or path of a prepared or unprepared file.

    Raises:
        DiffraganError: as `prepare_structure` does.
    """
    structure, _ = read_coordinates(locate(source, settings))
    chain, _ = clean_chain(structure, settings.chain, source)
    return chain_sequence(chain)


def prepare_structure(source: str, out_dir: Path, settings: PrepareSettings) -> PreparationReport:
    """Writes `out_dir/<stem>.cif`, one protein chain with hydrogens, and `<stem>.json`.

    Args:
        source: a PDB ID (1UBQ, pdb_00001ubq) or the path of a PDB or mmCIF file (.gz too).
        out_dir: made if missing.
        settings: chain, pH, and where PDB entries come from.

    The same input gives the same bytes. A structure that is there already, from the same input
    by the same settings and software, is left as it is.

    Raises:
        DiffraganError: the source can't be found, fetched, read or completed, has no protein
            chain, or the output can't be written. Then no file is left half-written.
    """
    stem = source_stem(source)
    structure, sha256_in = read_coordinates(locate(source, settings))
    output = out_dir / f"{stem}.cif"
    software = {name: version(name) for name in _SOFTWARE}
    known = _read_report(output)
    if known is not None and _still_holds(known, sha256_in, settings, software):
        return replace(known, source=source, unchanged=True)

    from diffragan.completion import complete_chain, mmcif_text

    cleaned, removed = clean_chain(structure, settings.chain, source)
    complete, added = complete_chain(cleaned, settings.ph, source)
    text = mmcif_text(complete, stem)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{stem}-", dir=out_dir) as folder:
            # Read back before it takes its place: what is written is what will be simulated.
            draft = Path(folder) / output.name
            _write(draft, text)
            prepared = load_structure(draft)
            report = PreparationReport(
                stem=stem,
                source=source,
                output=output,
                sha256_in=sha256_in,
                sha256_out=prepared.sha256,
                chain=complete.name,
                residues=prepared.n_residues,
                atoms=len(prepared.numbers),
                hydrogens=int(np.count_nonzero(prepared.numbers == 1)),
                mass_kda=prepared.mass_kda,
                radius_A=prepared.radius_A,
                diameter_A=prepared.diameter_A,
                sequence=prepared.sequence,
                changes=(*removed, *added),
                settings=settings.model_dump(mode="json"),
                software=software,
            )
            note = draft.with_suffix(".json")
            _write(note, json.dumps(_as_dict(report), indent=2, ensure_ascii=False) + "\n")
            draft.replace(output)
            note.replace(output.with_suffix(".json"))
    except OSError as error:
        raise DiffraganError(
            f"The structure {output} can't be written ({error.strerror or error}); "
            "choose another folder or make room."
        ) from None
    return report


def report_json(reports: Iterable[PreparationReport]) -> str:
    """All reports as JSON text: `structures.<stem>` holds one each."""
    tree = {"structures": {report.stem: _as_dict(report) for report in reports}}
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def write_reports(reports: Iterable[PreparationReport], path: Path) -> None:
    """Writes `report_json` to `path`, whole or not at all.

    Raises:
        DiffraganError: the file can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, report_json(reports).encode())


def report_table(reports: Iterable[PreparationReport]) -> Table:
    """What was written, one row per structure."""
    from rich.table import Table

    table = Table(title="Prepared structures", title_justify="left")
    table.add_column("Structure", overflow="fold")
    for heading in ("Chain", "Residues", "Atoms", "H", "kDa", "Radius, Å"):
        table.add_column(heading, justify="right")
    table.add_column("State")
    for report in reports:
        table.add_row(
            report.stem,
            report.chain,
            str(report.residues),
            str(report.atoms),
            str(report.hydrogens),
            f"{report.mass_kda:.2f}",
            f"{report.radius_A:.1f}",
            "unchanged" if report.unchanged else "written",
        )
    return table


def changes_table(reports: Iterable[PreparationReport]) -> Table:
    """Every change of every structure; equal changes share an entry that lists the places."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Changes", title_justify="left")
    table.add_column("Structure", overflow="fold")
    table.add_column("Change")
    table.add_column("What: where", overflow="fold")
    for report in reports:
        places: dict[str, dict[str, list[str]]] = {}
        for change in report.changes:
            places.setdefault(change.kind, {}).setdefault(change.detail, []).append(change.where)
        stem = report.stem
        for kind, details in places.items():
            items = []
            for what, where in details.items():
                # The chain as a whole goes without saying.
                named = ", ".join(place for place in where if place not in ("", report.chain))
                items.append(f"{what}: {named}" if named else what)
            table.add_row(stem, kind, escape("; ".join(items)))
            stem = ""
        table.add_section()
    return table


def _require_prepared(structure: gemmi.Structure, path: Path) -> None:
    model = structure[0]
    residues = [residue for chain in model for residue in chain]
    if not any(residue.name in HEAVY_ATOMS for residue in residues):
        raise DiffraganError(f"There is no protein in {path}; give a file with a protein chain.")
    atoms = [atom for residue in residues for atom in residue]
    elements = {atom.element.atomic_number for atom in atoms}
    problem = None
    if len(structure) > 1:
        problem = f"it has {len(structure)} models"
    elif any(residue.is_water() for residue in residues):
        problem = "it has waters"
    elif other := {residue.name for residue in residues if residue.name not in HEAVY_ATOMS}:
        problem = f"it has other residues than the twenty ({', '.join(sorted(other)[:5])})"
    elif len(model) > 1:
        problem = f"it has {len(model)} chains"
    elif any(atom.has_altloc() for atom in atoms):
        problem = "it has alternative locations"
    elif 1 not in elements:
        problem = "it has no hydrogens"
    elif not elements <= {1, 6, 7, 8, 16}:
        problem = "it has atoms of other elements than H, C, N, O and S"
    if problem is not None:
        raise DiffraganError(
            f"The structure {path} is not prepared: {problem}; "
            f"run `diffragan prepare {path} --out DIR` first."
        )


def _read_report(output: Path) -> PreparationReport | None:
    """The report beside an output, or None if there is none that holds for it."""
    try:
        tree = json.loads(output.with_suffix(".json").read_text("utf-8"))
        tree["changes"] = tuple(Change(**change) for change in tree["changes"])
        tree["output"] = output
        report = PreparationReport(**tree)
        sound = load_structure(output).sha256 == report.sha256_out
    except (OSError, ValueError, KeyError, TypeError, DiffraganError):
        return None
    return report if sound else None


def _still_holds(
    report: PreparationReport,
    sha256_in: str,
    settings: PrepareSettings,
    software: Mapping[str, str],
) -> bool:
    now = settings.model_dump(mode="json")
    same_settings = all(report.settings.get(key) == now[key] for key in _DECISIVE)
    return report.sha256_in == sha256_in and report.software == software and same_settings


def _as_dict(report: PreparationReport) -> dict[str, Any]:
    tree = {field.name: getattr(report, field.name) for field in fields(report)}
    del tree["unchanged"]
    tree["output"] = report.output.name
    tree["changes"] = [asdict(change) for change in report.changes]
    return tree


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _masses_da(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    weights = {int(z): gemmi.Element(int(z)).weight for z in np.unique(numbers)}
    return np.array([weights[int(z)] for z in numbers], dtype=np.float64)


def write_rotated_structures(path: Path, rotations: NDArray[np.float64], folder: Path) -> None:
    """One mmCIF per rotation (n, 3, 3), `<stem>_<number>.cif`, turned about the centre of mass.

    The coordinates are those the simulation sees: centre of mass at the origin, beam along +z.
    """
    structure, _ = read_coordinates(path)
    atoms = [atom for chain in structure[0] for residue in chain for atom in residue]
    places = np.array([atom.pos.tolist() for atom in atoms])
    masses = np.array([atom.element.weight for atom in atoms])
    centred = places - np.average(places, axis=0, weights=masses)
    folder.mkdir(parents=True, exist_ok=True)
    for number, rotation in enumerate(rotations):
        for atom, place in zip(atoms, centred @ rotation.T, strict=True):
            atom.pos = gemmi.Position(*place)
        text = structure.make_mmcif_document().as_string()
        write_atomically(folder / f"{path_stem(path)}_{number:05d}.cif", text.encode())
