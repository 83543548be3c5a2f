"""Maps, stacks and tables that other programs open: known answers, read back independently."""

from __future__ import annotations

import csv
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
import starfile
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from diffragan.errors import DiffraganError
from diffragan.files.csv import write_fsc, write_history
from diffragan.files.mrc import read_map, write_map
from diffragan.files.star import Particles, write_projections
from diffragan.rotations import quasi_uniform


@pytest.mark.parametrize("n", [24, 25])
def test_a_map_lies_where_other_programs_expect_it(n: int, tmp_path: Path) -> None:
    """A voxel 3, -2 and 5 voxels off the centre in x, y, z is found at those places in Å."""
    voxel, off = 0.7, np.array([3, -2, 5])
    volume = torch.zeros(n, n, n)
    x, y, z = (n // 2 + off).tolist()
    volume[z, y, x] = 4.0
    path = tmp_path / "map.mrc"
    write_map(path, volume, voxel, "a test")

    found = gemmi.read_ccp4_map(str(path))
    origin = np.array([found.header_float(word) for word in (50, 51, 52)])
    starts = [found.header_i32(word) for word in (5, 6, 7)]
    grid = np.array(found.grid, copy=False)  # [x, y, z] by gemmi's axis order
    place = np.array(np.unravel_index(grid.argmax(), grid.shape))
    assert starts == [0, 0, 0]
    assert found.grid.unit_cell.parameters == pytest.approx((n * voxel,) * 3 + (90,) * 3, rel=1e-6)
    np.testing.assert_allclose(place * voxel + origin, off * voxel, atol=1e-5)
    centre = found.grid.interpolate_value(gemmi.Position(*(off * voxel - origin)))
    assert centre == pytest.approx(4.0, abs=1e-3)


def test_a_map_is_read_back_and_its_header_is_right(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volume = rng.normal(3, 2, (16, 16, 16)).astype(np.float32)
    path = tmp_path / "map.mrc"
    write_map(path, volume, 1.25, "half map 1")
    back, voxel = read_map(path)
    np.testing.assert_array_equal(back, volume)
    assert voxel == pytest.approx(1.25)
    assert mrcfile.validate(path)
    with mrcfile.open(path) as file:
        header = file.header
        assert file.is_volume()
        assert int(header.mode) == 2
        assert int(header.ispg) == 1
        assert header.label[0] == b"half map 1"
        assert float(header.dmin) == volume.min()
        assert float(header.dmax) == volume.max()
        assert float(header.dmean) == pytest.approx(volume.mean(), rel=1e-5)
        assert float(header.rms) == pytest.approx(volume.std(), rel=1e-5)
    assert list(tmp_path.iterdir()) == [path]


def test_a_map_with_turned_axes_is_read_as_z_y_x(tmp_path: Path) -> None:
    volume = np.arange(4**3, dtype=np.float32).reshape(4, 4, 4)
    path = tmp_path / "map.mrc"
    write_map(path, np.transpose(volume, (1, 2, 0)), 1.0, "")
    with mrcfile.open(path, mode="r+") as file:
        file.header.maps, file.header.mapr, file.header.mapc = 2, 1, 3
    np.testing.assert_array_equal(read_map(path)[0], volume)


def test_what_is_no_cubic_map_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.mrc"
    with pytest.raises(DiffraganError, match="no file"):
        read_map(path)
    path.write_bytes(b"no map at all")
    with pytest.raises(DiffraganError, match=r"map\.mrc can't be read"):
        read_map(path)
    with mrcfile.new(path, np.zeros((4, 4, 6), np.float32), overwrite=True) as file:
        file.voxel_size = 1.0
    with pytest.raises(DiffraganError, match=r"not one cubic map.*cube"):
        read_map(path)
    with mrcfile.new(path, np.zeros((4, 4, 4), np.float32), overwrite=True):
        pass
    with pytest.raises(DiffraganError, match="voxel size"):
        read_map(path)
    before = path.read_bytes()
    with pytest.raises(DiffraganError, match="NaN"):
        write_map(path, np.full((4, 4, 4), np.nan), 1.0, "")
    with pytest.raises(DiffraganError, match="cube"):
        write_map(path, np.zeros((4, 4)), 1.0, "")
    assert path.read_bytes() == before


def test_fsc_tables_hold_the_curves(tmp_path: Path) -> None:
    q = torch.arange(5, dtype=torch.float64) / 20
    half, truth = torch.linspace(1, 0.1, 5), torch.linspace(1, 0.3, 5)
    write_fsc(tmp_path, q, {"half": half, "truth": truth})

    rows = list(csv.DictReader((tmp_path / "fsc.csv").read_text().splitlines()))
    assert list(rows[0]) == ["q_per_A", "resolution_A", "half", "truth"]
    assert float(rows[0]["resolution_A"]) == 999
    assert float(rows[2]["resolution_A"]) == pytest.approx(10)
    table = starfile.read(tmp_path / "fsc.star", always_dict=True)["fsc"]
    assert table["rlnSpectralIndex"].tolist() == list(range(5))
    assert table["rlnAngstromResolution"].tolist() == pytest.approx([999, 20, 10, 20 / 3, 5])
    np.testing.assert_allclose(table["rlnResolution"], q, atol=1e-6)
    np.testing.assert_allclose(table["rlnFourierShellCorrelationCorrected"], half, atol=1e-6)
    np.testing.assert_allclose(table["rlnFourierShellCorrelationTruth"], truth, atol=1e-6)
    with pytest.raises(DiffraganError, match="“half”"):
        write_fsc(tmp_path, q, {"half": half[:3]})


def test_what_is_not_known_is_no_zero(tmp_path: Path) -> None:
    """A correlation that can't be told is an empty cell, and no number in the STAR file either."""
    q = torch.arange(3, dtype=torch.float64) / 20
    write_fsc(tmp_path, q, {"half": torch.ones(3), "free": torch.tensor([torch.nan, 0.0, 0.5])})
    rows = list(csv.DictReader((tmp_path / "fsc.csv").read_text().splitlines()))
    assert [row["free"] for row in rows] == ["", "0", "0.5"]
    column = starfile.read(tmp_path / "fsc.star")["rlnFourierShellCorrelationFree"]
    assert column.dtype == np.float64
    np.testing.assert_array_equal(column, [np.nan, 0, 0.5])


def images(count: int, side: int) -> NDArray[np.float64]:
    """A bright disc on a noisy background that is neither 0 in the mean nor 1 in spread."""
    rng = np.random.default_rng(1)
    axis = np.arange(side) - side // 2
    disc = (axis[:, None] ** 2 + axis[None, :] ** 2 < (side / 4) ** 2) * 30.0
    found: NDArray[np.float64] = disc + rng.normal(5, 2.5, (count, side, side))
    return found


def test_a_stack_is_what_relion_wants(tmp_path: Path) -> None:
    count, side, pixel = 7, 20, 0.8
    rotations = quasi_uniform(count)
    shifts = np.random.default_rng(2).normal(size=(count, 2))
    path = tmp_path / "views.mrcs"
    stack = images(count, side)
    write_projections(
        path,
        np.split(stack, [3, 6]),
        Particles(count, rotations, shifts, {"rlnRandomSubset": np.arange(count) % 2 + 1}),
        pixel,
        200e3,
        2.7,
    )
    assert mrcfile.validate(path)
    with mrcfile.open(path) as file:
        assert file.is_image_stack()
        data, header = np.array(file.data), file.header
        assert float(file.voxel_size.x) == pytest.approx(pixel)
        assert float(header.rms) == pytest.approx(data.std(), rel=1e-4)
        assert float(header.dmean) == pytest.approx(data.mean(), rel=1e-4)
        assert (float(header.dmin), float(header.dmax)) == (data.min(), data.max())
    axis = np.arange(side) - side // 2
    outside = np.hypot(axis[:, None], axis[None, :]) > side / 2
    np.testing.assert_allclose(data[:, outside].mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(data[:, outside].std(-1), 1, atol=1e-5)
    assert (data[:, side // 2, side // 2] > 5).all()

    tables = starfile.read(tmp_path / "views.star", always_dict=True)
    optics, particles = tables["optics"].iloc[0], tables["particles"]
    assert (optics["rlnVoltage"], optics["rlnSphericalAberration"]) == (200, 2.7)
    assert (optics["rlnImagePixelSize"], optics["rlnImageSize"]) == (pixel, side)
    assert optics["rlnImageDimensionality"] == 2
    assert particles["rlnImageName"].iloc[-1] == "000007@views.mrcs"
    assert particles["rlnRandomSubset"].tolist() == [1, 2, 1, 2, 1, 2, 1]
    angles = particles[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    back = Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()
    np.testing.assert_allclose(back, rotations, atol=1e-6)
    # A molecule to the right must be moved to the left.
    np.testing.assert_allclose(particles["rlnOriginXAngst"], -shifts[:, 0], atol=1e-6)
    np.testing.assert_allclose(particles["rlnOriginYAngst"], -shifts[:, 1], atol=1e-6)


def test_streamed_is_the_same_as_at_once(tmp_path: Path) -> None:
    count, rotations = 6, quasi_uniform(6)
    stack = images(count, 12)
    files = []
    for name, batches in (("a", [stack]), ("b", list(stack[:, None]))):
        (tmp_path / name).mkdir()
        files.append(tmp_path / name / "views.mrcs")
        write_projections(files[-1], iter(batches), Particles(count, rotations), 1.0, 200e3)
    data = [mrcfile.read(path) for path in files]
    np.testing.assert_array_equal(*data)
    stars = [path.with_suffix(".star") for path in files]
    tables = [starfile.read(star, always_dict=True)["particles"] for star in stars]
    assert tables[0].equals(tables[1])
    assert (tables[0]["rlnOriginXAngst"] == 0).all()


def test_a_flat_background_keeps_the_scale(tmp_path: Path) -> None:
    """Also where it is flat but for rounding, which must not be blown up to noise."""
    stack = np.full((2, 16, 16), 7.0)
    stack[:, 6:10, 6:10] = 9.0
    stack[1] += np.random.default_rng(0).normal(0, 1e-7, (16, 16))
    write_projections(tmp_path / "x.mrcs", [stack], Particles(2, quasi_uniform(2)), 1.0, 200e3)
    data = mrcfile.read(tmp_path / "x.mrcs")
    np.testing.assert_allclose(data, stack - 7, atol=1e-5)


def test_a_wrong_stack_leaves_nothing_behind(tmp_path: Path) -> None:
    path, rotations = tmp_path / "x.mrcs", quasi_uniform(3)
    stack, views = images(3, 8), Particles(3, rotations)
    bad = Particles(3, rotations, columns={"rlnRandomSubset": np.ones(1)})
    with pytest.raises(DiffraganError, match="3 images and got 2"):
        write_projections(path, [stack[:2]], views, 1.0, 200e3)
    with pytest.raises(DiffraganError, match="8 x 8"):
        write_projections(path, [stack[:2], stack[2:, 1:]], views, 1.0, 200e3)
    with pytest.raises(DiffraganError, match="2 rotations"):
        write_projections(path, [stack], Particles(3, rotations[:2]), 1.0, 200e3)
    with pytest.raises(DiffraganError, match="1 rlnRandomSubset"):
        write_projections(path, [stack], bad, 1.0, 200e3)
    with pytest.raises(DiffraganError, match=r"\.mrcs"):
        write_projections(tmp_path / "x.mrc", [stack], views, 1.0, 200e3)
    stack[1, 2, 3] = np.nan
    with pytest.raises(DiffraganError, match="NaN"):
        write_projections(path, [stack], views, 1.0, 200e3)
    assert list(tmp_path.iterdir()) == []


def test_history_keeps_every_column(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    write_history(
        path,
        [
            {"iteration": 1, "half": 1, "r_factor": 0.5},
            {"iteration": 2, "half": "a", "resolution_A": float("nan")},
        ],
    )
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert rows[0] == {"iteration": "1", "half": "1", "r_factor": "0.5", "resolution_A": ""}
    assert rows[1] == {"iteration": "2", "half": "a", "r_factor": "", "resolution_A": ""}
