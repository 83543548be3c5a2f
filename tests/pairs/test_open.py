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

import diffragan as dg
from diffragan.errors import DiffraganError
from diffragan.files.store import file_sha256, open_results, open_simulation
from diffragan.pairs import write
from diffragan.pairs.from_arrays import estimated_dose
from diffragan.pairs.imaged import ImagedPairs
from diffragan.pairs.open import open_pairs
from diffragan.pairs.pairs import Pairs
from diffragan.pairs.write import write_pairs
from diffragan.phasing.run import phase_pairs
from diffragan.settings import Settings, load_settings
from plugin_packages import install

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
    with_truth = open_pairs(
        write_pairs(ImagedPairs(simulation, published), tmp_path / "t.zarr", truth=True)
    )
    bare = open_pairs(
        write_pairs(ImagedPairs(simulation, published), tmp_path / "b.zarr", items=slice(5))
    )
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


def test_a_measurement_is_not_taken_anew(
    simulated: Path, published: Settings, tmp_path: Path
) -> None:
    """How a store was taken is what it says: a setting by hand that differs is refused with both
    values, one that agrees is no news, and those of the run are the run's."""
    store = write_pairs(ImagedPairs(open_simulation(simulated), published), tmp_path / "m.zarr")
    own = published.image.defocus_A
    for key, value, kept in (
        ("image.defocus_A", -2345.0, own),
        ("pattern.dose_e_per_A2", 20.0, published.pattern.dose_e_per_A2),
        ("energy_ev", 300e3, published.energy_ev),
    ):
        with pytest.raises(DiffraganError, match=f"{key} = {kept}, and {key} = {value}"):
            open_pairs(store, settings=load_settings(overrides=[f"{key}={value}"]))
    same = load_settings(overrides=[f"image.defocus_A={own}", "phase.starts=7", "seed=5"])
    pairs = open_pairs(store, settings=same)
    assert (pairs.settings.phase.starts, pairs.settings.seed) == (7, 5)


def test_waves_keep_their_energy(simulated: Path) -> None:
    """Exit waves are not imaged at another energy, and the store's own may be said again."""
    with pytest.raises(DiffraganError, match=r"exit waves of 200000 eV.*simulate anew"):
        open_pairs(simulated, settings=load_settings(overrides=["energy_ev=300e3"]))
    again = load_settings(overrides=["energy_ev=200e3"])
    assert open_pairs(simulated, settings=again).optics.energy_ev == 200e3


def test_two_imagings_with_one_seed_are_one(
    simulated: Path, published: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of the batches in which they are made."""
    simulation = open_simulation(simulated)
    one = write_pairs(ImagedPairs(simulation, published), tmp_path / "1.zarr")
    monkeypatch.setattr(write, "BATCH", 3)
    two = write_pairs(ImagedPairs(simulation, published), tmp_path / "2.zarr")
    other = published.model_copy(update={"seed": 1})
    three = write_pairs(ImagedPairs(simulation, other), tmp_path / "3.zarr")
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
        (lambda p, i: (p, i[:2]), r"3 patterns and .*2 images"),
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
        open_pairs(tmp_path / "x.jpeg")
    with pytest.raises(DiffraganError, match=r"There is no file .*x\.npz"):
        open_pairs(tmp_path / "x.npz")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DiffraganError, match="is it whole"):
        open_pairs(tmp_path / "cut.npz")
    (tmp_path / "noise.star").write_bytes(b"\xff\x00 no table")
    with pytest.raises(DiffraganError, match=r"noise\.star can't be read \(\w+"):
        open_pairs(tmp_path / "noise.star")
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


def test_arrays_in_memory_are_pairs(arrays: tuple[Any, Any], tmp_path: Path) -> None:
    """The same as from a file, and what is phased from them can be evaluated with them at hand."""
    pattern, image = arrays
    found = dg.open_pairs(pattern, image=image, box_A=BOX)
    file = open_pairs(**as_npz(tmp_path, pattern, image))
    np.testing.assert_array_equal(found.pattern([2, 0]), file.pattern([2, 0]))
    np.testing.assert_array_equal(found.image([2, 0]), file.image([2, 0]))
    one = dg.open_pairs(pattern[0], image=image[0], box_A=BOX)
    assert one.n == 1
    assert one.sha256 != found.sha256 == dg.open_pairs(pattern, image=image, box_A=BOX).sha256
    out = phase_pairs(found, tmp_path / "p.zarr", found.settings)
    assert open_results(out).header["input"]["sha256"] == found.sha256
    with pytest.raises(DiffraganError, match="shapes"):
        dg.open_pairs(pattern, image=image[:2], box_A=BOX)
    with pytest.raises(DiffraganError, match="--box-A"):
        dg.open_pairs(pattern, image=image)


def test_pairs_say_what_they_are(pairs: Pairs, arrays: tuple[Any, Any], tmp_path: Path) -> None:
    """In one line: how many, of what, on which grid, and whether the truth is there."""
    for word in ("ImagedPairs", "clusters.zarr", "8 pairs of one, two", "112 x 112", "70 Å"):
        assert word in repr(pairs)
    assert "with the truth" in repr(pairs)
    assert "ArrayPairs" in (text := repr(open_pairs(**as_npz(tmp_path, *arrays))))
    assert "3 pairs, 112" in text
    assert "no truth" in text
    assert "8 exit waves of one, two, 70 Å" in repr(open_simulation(pairs.path))


READER = """
import numpy as np

def read(path):
    numbers = np.loadtxt(path).reshape(2, 3, 112, 112)
    return {"pattern": numbers[0], "image": numbers[1], "pixel_A": 0.625}

def broken(path):
    raise RuntimeError("no such thing")
"""


def test_other_packages_bring_readers(
    arrays: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suffix offered by an entry point is read, named where another is refused, and a reader
    that fails ends in a sentence."""
    site = tmp_path / "site"
    entries = "[diffragan.readers]\ntxt = text_pairs:read\n.Bad = text_pairs:broken\n"
    install(site, "text_pairs", READER, entries)
    np.savetxt(tmp_path / "pairs.txt", np.stack(arrays).ravel())
    (tmp_path / "pairs.bad").touch()
    with pytest.raises(DiffraganError, match="no kind this package reads"):
        open_pairs(tmp_path / "pairs.txt")
    monkeypatch.syspath_prepend(site)
    found = open_pairs(tmp_path / "pairs.txt")
    np.testing.assert_allclose(found.pattern([1]), arrays[0][1:2], rtol=1e-6)
    assert found.box_A == BOX
    with pytest.raises(DiffraganError, match=r"\.zarr, .*\.star, .*\.bad and \.txt\."):
        open_pairs(tmp_path / "pairs.xyz")
    with pytest.raises(
        DiffraganError, match=r"pairs\.bad can't be read \(RuntimeError: no such thing\)"
    ):
        open_pairs(tmp_path / "pairs.bad")
