"""Every format of an instrument gives the frames that went in and what its file tells of them.

Files are written by the format's own library where one writes it, else by their bytes: MIB, SER and
EMPAD. DM3, DM4 and Velox's EMD have no writer and are not tested here.
"""

from __future__ import annotations

import builtins
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import mrcfile
import numpy as np
import psutil
import pyterse
import pytest
import tifffile
from mrcfile.dtypes import get_ext_header_dtype
from numpy.typing import NDArray
from rsciio import blockfile, emd, hspy, tvips

from diffragan.errors import DiffraganError
from diffragan.files.formats import read_arrays

# A scan of 2 x 3 positions; an odd pair of sides, so that x and y can't change places unseen.
FRAMES = np.random.default_rng(3).poisson(4, (2, 3, 12, 16)).astype(np.uint16)
FLAT = FRAMES.reshape(6, 12, 16)
Write = Callable[[Path], Path]


def signal(data: NDArray[Any], unit: str = "1/nm") -> dict[str, Any]:
    """Frames as RosettaSciIO's writers take them: 200 keV, 300 mm, 0.01 s."""
    names = [("y", "nm"), ("x", "nm"), ("ky", unit), ("kx", unit)]
    axes = [
        {
            "name": name, "size": size, "scale": 0.05, "offset": 0.0, "units": unit,
            "navigate": k < 2, "index_in_array": k, "is_binned": False,
            "_type": "UniformDataAxis",
        }
        for k, ((name, unit), size) in enumerate(zip(names, data.shape, strict=True))
    ]  # fmt: skip
    tem = {
        "beam_energy": 200.0,
        "camera_length": 300.0,
        "Detector": {"Camera": {"exposure": 0.01}},
    }
    return {
        "data": data, "axes": axes, "original_metadata": {}, "learning_results": {}, "models": {},
        "metadata": {
            "General": {"title": "t"}, "Signal": {"signal_type": ""},
            "Acquisition_instrument": {"TEM": tem},
        },
        "attributes": {"_lazy": False}, "package_info": {"package": "", "package_version": ""},
        "tmp_parameters": {},
    }  # fmt: skip


def written(module: Any, path: Path, frames: NDArray[Any] = FRAMES, unit: str = "1/nm") -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.file_writer(str(path), signal(frames, unit))
    return path


def as_hspy(folder: Path) -> Path:
    return written(hspy, folder / "a.hspy")


def as_blo(folder: Path) -> Path:
    """Eight bits and square frames are all that a block file holds."""
    return written(blockfile, folder / "a.blo", FRAMES[..., :12].astype(np.uint8), "cm")


def as_emd(folder: Path) -> Path:
    return written(emd, folder / "a.emd")


def as_tvips(folder: Path) -> Path:
    return written(tvips, folder / "a_000.tvips")


def as_py4dstem(folder: Path) -> Path:
    with h5py.File(folder / "a.emd", "w") as file:
        file.attrs.update({"authoring_program": "py4DSTEM", "version_major": 1})
        file["root/datacube/data"] = FRAMES
        calibration = file.create_group("root/metadatabundle/calibration")
        calibration["Q_pixel_size"], calibration["Q_pixel_units"] = 0.005, "A^-1"
    return folder / "a.emd"


def as_mib(folder: Path) -> Path:
    """Merlin's header of 384 bytes before each frame, big endian, rows from the bottom up."""
    with (folder / "a.mib").open("wb") as file:
        for k, frame in enumerate(FLAT):
            head = f"MQ1,{k + 1:06d},00384,01,0016,0012,U16,1x1,01,2024-01-01 10:00:00.0,0.01,0,0,"
            head += "2024-01-01T10:00:00.000000Z,10000000ns,12,"
            file.write(head.ljust(384).encode() + frame[::-1].astype(">u2").tobytes())
    return folder / "a.mib"


