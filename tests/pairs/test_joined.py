"""Several inputs as one: what is split and given together is the whole again, or is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from conftest import cluster
from diffragan.errors import DiffraganError
from diffragan.files.star import write_relion_angles
from diffragan.files.store import SimulationStore, Store, open_results, open_simulation
from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.microscope.simulate import simulate
from diffragan.pairs.imaged import ImagedPairs
from diffragan.pairs.joined import JoinedPairs
from diffragan.pairs.of_results import pairs_of_results
from diffragan.pairs.open import open_all, open_pairs
from diffragan.pairs.write import write_pairs
from diffragan.reconstruction.checkpoint import run_key
from diffragan.reconstruction.choose_views import choose_views
from diffragan.settings import Settings, load_settings
from quick_runs import QUICK, run

VIEWS, CUT = 41, 17
# Far from converged, which the laws below don't need.
# On the CPU, where sums are repeatable to the bit.
SHORT = ["--iterations", "3", "--set", "many_views.resolution_steps_A=[2.0]"]
SHORT += ["--set", "many_views.error_reduction_iterations=1"]
SHORT += ["--device", "cpu"]


class _Measured(Store):
    kind = "measurement"


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(overrides=[*QUICK, f"simulate.orientations={VIEWS}"])


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Path:
    """Exit waves of a ball of atoms."""
    out = tmp_path_factory.mktemp("views") / "ball.zarr"
    return simulate([cluster("ball", 5, atoms=70, radius_A=7.0)], out, settings, workers=1)


@pytest.fixture(scope="module")
def days(
    tmp_path_factory: pytest.TempPathFactory, views: Path, settings: Settings
) -> dict[str, Path]:
    """Measured pairs with their truth: the whole, and the same cut in two."""
    folder = tmp_path_factory.mktemp("days")
    whole = folder / "whole.zarr"
    write_pairs(ImagedPairs(open_simulation(views), settings), whole, truth=True)
    return {"whole": whole} | {
        name: part(_Measured(whole), folder / f"{name}.zarr", items)
        for name, items in (("one", slice(0, CUT)), ("two", slice(CUT, VIEWS)))
    }


def part(store: Store, out: Path, items: slice, leave_out: str = "", **header: Any) -> Path:
    """Some items of a store as a store of their own, with other words in its header."""
    names = [n for n in store.group.array_keys() if n not in ("done", leave_out)]
    arrays = {n: store.read(n) if n == "pattern_mask" else store.read(n, items) for n in names}
    specs = {
        n: ArraySpec(a.shape, str(a.dtype), "1", per_item=False)
        if n == "pattern_mask"
        else ArraySpec(a.shape[1:], str(a.dtype), "1")
        for n, a in arrays.items()
    }
    kept = {k: v for k, v in store.header.items() if k not in ("kind", "format", "version", "n")}
    count = items.stop - items.start
    writer = StoreWriter(out, store.kind, count, specs, kept | header)
    for name, array in arrays.items():
        writer.put(name, array)
    writer.write(np.arange(count))
    writer.finish()
    return out


def density(folder: Path) -> Any:
    with mrcfile.open(folder / "map.mrc") as file:
        return file.data.copy()


def test_a_store_cut_in_two_makes_the_map_of_the_whole(
    days: dict[str, Path], tmp_path: Path
) -> None:
    """Bit for bit, with the same scores; and its phased views are judged as those of the whole."""
    words = ["--overwrite", *SHORT]
    for out, stores in (("whole", ["whole"]), ("joined", ["one", "two"])):
        code, text = run("reconstruct", *(days[s] for s in stores), "--out", tmp_path / out, *words)
        assert code in (0, 3), text
    np.testing.assert_array_equal(density(tmp_path / "joined"), density(tmp_path / "whole"))
    scores = [json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("whole", "joined")]
    for one in scores:
        for key in ("seconds", "peak_memory_mb"):
            one.pop(key)
        for block in (one["views"], *one["views"]["structures"].values()):
            block.pop("seconds_per_image")
        one["views"].pop("provenance")
    assert scores[0] == scores[1]
    assert scores[0]["truth_fsc_0p5_A"] is not None

    phased = tmp_path / "joined" / "phased.zarr"
    code, text = run("evaluate", phased, "--out", tmp_path / "report")
    assert code == 0, text
    judged = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert judged["frc"] == scores[1]["views"]["frc"]
    assert str(days["two"]) in judged["provenance"]["input"]

    results = open_results(phased)
    assert pairs_of_results(results, [days["one"], days["two"]]).n == VIEWS
    with pytest.raises(DiffraganError, match="another order"):
        pairs_of_results(results, [days["two"], days["one"]])
    code, text = run("evaluate", phased, "--out", tmp_path / "r", "--input", str(days["one"]))
    assert code == 2
    assert "2 inputs" in text


def test_items_come_in_the_order_asked_for(days: dict[str, Path], settings: Settings) -> None:
    """Whichever inputs they lie in, once or twice, they are the items of the whole."""
    whole = open_pairs(days["whole"], settings=settings)
    joined = open_all([days["one"], days["two"]], settings=settings)
    assert joined.n == VIEWS
    assert joined.rotation is not None
    np.testing.assert_array_equal(joined.rotation, whole.rotation)
    for items in (np.array([CUT, 0, VIEWS - 1, CUT - 1, 0]), slice(CUT - 2, CUT + 2), [3]):
        for name in ("pattern", "image", "image_dose", "truth_wave", "truth_projection"):
            found, right = (getattr(pairs, name)(items) for pairs in (joined, whole))
            np.testing.assert_array_equal(found, right)
    assert joined.image([]).shape == (0, joined.m, joined.m)


def test_simulated_items_draw_their_noise_once(
    views: Path, settings: Settings, tmp_path: Path
) -> None:
    """Two simulations give the noise of one that holds all: no item has the noise of another."""
    store = SimulationStore(views)
    cut = [
        part(store, tmp_path / "a.zarr", slice(0, CUT)),
        part(store, tmp_path / "b.zarr", slice(CUT, VIEWS)),
    ]
    joined = open_all(cut, settings=settings)
    whole = open_pairs(views, settings=settings)
    np.testing.assert_array_equal(joined.image(slice(None)), whole.image(slice(None)))


def test_pixels_count_where_all_inputs_have_them(
    days: dict[str, Path], settings: Settings, tmp_path: Path
) -> None:
    """A dead pixel of one day's detector is left out of every day's patterns."""
    spoilt = tmp_path / "spoilt.zarr"
    shutil.copytree(days["two"], spoilt)
    mask = _Measured(spoilt).read("pattern_mask")
    y, x = np.argwhere(mask)[len(mask)]
    import zarr

    zarr.open_group(spoilt, mode="r+")["pattern_mask"][y, x] = False  # type: ignore[index]
    joined = open_all([days["one"], spoilt], settings=settings)
    assert not joined.pattern_mask[y, x]
    assert joined.pattern_mask.sum() == mask.sum() - 1
    assert (joined.pattern([0, VIEWS - 1])[:, y, x] == 0).all()


def test_a_run_belongs_to_all_its_inputs(days: dict[str, Path], settings: Settings) -> None:
    """Another second input, or another order, is another run."""
    keys = []
    for names in (("one", "two"), ("two", "one"), ("one", "whole")):
        pairs = open_all([days[n] for n in names], settings=settings)
        keys.append(run_key(pairs, choose_views(pairs, limit=30), settings, None))
    assert len({json.dumps(key | {"items": []}) for key in keys}) == 3


def changed(days: dict[str, Path], out: Path, **changes: Any) -> Path:
    """The second day with other settings in its header, by dotted key with __."""
    store = _Measured(days["two"])
    header = json.loads(json.dumps(store.header))
    for key, value in changes.items():
        *way, last = key.split("__")
        place = header
        for step in way:
            place = place[step]
        place[last] = value
    kept = {k: header[k] for k in ("optics", "settings", "structures")}
    return part(store, out, slice(0, store.n), **kept)


DIFFERENCES: dict[str, tuple[dict[str, Any], str]] = {
    "field": ({"optics__box_A": 31.0}, "30 Å in the one and 31 Å"),
    "energy": ({"optics__energy_ev": 3e5}, "200 keV in the one and 300 keV"),
    "plane": ({"optics__centre_to_exit_A": 3.0}, "defocus counts from"),
    "aperture": ({"settings__image__aperture_mrad": 5.0}, "aperture is 6.5"),
    "aberration": ({"settings__image__cs_mm": 1.0}, "image.cs_mm"),
    "spread": ({"settings__image__focal_spread_A": 20.0}, "focal spread"),
    "dose": ({"settings__pattern__dose_e_per_A2": 50.0}, "dose is none in the one and 50"),
    "molecule": (
        {"structures": [{"stem": "cube", "sequence": "GAS"}]},
        "views of ball and the other of cube",
    ),
    "sequence": ({"structures": [{"stem": "ball", "sequence": "WWW"}]}, "different sequences"),
}


@pytest.mark.parametrize("case", DIFFERENCES, ids=list(DIFFERENCES))
def test_inputs_that_make_no_map_are_told_apart(
    case: str, days: dict[str, Path], tmp_path: Path
) -> None:
    changes, said = DIFFERENCES[case]
    other = changed(days, tmp_path / "other.zarr", **changes)
    code, text = run("reconstruct", days["one"], other, "--out", tmp_path / "o")
    assert code == 2
    assert said in text
    assert str(days["one"]) in text
    assert str(other) in text
    assert "\n" not in text.strip()


def test_what_each_view_has_of_its_own_may_differ(
    days: dict[str, Path], settings: Settings, tmp_path: Path
) -> None:
    """Seeds, image doses, defoci and the plane of the projections part no sessions."""
    other = changed(
        days, tmp_path / "o.zarr", settings__seed=5, settings__image__dose_e_per_A2=40.0,
        settings__projection__defocus_A=-70.0, settings__image__defocus_A=-900.0,
    )  # fmt: skip
    assert open_all([days["one"], days["two"]], settings=settings).defocus is None
    joined = open_all([days["one"], other], settings=settings)
    assert joined.n == VIEWS
    assert joined.defocus is not None
    expected = np.repeat([settings.image.defocus_A, -900.0], [CUT, VIEWS - CUT])
    np.testing.assert_array_equal(joined.defocus.terms_A, expected[:, None] * [1, 0, 0])


def test_a_measured_store_and_a_simulated_one(
    days: dict[str, Path], views: Path, settings: Settings
) -> None:
    """The run's settings are those of the simulated part, so that it can be imaged alike again;
    where a measured part holds others, the sentence says how to take them over."""
    noisy = load_settings(overrides=[*QUICK, "image.snr=2"])
    for order in ([days["one"], views], [views, days["one"]]):
        joined = open_all(order, settings=noisy)
        assert joined.settings.image.snr == 2
        again = open_all(order, settings=joined.settings)
        np.testing.assert_array_equal(again.image([0, CUT, 57]), joined.image([0, CUT, 57]))
    other = load_settings(overrides=[*QUICK, "image.aperture_mrad=5"])
    with pytest.raises(DiffraganError, match=r"--set image\.aperture_mrad=6.5 "):
        open_all([days["one"], views], settings=other)


def test_other_pixels_are_refused(days: dict[str, Path], settings: Settings) -> None:
    one, two = open_all([days["one"], days["two"]], settings=settings).parts
    two.pattern_mask = two.pattern_mask[1:-1, 1:-1]
    with pytest.raises(DiffraganError, match=rf"{days['one']} and {days['two']} .* pixels"):
        JoinedPairs([one, two])


def test_nothing_is_given_twice(
    days: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by one name, nor by two that mean the same, nor as a copy."""
    monkeypatch.chdir(days["one"].parent)
    copy = tmp_path / "copy.zarr"
    shutil.copytree(days["one"], copy)
    for other in (days["one"], Path("one.zarr"), copy):
        code, text = run("reconstruct", days["one"], days["two"], other, "--out", tmp_path / "o")
        assert code == 2
        assert "twice" in text or "same data" in text
        assert str(other) in text


