"""The truth is for judging only: no method reads it."""

from __future__ import annotations

import shutil
import zipfile
from importlib import resources
from pathlib import Path

import pytest
import zarr

from conftest import cluster
from diffragan.api import evaluate, load_settings, make_pairs, open_pairs, phase
from diffragan.files.store import ResultStore
from diffragan.microscope.simulate import simulate
from diffragan.phasing.methods import METHODS
from diffragan.settings import Settings
from quick_runs import QUICK

FEW_STEPS = ["phase.starts=2", "phase.iterations=4", "many_views.iterations=3"]
SHORT = load_settings("published", overrides=FEW_STEPS)
SHORT_VIEWS = load_settings(overrides=[*QUICK, "simulate.orientations=12", *FEW_STEPS])


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled pairs, with their exit waves: one molecule in the paper's box of 70 Å."""
    out = tmp_path_factory.mktemp("pairs") / "known.zarr"
    packed = Path(str(resources.files("diffragan").joinpath("data", "example.zarr.zip")))
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(out)
    return out


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve views of a ball of 70 atoms, with their exit waves: enough for a map."""
    folder = tmp_path_factory.mktemp("views")
    ball = cluster("ball", 5, atoms=70, radius_A=7.0)
    waves = simulate([ball], folder / "ball.zarr", SHORT_VIEWS, workers=1)
    make_pairs(waves, folder / "known.zarr", truth=True, settings=SHORT_VIEWS)
    return folder / "known.zarr"


def without_truth(store: Path) -> Path:
    """A copy of a store whose true waves are gone."""
    copy = store.with_name("blind.zarr")
    if not copy.exists():
        shutil.copytree(store, copy)
        group = zarr.open_group(copy, mode="r+")
        del group["exit_wave"]
        listed = group.attrs.get("arrays")
        if isinstance(listed, dict):  # a store written by this version lists what it holds
            group.attrs["arrays"] = {k: v for k, v in listed.items() if k != "exit_wave"}
    return copy


def arrays_of(results: ResultStore) -> dict[str, bytes]:
    """Every array's bytes, apart from the times."""
    names = sorted(name for name in results.group if name != "seconds")
    return {name: results.read(name).tobytes() for name in names}


def maps_of(folder: Path) -> dict[str, bytes]:
    """Every map's bytes behind its header, which tells the date."""
    return {path.name: path.read_bytes()[1024:] for path in sorted(folder.glob("*.mrc"))}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.usefixtures("one_thread")
def test_no_method_reads_the_truth(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Results are the same, byte for byte, when the true waves are deleted from the pairs."""
    joint = METHODS[name].joint
    known: Path = request.getfixturevalue("views" if joint else "pairs")
    settings: Settings = SHORT_VIEWS if joint else SHORT
    outcomes = []
    for store in (known, without_truth(known)):
        given = open_pairs(store, settings=settings)
        assert given.has_truth == (store == known)
        out = tmp_path / f"{store.stem}.zarr"
        results = phase(given, out, method=name, settings=settings, device="cpu")
        outcomes.append((arrays_of(results), maps_of(tmp_path / f"{store.stem}_map")))
    (arrays, maps), (blind_arrays, blind_maps) = outcomes
    assert arrays.keys() == blind_arrays.keys() >= {"projection"}
    assert [key for key in arrays if arrays[key] != blind_arrays[key]] == []
    assert bool(maps) == joint
    assert maps.keys() == blind_maps.keys()
    assert [key for key in maps if maps[key] != blind_maps[key]] == []


def test_only_the_evaluation_reads_it(pairs: Path, tmp_path: Path) -> None:
    """The same results have an FRC beside the pairs with a truth, and none beside those without."""
    results = phase(pairs, tmp_path / "phased.zarr", method="image", limit=2, device="cpu")
    assert evaluate(results)["frc_0p5_A"] > 0
    assert evaluate(results, input=open_pairs(without_truth(pairs)))["frc_0p5_A"] is None