def as_ser(folder: Path) -> Path:
    """TIA's series of images, version 0x0220, 16-bit counts with a pixel of 0.2 nm."""
    y, x = FLAT.shape[1:]
    name, unit = b"Number", b""
    head = np.array([0x4949, 0x0197, 0x0220], "<u2").tobytes()
    head += np.array([0x4122, 0x4152, len(FLAT), len(FLAT)], "<u4").tobytes()
    dimension = np.array([len(FLAT)], "<u4").tobytes() + np.array([0, 1], "<f8").tobytes()
    dimension += np.array([0, len(name)], "<u4").tobytes() + name
    dimension += np.array([len(unit)], "<u4").tobytes() + unit
    array_at = len(head) + 8 + 4 + len(dimension)
    head += np.array([array_at], "<u8").tobytes() + np.array([1], "<u4").tobytes() + dimension
    element = np.array([0, 2e-10], "<f8").tobytes() + np.array([0], "<u4").tobytes()
    element += element + np.array([2], "<u2").tobytes() + np.array([x, y], "<u4").tobytes()
    size = len(element) + 2 * x * y
    first = array_at + 16 * len(FLAT)
    data_at = first + size * np.arange(len(FLAT))
    tag_at = first + size * len(FLAT) + 8 * np.arange(len(FLAT))
    body = data_at.astype("<u8").tobytes() + tag_at.astype("<u8").tobytes()
    # TIA's rows run upward.
    body += b"".join(element + frame[::-1].astype("<u2").tobytes() for frame in FLAT)
    body += np.array([0x4152, 0], "<u4").tobytes() * len(FLAT)
    (folder / "a.ser").write_bytes(head + body)
    return folder / "a.ser"


def as_trpx(folder: Path) -> Path:
    packed = pyterse.Terse(FLAT[0])
    for frame in FLAT[1:]:
        packed.push_back(frame)
    packed.save(str(folder / "a.trpx"))
    return folder / "a.trpx"


def as_dectris(folder: Path) -> Path:
    """A master file, two files of data with the detector's own compression."""
    for k, part in enumerate((FLAT[:4], FLAT[4:]), 1):
        with h5py.File(folder / f"a_data_{k:06d}.h5", "w") as file:
            file.create_dataset("entry/data/data", data=part, **hdf5plugin.Bitshuffle())
    with h5py.File(folder / "a_master.h5", "w") as file:
        for k in (1, 2):
            link = h5py.ExternalLink(f"a_data_{k:06d}.h5", "entry/data/data")
            file[f"entry/data/data_{k:06d}"] = link
        detector = file.create_group("entry/instrument/detector")
        detector.create_dataset("detector_distance", data=0.3).attrs["units"] = "m"
        detector.create_dataset("x_pixel_size", data=75e-6).attrs["units"] = "m"
        detector["count_time"] = 0.01
        detector["beam_center_x"], detector["beam_center_y"] = 8.5, 6.25
        file["entry/instrument/beam/incident_wavelength"] = 0.025079
        specific = detector.create_group("detectorSpecific")
        specific["ntrigger"], specific["nimages"] = 2, 3
        mask = np.zeros(FLAT.shape[1:], np.uint32)
        mask[3, 4] = 2
        specific["pixel_mask"] = mask
    return folder / "a_master.h5"


def as_tiff(folder: Path) -> Path:
    about = {"axes": "ZYX", "unit": "nm"}
    tifffile.imwrite(
        folder / "a.tif", FLAT, imagej=True, metadata=about, resolution=(5.0, 5.0), byteorder=">"
    )
    return folder / "a.tif"


def as_compressed_tiff(folder: Path) -> Path:
    tifffile.imwrite(folder / "a.tiff", FLAT, compression="zlib", photometric="minisblack")
    return folder / "a.tiff"


def as_mrc(folder: Path) -> Path:
    """With Thermo Fisher's extended header."""
    with mrcfile.new(folder / "a.mrc") as file:
        file.set_data(FLAT)
        file.set_image_stack()
        file.header.exttyp = b"FEI1"
        extended = np.zeros(len(FLAT), get_ext_header_dtype(b"FEI1", "<"))
        extended["Metadata size"] = extended.dtype.itemsize
        extended["HT"], extended["Integration time"], extended["Projection mode"] = 200e3, 0.01, 2
        extended["Pixel size X"], extended["Defocus"] = 2e-10, -1e-6
        file.set_extended_header(extended)
    return folder / "a.mrc"


def as_folder(folder: Path) -> Path:
    for kind in ("diffraction", "noisy", "clean"):
        (folder / "set" / kind / "1AUP").mkdir(parents=True)
        for k, frame in enumerate(FLAT):
            np.save(folder / "set" / kind / "1AUP" / f"{k:03d}.npy", frame)
    return folder / "set"


def as_npz(folder: Path) -> Path:
    np.savez(folder / "a.npz", pattern=FLAT)
    return folder / "a.npz"


