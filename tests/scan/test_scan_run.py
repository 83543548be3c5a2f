"""A scan of a virtual session: what it finds against the truth, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import diffragan as dg
from diffragan.errors import DiffraganError
from diffragan.files.instruments.nexus import ScanHeader, data_file, write_frames, write_master
from diffragan.files.mrc import read_mrc_stack, write_image_rows
from diffragan.scan.run import ScanResult, scan
from digital_micrograph import write_dm
from instrument_files import diffraction_tags, write_velox
from quick_runs import run
from session_world import HEAVY_KDA, LIGHT_KDA, SessionWorld, scan_settings


@pytest.fixture(scope="module")
def session(session_world: SessionWorld) -> SessionWorld:
    """A session of 20 x 20 positions and its scan."""
    return session_world


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def places_of(rows: list[dict[str, str]]) -> NDArray[np.float64]:
    return np.array([[float(row["y_A"]), float(row["x_A"])] for row in rows])


def test_the_scan_lies_where_it_was(session: SessionWorld) -> None:
    """Every position, drift and all; where it met molecules closer than far out on the film."""
    true = rows_of(session.session / "truth" / "positions.csv")
    found = rows_of(session.folder / "positions.csv")
    error = np.linalg.norm(places_of(true) - places_of(found), axis=1)
    met = np.array([row["class"] == "molecule" for row in true])
    assert np.sqrt(np.mean(error[met] ** 2)) < 5
    assert np.median(error) < 5


def test_pairs_are_of_single_molecules_each_once(session: SessionWorld) -> None:
    molecules = rows_of(session.session / "truth" / "molecules.csv")
    places = places_of(molecules)
    pairs = dg.open_pairs(session.found.pairs)
    own = pairs.store.read("place")  # type: ignore[attr-defined]
    distance = np.linalg.norm(own[:, None] - places[None], axis=2)
    nearest = distance.argmin(1)
    assert len(own) >= 10
    assert np.median(distance.min(1)) < 3
    assert (distance.min(1) < 8).mean() > 0.9
    assert len(set(nearest.tolist())) == len(nearest)


def test_kinds_are_told_by_weight(session: SessionWorld) -> None:
    molecules = rows_of(session.session / "truth" / "molecules.csv")
    pairs = dg.open_pairs(session.found.pairs)
    own = pairs.store.read("place")  # type: ignore[attr-defined]
    nearest = np.linalg.norm(own[:, None] - places_of(molecules)[None], axis=2).argmin(1)
    true = np.array([molecules[k]["structure"] == "heavy" for k in nearest])
    assert [s.stem for s in pairs.structures] == [f"{LIGHT_KDA:g}kDa", f"{HEAVY_KDA:g}kDa"]
    assert (pairs.structure_index.astype(bool) == true).mean() > 0.9


def test_classes_are_right(session: SessionWorld) -> None:
    """Film, crystals and nothing are told from molecules; one at the beam's rim is either."""
    true = rows_of(session.session / "truth" / "positions.csv")
    found = rows_of(session.folder / "positions.csv")
    kinds = np.array([row["class"] for row in true])
    said = np.array([row["class"] for row in found])
    lit = np.array([float(row["illumination"]) for row in true])
    places = places_of(rows_of(session.session / "truth" / "molecules.csv"))
    nearest = np.linalg.norm(places_of(true)[:, None] - places[None], axis=2).min(1)
    # The beam reaches 61 Å, a molecule 13.
    assert (said[(kinds == "empty") & (nearest > 75)] == "empty").mean() > 0.97
    whole = np.isin(kinds, ("molecule", "several")) & (lit > 0.5)
    assert np.isin(said[whole], ("molecule", "several")).mean() > 0.9
    assert np.isin(said[kinds == "carbon"], ("molecule", "empty")).mean() < 0.1


def test_the_folder_holds_what_it_says(session: SessionWorld) -> None:
    folder = session.folder
    rows = rows_of(folder / "positions.csv")
    told = json.loads((folder / "session.json").read_text("utf-8"))
    assert told["scan_shape"] == [20, 20]
    assert len(rows) == 400
    numbers = [int(row["pair"]) for row in rows if row["pair"] != "-1"]
    assert sorted(numbers) == list(range(told["pairs"]))
    dark = np.squeeze(read_mrc_stack(folder / "dark_field.mrc")["pattern"])
    assert dark.shape == (20, 20)
    counts = [step["count"] for step in told["lost"]]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 400
    assert counts[-1] == told["pairs"]
    assert (folder / "report.html").stat().st_size > 50_000


def again(session: SessionWorld, out: Path, scan_file: Path, **more: Any) -> ScanResult:
    overview = more.pop("overview", session.session / "overview.mrc")
    settings = more.pop("settings", scan_settings())
    return scan([scan_file], overview, out, settings, box_A=34.0, **more)


def frames_of(session: SessionWorld) -> NDArray[Any]:
    with h5py.File(session.session / "scan.h5") as file:
        data = file["entry/data"]
        return np.concatenate([data[name][()] for name in data])