def test_orientations_of_one_input_only_need_the_rest(
    days: dict[str, Path], views: Path, settings: Settings, tmp_path: Path
) -> None:
    """Refused by both names, unless a file tells them, one row per pair over all inputs."""
    other = part(_Measured(days["two"]), tmp_path / "b.zarr", slice(0, VIEWS - CUT), "rotation")
    code, text = run("reconstruct", days["one"], other, "--out", tmp_path / "o")
    assert code == 2
    assert f"{other} tells no orientations, and {days['one']} does" in text
    assert "--orientations" in text
    rotation = open_simulation(views).rotation
    assert rotation is not None
    write_relion_angles(tmp_path / "all.star", rotation)
    write_relion_angles(tmp_path / "few.star", rotation[:CUT])
    pairs = open_all([days["one"], other], settings=settings)
    found = choose_views(pairs, orientations=tmp_path / "all.star", limit=20)
    assert found.rotations is not None
    np.testing.assert_allclose(found.rotations, rotation[found.items], atol=1e-6)
    assert found.items[-1] > CUT
    with pytest.raises(DiffraganError, match=f"{CUT} rows and .* and .* {VIEWS} pairs"):
        choose_views(pairs, orientations=tmp_path / "few.star")


def test_array_files_join_and_their_names_are_no_molecules(
    days: dict[str, Path], settings: Settings, tmp_path: Path
) -> None:
    """Files of two days, images apart, hold one molecule whatever they are called."""
    patterns: list[Path] = []
    images: list[Path] = []
    for day in ("one", "two"):
        pairs = open_pairs(days[day])
        for kind, paths in (("pattern", patterns), ("image", images)):
            paths.append(tmp_path / f"{day}_{kind}.npy")
            np.save(paths[-1], getattr(pairs, kind)(slice(None)))
    joined = open_all(patterns, settings=settings, images=images, box_A=30)
    assert {info.stem for info in joined.structures} == {"one_pattern"}
    assert choose_views(joined, find=True).molecule == "one_pattern"
    whole = open_pairs(days["whole"])
    np.testing.assert_allclose(joined.pattern([0, 20, 40]), whole.pattern([0, 20, 40]))
    assert [p["image"] for p in joined.source["parts"]] == [str(i) for i in images]
    # Beside a store that names its molecule, theirs is the same.
    store = changed(days, tmp_path / "named.zarr", optics__centre_to_exit_A=0.0)
    pairs = open_pairs(patterns[0], settings=settings, image=images[0], box_A=30)
    both = JoinedPairs([pairs, open_pairs(store)])
    assert [info.stem for info in both.structures] == ["ball"]
    assert not both.has_truth
    assert choose_views(both, find=True).mass_kda is not None
    with pytest.raises(DiffraganError, match="once for each input"):
        open_all(patterns, settings=settings, images=images[:1], box_A=30)


