"""Every format of an instrument gives the frames that went in and what its file tells of them.

`instrument_files` writes them.
"""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

import instrument_files as of
from diffragan.errors import DiffraganError
from diffragan.files.formats import read_arrays
from instrument_files import Write

# A scan of 2 x 3 positions; an odd pair of sides, so that x and y can't change places unseen.
FRAMES = np.random.default_rng(3).poisson(4, (2, 3, 12, 16)).astype(np.uint16)
FLAT = FRAMES.reshape(6, 12, 16)

MICROSCOPE = {"energy_ev": 200e3, "camera_length_mm": 300.0, "exposure_s": 0.01}
SCAN = {"scan_shape": (2, 3), "step_A": 40.0}
PATTERN = {"reciprocal_pixel_per_A": 0.005}
# What each file tells beside its frames.
FORMATS: dict[Write, dict[str, Any]] = {
    of.as_hspy: SCAN | PATTERN | MICROSCOPE,
    of.as_blo: SCAN | {"energy_ev": 200e3, "camera_length_mm": 300.0, "detector_pixel_um": 500.0},
    of.as_emd: SCAN | PATTERN,
    of.as_tvips: {"energy_ev": 200e3, "camera_length_mm": 300.0, "detector_pixel_um": 15.0},
    of.as_py4dstem: {"scan_shape": (2, 3)} | PATTERN,
    of.as_mib: {"exposure_s": 0.01},
    of.as_ser: {"pixel_A": 2.0},
    of.as_emi: PATTERN | MICROSCOPE,
    of.as_dm3: PATTERN | MICROSCOPE | {"cs_mm": 1.25},
    of.as_dm4: SCAN | PATTERN | MICROSCOPE | {"cs_mm": 1.25},
    of.as_velox: PATTERN | MICROSCOPE,
    of.as_trpx: {},
    of.as_dectris: {"scan_shape": (2, 3), "detector_pixel_um": 75.0, "centre_px": (6.25, 8.5)}
    | MICROSCOPE,
    of.as_tiff: {"pixel_A": 2.0},
    of.as_compressed_tiff: {},
    of.as_mrc: {"pixel_A": 2.0, "defocus_A": 1e4, "energy_ev": 200e3, "exposure_s": 0.01},
    of.as_folder: {},
    of.as_npz: {},
}  # fmt: skip
# What no test may find where it was not put.
PLACES = ("scan_shape", "step_A", "reciprocal_pixel_per_A", "pixel_mrad", "pixel_A", "defocus_A",
          "detector_pixel_um", "camera_length_mm", "exposure_s", "energy_ev", "cs_mm")  # fmt: skip


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_frames_and_what_the_file_tells(write: Write, tmp_path: Path) -> None:
    arrays = read_arrays(write(tmp_path, FRAMES))
    frames = arrays["pattern"]
    expected = FLAT[..., :12] if write is of.as_blo else FLAT
    assert frames.shape == expected.shape
    assert np.array_equal(np.asarray(frames[[4, 1]]), expected[[4, 1]])
    assert np.array_equal(np.asarray(frames[2:5]), expected[2:5])
    told = FORMATS[write]
    for name, value in told.items():
        assert arrays[name] == pytest.approx(value, rel=1e-4), name
    assert {*arrays} & {*PLACES} == {*told} & {*PLACES}


def test_a_compressed_tiff_is_not_kept_open(tmp_path: Path) -> None:
    """Its pages can't be mapped; the file is open while some are read, and no longer."""
    path = of.as_compressed_tiff(tmp_path, FRAMES)
    frames = read_arrays(path)["pattern"]
    assert np.array_equal(np.asarray(frames[[4, 1]]), FLAT[[4, 1]])
    assert path not in {Path(file.path) for file in psutil.Process().open_files()}


def test_empad(tmp_path: Path) -> None:
    """128 x 128 floats; the two rows of the detector's own under each are not of the pattern."""
    scan = np.random.default_rng(1).random((2, 3, 128, 128)).astype("<f4")
    arrays = read_arrays(of.as_empad(tmp_path, scan))
    assert np.array_equal(arrays["pattern"][3], scan[1, 0])
    assert arrays["scan_shape"] == (2, 3)


def test_masked_pixels_of_a_detector(tmp_path: Path) -> None:
    """The detector's own list of bad pixels becomes the mask."""
    mask = read_arrays(of.as_dectris(tmp_path, FRAMES))["pattern_mask"]
    assert np.argwhere(~mask).tolist() == [[3, 4]]


def test_a_scan_with_a_file_missing_gives_what_is_there(tmp_path: Path) -> None:
    """A session that was cut off is not lost; what is missing is named."""
    master = of.as_dectris(tmp_path, FRAMES)
    (tmp_path / "a_data_000002.h5").unlink()
    arrays = read_arrays(master)
    assert np.array_equal(arrays["pattern"][:], FLAT[:4])
    assert "data_000002" in arrays["notes"][0]
    assert "scan_shape" not in arrays


