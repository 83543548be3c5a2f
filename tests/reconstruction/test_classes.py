"""`diffragan reconstruct --classes` from end to end on two small balls of atoms."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import starfile

from conftest import cluster
from diffragan.api.reconstruction import with_classes
from diffragan.errors import DiffraganError
from diffragan.files.store import open_results
from diffragan.microscope.simulate import simulate
from diffragan.pairs.of_results import pairs_of_results
from diffragan.reconstruction.classes.sorted_views import sorted_right
from diffragan.settings import Settings, load_settings
from quick_runs import QUICK, SET, run

VIEWS = 32  # of each ball
# Maps far from converged, for runs of which only the classes are looked at: these are found before.
SHORT = ["--iterations", "3", "--set", "many_views.resolution_steps_A=[]"]
SHORT += ["--set", "many_views.error_reduction_iterations=1"]


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Views of two balls of atoms, in a store each."""
    folder = tmp_path_factory.mktemp("balls")
    settings = load_settings(overrides=[*QUICK, f"simulate.orientations={VIEWS}"])
    return tuple(
        simulate([cluster(name, seed, atoms=70, radius_A=7.0)], folder / f"{name}.zarr", settings,
                 workers=1)
        for name, seed in (("first", 5), ("second", 6))
    )  # type: ignore[return-value]  # fmt: skip


@pytest.fixture(scope="module")
def sorted_folder(tmp_path_factory: pytest.TempPathFactory, balls: tuple[Path, Path]) -> Path:
    """The folder of a finished run on both stores."""
    out = tmp_path_factory.mktemp("sorted") / "out"
    code, text = run("reconstruct", *balls, "--out", out, "--classes", "2", *SET)
    assert code == 0, text
    return out


def test_two_stores_of_two_molecules_give_a_map_of_each(sorted_folder: Path) -> None:
    """Every view is sorted right, and each class is a reconstruction that the truth confirms."""
    metrics = json.loads((sorted_folder / "metrics.json").read_text())
    assert metrics["converged"]
    assert metrics["sorted_right"] == 1
    assert [each["views"] for each in metrics["classes"]] == [VIEWS, VIEWS]
    for k in (1, 2):
        own = json.loads((sorted_folder / f"class{k}" / "metrics.json").read_text())
        assert own["n_views"] == VIEWS
        assert own["truth_fsc_0p5_A"] < 1.6
        assert (sorted_folder / f"class{k}" / "map.mrc").exists()
    assert "class2/report.html" in (sorted_folder / "report.html").read_text("utf-8")
    assert not (sorted_folder / ".run").exists()


def test_the_table_tells_class_and_probability_of_every_view(sorted_folder: Path) -> None:
    table = starfile.read(sorted_folder / "particles.star", always_dict=True)["particles"]
    assert sorted(table["diffraganItem"]) == list(range(2 * VIEWS))
    number = table["rlnClassNumber"].to_numpy()
    assert len(set(number[:VIEWS])) == len(set(number[VIEWS:])) == 1
    both = table[["diffraganProbabilityClass1", "diffraganProbabilityClass2"]].to_numpy()
    np.testing.assert_allclose(both.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(both.max(1), table["rlnMaxValueProbDistribution"], atol=1e-5)


def test_what_comes_after_takes_a_class_of_views_of_two_stores(
    sorted_folder: Path, tmp_path: Path
) -> None:
    """Its pairs are found again, as atoms are built from them; and `evaluate` judges its waves."""
    phased = sorted_folder / "class2" / "phased.zarr"
    assert pairs_of_results(open_results(phased)).n == 2 * VIEWS
    code, text = run("evaluate", phased, "--out", tmp_path / "report")
    assert code == 0, text


def test_the_names_of_molecules_are_not_used(
    sorted_folder: Path, balls: tuple[Path, Path], tmp_path: Path
) -> None:
    """The same views under one name: the same classes, and no number that needs the truth."""
    renamed = []
    for store in balls:
        copied = tmp_path / store.name
        shutil.copytree(store, copied)
        header = copied / "zarr.json"
        header.write_text(header.read_text().replace('"second"', '"first"'))
        renamed.append(copied)
    out = tmp_path / "out"
    code, text = run("reconstruct", *renamed, "--out", out, "--classes", "2", *SET, *SHORT)
    assert code in (0, 3), text
    tables = [
        starfile.read(folder / "particles.star", always_dict=True)["particles"]
        for folder in (sorted_folder, out)
    ]
    assert (tables[0]["rlnClassNumber"] == tables[1]["rlnClassNumber"]).all()
    assert json.loads((out / "metrics.json").read_text())["sorted_right"] is None


def test_what_makes_no_sense_is_refused(balls: tuple[Path, Path], tmp_path: Path) -> None:
    code, text = run("reconstruct", *balls, "--out", tmp_path / "a", "--classes", "5", *SET)
    assert code == 2
    assert "fewer than 20 for each" in text
    code, text = run("reconstruct", *balls, "--out", tmp_path / "b", "--classes", "many", *SET)
    assert code == 2
    assert "a number from 1 on, auto or motion" in text
    words = ("--classes", "2", "--method", "merge")
    code, text = run("reconstruct", balls[0], "--out", tmp_path / "c", *words)
    assert code == 2
    assert "makes one map" in text
    # Without --classes inputs of several molecules are refused, as ever.
    code, text = run("reconstruct", *balls, "--out", tmp_path / "d", *SET)
    assert code == 2
    assert not list(tmp_path.glob("[a-d]/*"))


def test_a_number_of_classes_is_a_setting() -> None:
    assert with_classes(None, "3").classes.number == 3
    assert with_classes(Settings(), "auto").classes.number == "auto"
    with pytest.raises(DiffraganError, match="number from 1"):
        with_classes(None, 0)


def test_sorted_right_by_hand() -> None:
    """Names of classes don't matter; the foreign are right where they were thrown out."""
    truth = np.array([0, 0, 0, 1, 1, 2])
    assert sorted_right(np.array([2, 2, 2, 1, 1, 0]), truth) == 1
    assert sorted_right(np.array([2, 2, 1, 1, 1, 0]), truth) == pytest.approx(5 / 6)
    assert sorted_right(np.array([1, 1, 1, 1, 1, 1]), truth) == pytest.approx(3 / 6)
    assert sorted_right(np.array([0, 1, 1, 2, 2, 2]), truth) == pytest.approx(4 / 6)
