"""What was done to a structure: the report beside it, and whether it still holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.molecules.clean import Edit
from diffragan.molecules.structure import load_structure
from diffragan.settings import PrepareSettings

# Settings that decide what is written; the others only say where it comes from.
_DECISIVE = ("chain", "ph", "keep")
_SOFTWARE = ("diffragan", "gemmi", "openmm", "pdbfixer")


@dataclass(frozen=True, repr=False)
class PreparationReport:
    """What was written for one source, and every change made on the way.

    `output` is the mmCIF file. `changes` are in the order in which they were made. `unchanged`
    says that the output was there already, made from the same bytes by the same settings and
    software.
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

    def __repr__(self) -> str:
        return (
            f"<{self.output}: {self.residues} residues, {self.atoms} atoms, "
            f"{self.mass_kda:.2f} kDa, {self.diameter_A:.1f} Å across, {len(self.changes)} changes>"
        )


def software_versions() -> dict[str, str]:
    """The programs that decide how a structure is prepared, with their versions."""
    return {name: version(name) for name in _SOFTWARE}


def report_json(reports: Iterable[PreparationReport]) -> str:
    """All reports as JSON text: `structures.<stem>` holds one each."""
    tree = {"structures": {report.stem: _as_dict(report) for report in reports}}
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def one_report_json(report: PreparationReport) -> str:
    """One report as JSON text, as it lies beside its structure."""
    return json.dumps(_as_dict(report), indent=2, ensure_ascii=False) + "\n"


def write_reports(reports: Iterable[PreparationReport], path: Path) -> None:
    """Writes `report_json` to `path`, whole or not at all.

    Raises:
        DiffraganError: the file can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, report_json(reports).encode())


def read_report(output: Path) -> PreparationReport | None:
    """The report beside a prepared structure, or None if there is none that holds for it."""
    try:
        tree = json.loads(output.with_suffix(".json").read_text("utf-8"))
        tree["changes"] = tuple(Edit(**change) for change in tree["changes"])
        tree["output"] = output
        report = PreparationReport(**tree)
        sound = load_structure(output).sha256 == report.sha256_out
    except (OSError, ValueError, KeyError, TypeError, DiffraganError):
        return None
    return report if sound else None


def still_holds(report: PreparationReport, sha256_in: str, settings: PrepareSettings) -> bool:
    """Whether the same input would be prepared to the same bytes now."""
    now = settings.model_dump(mode="json")
    usual = PrepareSettings().model_dump(mode="json")  # reports of earlier versions lack some
    then = usual | dict(report.settings)
    same_settings = all(then[key] == now[key] for key in _DECISIVE)
    same_input = report.sha256_in == sha256_in
    return same_input and report.software == software_versions() and same_settings


def _as_dict(report: PreparationReport) -> dict[str, Any]:
    tree = {field.name: getattr(report, field.name) for field in fields(report)}
    del tree["unchanged"]
    tree["output"] = report.output.name
    tree["changes"] = [asdict(change) for change in report.changes]
    return tree
