"""Entries of the Protein Data Bank and local coordinate files: found, fetched, read, not altered.

Reads PDB and mmCIF, plain or gzipped, whatever the file's name says. A file that is cut short
is refused where that can be seen: a broken gzip stream or record, a wwPDB file without its END
record or closing `#`, a model left open. A bare list of atoms cut between two records can't be
told from a whole one.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import zlib
from pathlib import Path
from typing import Any

import gemmi

from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.settings import PrepareSettings

_SUFFIXES = (".gz", ".cif", ".mmcif", ".pdb", ".ent")
_CLASSIC_ID = re.compile(r"[1-9][A-Za-z0-9]{3}")
_EXTENDED_ID = re.compile(r"pdb_(\d{4})([A-Za-z0-9]{4})", re.IGNORECASE)
_DOWNLOAD_TIMEOUT_S = 60
# gemmi reports what it can't parse by any of these.
_PARSE_ERRORS = (RuntimeError, ValueError, IndexError, KeyError, TypeError)


def entry_id(source: str) -> str | None:
    """The PDB ID that `source` is, or None.

    `1ubq` and `pdb_00001ubq` are the same entry, `1UBQ`; an ID that only the extended form can
    write stays extended, in capitals.
    """
    if _CLASSIC_ID.fullmatch(source):
        return source.upper()
    extended = _EXTENDED_ID.fullmatch(source)
    if extended is None:
        return None
    return (extended[2] if extended[1] == "0000" else source).upper()


def source_stem(source: str) -> str:
    """The name under which a source (PDB ID or path) is kept: `1UBQ` for `x/1UBQ.pdb.gz`."""
    if not Path(source).is_file() and (pdb_id := entry_id(source)) is not None:
        return pdb_id
    return path_stem(Path(source))


def path_stem(path: Path) -> str:
    """File name without its .gz, .cif, .mmcif, .pdb or .ent endings."""
    name = path.name
    while name.lower().endswith(_SUFFIXES) and not name.startswith("."):
        name = name[: name.rindex(".")]
    return name


def locate(source: str, settings: PrepareSettings) -> Path:
    """The file of a source: a path as it is, a PDB ID fetched into the cache.

    Raises:
        DiffraganError: neither a file nor a PDB ID, or the download failed.
    """
    path = Path(source)
    if path.is_file():
        return path
    if (pdb_id := entry_id(source)) is not None:
        return fetch_entry(pdb_id, settings)
    raise DiffraganError(
        f"There is no structure file {source}, and it is not a PDB ID; "
        "give an existing file or an ID such as 1UBQ."
    )


def fetch_entry(pdb_id: str, settings: PrepareSettings) -> Path:
    """The cached mmCIF file of an entry, downloaded on first use.

    The SHA-256 of the download is kept beside it; a cached file that no longer matches is
    downloaded anew. Failed requests are repeated `settings.retries` times.

    Raises:
        DiffraganError: no such entry, no connection, or a download that is not whole.
    """
    import pooch

    folder = (settings.cache_dir or Path(pooch.os_cache("diffragan"))) / "entries"
    name = f"{pdb_id if len(pdb_id) == 4 else pdb_id.lower()}.cif.gz"
    path, note = folder / name, folder / f"{name}.sha256"
    try:
        if path.exists():
            data = path.read_bytes()
            if note.exists() and note.read_text("utf-8").strip() == _sha256(data):
                return path
            # Never trusted without its checksum: an interrupted or altered file goes.
            path.unlink()
        url = f"{settings.base_url.rstrip('/')}/"
        # Downloads are announced by the caller's progress bar, if at all.
        pooch.get_logger().setLevel("WARNING")
        registry = pooch.create(
            path=folder, base_url=url, registry={name: None}, retry_if_failed=settings.retries
        )
        registry.fetch(name, downloader=_download)
        data = path.read_bytes()
        try:
            _decompress(data, path)
        except DiffraganError:
            path.unlink()
            raise DiffraganError(
                f"The download of {pdb_id} from {url} is not a whole gzip file; try again later."
            ) from None
        write_atomically(note, f"{_sha256(data)}\n".encode())
    except OSError as error:
        # requests' exceptions are OSErrors too.
        raise DiffraganError(
            f"Entry {pdb_id} can't be downloaded from {settings.base_url} to {folder} "
            f"({_reason(error)}); check the connection, or give a local file."
        ) from None
    return path


def read_coordinates(path: Path) -> tuple[gemmi.Structure, str]:
    """All models of a PDB or mmCIF file, plain or gzipped, and the SHA-256 of its bytes.

    Entities are set up: residues know whether they are polymer, water or other.

    Raises:
        DiffraganError: the file is missing, empty, cut short or can't be parsed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DiffraganError(
            f"The structure file {path} can't be read ({_reason(error)}); check the name."
        ) from None
    text = _decompress(data, path).decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise DiffraganError(f"The structure file {path} is empty; fetch it again.")
    is_mmcif = re.match(r"(\s|#.*\n)*data_", text, re.IGNORECASE) is not None
    structure = _parse_mmcif(text, path) if is_mmcif else _parse_pdb(text, path)
    # Waters and ligands of a chain stand apart from it in the file.
    structure.merge_chain_parts()
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise DiffraganError(
            f"The file {path} holds no atoms; give a whole PDB or mmCIF file of a protein."
        )
    for site in structure[0].all():
        if not all(map(math.isfinite, site.atom.pos.tolist())):
            raise _broken(path, f"atom {site.atom.name} of {site.residue} has no coordinates")
    structure.setup_entities()
    return structure, _sha256(data)


