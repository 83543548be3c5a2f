"""Units, orders of axes and damage of the formats that no library writes: DigitalMicrograph, Velox,
TIA; and what becomes of one that was cut off, whichever it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import instrument_files as of
from diffragan.errors import DiffraganError
from diffragan.files.formats import read_arrays
from digital_micrograph import write_dm
from instrument_files import Write
from quick_runs import run

# Every pixel of every frame has its own value.
SCAN = np.arange(2 * 3 * 12 * 16, dtype=np.uint16).reshape(2, 3, 12, 16)


@pytest.mark.parametrize(
    ("unit", "scale", "told"),
    [
        ("1/nm", 0.05, {"reciprocal_pixel_per_A": 0.005}),
        ("1/Å", 0.005, {"reciprocal_pixel_per_A": 0.005}),
        ("nm^-1", 0.05, {"reciprocal_pixel_per_A": 0.005}),
        ("mrad", 0.125, {"pixel_mrad": 0.125}),
        ("nm", 0.05, {"pixel_A": 0.5}),
        ("µm", 0.05, {"pixel_A": 500.0}),
        ("", 1.0, {}),
    ],
)
@pytest.mark.parametrize("suffix", ["dm3", "dm4"])
def test_units_of_digital_micrograph(
    suffix: str, unit: str, scale: float, told: dict[str, float], tmp_path: Path
) -> None:
    path, tags = tmp_path / f"a.{suffix}", of.diffraction_tags()
    write_dm(path, of.flat(SCAN), ("", unit), (1.0, scale), tags)
    arrays = read_arrays(path)
    assert np.array_equal(arrays["pattern"][:], of.flat(SCAN))
    found = {k: v for k, v in arrays.items() if "pixel" in k}
    assert found == pytest.approx(told, rel=1e-6)
    assert ("camera_length_mm" in arrays) == (not unit.endswith(("nm", "µm")) or "1" in unit)


@pytest.mark.parametrize(
    ("unit", "scale", "told"),
    [
        ("1/m", 5e7, {"reciprocal_pixel_per_A": 0.005}),
        ("rad", 1.25e-4, {"pixel_mrad": 0.125}),
        ("m", 5e-11, {"pixel_A": 0.5}),
    ],
)
def test_units_of_velox(unit: str, scale: float, told: dict[str, float], tmp_path: Path) -> None:
    """In SI; an image also tells its defocus, a pattern its camera length, never the other's."""
    arrays = read_arrays(of.write_velox(tmp_path / "a.emd", of.flat(SCAN), unit, scale))
    assert np.array_equal(arrays["pattern"][:], of.flat(SCAN))
    assert {k: v for k, v in arrays.items() if "pixel" in k} == pytest.approx(told, rel=1e-6)
    assert arrays.get("defocus_A") == (pytest.approx(1e4) if unit == "m" else None)
    assert arrays.get("camera_length_mm") == (None if unit == "m" else pytest.approx(300))


def test_one_frame_of_velox(tmp_path: Path) -> None:
    arrays = read_arrays(of.write_velox(tmp_path / "a.emd", of.flat(SCAN)[:1], "m", 5e-11))
    assert np.array_equal(arrays["pattern"], of.flat(SCAN)[:1])


