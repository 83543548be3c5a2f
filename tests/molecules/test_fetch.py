"""Entries are found, fetched whole, and refused when they are cut short."""

from __future__ import annotations

import gzip
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import gemmi
import pytest

from diffragan.errors import DiffraganError
from diffragan.molecules.fetch import entry_id, fetch_entry, locate, read_coordinates, source_stem
from diffragan.molecules.prepare import prepare_structure
from diffragan.molecules.structure import load_structure
from diffragan.settings import PrepareSettings
from peptide import ATOMS, pdb_file


@dataclass
class Server:
    """What a local stand-in for the archive has, answers, and was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def archive() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        server_state: ClassVar[Server] = state

        def do_GET(self) -> None:
            name = self.path.removeprefix("/download/")
            state.asked.append(name)
            status = state.failures.pop(0) if state.failures else 200
            body = state.files.get(name, b"")
            self.send_response(404 if status == 200 and name not in state.files else status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}/download"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield state
        server.shutdown()
        thread.join()


def mmcif_entry() -> str:
    """The ten residues as mmCIF in the archive's style."""
    structure = gemmi.read_pdb_string("\n".join([*ATOMS, "END"]))
    structure.setup_entities()
    options = gemmi.cif.WriteOptions()
    options.misuse_hash = True
    return structure.make_mmcif_document().as_string(options).rstrip() + "\n"


def test_ids_and_stems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert entry_id("1ubq") == entry_id("pdb_00001ubq") == entry_id("PDB_00001UBQ") == "1UBQ"
    assert entry_id("pdb_10001ubq") == "PDB_10001UBQ"
    assert [entry_id(name) for name in ("ubiq", "1ubq.pdb", "0abc", "12345")] == [None] * 4
    assert source_stem("some/1UBQ.pdb.gz") == source_stem("1ubq") == "1UBQ"
    assert source_stem("pdb1ubq.ent") == "pdb1ubq"
    assert source_stem("a.b_model.cif") == "a.b_model"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1ubq").mkdir()
    assert source_stem("1ubq") == "1UBQ"
    with pytest.raises(DiffraganError, match=r"no structure file nothing\.pdb"):
        locate("nothing.pdb", PrepareSettings())


def test_download_is_retried_cached_and_checked(archive: Server, tmp_path: Path) -> None:
    whole = gzip.compress(mmcif_entry().encode(), mtime=0)
    archive.files["1UBQ.cif.gz"] = whole
    archive.failures = [500]
    settings = PrepareSettings(base_url=archive.url, cache_dir=tmp_path / "cache", retries=1)
    report = prepare_structure("1ubq", tmp_path / "out", settings)
    assert (report.stem, report.atoms) == ("1UBQ", 168)
    assert (tmp_path / "out" / "1UBQ.cif").is_file()
    assert archive.asked == ["1UBQ.cif.gz"] * 2

    cached = fetch_entry("1UBQ", settings)
    assert len(archive.asked) == 2
    assert cached.read_bytes() == whole
    # Changed bytes in the cache are never used, even where they are a valid file.
    cached.write_bytes(gzip.compress(b"data_other\n", mtime=0))
    assert fetch_entry("1UBQ", settings).read_bytes() == whole
    assert len(archive.asked) == 3
    # A file whose checksum was never recorded (an interrupted run) is fetched again.
    cached.with_name(cached.name + ".sha256").unlink()
    fetch_entry("1UBQ", settings)
    assert len(archive.asked) == 4