def test_arrays_by_the_names_that_a_file_has(tmp_path: Path) -> None:
    """Keys pick the data sets, and a wrong one is answered by those that there are."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["run/far"], file["run/near"], file["time"] = FLAT, FLAT[:, ::-1], np.arange(6)
    keys = {"pattern": "run/far", "image": "run/near"}
    arrays = read_arrays(tmp_path / "a.h5", keys)
    assert np.array_equal(arrays["image"][1], FLAT[1, ::-1])
    with pytest.raises(DiffraganError, match=r"'run/fra'; it has run/far \(6, 12, 16\), run/near"):
        read_arrays(tmp_path / "a.h5", {"pattern": "run/fra"})
    with pytest.raises(DiffraganError, match="give --pattern-key"):
        read_arrays(tmp_path / "a.h5")
    with pytest.raises(DiffraganError, match="holds no data sets by name"):
        read_arrays(of.as_mib(tmp_path, FRAMES), keys)


# Libraries leave a file open that they can't read.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["a.mib", "a.blo", "a.hspy", "a.dm3", "a.dm4", "a.ser", "a.emi",
                                  "a.trpx", "a.h5", "a.tif", "a.emd", "a.tvips", "a.xml",
                                  ])  # fmt: skip
def test_a_file_that_only_has_the_right_name(name: str, tmp_path: Path) -> None:
    """It is refused in a sentence that names it, whatever its library says."""
    (tmp_path / name).write_bytes(b"These are no frames at all. " * 40)
    with pytest.raises(DiffraganError, match=name):
        read_arrays(tmp_path / name)


def test_a_file_cut_off(tmp_path: Path) -> None:
    """Frames that are not there are never read as zeros: the rest is used, or it is refused."""
    for path in (of.as_mib(tmp_path, FRAMES), of.as_trpx(tmp_path, FRAMES)):
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    frames = np.asarray(read_arrays(tmp_path / "a.mib")["pattern"][:])
    assert np.array_equal(frames, FLAT[:4])
    with pytest.raises(DiffraganError, match=r"a\.trpx is cut off"):
        read_arrays(tmp_path / "a.trpx")


def test_an_image_without_its_pattern(tmp_path: Path) -> None:
    folder = of.as_folder(tmp_path, FRAMES)
    (folder / "noisy" / "1AUP" / "002.npy").unlink()
    with pytest.raises(DiffraganError, match=r"lacks its partner is 1AUP/002\.npy"):
        read_arrays(folder)


@pytest.mark.parametrize("write", [of.as_mib, of.as_trpx])
def test_the_extra_is_named_where_it_is_missing(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, FRAMES)
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name.split(".")[0] in ("pyterse", "rsciio"):
            raise ImportError(name=name.split(".")[0])
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(
        "diffragan.files.instruments.rosetta.import_module", lambda name: without(name)
    )
    with pytest.raises(DiffraganError, match=r"pip install 'diffragan\[instruments\]'"):
        read_arrays(path)


def _torn(path: Path, part: float, **layout: Any) -> tuple[NDArray[Any], Path]:
    """Frames in a file that lost its end."""
    frames = np.random.default_rng(2).poisson(3, (60, 40, 40)).astype(np.uint16)
    with h5py.File(path, "w") as file:
        file.create_dataset("run/frames", data=frames, **layout)
        file["run/frames"].attrs["what"] = "electrons"
    with path.open("rb+") as stream:
        stream.truncate(int(part * path.stat().st_size))
    return frames, path


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"chunks": (1, 40, 40), "compression": "gzip", "shuffle": True},
        {"chunks": (4, 20, 40), "compression": "lzf"},
    ],
)
def test_of_a_torn_hdf5_the_whole_frames_are_read(tmp_path: Path, layout: dict[str, Any]) -> None:
    """As many as their bytes allow, the same as were written, and how many are missing is told."""
    frames, path = _torn(tmp_path / "torn.h5", 0.6, **layout)
    found = read_arrays(path)
    whole = len(found["pattern"])
    assert 20 <= whole <= 44
    np.testing.assert_array_equal(found["pattern"][np.arange(whole)], frames[:whole])
    assert found["notes"] == [f"{path} was cut off: {whole} of its 60 frames are whole and used."]
    named = read_arrays(path, {"pattern": "run/frames"})
    assert len(named["pattern"]) == whole


@pytest.mark.parametrize("bytes_left", [20, 200, 1500])
def test_of_a_torn_hdf5_without_a_frame_nothing_is_read(tmp_path: Path, bytes_left: int) -> None:
    _, path = _torn(tmp_path / "torn.h5", 0.6, chunks=(1, 40, 40), compression="gzip")
    with path.open("rb+") as stream:
        stream.truncate(bytes_left)
    with pytest.raises(DiffraganError, match=r"cut off|is it whole"):
        read_arrays(path)
