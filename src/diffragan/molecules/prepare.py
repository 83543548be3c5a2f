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
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.molecules.clean import Edit, chain_sequence, clean_chain
from diffragan.molecules.fetch import locate, read_coordinates, source_stem
from diffragan.molecules.structure import load_structure
from diffragan.settings import PrepareSettings

if TYPE_CHECKING:
    pass


# Settings that decide what is written; the others only say where it comes from.
_DECISIVE = ("chain", "ph")


_SOFTWARE = ("diffragan", "gemmi", "openmm", "pdbfixer")


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
    changes: tuple[Edit, ...]
    settings: Mapping[str, Any]
    software: Mapping[str, str]
    unchanged: bool = False


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

    from diffragan.molecules.complete import complete_chain, mmcif_text

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


def _read_report(output: Path) -> PreparationReport | None:
    """The report beside an output, or None if there is none that holds for it."""
    try:
        tree = json.loads(output.with_suffix(".json").read_text("utf-8"))
        tree["changes"] = tuple(Edit(**change) for change in tree["changes"])
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
