"""One door: every file format gives the same pairs, bad ones are refused in plain words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile

from diffragan.errors import DiffraganError
from diffragan.files.store import file_sha256, open_simulation
from diffragan.pairs.from_arrays import estimated_dose
from diffragan.pairs.open import open_pairs
from diffragan.pairs.pairs import Pairs
from diffragan.pairs.write import write_pairs
from diffragan.settings import Settings, load_settings

BOX = 70.0


@pytest.fixture(scope="module")
def pairs(simulated: Path, published: Settings) -> Pairs:
    return open_pairs(simulated, settings=published)


@pytest.fixture(scope="module")
def arrays(pairs: Pairs) -> tuple[Any, Any]:
    return pairs.pattern(slice(0, 3)), pairs.image(slice(0, 3))


def mrc(path: Path, data: Any, pixel_A: float) -> Path:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(data.astype(np.float32))
        file.voxel_size = pixel_A
        file.set_image_stack()
    return path


def as_npz(folder: Path, pattern: Any, image: Any) -> dict[str, Any]:
    np.savez(folder / "pairs.npz", pattern=pattern, image=image, pixel_A=BOX / 112)
    return {"path": folder / "pairs.npz"}


def as_npy(folder: Path, pattern: Any, image: Any) -> dict[str, Any]:
    np.save(folder / "p.npy", pattern)
    np.save(folder / "i.npy", image)
    return {"path": folder / "p.npy", "image": folder / "i.npy", "box_A": BOX}


def as_mrcs(folder: Path, pattern: Any, image: Any) -> dict[str, Any]:
    mrc(folder / "i.mrcs", image, BOX / 112)
    return {"path": mrc(folder / "p.mrcs", pattern, 1.0), "image": folder / "i.mrcs"}


def as_star(folder: Path, pattern: Any, image: Any) -> dict[str, Any]:
    """Images in an order of their own, as RELION lists them, 1-based."""
    mrc(folder / "p.mrcs", pattern, 1.0)
    mrc(folder / "i.mrcs", image[::-1], 1.0)
    names = [f"{i:06d}@i.mrcs" for i in range(len(image), 0, -1)]
    optics = {"rlnOpticsGroup": [1], "rlnImagePixelSize": [BOX / 112], "rlnImageSize": [112]}
    table = {"rlnImageName": names, "rlnOpticsGroup": [1] * len(names)}
    starfile.write(
        {"optics": pd.DataFrame(optics), "particles": pd.DataFrame(table)}, folder / "i.star"
    )
    return {"path": folder / "p.mrcs", "image": folder / "i.star"}


def as_h5(folder: Path, pattern: Any, image: Any) -> dict[str, Any]:
    with h5py.File(folder / "pairs.h5", "w") as file:
        file["pattern"], file["image"] = pattern, image
        file.attrs["pixel_A"] = BOX / 112
    return {"path": folder / "pairs.h5"}


Format = Callable[[Path, Any, Any], dict[str, Any]]
FORMATS: list[Format] = [as_npz, as_npy, as_mrcs, as_star, as_h5]


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_pairs(
    form: Format, tmp_path: Path, arrays: tuple[Any, Any]
) -> None:
    found = open_pairs(**form(tmp_path, *arrays))
    assert found.n == 3
    assert found.box_A == pytest.approx(BOX, rel=1e-5)
    assert not found.has_truth
    for items in (slice(0, 3), np.array([2, 0]), [1]):
        np.testing.assert_allclose(found.pattern(items), arrays[0][items], rtol=1e-6)
        np.testing.assert_allclose(
            found.image(items),
            arrays[1][items] / arrays[1][items].mean((-2, -1), keepdims=True),
            rtol=1e-5,
        )


def test_a_measurement_store_holds_what_imaging_gave(
    simulated: Path, pairs: Pairs, published: Settings, tmp_path: Path
) -> None:
    simulation = open_simulation(simulated)
    with_truth = open_pairs(write_pairs(simulation, tmp_path / "t.zarr", published, truth=True))
    bare = open_pairs(write_pairs(simulation, tmp_path / "b.zarr", published, n=5))
    assert (with_truth.n, bare.n) == (8, 5)
    for found in (with_truth, bare):
        np.testing.assert_array_equal(found.pattern([4, 2]), pairs.pattern([4, 2]))
        np.testing.assert_allclose(found.image([4, 2]), pairs.image([4, 2]), rtol=1e-6)
        np.testing.assert_allclose(found.image_dose([4, 2]), pairs.image_dose([4, 2]))
        assert found.settings.image == published.image
    assert with_truth.has_truth
    np.testing.assert_array_equal(
        with_truth.truth_wave([3]),
        pairs.truth_wave([3]),
    )
    assert not bare.has_truth
    assert bare.truth_projection([0]) is None
    assert bare.rotation is None
    assert {p.name for p in (tmp_path / "b.zarr").iterdir() if p.is_dir()} == {
        "pattern", "pattern_mask", "image", "image_dose", "structure", "done"
    }  # fmt: skip


def test_two_imagings_with_one_seed_are_one(
    simulated: Path, published: Settings, tmp_path: Path
) -> None:
    simulation = open_simulation(simulated)
    one = write_pairs(simulation, tmp_path / "1.zarr", published, batch_size=3)
    two = write_pairs(simulation, tmp_path / "2.zarr", published, batch_size=8)
    other = published.model_copy(update={"seed": 1})
    three = write_pairs(simulation, tmp_path / "3.zarr", other)
    a, b, c = (open_pairs(p).image([5]) for p in (one, two, three))
    np.testing.assert_allclose(a, b, rtol=1e-5)
    assert np.abs(a - c).max() > 0.01


def test_counts_need_their_dose(tmp_path: Path, arrays: tuple[Any, Any]) -> None:
    pattern, image = arrays
    dose = 400.0
    given = as_npz(tmp_path, pattern * dose * BOX**2, image)
    with pytest.raises(DiffraganError, match=r"counts.*pattern\.dose_e_per_A2"):
        open_pairs(**given).pattern([0])
    settings = load_settings(values={"pattern.dose_e_per_A2": dose})
    found = open_pairs(**given, settings=settings)
    np.testing.assert_allclose(found.pattern([0]), pattern[:1], rtol=1e-5)


def test_the_dose_of_a_measured_image_is_read_from_its_noise(pairs: Pairs) -> None:
    """Beyond twice the aperture there is nothing but counting noise."""
    items = list(range(pairs.n))
    found = estimated_dose(pairs.image(items), pairs.optics, pairs.settings.image)
    np.testing.assert_allclose(found, pairs.image_dose(items), rtol=0.06)
    smooth = np.ones((1, 112, 112), np.float32)
    assert np.isinf(estimated_dose(smooth, pairs.optics, pairs.settings.image)).all()


def poisoned(value: float) -> Callable[[Any, Any], tuple[Any, Any]]:
    def change(pattern: Any, image: Any) -> tuple[Any, Any]:
        pattern = pattern.copy()
        pattern[1, 60, 60] = value
        return pattern, image

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (poisoned(np.nan), "NaN"),
        (poisoned(-1e-6), "negative"),
        (lambda p, i: (p, i[:2]), "3 patterns and 2 images"),
        (lambda p, i: (p, i[:, :100]), "100 x 112"),
        (lambda p, i: (p[:, :111, :111], i[:, :111, :111]), "even size"),
        (lambda p, i: (p, i - 1), "mean of 0 or less"),
        (lambda p, i: (p, np.where(i > 1.1, np.inf, i)), "NaN or infinite"),
    ],
)
def test_bad_arrays_are_refused(
    change: Callable[[Any, Any], tuple[Any, Any]],
    message: str,
    tmp_path: Path,
    arrays: tuple[Any, Any],
) -> None:
    given = as_npy(tmp_path, *change(*arrays))

    def read() -> None:
        found = open_pairs(**given)
        found.pattern(slice(0, 3))
        found.image(slice(0, 3))

    with pytest.raises(DiffraganError, match=message):
        read()


def test_files_that_are_no_pairs(tmp_path: Path, arrays: tuple[Any, Any]) -> None:
    with pytest.raises(DiffraganError, match="no kind this package reads"):
        open_pairs(tmp_path / "x.tiff")
    with pytest.raises(DiffraganError, match=r"There is no file .*x\.npz"):
        open_pairs(tmp_path / "x.npz")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DiffraganError, match="is it whole"):
        open_pairs(tmp_path / "cut.npz")
    np.save(tmp_path / "alone.npy", arrays[0])
    with pytest.raises(DiffraganError, match="--image"):
        open_pairs(tmp_path / "alone.npy", box_A=BOX)
    given = as_npy(tmp_path, *arrays)
    del given["box_A"]
    with pytest.raises(DiffraganError, match="--box-A"):
        open_pairs(**given)


def test_a_mask_frees_bad_pixels(tmp_path: Path, arrays: tuple[Any, Any]) -> None:
    pattern, image = arrays[0].copy(), arrays[1]
    pattern[:, 60:64, 70] = np.nan
    mask = np.ones((112, 112), bool)
    mask[60:64, 70] = False
    np.savez(tmp_path / "m.npz", pattern=pattern, image=image, pattern_mask=mask, pixel_A=BOX / 112)
    found = open_pairs(tmp_path / "m.npz")
    assert not found.pattern_mask[60:64, 70].any()
    assert (found.pattern([0])[:, 60:64, 70] == 0).all()


def test_the_hash_of_an_input_follows_its_bytes(tmp_path: Path, arrays: tuple[Any, Any]) -> None:
    given = as_npz(tmp_path, *arrays)
    before = open_pairs(**given).sha256
    assert before == file_sha256(given["path"])
    as_npz(tmp_path, arrays[0] * 1.0001, arrays[1])
    assert open_pairs(**given).sha256 != before