def test_download_that_fails(archive: Server, tmp_path: Path) -> None:
    settings = PrepareSettings(base_url=archive.url + "/", cache_dir=tmp_path, retries=3)
    with pytest.raises(DiffraganError, match=r"There is no file .*9ZZZ.cif.gz \(HTTP 404\)"):
        fetch_entry("9ZZZ", settings)
    # What does not exist is asked for once.
    assert archive.asked == ["9ZZZ.cif.gz"]
    archive.failures = [500]
    with pytest.raises(DiffraganError, match=r"can't be downloaded from .*check the connection"):
        fetch_entry("1UBQ", settings.model_copy(update={"retries": 0}))
    archive.files["1UBQ.cif.gz"] = gzip.compress(mmcif_entry().encode())[:-200]
    with pytest.raises(DiffraganError, match="not a whole gzip file"):
        fetch_entry("1UBQ", settings)
    assert not any(file.is_file() for file in tmp_path.rglob("*"))


def test_all_four_forms_read_the_same(tmp_path: Path) -> None:
    pdb = pdb_file(tmp_path / "a.pdb", ATOMS)
    cif = tmp_path / "a.cif"
    cif.write_text(mmcif_entry(), "utf-8")
    forms = [pdb, cif]
    for file in (pdb, cif):
        packed = file.with_name(file.name + ".gz")
        packed.write_bytes(gzip.compress(file.read_bytes()))
        forms.append(packed)
    # The content decides, not the name.
    renamed = tmp_path / "renamed.pdb"
    renamed.write_bytes(cif.read_bytes())
    places = []
    for file in [*forms, renamed]:
        model = read_coordinates(file)[0][0]
        places.append([(s.residue.name, s.atom.name, *s.atom.pos.tolist()) for s in model.all()])
    assert len(places[0]) == 78
    assert all(other == places[0] for other in places)


def broken_files() -> dict[str, tuple[bytes, str]]:
    """File name: its bytes, and what the message says."""
    pdb = "\n".join(ATOMS) + "\n"
    cif = mmcif_entry()
    row = cif.rindex("\n", 0, cif.rindex("\n#")) + 1
    nowhere = pdb.replace("  26.266", "  26.x66")
    no_x = cif.replace("_atom_site.Cartn_x\n", "_atom_site.other\n")
    unknown = cif.replace(" 26.266 ", " ? ")
    return {
        "empty.pdb": (b"", "is empty"),
        "words.txt": (b"not a structure\n", "holds no atoms"),
        "record.pdb": (pdb[:-50].encode(), "line 78 is cut short"),
        "header.pdb": (f"HEADER    PROTEIN\n{pdb}".encode(), "no END"),
        "model.pdb": (f"MODEL        1\n{pdb}".encode(), "no ENDMDL"),
        "field.pdb": (nowhere.encode(), "line 2 has no coordinates"),
        "short.pdb.gz": (gzip.compress(pdb.encode())[:-30], "gzip stream is cut short"),
        "plain.pdb.gz": (pdb.encode(), "not a gzip file"),
        "row.cif": (cif[:row].encode(), "the closing # is missing"),
        "value.cif": (cif[: row + 20].encode(), "can't be used"),
        "column.cif": (no_x.encode(), "_atom_site.Cartn_x is missing"),
        "unknown.cif": (unknown.encode(), "has no coordinates"),
        "early.cif": (cif[:100].encode(), r"holds no atoms|can't be used"),
    }


@pytest.mark.parametrize("name", sorted(broken_files()))
def test_broken_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    data, message = broken_files()[name]
    path = tmp_path / name
    path.write_bytes(data)
    out = tmp_path / "out"
    for use in (load_structure, lambda p: prepare_structure(str(p), out, PrepareSettings())):
        with pytest.raises(DiffraganError, match=f"{name}.*({message})") as error:
            use(path)
        assert str(error.value).count(". ") == 0
    assert not out.exists()


def test_entry_of_1995_with_line_numbers(tmp_path: Path) -> None:
    old = [f"{line[:72]}1UBQ{number:4d}" for number, line in enumerate(ATOMS, start=90)]
    model = read_coordinates(pdb_file(tmp_path / "old.ent", old))[0][0]
    assert [site.atom.element.name for site in model.all()] == [line[77] for line in ATOMS]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DiffraganError, match=r"gone\.cif can't be read"):
        load_structure(tmp_path / "gone.cif")
