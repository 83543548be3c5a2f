"""Every convention proved against RELION itself, on a chiral molecule known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from numpy.typing import NDArray

import diffragan as dg
from chiral_results import M, chiral_store
from diffragan.files.mrc import read_map
from diffragan.files.star import read_orientations
from diffragan.fourier.correlation import fsc, ring_index
from diffragan.fourier.volumes import centred, resized, uncentred
from diffragan.rotations import quasi_uniform, relion_angles
from diffragan.settings import load_settings
from relion import need_relion, relion
from synthetic_views import BOX_A, EDGE_A, correlation, molecule, true_volume

VIEWS = 240
Files = tuple[Path, Path]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the particles that `--export-only` writes."""
    need_relion()
    folder = tmp_path_factory.mktemp("interop")
    store = chiral_store(folder / "phased.zarr", quasi_uniform(VIEWS, 1))
    assert dg.relion_particles(store.path, folder) == folder / "relion" / "particles.star"
    return folder


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    """The molecule to 2 Å, rotation centre at [M // 2] * 3."""
    return centred(true_volume(molecule(3), M, EDGE_A))


def by_relion(folder: Path, star: str = "particles.star") -> torch.Tensor:
    """The map of `relion_reconstruct`."""
    relion(folder, "relion_reconstruct", "--i", star, "--o", "map.mrc")
    return torch.from_numpy(read_map(folder / "map.mrc")[0])


def test_relion_makes_the_molecule_of_our_files(shown: Path, truth: torch.Tensor) -> None:
    """Angles, their order and sense, signs, axes and centre: a wrong one costs more than 0.01, a
    wrong sense of rotation alone leaves 0.87."""
    found = by_relion(shown / "relion")
    assert correlation(found, truth) > 0.99
    assert correlation(found.flip(0), truth) < 0.9


def test_our_own_map_is_relions(shown: Path, truth: torch.Tensor) -> None:
    """The merge of the same store, with our interpolation and weights: shell by shell, each
    counting by the molecule's power there, and plainly."""
    merged = dg.reconstruct(shown / "phased.zarr", shown / "merged", method="merge")
    own = uncentred(torch.from_numpy(read_map(merged.map)[0]))
    same = centred(resized(own, M))
    found = by_relion(shown / "relion")
    shells = slice(1, round(BOX_A / EDGE_A))
    curve, power = fsc(found, same)[shells], fsc_power(truth)[shells]
    assert float((curve * power).sum() / power.sum()) > 0.99
    assert correlation(found, same) > 0.985


def fsc_power(volume: torch.Tensor) -> torch.Tensor:
    """(shells,) power of a volume."""
    power = centred(torch.fft.fftn(volume)).abs().square().flatten()
    shells = ring_index(M, 3).flatten()
    return torch.zeros(int(shells.max()) + 1).index_add_(0, shells, power)


def mirrored(images: NDArray[np.float32], table: dict[str, NDArray[np.float64]]) -> None:
    """Columns from right to left."""
    images[:] = np.roll(images[:, :, ::-1], 1, 2)


def inverted(images: NDArray[np.float32], table: dict[str, NDArray[np.float64]]) -> None:
    """Protein dark."""
    images *= -1


def zero_based(images: NDArray[np.float32], table: dict[str, NDArray[np.float64]]) -> None:
    """Every row with the image of the row before it."""
    images[:] = np.roll(images, 1, 0)


def transposed(images: NDArray[np.float32], table: dict[str, NDArray[np.float64]]) -> None:
    """x for y."""
    images[:] = images.swapaxes(1, 2).copy()


def turned_back(images: NDArray[np.float32], table: dict[str, NDArray[np.float64]]) -> None:
    """Angles of the inverse rotations."""
    rotations = quasi_uniform(VIEWS, 1).swapaxes(1, 2)
    for name, angle in zip(table, relion_angles(rotations).T, strict=True):
        table[name] = angle


def off_centre(images: NDArray[np.float32], table: dict[str, NDArray[np.float64]]) -> None:
    """The centre at a corner between four pixels, half the way to the next pixel's."""
    images[:] = np.roll(images, (1, 1), (1, 2))


@pytest.mark.parametrize(
    "spoil", [mirrored, inverted, zero_based, transposed, turned_back, off_centre]
)
def test_the_proof_can_fail(
    spoil: Callable[..., None], shown: Path, truth: torch.Tensor, tmp_path: Path
) -> None:
    """Files with one convention wrong make another map."""
    with mrcfile.open(shown / "relion" / "particles.mrcs") as file:
        images, pixel = file.data.copy(), float(file.voxel_size.x)
    tables = starfile.read(shown / "relion" / "particles.star", always_dict=True)
    particles = tables["particles"]
    angles = {name: particles[name].to_numpy() for name in particles if "rlnAngle" in name}
    spoil(images, angles)
    for name, values in angles.items():
        particles[name] = values
    with mrcfile.new(tmp_path / "particles.mrcs", images) as file:
        file.set_image_stack()
        file.voxel_size = pixel
    starfile.write(tables, tmp_path / "particles.star")
    assert correlation(by_relion(tmp_path), truth) < 0.98


def test_relions_tools_read_our_table(shown: Path) -> None:
    """`relion_star_printtable` and starfile see the same rows, and RELION's own writer keeps the
    columns of the run's verdict."""
    folder = shown / "relion"
    names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnRandomSubset")
    words = ("relion_star_printtable", "particles.star", "data_particles", *names)
    rows = np.array([line.split() for line in relion(folder, *words).splitlines()], float)
    table = starfile.read(folder / "particles.star", always_dict=True)["particles"]
    np.testing.assert_allclose(rows, table[list(names)].to_numpy(), atol=1e-5)
    optics = relion(
        folder, "relion_star_printtable", "particles.star", "data_optics", "rlnImageSize"
    )
    assert int(float(optics)) == M
    relion(folder, "relion_star_handler", "--i", "particles.star", "--o", "kept.star", "--select",
           "rlnRandomSubset", "--minval", "2", "--maxval", "2")  # fmt: skip
    kept = starfile.read(folder / "kept.star", always_dict=True)["particles"]
    assert kept["diffraganItem"].tolist() == list(range(1, VIEWS, 2))
    np.testing.assert_allclose(
        read_orientations(folder / "kept.star")[0], quasi_uniform(VIEWS, 1)[1::2], atol=1e-4
    )


def test_the_engine_drives_it(shown: Path, truth: torch.Tensor) -> None:
    """`engine="relion"` leaves the map, half maps, mask, FSC by two programs, and logs."""
    told: list[tuple[str, int, int | None]] = []
    made = dg.reconstruct(
        shown / "phased.zarr",
        shown / "engine",
        engine="relion",
        settings=load_settings(values={"relion.size_px": M}),
        progress=lambda stage, done, total=None, word="", /: told.append((stage, done, total)),
    )
    found = torch.from_numpy(read_map(made.map)[0])
    assert correlation(found, truth) > 0.99
    assert made.metrics["fsc_0p143_A"] < 2.1
    assert made.metrics["postprocess_A"] < 2.3
    assert made.metrics["n_views"] == VIEWS
    assert made.metrics["molecule"] == "chiral"
    assert "known angles" in made.metrics["method"]
    assert any("RELION" in stage for stage, _, _ in told)
    logs = [file.name for file in (shown / "engine" / "relion" / "logs").iterdir()]
    assert sorted(logs) == ["known angles.log", "postprocess.log"]
    for name in ("half1.mrc", "half2.mrc", "mask.mrc", "fsc.csv", "report.html"):
        assert (shown / "engine" / name).stat().st_size > 0