def rewritten(folder: Path, parts: list[NDArray[Any]], rows: int = 20, columns: int = 20) -> Path:
    """A scan of other frames, under the same header."""
    folder.mkdir(exist_ok=True)
    master = folder / "scan.h5"
    for number, frames in enumerate(parts):
        write_frames(data_file(master, number), frames)
    side = parts[0].shape[-1]
    good = np.ones((side, side), bool)
    header = ScanHeader(rows, columns, 60.0, 50.0, 0.025079, 200e3, 110.0, good)
    write_master(master, header, len(parts))
    return master


def test_a_finished_scan_is_not_done_again(session: SessionWorld) -> None:
    told: list[str] = []
    again(session, session.folder, session.session / "scan.h5",
          progress=lambda stage, *_: told.append(stage))  # fmt: skip
    assert not told
    with pytest.raises(DiffraganError, match="--overwrite"):
        again(session, session.folder, session.session / "scan.h5",
              settings=scan_settings(scan__excess_sd=6.0))  # fmt: skip


def test_an_interrupted_pass_goes_on(session: SessionWorld, tmp_path: Path) -> None:
    """The frames that were seen are not read again, and the outcome is the same."""

    class StopHereError(Exception):
        pass

    def until(stage: str, done: int, total: int | None = None, word: str = "") -> None:
        if stage == "patterns" and done >= 200:
            raise StopHereError

    settings = scan_settings(scan__block=8)
    file, out = session.session / "scan.h5", tmp_path / "out"
    with pytest.raises(StopHereError):
        again(session, out, file, settings=settings, progress=until)
    seen: list[int] = []

    def note(stage: str, done: int, total: int | None = None, word: str = "") -> None:
        if stage == "patterns":
            seen.append(done)

    again(session, out, file, settings=settings, progress=note)
    assert seen[0] > 100
    ours = (out / "positions.csv").read_text("utf-8")
    assert ours == (session.folder / "positions.csv").read_text("utf-8")


def test_a_scan_that_was_cut_off_is_used_as_far_as_it_goes(
    session: SessionWorld, tmp_path: Path
) -> None:
    frames = frames_of(session)
    file = rewritten(tmp_path / "cut", [frames[:200], frames[200:310]])
    found = again(session, tmp_path / "out", file)
    assert "90 are missing, from row 15, column 10 on" in found.summary[0]
    rows = rows_of(tmp_path / "out" / "positions.csv")
    assert [row["class"] == "missing" for row in rows] == [k >= 310 for k in range(400)]
    assert found.session["pairs"] >= 5


def test_a_file_cut_in_mid_bytes_is_used_as_far_as_it_is_whole(
    session: SessionWorld, tmp_path: Path
) -> None:
    """Bytes are missing at the end of the second of three data files, the master links all."""
    frames = frames_of(session)
    file = rewritten(tmp_path / "torn", [frames[:150], frames[150:300], frames[300:]])
    torn = data_file(file, 1)
    with torn.open("rb+") as stream:
        stream.truncate(int(0.6 * torn.stat().st_size))
    found = again(session, tmp_path / "out", file)
    whole = rows_of(session.folder / "positions.csv")
    rows = rows_of(tmp_path / "out" / "positions.csv")
    gone = [k for k, row in enumerate(rows) if row["class"] == "missing"]
    assert gone == list(range(gone[0], 300))
    assert 200 < gone[0] < 280
    assert f"{torn} was cut off: {gone[0] - 150} of its 150 frames are whole" in "".join(
        found.summary
    )
    # Each frame is at its own position; the background is that of fewer frames.
    there = np.array([row["class"] != "missing" for row in rows])
    ours, all_of_them = (np.array([float(r["excess"] or 0) for r in one]) for one in (rows, whole))
    assert np.corrcoef(ours[there], all_of_them[there])[0, 1] > 0.99


def test_a_data_file_that_is_gone_leaves_a_gap(session: SessionWorld, tmp_path: Path) -> None:
    """What follows it stays at its own positions."""
    frames = frames_of(session)
    file = rewritten(tmp_path / "gap", [frames[k : k + 80] for k in range(0, 400, 80)])
    data_file(file, 1).unlink()
    again(session, tmp_path / "out", file)
    rows = rows_of(tmp_path / "out" / "positions.csv")
    gone = [k for k, row in enumerate(rows) if row["class"] == "missing"]
    assert gone == list(range(80, 160))
    whole = rows_of(session.folder / "positions.csv")
    for k in (200, 300):
        assert float(rows[k]["excess"]) == pytest.approx(
            float(whole[k]["excess"]), rel=0.01, abs=20
        )