def test_days_at_two_defoci_make_the_map_of_one_file_that_tells_both(
    views: Path, settings: Settings, tmp_path: Path
) -> None:
    """Bit for bit; with the defoci swapped the map is another."""
    defoci = (-1000.0, -2000.0)
    imaged = []
    for defocus in defoci:
        lens = settings.image.model_copy(update={"defocus_A": defocus})
        imaged.append(open_pairs(views, settings=settings.model_copy(update={"image": lens})))
    spans = (slice(0, CUT), slice(CUT, VIEWS))
    image = np.concatenate([p.image(span) for p, span in zip(imaged, spans, strict=True)])
    pattern, rotation = imaged[0].pattern(slice(0, VIEWS)), imaged[0].rotation
    assert rotation is not None
    own = np.repeat(defoci, [CUT, VIEWS - CUT]) - imaged[0].optics.centre_to_exit_A

    def file(name: str, span: slice, defocus: Any) -> Path:
        np.savez(
            tmp_path / f"{name}.npz", pattern=pattern[span], image=image[span],
            pattern_mask=imaged[0].pattern_mask, rotation=rotation[span], defocus_A=defocus,
            pixel_A=imaged[0].box_A / imaged[0].m,
        )  # fmt: skip
        return tmp_path / f"{name}.npz"

    days = [file(f"day{k}", span, own[span][0]) for k, span in enumerate(spans)]
    everything = slice(0, VIEWS)
    inputs = {
        "days": days,
        "both": [file("both", everything, own)],
        "swapped": [file("swapped", everything, np.repeat(own[[-1, 0]], [CUT, VIEWS - CUT]))],
    }
    words = ["--mass-kda", "1", *SHORT, "--set", "image.snr=8", "--set", "image.aperture_mrad=6.5"]
    for out, paths in inputs.items():
        code, text = run("reconstruct", *paths, "--out", tmp_path / out, *words)
        assert code in (0, 3), text
    maps = {out: density(tmp_path / out) for out in inputs}
    np.testing.assert_array_equal(maps["days"], maps["both"])
    assert np.corrcoef(maps["both"].ravel(), maps["swapped"].ravel())[0, 1] < 0.3
    assert pairs_of_results(open_results(tmp_path / "both" / "phased.zarr")).defocus is not None


def test_merge_takes_one(days: dict[str, Path], tmp_path: Path) -> None:
    stores = (days["one"], days["two"])
    code, text = run("reconstruct", *stores, "--method", "merge", "--out", tmp_path / "o")
    assert code == 2
    assert "one result store" in text
