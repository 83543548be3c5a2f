"""Every format of an instrument through the commands: what `inspect` and `scan` find in it."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import diffragan as dg
import instrument_files as of
from diffragan.files.store import MeasurementStore
from diffragan.inspection.camera import Detector, camera_image, detector_counts
from diffragan.settings import load_settings
from digital_micrograph import write_dm
from instrument_files import Write
from quick_runs import run

CENTRE = (66.3, 58.6)
BY_HAND = ("--reciprocal-pixel", "0.005")


@pytest.fixture(scope="module")
def bundled() -> MeasurementStore:
    path = resources.files("diffragan").joinpath("data", "example.zarr.zip")
    return MeasurementStore(Path(str(path)))


@pytest.fixture(scope="module")
def patterns(bundled: MeasurementStore) -> NDArray[np.uint16]:
    """The bundled protein's six patterns as a scan of 2 x 3, off the detector's middle."""
    rng = np.random.default_rng(2)
    detector = Detector(128, of.PIXEL_PER_NM / 10, CENTRE)
    counts = [
        detector_counts(wave, bundled.optics, detector, 8, 90, rng)
        for wave in bundled.read("exit_wave")
    ]
    return np.stack(counts).astype(np.uint16).reshape(2, 3, 128, 128)


@pytest.mark.parametrize(
    ("write", "options"),
    [
        (of.as_dm3, ()), (of.as_dm4, ()), (of.as_velox, ()), (of.as_emd, ()), (of.as_hspy, ()),
        (of.as_py4dstem, ()), (of.as_emi, ()), (of.as_blo, ()), (of.as_tvips, ()),
        (of.as_mib, BY_HAND), (of.as_empad, BY_HAND), (of.as_trpx, BY_HAND), (of.as_tiff, BY_HAND),
        (of.as_npz, BY_HAND),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)  # fmt: skip
def test_inspect_finds_centre_and_pixel(
    write: Write, options: tuple[str, ...], patterns: NDArray[np.uint16], tmp_path: Path
) -> None:
    """Where the beam lies tells turned and mirrored frames, the pixel the unit that was read."""
    path = write(tmp_path, patterns)
    code, text = run("inspect", path, "--out", tmp_path / "x.zarr", *options)
    assert code == 0, text
    found = json.loads((tmp_path / "x.json").read_text("utf-8"))
    # Eight bits cut the beam's spot off flat.
    assert found["centre_px"] == pytest.approx(CENTRE, abs=0.4 if write is of.as_blo else 0.05)
    assert found["frames"] == 6
    wavelength_A = 0.0250793
    by_camera: dict[Write, float] = {
        of.as_blo: 0.5 / of.CAMERA_LENGTH_MM / wavelength_A,
        of.as_tvips: of.CAMERA_PIXEL_UM / 1e3 / of.CAMERA_LENGTH_MM / wavelength_A,
    }
    assert found["pixel_per_A"] == pytest.approx(by_camera.get(write, 0.005), rel=1e-4)
    assert ("by hand" in found["pixel_by"]) == bool(options)


def test_patterns_of_one_maker_and_images_of_another_become_pairs(
    bundled: MeasurementStore, tmp_path: Path
) -> None:
    """Voltage, pixels and defocus are told by the files, and nothing by hand but the beam."""
    rng = np.random.default_rng(1)
    waves, optics = bundled.read("exit_wave"), bundled.optics
    detector = Detector(160, 0.01, (82.3, 76.4))
    counts = np.stack([detector_counts(w, optics, detector, 8000, 90, rng) for w in waves])
    far = write_dm(
        tmp_path / "far.dm4", counts.astype(np.int32), ("", "1/nm"), (1.0, 0.1),
        of.diffraction_tags(),
    )  # fmt: skip
    lens = load_settings(overrides=["image.defocus_A=10000", "image.dose_e_per_A2=900"]).image
    images = np.stack(
        [camera_image(w, optics, lens, field_A=105, n_px=116, rng=rng) for w in waves]
    )
    near = of.write_velox(tmp_path / "near.emd", images.astype(np.int32), "m", 105e-10 / 116)
    out = tmp_path / "pairs.zarr"
    code, text = run(
        "inspect", far, "--image", near, "--beam-diameter-A", "90", "--out", out
    )  # fmt: skip
    assert code == 0, text
    found = json.loads(out.with_suffix(".json").read_text("utf-8"))
    assert found["placement"] == "as-is"
    assert found["defocus_A"] == pytest.approx(10000, abs=1)
    assert dg.open_pairs(out).n == 6
