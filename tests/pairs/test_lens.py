"""Images at several defoci: told by files, drawn by imaging, kept by stores, used by phasing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import torch
import zarr

from diffragan.errors import DiffraganError
from diffragan.files.store import open_results, open_simulation
from diffragan.microscope.imaging import defocused_image
from diffragan.optics import Defocus
from diffragan.pairs.imaged import ImagedPairs
from diffragan.pairs.of_results import pairs_of_results
from diffragan.pairs.open import open_pairs
from diffragan.pairs.pairs import Pairs
from diffragan.pairs.write import write_pairs
from diffragan.phasing.method import Context
from diffragan.phasing.methods import METHODS
from diffragan.phasing.run import make_pair_batch, phase_pairs
from diffragan.settings import Settings, load_settings
from quick_runs import run

BOX, N, HALF = 70.0, 8, 4


def imaged(simulated: Path, settings: Settings, **values: Any) -> Pairs:
    """The simulation, imaged with other settings of images."""
    image = settings.image.model_copy(update=values)
    return open_pairs(simulated, settings=settings.model_copy(update={"image": image}))


@pytest.fixture(scope="module")
def two_defoci(simulated: Path, published: Settings) -> tuple[Any, Any, list[float]]:
    """Patterns and images, half at -1000 and half at -1500 Å from the exit plane, and those defoci
    from the molecule."""
    found = [imaged(simulated, published, defocus_A=d, snr=8.0) for d in (-1000.0, -1500.0)]
    images = np.concatenate([found[0].image(slice(0, HALF)), found[1].image(slice(HALF, N))])
    plane = found[0].optics.centre_to_exit_A
    return found[0].pattern(slice(0, N)), images, [d - plane for d in (-1000.0, -1500.0)]


def star_of(folder: Path, pattern: Any, image: Any, **columns: Any) -> Pairs:
    """Patterns in a stack, images as RELION particles."""
    folder.mkdir()
    for name, data in (("p", pattern), ("i", image)):
        with mrcfile.new(folder / f"{name}.mrcs") as file:
            file.set_data(np.asarray(data, np.float32))
            file.set_image_stack()
            file.voxel_size = BOX / 112
    names = [f"{k + 1:06d}@i.mrcs" for k in range(len(image))]
    table = pd.DataFrame({"rlnImageName": names, **columns})
    starfile.write({"particles": table}, folder / "i.star")
    return open_pairs(folder / "p.mrcs", image=folder / "i.star")


def phases(pairs: Pairs, out: Path, settings: Settings) -> Any:
    """Waves of the method `image`."""
    phase = settings.phase.model_copy(update={"method": "image", "batch_size": 3})
    taken = pairs.settings.model_copy(update={"phase": phase})
    return open_results(phase_pairs(pairs, out, taken))


def test_particles_at_two_defoci_are_two_files_of_one(
    simulated: Path, published: Settings, two_defoci: tuple[Any, Any, list[float]], tmp_path: Path
) -> None:
    """Bit for bit; with the defoci swapped the phases are worse."""
    pattern, image, (near, far) = two_defoci
    own = np.repeat([near, far], HALF)
    both = star_of(tmp_path / "both", pattern, image, rlnDefocusU=own, rlnDefocusV=own)
    waves = phases(both, tmp_path / "both.zarr", published)
    apart = []
    for k, defocus in enumerate((near, far)):
        span, folder = slice(k * HALF, (k + 1) * HALF), tmp_path / f"one{k}"
        one = star_of(folder, pattern[span], image[span], rlnDefocusU=own[span])
        assert one.defocus is None
        assert one.settings.image.defocus_A == pytest.approx(defocus)
        apart.append(phases(one, tmp_path / f"one{k}.zarr", published).wave(slice(0, HALF)))
    np.testing.assert_array_equal(waves.wave(slice(0, N)), np.concatenate(apart))
    assert pairs_of_results(waves).defocus is not None

    swapped = star_of(tmp_path / "swapped", pattern, image, rlnDefocusU=own[::-1])
    wrong = phases(swapped, tmp_path / "swapped.zarr", published)
    truth = open_pairs(simulated, settings=published).truth_wave(slice(0, N))
    assert truth is not None
    true = np.fft.fft2(truth)
    band = np.hypot(*np.meshgrid(*[np.fft.fftfreq(112, BOX / 112)] * 2))
    band = (band > 1 / 9) & (band < 1 / 5.1)
    right, less = (
        float(np.cos(np.angle(np.fft.fft2(w.wave(slice(0, N))) * true.conj()))[:, band].mean())
        for w in (waves, wrong)
    )
    assert less < 0.7 * right


def test_iterations_begin_from_each_images_own_defocus(
    published: Settings, two_defoci: tuple[Any, Any, list[float]], tmp_path: Path
) -> None:
    """First support and start of `raar`, hence all that follows, are those of a run at one."""
    pattern, image, (near, far) = two_defoci
    own = np.repeat([near, far], HALF)
    some = [HALF - 1, HALF]
    both = star_of(tmp_path / "both", pattern, image, rlnDefocusU=own)
    short = {"iterations": 12, "rounds": 2, "starts": 2, "time_budget_s": None}
    settings = both.settings.model_copy(update={"phase": published.phase.model_copy(update=short)})
    batch = make_pair_batch(both, np.array(some), settings, torch.device("cpu"))
    together = METHODS["raar"](batch, Context())
    assert together.wave is not None
    for k, defocus in enumerate((near, far)):
        lens = settings.image.model_copy(update={"defocus_A": defocus})
        alone = replace(
            batch[k : k + 1],
            settings=settings.model_copy(update={"image": lens}),
            defocus_terms_A=None,
        )
        wave = METHODS["raar"](alone, Context()).wave
        assert wave is not None
        assert torch.equal(wave[0], together.wave[k])


def as_npz(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


def as_h5(path: Path, arrays: dict[str, Any]) -> Path:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        for name, values in arrays.items():
            if np.ndim(values):
                file[name] = values
            else:
                file.attrs[name] = values
    return path.with_suffix(".h5")


@pytest.mark.parametrize("write", [as_npz, as_h5])
def test_array_files_tell_their_lens(
    write: Callable[[Path, dict[str, Any]], Path], tmp_path: Path
) -> None:
    """One defocus, one for each image, or U, V and angle; another number of them is refused."""
    arrays: dict[str, Any] = {
        "pattern": np.full((3, 112, 112), 1e-6), "image": np.ones((3, 112, 112)),
        "pixel_A": BOX / 112, "energy_ev": 300e3, "cs_mm": 2.7,
    }  # fmt: skip
    one = open_pairs(write(tmp_path / "one", arrays | {"defocus_A": -700.0}))
    assert one.defocus is None
    assert one.settings.image.defocus_A == -700
    assert (one.optics.energy_ev, one.settings.image.cs_mm) == (300e3, 2.7)
    each = open_pairs(write(tmp_path / "each", arrays | {"defocus_A": np.array([-7.0, 90, -50])}))
    assert each.defocus is not None
    np.testing.assert_array_equal(each.defocus.u_A, [-7, 90, -50])
    np.testing.assert_array_equal(each.defocus.v_A, [-7, 90, -50])
    lens: dict[str, Any] = {
        "defocus_u_A": np.array([1.0, 200, 3]), "defocus_v_A": -5.0, "defocus_angle_deg": 70.0,
    }  # fmt: skip
    oval = open_pairs(write(tmp_path / "oval", arrays | lens)).defocus
    assert oval is not None
    np.testing.assert_array_equal(oval.u_A, lens["defocus_u_A"])
    np.testing.assert_array_equal(oval.v_A, np.full(3, -5.0))
    np.testing.assert_array_equal(oval.angle_deg, np.full(3, 70.0))
    few = write(tmp_path / "few", arrays | {"defocus_A": np.array([-7.0, 90])})
    with pytest.raises(
        DiffraganError, match=r"few\.\w+ holds 3 images .*'defocus_A' of shape \(2,\)"
    ):
        open_pairs(few)
    no_number = write(tmp_path / "nan", arrays | {"defocus_A": np.array([np.nan, 90, 1])})
    with pytest.raises(DiffraganError, match=r"nan\.\w+ .*defocus_A"):
        open_pairs(no_number)


def test_simulated_defoci_belong_to_their_items(simulated: Path, published: Settings) -> None:
    """They follow from seed and item, scatter as asked for, and are those of the images."""
    values = {"defocus_spread_A": 300.0, "astigmatism_A": 900.0, "astigmatism_angle_deg": 30.0}
    pairs = imaged(simulated, published, snr=None, **values)
    defocus = pairs.defocus
    assert defocus is not None
    np.testing.assert_allclose(defocus.u_A - defocus.v_A, 900)
    np.testing.assert_array_equal(defocus.angle_deg, np.full(N, 30.0))
    mean = defocus.terms_A[:, 0]
    assert 100 < np.std(mean) < 600
    later = ImagedPairs(open_simulation(simulated), pairs.settings, first=3).defocus
    assert later is not None
    np.testing.assert_array_equal(later.terms_A[:-3], defocus.terms_A[3:])
    waves = torch.from_numpy(open_simulation(simulated).exit_wave([5]))
    alone = pairs.settings.image.model_copy(update={"defocus_A": mean[5]})
    oval = Defocus.of(mean[5:6], 900.0, 30.0)
    taken = defocused_image(waves, pairs.optics, alone, 112, oval).numpy()
    np.testing.assert_array_equal(pairs.image([2, 5])[1], taken[0])
    round_ = defocused_image(waves, pairs.optics, alone, 112).numpy()
    assert np.abs(round_ - taken).max() > 0.1 * np.abs(taken - 1).max()
    many = imaged(simulated, published, defocus_spread_A=300.0)
    assert isinstance(many, ImagedPairs)
    many.n = 3000
    drawn = many.defocus
    assert drawn is not None
    assert np.std(drawn.u_A) == pytest.approx(300, rel=0.05)
    assert np.mean(drawn.u_A) == pytest.approx(-1000, abs=20)


def test_a_measurement_store_keeps_each_images_defocus(simulated: Path, tmp_path: Path) -> None:
    """It phases as the simulation does; a store without one has none, and so have older ones."""
    lens = ["image.defocus_spread_A=400", "image.astigmatism_A=150", "image.snr=8"]
    words = [word for pair in lens for word in ("--set", pair)]
    code, text = run("image", simulated, "--out", tmp_path / "m.zarr", *words)
    assert code == 0, text
    code, text = run("image", simulated, "--out", tmp_path / "plain.zarr")
    assert code == 0, text
    stored = open_pairs(tmp_path / "m.zarr")
    live = open_pairs(simulated, settings=load_settings(overrides=lens))
    assert stored.defocus is not None
    assert live.defocus is not None
    np.testing.assert_array_equal(stored.defocus.terms_A, live.defocus.terms_A)
    assert open_pairs(tmp_path / "plain.zarr").defocus is None
    names = set(zarr.open_group(tmp_path / "plain.zarr", mode="r").array_keys())
    assert not any(name.startswith("defocus") for name in names)
    for path, more in ((tmp_path / "m.zarr", []), (simulated, words)):
        out = tmp_path / f"{path.stem}-phased.zarr"
        code, text = run("phase", path, "--out", out, "--method", "image", *more)
        assert code == 0, text
    one, two = (
        open_results(tmp_path / f"{name}-phased.zarr").projection(slice(0, N))
        for name in ("m", simulated.stem)
    )
    np.testing.assert_array_equal(one, two)
    assert pairs_of_results(open_results(tmp_path / "m-phased.zarr")).defocus is not None


def test_astigmatic_images_are_phased_with_their_astigmatism(
    simulated: Path, published: Settings, tmp_path: Path
) -> None:
    """Without noise the phases are as right as those of a round lens; with the angle turned by
    90 degrees, or without astigmatism, they are worse."""
    scores = {}
    for name, size, angle, believed in (
        ("round", 0.0, 0.0, (0.0, 0.0)),
        ("right", 900.0, 20.0, (900.0, 20.0)),
        ("none", 900.0, 20.0, (0.0, 0.0)),
        ("turned", 900.0, 20.0, (900.0, 110.0)),
    ):
        lens = {"astigmatism_A": size, "astigmatism_angle_deg": angle}
        pairs = imaged(simulated, published, snr=None, defocus_A=-2000.0, **lens)
        batch = make_pair_batch(pairs, np.arange(4), pairs.settings, torch.device("cpu"))
        terms = Defocus.of(np.full(4, -2000.0), *believed).terms_A
        found = METHODS["image"](
            replace(batch, defocus_terms_A=torch.from_numpy(terms)), Context()
        ).wave
        true = pairs.truth_wave(np.arange(4))
        assert found is not None
        assert true is not None
        one, two = (np.fft.fft2(np.asarray(w))[:, 2:12, 2:12] for w in (found, true))
        scores[name] = float(
            (one * two.conj()).real.sum() / np.linalg.norm(one) / np.linalg.norm(two)
        )
    assert scores["right"] > scores["round"] - 0.05
    assert scores["none"] < scores["right"] - 0.1
    assert scores["turned"] < scores["none"]


def test_what_an_older_release_can_not_read_it_refuses(simulated: Path, tmp_path: Path) -> None:
    """Its settings name the spread; a release without that setting says so."""
    pairs = open_pairs(simulated, settings=load_settings(overrides=["image.defocus_spread_A=9"]))
    assert isinstance(pairs, ImagedPairs)
    out = write_pairs(pairs, tmp_path / "m.zarr", items=slice(2))
    header = json.loads((out / "zarr.json").read_text())["attributes"]["diffragan"]
    assert header["settings"]["image"]["defocus_spread_A"] == 9
    header["settings"]["image"]["unheard_of"] = 9
    kept = json.loads((out / "zarr.json").read_text())
    kept["attributes"]["diffragan"] = header
    (out / "zarr.json").write_text(json.dumps(kept))
    with pytest.raises(DiffraganError, match=r"image\.unheard_of"):
        open_pairs(out)
