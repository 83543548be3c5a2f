"""PDB IDs and coordinate files into prepared structures: one clean chain each, with hydrogens."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffragan.errors import DiffraganError
from diffragan.molecules.clean import chain_sequence, clean_chain, hetero_residues
from diffragan.molecules.fetch import locate, read_coordinates, source_stem
from diffragan.molecules.preparation_report import (
    PreparationReport,
    one_report_json,
    read_report,
    software_versions,
    still_holds,
    write_reports,
)
from diffragan.molecules.relatives import require_unrelated
from diffragan.molecules.structure import load_structure
from diffragan.progress import Progress, no_progress
from diffragan.settings import PrepareSettings

_COORDINATE_ENDINGS = (".pdb", ".ent", ".cif", ".mmcif")
# The name of the joint report: no structure may be called so.
_JOINT_REPORT = "prepare"


def prepare_structures(
    sources: Sequence[str],
    out_dir: Path,
    settings: PrepareSettings,
    *,
    test: Iterable[str] = (),
    max_identity: float = 0.35,
    progress: Progress = no_progress,
) -> list[PreparationReport]:
    """Every source by `prepare_structure`, and `out_dir/prepare.json` with all reports.

    Those finished before an error stay, with their report.

    Args:
        test: sources and folders of structures that are kept for testing.
        max_identity: largest sequence identity (0 to 1) that a source may have to one of them.

    Raises:
        DiffraganError: as `prepare_structure`; two sources of one name; a source that is related
            to a test structure.
    """
    _require_own_names(sources)
    _require_unrelated(sources, settings, test, max_identity)
    reports: list[PreparationReport] = []
    try:
        for source in sources:
            progress("preparing structures", len(reports), len(sources), source)
            reports.append(prepare_structure(source, out_dir, settings))
        progress("preparing structures", len(reports), len(sources))
    finally:
        if reports:
            write_reports(reports, out_dir / f"{_JOINT_REPORT}.json")
    return reports


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
    known = read_report(output)
    if known is not None and still_holds(known, sha256_in, settings):
        return replace(known, source=source, unchanged=True)

    from diffragan.molecules.complete import complete_chain, mmcif_text

    cleaned, removed = clean_chain(structure, settings.chain, source, settings.keep)
    complete, added = complete_chain(cleaned, settings.ph, source)
    beside = hetero_residues(structure, settings.chain, source, settings.keep)
    if beside:
        from diffragan.molecules.hetero import complete_hetero

        complete, beside, more = complete_hetero(complete, beside)
        added += more

    def report_on(draft: Path) -> PreparationReport:
        # Read back before it takes its place: what is written is what will be simulated.
        prepared = load_structure(draft)
        return PreparationReport(
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
            software=software_versions(),
        )

    return _written(output, mmcif_text(complete, stem, beside), report_on)


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


def _written(
    output: Path, text: str, report_on: Callable[[Path], PreparationReport]
) -> PreparationReport:
    """The structure and its report, drafted in a folder beside them and then put in place."""
    out_dir = output.parent
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.stem}-", dir=out_dir) as folder:
            draft = Path(folder) / output.name
            _write(draft, text)
            report = report_on(draft)
            note = draft.with_suffix(".json")
            _write(note, one_report_json(report))
            draft.replace(output)
            note.replace(output.with_suffix(".json"))
    except OSError as error:
        raise DiffraganError(
            f"The structure {output} can't be written ({error.strerror or error}); "
            "choose another folder or make room."
        ) from None
    return report


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _require_own_names(sources: Sequence[str]) -> None:
    by_stem: dict[str, str] = {}
    for source in sources:
        # Some file systems take 1abc and 1ABC for the same name.
        stem = source_stem(source).casefold()
        if stem == _JOINT_REPORT:
            raise DiffraganError(
                f"The structure {source} would overwrite the report {_JOINT_REPORT}.json; "
                "rename the file."
            )
        if stem in by_stem:
            raise DiffraganError(
                f"{by_stem[stem]} and {source} would both be written as {source_stem(source)}; "
                "rename one, or prepare them into two folders."
            )
        by_stem[stem] = source


def _require_unrelated(
    sources: Sequence[str], settings: PrepareSettings, test: Iterable[str], max_identity: float
) -> None:
    test_sources = [source for entry in test for source in _in_folder(entry)]
    if not test_sources:
        return
    # The chain asked for is one of the sources; test files have their own.
    for_test = settings.model_copy(update={"chain": None})
    train_sequences = {source_stem(source): read_sequence(source, settings) for source in sources}
    test_sequences: dict[str, str] = {}
    for source in test_sources:
        stem = source_stem(source)
        test_sequences[source if stem in test_sequences else stem] = read_sequence(source, for_test)
    require_unrelated(train_sequences, test_sequences, max_identity)


def _in_folder(entry: str) -> list[str]:
    """The coordinate files of a folder, or the entry itself."""
    folder = Path(entry)
    if not folder.is_dir():
        return [entry]
    files = sorted(
        str(file)
        for file in folder.iterdir()
        if file.name.lower().removesuffix(".gz").endswith(_COORDINATE_ENDINGS)
    )
    if not files:
        raise DiffraganError(f"The folder {folder} holds no PDB or mmCIF files to test against.")
    return files
