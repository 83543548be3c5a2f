"""What `diffragan export` writes, read back by the readers of other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import starfile
import tifffile
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

import diffragan as dg
from diffragan.errors import DiffraganError
from diffragan.files import export as module
from diffragan.files import tiff
from diffragan.files.store import ResultStore, open_results
from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.rotations import relion_angles
from diffragan.settings import load_settings
from quick_runs import run

N, M, SIDE, BOX_A = 21, 12, 20, 30.0


def result_store(path: Path, **arrays: NDArray[Any]) -> ResultStore:
    """A result store of the given arrays, as a method would have left it."""
    header = {
        "method": "raar",
        "optics": {"energy_ev": 200e3, "box_A": BOX_A, "centre_to_exit_A": 20.0},
        "structures": [{"stem": "one"}, {"stem": "two"}],
        "settings": load_settings().model_dump(mode="json"),
        "input": {"path": "pairs.zarr", "sha256": "0" * 64},
        "weights": None,
    }
    specs = {name: ArraySpec(a.shape[1:], str(a.dtype), "1") for name, a in arrays.items()}
    writer = StoreWriter(path, "result", N, specs, header)
    writer.write(np.arange(N), **arrays)
    writer.finish()
    return open_results(path)


@pytest.fixture
def results(tmp_path: Path) -> ResultStore:
    """Waves and projections of noise, more of them than one batch, with all that may be known."""
    rng = np.random.default_rng(5)
    wave = 1 + 0.3 * (rng.normal(size=(N, M, M)) + 1j * rng.normal(size=(N, M, M)))
    return result_store(
        tmp_path / "phased.zarr",
        wave=wave.astype(np.complex64),
        projection=rng.normal(1, 0.1, (N, SIDE, SIDE)).astype(np.float32),
        item=np.arange(N) * 2,
        structure=(np.arange(N) % 2).astype(np.int32),
        rotation=Rotation.random(N, rng=rng).as_matrix(),
        solved=np.arange(N) % 3 == 0,
        trust=rng.random((N, 7)).astype(np.float32),
        r_factor=rng.random(N).astype(np.float32),
    )


def read_both(folder: Path, name: str) -> NDArray[Any]:
    """A stack as mrcfile and tifffile read it, which must be the same."""
    with mrcfile.open(folder / f"{name}.mrcs") as file:
        found: NDArray[Any] = np.array(file.data)
        assert file.is_image_stack()
    assert mrcfile.validate(folder / f"{name}.mrcs")
    np.testing.assert_array_equal(tifffile.imread(folder / f"{name}.tif"), found)
    return found


def test_stacks_hold_the_numbers_of_the_store(results: ResultStore, tmp_path: Path) -> None:
    """Float32 in, float32 out: the files are the store's arrays, item by row by column."""
    folder = dg.export(results, tmp_path / "out")
    wave, projection = results.wave(slice(None)), results.projection(slice(None))
    assert wave is not None
    np.testing.assert_array_equal(read_both(folder, "projection"), projection)
    amplitude, phase = read_both(folder, "wave-amplitude"), read_both(folder, "wave-phase")
    np.testing.assert_allclose(amplitude * np.exp(1j * phase), wave, atol=1e-6)

    folder = dg.export(results, tmp_path / "parts", wave_as="real-imaginary", parts=["wave"])
    np.testing.assert_array_equal(read_both(folder, "wave-real"), wave.real)
    np.testing.assert_array_equal(read_both(folder, "wave-imaginary"), wave.imag)
    assert not (folder / "projection.mrcs").exists()


def test_pixel_sizes_are_in_the_headers(results: ResultStore, tmp_path: Path) -> None:
    """A box of 30 Å over 12 pixels is 2.5 Å a pixel, and 1.5 Å over 20 pixels."""
    folder = dg.export(results, tmp_path / "out")
    for name, pixel_A in (("wave-phase", 2.5), ("projection", 1.5)):
        with mrcfile.open(folder / f"{name}.mrcs") as file:
            assert float(file.voxel_size.x) == pytest.approx(pixel_A)
        with tifffile.TiffFile(folder / f"{name}.tif") as file:
            pixels, length_A = file.pages.first.tags["XResolution"].value
            assert length_A / pixels == pytest.approx(pixel_A)
            assert file.is_imagej
            assert file.imagej_metadata is not None
            assert file.imagej_metadata["unit"] == "angstrom"
            assert file.series[0].axes == "ZYX"
    about = json.loads((folder / "export.json").read_text("utf-8"))
    assert about["files"]["wave-phase.mrcs"]["pixel_A"] == 2.5
    assert about["files"]["wave-phase.mrcs"]["unit"] == "rad"
    assert about["method"] == "raar"
    assert about["input"]["path"] == "pairs.zarr"