def test_velox_says_what_it_needs_for_spectra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map of X-rays beside the images is not taken for damage."""
    path = of.write_velox(tmp_path / "a.emd", of.flat(SCAN), "m", 5e-11)
    with h5py.File(path, "a") as file:
        file.create_group("Data/SpectrumImage")
        file.create_group("Displays/ImageDisplay")
    there = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "sparse" else there(name)
    )
    with pytest.raises(DiffraganError, match="needs another package"):
        read_arrays(path)


def test_a_series_that_tia_gave_no_unit(tmp_path: Path) -> None:
    """Without the list beside it a pattern's 1/m look like metres, of which no image has any."""
    of.as_emi(tmp_path, SCAN)
    assert read_arrays(tmp_path / "a_1.ser")["reciprocal_pixel_per_A"] == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("units", "swapped"),
    [(("nm", "1/nm"), False), (("nm", "1/nm"), True), (("", ""), True), (("nm", "mrad"), False)],
)
def test_a_scan_of_newer_versions(units: tuple[str, str], swapped: bool, tmp_path: Path) -> None:
    """The detector's sides run fastest: as the file says, or as its units do."""
    tags = {"Meta Data": {"Data Order Swapped": True}} if swapped else {}
    arrays = read_arrays(write_dm(tmp_path / "a.dm4", SCAN, units, (4.0, 0.05), tags))
    assert np.array_equal(arrays["pattern"][:], of.flat(SCAN))
    assert arrays["scan_shape"] == (2, 3)
    assert arrays.get("step_A") == (pytest.approx(40) if units[0] else None)


@pytest.mark.parametrize("units", [("1/nm", "nm"), ("", "")])
def test_a_scan_of_older_versions(units: tuple[str, str], tmp_path: Path) -> None:
    """They wrote each pixel's scan after the other, and did not say so."""
    stored = np.ascontiguousarray(SCAN.transpose(2, 3, 0, 1))
    arrays = read_arrays(write_dm(tmp_path / "a.dm4", stored, units, (0.05, 4.0), {}))
    assert np.array_equal(arrays["pattern"][:], of.flat(SCAN))
    assert np.array_equal(arrays["pattern"][np.array([4, 1])], of.flat(SCAN)[[4, 1]])
    assert arrays["scan_shape"] == (2, 3)
    found = {k: v for k, v in arrays.items() if k in ("step_A", "reciprocal_pixel_per_A")}
    whole = {"step_A": 40, "reciprocal_pixel_per_A": 0.005}
    assert found == pytest.approx(whole if units[0] else {}, rel=1e-6)


def test_a_stem_s_camera_length(tmp_path: Path) -> None:
    """A scan's stands elsewhere than a camera's."""
    tags: dict[str, Any] = of.diffraction_tags()
    tags["Microscope Info"] |= {"Illumination Mode": "STEM NANOPROBE", "STEM Camera Length": 185.0}
    arrays = read_arrays(write_dm(tmp_path / "a.dm4", SCAN, ("nm", "1/nm"), (4.0, 0.05), tags))
    assert arrays["camera_length_mm"] == pytest.approx(185)


CUT = [of.as_dm3, of.as_dm4, of.as_velox, of.as_emi, of.as_ser, of.as_blo, of.as_tvips, of.as_hspy,
       of.as_emd, of.as_py4dstem]  # fmt: skip


# Libraries leave a file open that they can't read.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("part", [0.9, 0.3])
@pytest.mark.parametrize("write", CUT, ids=lambda write: write.__name__)
def test_a_file_that_lost_its_end(write: Write, part: float, tmp_path: Path) -> None:
    """No frame that was not there is read: it is refused, and the command ends with code 2."""
    path = write(tmp_path, SCAN)
    largest = max(tmp_path.iterdir(), key=lambda file: file.stat().st_size)
    with largest.open("rb+") as stream:
        stream.truncate(int(part * largest.stat().st_size))
    code, text = run("inspect", path, "--out", tmp_path / "x.zarr")
    assert code == 2
    assert path.name in text
    assert not (tmp_path / "x.zarr").exists()
    assert not (tmp_path / "x.json").exists()


def test_frames_that_go_while_they_are_read(tmp_path: Path) -> None:
    """A disk that fails is told as a sentence, not as the library's error."""
    path = of.as_blo(tmp_path, SCAN)
    frames = read_arrays(path)["pattern"]
    path.unlink()
    with pytest.raises(DiffraganError, match=r"a\.blo was cut off or is damaged"):
        frames[2:4]