def test_an_overview_of_another_place_is_refused(session: SessionWorld, tmp_path: Path) -> None:
    """The same particles elsewhere: the overview in pieces, put together otherwise."""
    stack = read_mrc_stack(session.session / "overview.mrc")
    image = np.squeeze(np.asarray(stack["pattern"]))
    side = 130
    pieces = [
        image[y : y + side, x : x + side]
        for y in range(0, image.shape[0] - side + 1, side)
        for x in range(0, image.shape[1] - side + 1, side)
    ]
    order = np.random.default_rng(1).permutation(len(pieces))
    width = image.shape[1] // side
    lines = [
        np.concatenate([np.rot90(pieces[k], 2) for k in order[i : i + width]], 1)
        for i in range(0, len(order) // width * width, width)
    ]
    other = tmp_path / "other.mrc"
    mixed = np.concatenate(lines).astype(np.float32)
    write_image_rows(other, [mixed], mixed.shape, float(stack["pixel_A"]))
    with pytest.raises(DiffraganError, match="does not show the place"):
        again(session, tmp_path / "out", session.session / "scan.h5", overview=other)


def test_a_scan_without_hits_is_refused(session: SessionWorld, tmp_path: Path) -> None:
    frames = frames_of(session)
    rows = rows_of(session.folder / "positions.csv")
    empty = next(k for k, row in enumerate(rows) if row["class"] == "empty")
    file = rewritten(tmp_path / "empty", [np.repeat(frames[empty : empty + 1], 400, 0)])
    with pytest.raises(DiffraganError, match="is of a molecule"):
        again(session, tmp_path / "out", file)


@pytest.mark.parametrize(
    ("shape", "word"), [((21, 20), None), ((10, 20), "more than 10 x 20"), ((5, 500), "one row")]
)
def test_a_wrong_shape_is_told(
    session: SessionWorld, tmp_path: Path, shape: tuple[int, int], word: str | None
) -> None:
    """More frames than positions, or less than a row, can't be; a row too many is one missing."""
    settings = scan_settings(inspect__scan_shape=shape)
    if word is None:
        found = again(session, tmp_path / "out", session.session / "scan.h5", settings=settings)
        assert "20 are missing" in found.summary[0]
        return
    with pytest.raises(DiffraganError, match=word):
        again(session, tmp_path / "out", session.session / "scan.h5", settings=settings)


def test_frames_of_two_detectors_are_refused(session: SessionWorld, tmp_path: Path) -> None:
    frames = frames_of(session)
    file = rewritten(tmp_path / "mixed", [frames[:200], frames[200:, :64, :64]])
    with pytest.raises(DiffraganError, match="several detectors"):
        again(session, tmp_path / "out", file)


def test_a_file_that_only_has_the_name_is_refused(session: SessionWorld, tmp_path: Path) -> None:
    file = tmp_path / "scan.h5"
    file.write_text("no frames")
    out = tmp_path / "out"
    code, text = run("scan", file, "--overview", session.session / "overview.mrc", "--out", out)
    assert code == 2
    assert "can't be read" in text
    assert not out.exists()


def test_a_scan_in_another_format_is_the_same_scan(session: SessionWorld, tmp_path: Path) -> None:
    """Frames as DigitalMicrograph keeps a scan, overview as Velox does: the same hits and pairs."""
    frames = frames_of(session)
    stored = frames.reshape(20, 20, *frames.shape[1:]).astype(np.uint32)
    tags = diffraction_tags({"Meta Data": {"Data Order Swapped": True}})
    scan_file = write_dm(tmp_path / "scan.dm4", stored, ("nm", "1/nm"), (6.0, 0.2), tags)
    overview = read_mrc_stack(session.session / "overview.mrc")
    image = np.asarray(overview["pattern"][:]).astype(np.float32)
    pixel_m = float(overview["pixel_A"]) * 1e-10
    other = write_velox(tmp_path / "overview.emd", image, "m", pixel_m, defocus_m=0)
    settings = scan_settings(scan__beam_diameter_A=110.0)
    found = again(session, tmp_path / "out", scan_file, overview=other, settings=settings)
    ours = rows_of(found.folder / "positions.csv")
    theirs = rows_of(session.folder / "positions.csv")
    assert [row["class"] for row in ours] == [row["class"] for row in theirs]
    assert found.session["pairs"] == pytest.approx(session.found.session["pairs"], abs=2)
    assert places_of(ours) == pytest.approx(places_of(theirs), abs=0.5)


def test_paths_are_told_in_full(
    session: SessionWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is looked at from elsewhere than where the scan was run."""
    monkeypatch.chdir(session.session)
    found = again(session, tmp_path / "out", Path("scan.h5"), overview=Path("overview.mrc"))
    assert found.session["scan"] == str((session.session / "scan.h5").resolve())
    assert found.session["overview"] == str((session.session / "overview.mrc").resolve())


def test_the_command_says_what_is_lost(session: SessionWorld, tmp_path: Path) -> None:
    shutil.copytree(session.folder, tmp_path / "kept")
    code, text = run(
        "scan", session.session / "scan.h5", "--overview", session.session / "overview.mrc",
        "--mass-kda", str(LIGHT_KDA), "--mass-kda", str(HEAVY_KDA), "--box-A", "34",
        "--set", "scan.diameter_A=26", "--out", session.folder,
    )  # fmt: skip
    assert code == 0, text
    assert "each molecule once" in text
    assert f"of {HEAVY_KDA:g} kDa" in text
