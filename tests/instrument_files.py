"""Small files as instruments write them: by the format's own library where one writes it, else byte
by byte as the format is described.

Every writer takes a folder and a scan (rows, columns, y, x) and gives the file's path. Headers that
tell of the microscope tell the constants below.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import mrcfile
import numpy as np
import pyterse
import tifffile
from mrcfile.dtypes import get_ext_header_dtype
from numpy.typing import NDArray
from rsciio import blockfile, emd, hspy, tvips

from digital_micrograph import write_dm

Scan = NDArray[Any]
Write = Callable[[Path, Scan], Path]

ENERGY_KEV, CAMERA_LENGTH_MM, EXPOSURE_S = 200.0, 300.0, 0.01
PIXEL_PER_NM, STEP_NM, CAMERA_PIXEL_UM = 0.05, 4.0, 15.0


def flat(scan: Scan) -> NDArray[Any]:
    """(rows * columns, y, x)."""
    return scan.reshape(-1, *scan.shape[2:])


def signal(data: Scan, unit: str = "1/nm") -> dict[str, Any]:
    """Frames as RosettaSciIO's writers take them."""
    sides = [("y", "nm", STEP_NM), ("x", "nm", STEP_NM)]
    sides += [("ky", unit, PIXEL_PER_NM), ("kx", unit, PIXEL_PER_NM)]
    axes = [
        {
            "name": name, "size": size, "scale": scale, "offset": 0.0, "units": unit,
            "navigate": k < 2, "index_in_array": k, "is_binned": False,
            "_type": "UniformDataAxis",
        }
        for k, ((name, unit, scale), size) in enumerate(zip(sides, data.shape, strict=True))
    ]  # fmt: skip
    tem = {
        "beam_energy": ENERGY_KEV,
        "camera_length": CAMERA_LENGTH_MM,
        "Detector": {"Camera": {"exposure": EXPOSURE_S}},
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


def written(module: Any, path: Path, scan: Scan, unit: str = "1/nm") -> Path:
    """By RosettaSciIO's writer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.file_writer(str(path), signal(scan, unit))
    return path


def as_hspy(folder: Path, scan: Scan) -> Path:
    return written(hspy, folder / "a.hspy", scan)


def as_blo(folder: Path, scan: Scan) -> Path:
    """Eight bits and square frames are all that a block file holds."""
    square = scan[..., : scan.shape[2]].clip(0, 255).astype(np.uint8)
    path = written(blockfile, folder / "a.blo", square, "cm")
    raw = bytearray(path.read_bytes())
    # The writer leaves them out: voltage in V, camera length in tenths of mm.
    raw[46:50] = np.uint32(ENERGY_KEV * 1e3).tobytes()
    raw[52:56] = np.uint32(CAMERA_LENGTH_MM * 10).tobytes()
    path.write_bytes(raw)
    return path


def as_emd(folder: Path, scan: Scan) -> Path:
    return written(emd, folder / "a.emd", scan)


def as_tvips(folder: Path, scan: Scan) -> Path:
    """By RosettaSciIO's writer, which rounds a pixel of the pattern into the camera's."""
    path = written(tvips, folder / "a_000.tvips", scan)
    raw = bytearray(path.read_bytes())
    raw[36:40] = np.uint32(CAMERA_PIXEL_UM * 1e3).tobytes()
    path.write_bytes(raw)
    return path


def as_py4dstem(folder: Path, scan: Scan) -> Path:
    with h5py.File(folder / "a.emd", "w") as file:
        file.attrs.update({"authoring_program": "py4DSTEM", "version_major": 1})
        file["root/datacube/data"] = scan
        calibration = file.create_group("root/metadatabundle/calibration")
        calibration["Q_pixel_size"], calibration["Q_pixel_units"] = PIXEL_PER_NM / 10, "A^-1"
    return folder / "a.emd"


def as_mib(folder: Path, scan: Scan) -> Path:
    """Merlin's header of 384 bytes before each frame, big endian, rows from the bottom up."""
    y, x = scan.shape[2:]
    with (folder / "a.mib").open("wb") as file:
        for k, frame in enumerate(flat(scan)):
            head = f"MQ1,{k + 1:06d},00384,01,{x:04d},{y:04d},U16,1x1,01,"
            head += "2024-01-01 10:00:00.0,0.01,0,0,2024-01-01T10:00:00.000000Z,10000000ns,12,"
            file.write(head.ljust(384).encode() + frame[::-1].astype(">u2").tobytes())
    return folder / "a.mib"


def as_ser(folder: Path, scan: Scan) -> Path:
    """TIA's series of images, version 0x0220, 16-bit counts with a pixel of 0.2 nm."""
    return _ser(folder / "a.ser", flat(scan), 2e-10)


def as_emi(folder: Path, scan: Scan) -> Path:
    """TIA's list of what was acquired, and its series of patterns, with a pixel in 1/m."""
    _ser(folder / "a_1.ser", flat(scan), PIXEL_PER_NM * 1e9)
    about = {"High tension": ("kV", ENERGY_KEV), "Camera length": ("m", CAMERA_LENGTH_MM / 1e3)}
    data = "".join(
        f"<Data><Label>{name}</Label><Value>{value}</Value><Unit>{unit}</Unit></Data>"
        for name, (unit, value) in ({"Mode": ("", "TEM uP Zoom Diffraction")} | about).items()
    )
    xml = (
        f"<ObjectInfo><ExperimentalDescription><Root>{data}</Root></ExperimentalDescription>"
        "<AcquireDate>Mon Jan 01 10:00:00 2024</AcquireDate><AcquireInfo>"
        f"<DwellTimePath>{EXPOSURE_S}</DwellTimePath><CameraNamePath>C</CameraNamePath>"
        "</AcquireInfo></ObjectInfo>"
    )
    (folder / "a.emi").write_bytes(b"\0" * 40 + xml.encode() + b"\0" * 40)
    return folder / "a.emi"


def _ser(path: Path, frames: NDArray[Any], pixel: float) -> Path:
    y, x = frames.shape[1:]
    name, unit = b"Number", b""
    head = np.array([0x4949, 0x0197, 0x0220], "<u2").tobytes()
    head += np.array([0x4122, 0x4152, len(frames), len(frames)], "<u4").tobytes()
    dimension = np.array([len(frames)], "<u4").tobytes() + np.array([0, 1], "<f8").tobytes()
    dimension += np.array([0, len(name)], "<u4").tobytes() + name
    dimension += np.array([len(unit)], "<u4").tobytes() + unit
    array_at = len(head) + 8 + 4 + len(dimension)
    head += np.array([array_at], "<u8").tobytes() + np.array([1], "<u4").tobytes() + dimension
    element = np.array([0, pixel], "<f8").tobytes() + np.array([0], "<u4").tobytes()
    element += element + np.array([2], "<u2").tobytes() + np.array([x, y], "<u4").tobytes()
    size = len(element) + 2 * x * y
    first = array_at + 16 * len(frames)
    data_at = first + size * np.arange(len(frames))
    tag_at = first + size * len(frames) + 8 * np.arange(len(frames))
    body = data_at.astype("<u8").tobytes() + tag_at.astype("<u8").tobytes()
    # TIA's rows run upward.
    body += b"".join(element + frame[::-1].astype("<u2").tobytes() for frame in frames)
    body += np.array([0x4152, 0], "<u4").tobytes() * len(frames)
    path.write_bytes(head + body)
    return path


def as_empad(folder: Path, scan: Scan) -> Path:
    """128 x 128 floats and two rows of the detector's own under each."""
    rows, columns = scan.shape[:2]
    own = np.full((rows * columns, 2, 128), 7.0)
    name = f"scan_x{columns}_y{rows}.raw"
    np.concatenate([flat(scan), own], axis=1).astype("<f4").tofile(folder / name)
    (folder / "a.xml").write_text(
        f"<root><raw_file filename='{name}'/><pix_x>{columns}</pix_x><pix_y>{rows}</pix_y>"
        "<timestamp isoformat='2024-01-01T10:00:00'/></root>"
    )
    return folder / "a.xml"


def as_trpx(folder: Path, scan: Scan) -> Path:
    frames = flat(scan)
    packed = pyterse.Terse(frames[0])
    for frame in frames[1:]:
        packed.push_back(frame)
    packed.save(str(folder / "a.trpx"))
    return folder / "a.trpx"


def as_dectris(folder: Path, scan: Scan) -> Path:
    """A master file, two files of data with the detector's own compression; pixel (3, 4) is bad."""
    frames = flat(scan)
    for k, part in enumerate((frames[:4], frames[4:]), 1):
        with h5py.File(folder / f"a_data_{k:06d}.h5", "w") as file:
            file.create_dataset("entry/data/data", data=part, **hdf5plugin.Bitshuffle())
    with h5py.File(folder / "a_master.h5", "w") as file:
        for k in (1, 2):
            link = h5py.ExternalLink(f"a_data_{k:06d}.h5", "entry/data/data")
            file[f"entry/data/data_{k:06d}"] = link
        detector = file.create_group("entry/instrument/detector")
        detector.create_dataset("detector_distance", data=0.3).attrs["units"] = "m"
        detector.create_dataset("x_pixel_size", data=75e-6).attrs["units"] = "m"
        detector["count_time"] = EXPOSURE_S
        detector["beam_center_x"], detector["beam_center_y"] = 8.5, 6.25
        file["entry/instrument/beam/incident_wavelength"] = 0.025079
        specific = detector.create_group("detectorSpecific")
        specific["ntrigger"], specific["nimages"] = scan.shape[:2]
        mask = np.zeros(scan.shape[2:], np.uint32)
        mask[3, 4] = 2
        specific["pixel_mask"] = mask
    return folder / "a_master.h5"


def as_tiff(folder: Path, scan: Scan) -> Path:
    about = {"axes": "ZYX", "unit": "nm"}
    tifffile.imwrite(
        folder / "a.tif", flat(scan), imagej=True, metadata=about, resolution=(5.0, 5.0),
        byteorder=">",
    )  # fmt: skip
    return folder / "a.tif"


def as_compressed_tiff(folder: Path, scan: Scan) -> Path:
    tifffile.imwrite(folder / "a.tiff", flat(scan), compression="zlib", photometric="minisblack")
    return folder / "a.tiff"


def as_mrc(folder: Path, scan: Scan) -> Path:
    """With Thermo Fisher's extended header."""
    frames = flat(scan)
    with mrcfile.new(folder / "a.mrc") as file:
        file.set_data(frames)
        file.set_image_stack()
        file.header.exttyp = b"FEI1"
        extended = np.zeros(len(frames), get_ext_header_dtype(b"FEI1", "<"))
        extended["Metadata size"] = extended.dtype.itemsize
        extended["HT"], extended["Integration time"] = ENERGY_KEV * 1e3, EXPOSURE_S
        extended["Pixel size X"], extended["Projection mode"] = 2e-10, 2
        extended["Defocus"] = -1e-6
        file.set_extended_header(extended)
    return folder / "a.mrc"


def as_folder(folder: Path, scan: Scan) -> Path:
    for kind in ("diffraction", "noisy", "clean"):
        (folder / "set" / kind / "1AUP").mkdir(parents=True)
        for k, frame in enumerate(flat(scan)):
            np.save(folder / "set" / kind / "1AUP" / f"{k:03d}.npy", frame)
    return folder / "set"


def as_npz(folder: Path, scan: Scan) -> Path:
    np.savez(folder / "a.npz", pattern=flat(scan))
    return folder / "a.npz"


def as_dm3(folder: Path, scan: Scan) -> Path:
    """A series of patterns, as a camera writes it."""
    units, scales = ("", "1/nm"), (1.0, PIXEL_PER_NM)
    return write_dm(folder / "a.dm3", flat(scan), units, scales, diffraction_tags())


def as_dm4(folder: Path, scan: Scan) -> Path:
    """A scan, as newer versions write it."""
    about = {"Meta Data": {"Format": "Diffraction image", "Data Order Swapped": True}}
    return write_dm(
        folder / "a.dm4", scan, ("nm", "1/nm"), (STEP_NM, PIXEL_PER_NM), diffraction_tags(about)
    )


def as_velox(folder: Path, scan: Scan) -> Path:
    return write_velox(folder / "a.emd", flat(scan), "1/m", PIXEL_PER_NM * 1e9)


def diffraction_tags(more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What DigitalMicrograph keeps beside a pattern of a camera."""
    return {
        "Microscope Info": {
            "Voltage": ENERGY_KEV * 1e3,
            "Illumination Mode": "TEM",
            "Imaging Mode": "DIFFRACTION",
            "Indicated Magnification": CAMERA_LENGTH_MM,
            "STEM Camera Length": 0.0,
            "Cs(mm)": 1.25,
        },
        "Acquisition": {"Parameters": {"Detector": {"exposure (s)": EXPOSURE_S}}},
    } | dict(more or {})


def write_velox(
    path: Path, frames: NDArray[Any], unit: str, pixel: float, defocus_m: float = -1e-6
) -> Path:
    """Velox's HDF5: images (y, x, n), and for each frame a text of JSON, padded with zeros, in
    which all numbers are texts.

    Args:
        unit, pixel: in SI: 1/m, rad or m. defocus_m: negative under focus.
    """
    pattern = unit != "m"
    about = {
        "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1704103200"}},
        "BinaryResult": {
            "DetectorIndex": "1", "Detector": "BM-Ceta", "PixelUnitX": unit, "PixelUnitY": unit,
            "PixelSize": {"width": str(pixel), "height": str(pixel)},
            "Offset": {"x": "0", "y": "0"},
        },
        "Optics": {
            "AccelerationVoltage": str(ENERGY_KEV * 1e3),
            "CameraLength": str(CAMERA_LENGTH_MM / 1e3),
            "Defocus": str(defocus_m),
            "ProjectorMode": "1" if pattern else "2",
        },
        "Detectors": {
            "Detector-0": {"DetectorName": "HAADF", "DetectorType": "ScanningDetector"},
            "Detector-1": {"DetectorName": "BM-Ceta", "ExposureTime": str(EXPOSURE_S)},
        },
        "Scan": {}, "CustomProperties": {},
    }  # fmt: skip
    text = np.frombuffer(json.dumps(about, indent=4).encode().ljust(6000, b"\0"), np.uint8)
    words = h5py.string_dtype("utf-8")
    with h5py.File(path, "w") as file:
        version = json.dumps({"version": "11", "format": "Velox"})
        file.create_dataset("Version", data=[version], dtype=words)
        group = file.create_group("Data/Image/26f60320a61d4f66a73efd8cde34ffa9")
        group.create_dataset("Data", data=np.moveaxis(frames, 0, -1), chunks=(*frames.shape[1:], 1))
        metadata = np.repeat(text[:, None], len(frames), axis=1)
        group.create_dataset("Metadata", data=metadata, chunks=(len(text), 1))
    return path