def test_particles_carry_angles_and_verdicts(results: ResultStore, tmp_path: Path) -> None:
    """RELION's table has the store's orientations, and the run's verdict in columns of our own."""
    folder = dg.export(results, tmp_path / "out", formats=["star"])
    assert sorted(p.name for p in folder.iterdir()) == [
        "export.json",
        "items.csv",
        "particles.mrcs",
        "particles.star",
    ]
    tables = starfile.read(folder / "particles.star", always_dict=True)
    particles, optics = tables["particles"], tables["optics"]
    assert optics["rlnVoltage"][0] == 200
    assert optics["rlnImagePixelSize"][0] == 2.5
    angles = particles[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    assert results.rotation is not None
    np.testing.assert_allclose(angles, relion_angles(results.rotation), atol=1e-5)
    assert particles["rlnImageName"][20] == "000021@particles.mrcs"
    np.testing.assert_array_equal(particles["diffraganSolved"], results.solved)
    np.testing.assert_array_equal(particles["diffraganItem"], results.items)
    assert results.trust is not None
    mean = results.trust[:, 1:].mean(-1)
    np.testing.assert_allclose(particles["diffraganTrust"], mean, atol=1e-5)
    assert results.solved is not None
    weights = np.where(results.solved, mean, 0)
    np.testing.assert_allclose(particles["rlnParticleFigureOfMerit"], weights, atol=1e-5)
    np.testing.assert_array_equal(particles["rlnRandomSubset"], np.arange(N) % 2 + 1)


def test_particles_are_bright_where_the_potential_is(tmp_path: Path, simulated: Path) -> None:
    """A wave exp(i sigma V) and the projections of real waves both export V with a plus sign."""
    pairs = dg.open_pairs(simulated)
    items = np.arange(N) % pairs.n
    wave, projection = pairs.truth_wave(items), pairs.truth_projection(items)
    assert wave is not None
    assert projection is not None
    turned = (wave * np.exp(0.4j)).astype(np.complex64)  # a global phase means nothing
    header: dict[str, NDArray[Any]] = {
        "projection": projection,
        "item": items,
        "structure": np.zeros(N, np.int32),
    }
    atoms = (wave - 1).imag.reshape(N, -1)
    cases: tuple[tuple[str, dict[str, NDArray[Any]]], ...] = (
        ("waves", {"wave": turned}),
        ("projections", {}),
    )
    for name, arrays in cases:
        store = result_store(tmp_path / f"{name}.zarr", **header, **arrays)
        folder = dg.export(store, tmp_path / name, formats=["star"])
        particles = mrcfile.read(folder / "particles.mrcs")
        assert "rlnAngleRot" not in starfile.read(folder / "particles.star")["particles"]
        spectrum = np.fft.fftshift(np.fft.fft2(particles), axes=(-2, -1))
        low = (spectrum.shape[-1] - wave.shape[-1]) // 2
        inner = spectrum[:, low : low + wave.shape[-1], low : low + wave.shape[-1]]
        coarse = np.fft.ifft2(np.fft.ifftshift(inner, axes=(-2, -1))).real.reshape(N, -1)
        likeness = [np.corrcoef(a, b)[0, 1] for a, b in zip(atoms, coarse, strict=True)]
        assert min(likeness) > (0.99 if arrays else 0.2), name


def test_memory_holds_a_batch(
    results: ResultStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No read asks for more than a batch of images, however long the store."""
    asked = []
    read = ResultStore.read

    def watched(self: ResultStore, name: str, items: Any = None) -> NDArray[Any]:
        found = read(self, name, items)
        if name in ("wave", "projection"):
            asked.append(len(found))
        return found

    monkeypatch.setattr(ResultStore, "read", watched)
    dg.export(results, tmp_path / "out")
    assert max(asked) <= module._BATCH < N


def test_a_stack_too_long_for_classic_tiff_is_a_bigtiff(
    results: ResultStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond 4 GB the offsets of a classic TIFF overflow; the pages stay readable."""
    monkeypatch.setattr(tiff, "CLASSIC_BYTES", 1000)
    folder = dg.export(results, tmp_path / "out", parts=["projection"], formats=["tiff"])
    with tifffile.TiffFile(folder / "projection.tif") as file:
        assert file.is_bigtiff
        np.testing.assert_array_equal(file.asarray(), results.projection(slice(None)))


def test_a_finished_folder_is_kept(results: ResultStore, tmp_path: Path) -> None:
    """Only an earlier export is replaced, and only when asked."""
    out = tmp_path / "out"
    words = ("export", results.path, "--out", out, "--format", "mrc")
    assert run(*words)[0] == 0
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    code, said = run(*words)
    assert code == 2
    assert "--overwrite" in said
    assert before == {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    assert run(*words, "--part", "projection", "--overwrite")[0] == 0
    assert not (out / "wave-phase.mrcs").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work", "utf-8")
    code, said = run("export", results.path, "--out", tmp_path / "thesis", "--overwrite")
    assert code == 2
    assert "no export" in said
    assert (tmp_path / "thesis" / "chapter.txt").exists()


def test_a_failure_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    """A wave that is no number is refused, and the folder's name stays free."""
    wave = np.ones((N, M, M), np.complex64)
    wave[17, 3, 3] = np.nan
    store = result_store(tmp_path / "phased.zarr", wave=wave, item=np.arange(N))
    with pytest.raises(DiffraganError, match="NaN"):
        dg.export(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--part", "wave"), "holds no waves"),
        (("--part", "pattern"), "no part 'pattern'; use wave, projection"),
        (("--format", "png"), "no format 'png'; use mrc, tiff, star"),
        (("--as", "colours"), "use amplitude-phase, real-imaginary"),
    ],
)
def test_what_cannot_be_exported_is_named(
    words: tuple[str, ...], named: str, tmp_path: Path
) -> None:
    """A projection-only store has no wave to give, and unknown words list the known ones."""
    projection = np.ones((N, SIDE, SIDE), np.float32)
    result_store(tmp_path / "p.zarr", projection=projection, item=np.arange(N))
    code, said = run("export", tmp_path / "p.zarr", "--out", tmp_path / "out", *words)
    assert code == 2
    assert named in said
    assert not (tmp_path / "out").exists()