def _parse_pdb(text: str, path: Path) -> gemmi.Structure:
    lines = text.splitlines()
    records = {line[:6].rstrip() for line in lines}
    for number, line in enumerate(lines, start=1):
        if not line.startswith(("ATOM  ", "HETATM")):
            continue
        try:
            for start in (30, 38, 46):
                field = line[start : start + 8]
                if len(field) < 8:
                    raise ValueError
                float(field)
        except ValueError:
            problem = "is cut short" if number == len(lines) else "has no coordinates"
            raise _broken(path, f"line {number} {problem}") from None
    # Every wwPDB file begins with HEADER and finishes with END; bare atom lists have neither.
    if "HEADER" in records and not records & {"END", "MASTER"}:
        raise _broken(path, "it has a HEADER but no END, so it looks cut short")
    n_open = sum(line.startswith("MODEL ") for line in lines)
    if n_open > sum(line.startswith("ENDMDL") for line in lines):
        raise _broken(path, "its last MODEL has no ENDMDL, so it is cut short")
    try:
        return gemmi.read_pdb_string(text)
    except _PARSE_ERRORS:
        # Before 1996 columns 73 to 80 held the entry and a line number.
        try:
            return gemmi.read_pdb_string(text, max_line_length=72)
        except _PARSE_ERRORS as error:
            raise _broken(path, _reason(error)) from None


def _parse_mmcif(text: str, path: Path) -> gemmi.Structure:
    try:
        block = gemmi.cif.read_string(text)[0]
    except _PARSE_ERRORS as error:
        raise _broken(path, _reason(error)) from None
    sites: gemmi.cif.Loop | None = block.find_loop("_atom_site.id").get_loop()
    if sites is None:
        return gemmi.Structure()
    for tag in ("Cartn_x", "Cartn_y", "Cartn_z", "label_atom_id", "label_comp_id"):
        if f"_atom_site.{tag}" not in sites.tags:
            raise _broken(path, f"the column _atom_site.{tag} is missing")
    # Archives put a line with # between the categories and after the last one.
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if "#" in lines and lines[-1] != "#":
        raise _broken(path, "the closing # is missing, so it is cut short")
    try:
        return gemmi.make_structure_from_block(block)
    except _PARSE_ERRORS as error:
        raise _broken(path, _reason(error)) from None


def _broken(path: Path, problem: str) -> DiffraganError:
    return DiffraganError(
        f"The structure file {path} can't be used: {problem.rstrip('.')}; fetch or write it again."
    )


def _decompress(data: bytes, path: Path) -> bytes:
    if not data.startswith(b"\x1f\x8b"):
        if path.name.lower().endswith(".gz") and data:
            raise _broken(path, "it is named .gz but is not a gzip file")
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error):
        raise _broken(path, "its gzip stream is cut short or damaged") from None


def _download(url: str, output_file: Any, registry: Any) -> None:
    """pooch's downloader, quiet, and without repeating a request for what does not exist."""
    import pooch

    try:
        pooch.HTTPDownloader(timeout=_DOWNLOAD_TIMEOUT_S)(url, output_file, registry)
    except OSError as error:
        # An HTTP error of requests, which pooch brings along, carries the response.
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (403, 404, 410):
            raise DiffraganError(
                f"There is no file {url} (HTTP {status}); check the PDB ID and the base URL."
            ) from None
        raise


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