# What each file tells beside its frames.
FORMATS: dict[Write, dict[str, Any]] = {
    as_hspy: {"scan_shape": (2, 3), "reciprocal_pixel_per_A": 0.005, "energy_ev": 200e3,
              "camera_length_mm": 300.0, "exposure_s": 0.01},
    as_blo: {"scan_shape": (2, 3)},
    as_emd: {"scan_shape": (2, 3), "reciprocal_pixel_per_A": 0.005},
    as_tvips: {"energy_ev": 200e3},
    as_py4dstem: {"scan_shape": (2, 3), "reciprocal_pixel_per_A": 0.005},
    as_mib: {},
    as_ser: {"pixel_A": 2.0},
    as_trpx: {},
    as_dectris: {"scan_shape": (2, 3), "camera_length_mm": 300.0, "detector_pixel_um": 75.0,
                 "exposure_s": 0.01, "energy_ev": 200e3, "centre_px": (6.25, 8.5)},
    as_tiff: {"pixel_A": 2.0},
    as_compressed_tiff: {},
    as_mrc: {"pixel_A": 2.0, "defocus_A": 1e4, "energy_ev": 200e3, "exposure_s": 0.01},
    as_folder: {},
    as_npz: {},
}  # fmt: skip


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_frames_and_what_the_file_tells(write: Write, tmp_path: Path) -> None:
    arrays = read_arrays(write(tmp_path))
    frames = arrays["pattern"]
    expected = FLAT[..., :12] if write is as_blo else FLAT
    assert frames.shape == expected.shape
    assert np.array_equal(np.asarray(frames[[4, 1]]), expected[[4, 1]])
    assert np.array_equal(np.asarray(frames[2:5]), expected[2:5])
    told = FORMATS[write]
    for name, value in told.items():
        assert arrays[name] == pytest.approx(value, rel=1e-4), name


def test_a_compressed_tiff_is_not_kept_open(tmp_path: Path) -> None:
    """Its pages can't be mapped; the file is open while some are read, and no longer."""
    path = as_compressed_tiff(tmp_path)
    frames = read_arrays(path)["pattern"]
    assert np.array_equal(np.asarray(frames[[4, 1]]), FLAT[[4, 1]])
    assert path not in {Path(file.path) for file in psutil.Process().open_files()}


def test_empad(tmp_path: Path) -> None:
    """128 x 128 floats and two rows of the detector's own under each."""
    frames = np.random.default_rng(1).random((6, 130, 128)).astype("<f4")
    frames.tofile(tmp_path / "scan_x3_y2.raw")
    (tmp_path / "a.xml").write_text(
        "<root><raw_file filename='scan_x3_y2.raw'/><pix_x>3</pix_x><pix_y>2</pix_y>"
        "<timestamp isoformat='2024-01-01T10:00:00'/></root>"
    )
    arrays = read_arrays(tmp_path / "a.xml")
    assert np.array_equal(arrays["pattern"][3], frames[3, :128])
    assert arrays["scan_shape"] == (2, 3)


def test_masked_pixels_of_a_detector(tmp_path: Path) -> None:
    """The detector's own list of bad pixels becomes the mask."""
    mask = read_arrays(as_dectris(tmp_path))["pattern_mask"]
    assert np.argwhere(~mask).tolist() == [[3, 4]]


def test_a_scan_with_a_file_missing_gives_what_is_there(tmp_path: Path) -> None:
    """A session that was cut off is not lost; what is missing is named."""
    master = as_dectris(tmp_path)
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
        read_arrays(as_mib(tmp_path), keys)


# Libraries leave a file open that they can't read.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["a.mib", "a.blo", "a.hspy", "a.dm4", "a.ser", "a.trpx", "a.h5",
                                  "a.tif", "a.emd", "a.tvips", "a.xml"])  # fmt: skip
def test_a_file_that_only_has_the_right_name(name: str, tmp_path: Path) -> None:
    """It is refused in a sentence that names it, whatever its library says."""
    (tmp_path / name).write_bytes(b"These are no frames at all. " * 40)
    with pytest.raises(DiffraganError, match=name):
        read_arrays(tmp_path / name)


def test_a_file_cut_off(tmp_path: Path) -> None:
    """Frames that are not there are never read as zeros: the rest is used, or it is refused."""
    for path in (as_mib(tmp_path), as_trpx(tmp_path)):
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    frames = np.asarray(read_arrays(tmp_path / "a.mib")["pattern"][:])
    assert np.array_equal(frames, FLAT[:4])
    with pytest.raises(DiffraganError, match=r"a\.trpx is cut off"):
        read_arrays(tmp_path / "a.trpx")


def test_an_image_without_its_pattern(tmp_path: Path) -> None:
    folder = as_folder(tmp_path)
    (folder / "noisy" / "1AUP" / "002.npy").unlink()
    with pytest.raises(DiffraganError, match=r"lacks its partner is 1AUP/002\.npy"):
        read_arrays(folder)


@pytest.mark.parametrize("write", [as_mib, as_trpx])
def test_the_extra_is_named_where_it_is_missing(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
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
