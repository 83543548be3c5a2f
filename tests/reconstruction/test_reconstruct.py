"""`diffragan reconstruct` from end to end on a small cluster: results, resume, refusals."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gemmi
import mrcfile
import numpy as np
import pytest
import starfile
import torch
import zarr

from conftest import cluster
from diffragan.errors import DiffraganError
from diffragan.files.star import read_orientations, write_relion_angles
from diffragan.files.store import open_results, open_simulation
from diffragan.microscope.simulate import simulate
from diffragan.pairs.imaged import ImagedPairs
from diffragan.pairs.open import open_pairs
from diffragan.pairs.write import write_pairs
from diffragan.reconstruction import many_views
from diffragan.reconstruction.choose_views import choose_views, missing_cone_deg
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.search_result import OrientationSearchResult
from diffragan.reconstruction.solve import solve_views
from diffragan.rotations import relion_angles, rotations_from_relion
from diffragan.settings import Settings, load_settings
from quick_runs import QUICK, run

# Runs that are compared bit for bit stay on the CPU, where sums have one order.
SET = [word for pair in QUICK for word in ("--set", pair)] + ["--device", "cpu"]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(overrides=[*QUICK, "simulate.orientations=60"])


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Path:
    """Sixty exit waves of a ball of 70 atoms, 7 Å in radius."""
    out = tmp_path_factory.mktemp("views") / "ball.zarr"
    return simulate([cluster("ball", 5, atoms=70, radius_A=7.0)], out, settings, workers=1)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, views: Path, settings: Settings) -> Path:
    """The same as an instrument would give them: no truth, no orientations."""
    out = tmp_path_factory.mktemp("pairs") / "pairs.zarr"
    return write_pairs(ImagedPairs(open_simulation(views), settings), out)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, views: Path) -> Path:
    """A finished reconstruction."""
    out = tmp_path_factory.mktemp("map") / "out"
    code, text = run("reconstruct", views, "--out", out, *SET)
    assert code == 0, text
    return out


def test_views_alone_give_a_map_that_the_truth_confirms(finished: Path) -> None:
    """Pairs and a molecular weight are enough, and two half sets know how far the map is right."""
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["converged"]
    assert metrics["resolution_A"] < 1.4
    assert metrics["truth_fsc_0p5_A"] < 1.4
    assert metrics["views"]["frc_0p5_A"] < 1.6
    assert metrics["views"]["solved_fraction"] == 1
    assert metrics["rounds"] > 20
    assert metrics["n_views"] == 60
    assert metrics["device"] == "cpu"
    assert metrics["r_factor"] < 0.15


def test_what_it_leaves_opens_elsewhere(finished: Path) -> None:
    """Maps have a voxel size and an origin, stacks their angles, and nothing of the run stays."""
    with mrcfile.open(finished / "map.mrc") as file:
        n = file.data.shape[0]
        assert file.voxel_size.x == pytest.approx(30 / n, rel=0.3)
        assert float(file.data.max()) > 5 * float(file.data.std())
    for name in ("half1.mrc", "half2.mrc", "mask.mrc", "fsc.star", "history.csv", "report.html"):
        assert (finished / name).stat().st_size > 0
    tables = starfile.read(finished / "projections.star", always_dict=True)
    angles = tables["particles"][["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    results = open_results(finished / "phased.zarr")
    assert results.rotation is not None
    assert np.abs(rotations_from_relion(angles) - results.rotation).max() < 1e-5
    assert not (finished / ".run").exists()


def test_phase_is_the_same_run(finished: Path, views: Path, tmp_path: Path) -> None:
    """`phase --method many-views` gives the waves that `reconstruct` gives, and `evaluate` judges
    them as it judges any method."""
    out = tmp_path / "phased.zarr"
    code, text = run("phase", views, "--out", out, "--method", "many-views", *SET)
    assert code == 0, text
    first, second = open_results(finished / "phased.zarr"), open_results(out)
    np.testing.assert_array_equal(first.wave(slice(0, 8)), second.wave(slice(0, 8)))
    assert (tmp_path / "phased_map" / "map.mrc").exists()
    code, text = run("evaluate", out, "--out", tmp_path / "report")
    assert code == 0
    judged = json.loads((tmp_path / "report" / "metrics.json").read_text())
    kept = json.loads((finished / "metrics.json").read_text())["views"]
    assert judged["frc_0p5_A"] == pytest.approx(kept["frc_0p5_A"])
    code, text = run("evaluate", out, "--out", tmp_path / "again", "--stability", "2")
    assert code == 2
    assert "half sets" in text


def test_an_interrupted_run_ends_where_it_would_have(
    views: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while it iterates and during error reduction, a run comes to the same bits."""
    from diffragan.reconstruction import solve as module

    monkeypatch.setattr(module, "_SAVE_EVERY_S", 0.0)
    store = open_pairs(views, settings=settings)
    chosen = choose_views(store, limit=40)

    def go(out: Path, stop_at: int | None) -> Any:
        def tell(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
            if stage == "iterations" and done == stop_at:
                raise KeyboardInterrupt

        return solve_views(store, chosen, out, settings, progress=tell)

    whole = go(tmp_path / "whole", None)
    last = whole.half_maps.iteration
    for stop_at in (7, last - 2):
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "parts", stop_at)
    resumed = go(tmp_path / "parts", None)
    assert resumed.half_maps.iteration == last
    np.testing.assert_array_equal(resumed.combined.map.numpy(), whole.combined.map.numpy())
    assert resumed.half_maps.history == whole.half_maps.history


def test_doubtful_orientations_are_told_also_after_a_resume(
    views: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A search whose starts disagree is warned of, once, on the console and in metrics.json, and a
    run that goes on does not search again."""
    from diffragan.reconstruction import solve as module
    from diffragan.reconstruction.orientations.finders import FINDERS

    searches: list[int] = []

    def search(seen: Views, mass_kda: float | None, *_: object) -> OrientationSearchResult:
        searches.append(len(seen))
        assert seen.rotations[:, 0, 0].eq(1).all()  # nothing is told
        pairs = open_pairs(views)
        assert pairs.rotation is not None
        true = torch.from_numpy(pairs.rotation[seen.items]).float()
        return OrientationSearchResult(replace(seen, rotations=true), False, (0.3, 0.2), 80.0)

    monkeypatch.setitem(FINDERS, "images", search)
    monkeypatch.setattr(module, "_SAVE_EVERY_S", 0.0)
    step = many_views.HalfMaps.step

    def interrupted(self: many_views.HalfMaps, *words: Any) -> None:
        if self.iteration == 2:
            raise KeyboardInterrupt
        step(self, *words)

    monkeypatch.setattr(many_views.HalfMaps, "step", interrupted)
    words: list[str | Path] = ["reconstruct", views, "--out", tmp_path / "o", *SET]
    words += ["--find-orientations", "--iterations", "3"]
    assert run(*words)[0] != 0
    assert (tmp_path / "o" / ".run" / "state.pt").exists()
    monkeypatch.setattr(many_views.HalfMaps, "step", step)
    _, text = run(*words)
    text = " ".join((text + capsys.readouterr().err).split())
    assert searches == [60]
    assert text.count("No two of 2 random starts came to the same map") == 1
    metrics = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert "doubtful" in metrics["warnings"][-1]


def test_an_unknown_finder_is_refused_before_anything_is_written(
    views: Path, tmp_path: Path
) -> None:
    """The name is checked where it is used, and the answer lists what there is."""
    words: list[str | Path] = ["reconstruct", views, "--out", tmp_path / "o", "--find-orientations"]
    code, text = run(*words, "--set", "many_views.find_by=stars")
    assert code == 2
    assert "'stars'" in text
    assert "images, lines" in " ".join(text.split())
    assert not (tmp_path / "o").exists()


def test_a_run_that_did_not_converge_says_so(views: Path, tmp_path: Path) -> None:
    """Three iterations phase nothing: exit code 3, in words, with everything written to look at."""
    out = tmp_path / "out"
    short = ["--iterations", "3", "--set", "image.snr=0.02"]
    short += ["--set", "many_views.resolution_steps_A=[]"]
    code, text = run("reconstruct", views, "--out", out, *SET, *short)
    assert code == 3
    assert "NOT CONVERGED" in text
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["converged"] is False
    assert metrics["views"]["judged_solved_fraction"] == 0
    assert "not converge" in (out / "report.html").read_text().lower()


def test_orientations_come_from_a_star_file(views: Path, pairs: Path, tmp_path: Path) -> None:
    """Measured pairs tell none; RELION angles beside them do, and their inverse is exact."""
    rotation = open_simulation(views).rotation
    assert rotation is not None
    np.testing.assert_allclose(rotations_from_relion(relion_angles(rotation)), rotation, atol=1e-9)
    star = tmp_path / "angles.star"
    write_relion_angles(star, rotation)
    found = choose_views(open_pairs(pairs), orientations=star)
    assert found.rotations is not None
    np.testing.assert_allclose(found.rotations, rotation, atol=1e-6)
    np.testing.assert_array_equal(found.shifts_A, 0)


def test_orientations_may_be_kept_without_the_truth(
    views: Path, settings: Settings, tmp_path: Path
) -> None:
    """As if an earlier step had found them: angles, and no wave to judge by."""
    out = write_pairs(
        ImagedPairs(open_simulation(views), settings),
        tmp_path / "known.zarr",
        n=12,
        orientations=True,
    )
    found = open_pairs(out)
    assert not found.has_truth
    assert choose_views(found).rotations is not None


def test_origins_in_a_star_file_turn_their_sign(tmp_path: Path) -> None:
    """rlnOriginXAngst is the move that centres an image, so the molecule lies at its negative."""
    star = tmp_path / "moved.star"
    star.write_text(
        "data_particles\n\nloop_\n_rlnAngleRot #1\n_rlnAngleTilt #2\n_rlnAnglePsi #3\n"
        "_rlnOriginXAngst #4\n_rlnOriginYAngst #5\n10 20 30 1.5 -2\n0 0 0 0 0\n"
    )
    _, shifts = read_orientations(star)
    assert shifts.tolist() == [[-1.5, 2], [0, 0]]


def test_merge_puts_phased_waves_into_a_map(finished: Path, tmp_path: Path) -> None:
    """Waves that are right make a map that correlates with the one they came from, and with the
    molecule, wherever its file has it."""
    model, out = tmp_path / "ball.pdb", tmp_path / "merged"
    ball = cluster("ball", 5, atoms=70, radius_A=7.0)
    write_model(model, ball.numbers, ball.positions_A[:, [1, 2, 0]] + [30.0, -5.0, 2.0])
    words = ("--method", "merge", "--model", model, "--out", out)
    code, text = run("reconstruct", finished / "phased.zarr", *words)
    assert code == 0, text
    assert "residues outside the density: none" in text
    laid = gemmi.read_structure(str(out / "fitted_model.cif"))[0]
    places = np.array([a.atom.pos.tolist() for a in laid.all()])
    assert np.sqrt(((places - ball.positions_A) ** 2).sum(1).mean()) < 0.4
    assert "correlation" in (out / "model.csv").read_text()
    with mrcfile.open(tmp_path / "merged" / "map.mrc") as file:
        merged = file.data.copy()
    assert np.isfinite(merged).all()
    metrics = json.loads((tmp_path / "merged" / "metrics.json").read_text())
    assert metrics["fsc_0p143_A"] < 1.6
    assert metrics["n_views"] == 60


def write_model(path: Path, numbers: Any, positions_A: Any) -> None:
    """Atoms as a PDB file, ten a residue."""
    structure, chain = gemmi.Structure(), gemmi.Chain("A")
    for k, (number, place) in enumerate(zip(numbers, positions_A, strict=True)):
        if k % 10 == 0:
            residue = gemmi.Residue()
            residue.name, residue.seqid = "UNK", gemmi.SeqId(k // 10 + 1, " ")
            chain.add_residue(residue)
        atom = gemmi.Atom()
        atom.element, atom.pos = gemmi.Element(int(number)), gemmi.Position(*place)
        atom.name = f"X{k % 10}"
        chain[-1].add_atom(atom)
    model = gemmi.Model(1)
    model.add_chain(chain)
    structure.add_model(model)
    path.write_text(structure.make_pdb_string())


def merged(store: Path, out: Path, *words: str) -> dict[str, Any]:
    """The numbers of a merge."""
    code, text = run("reconstruct", store, "--method", "merge", "--out", out, *words)
    assert code == 0, text
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


def old_store(store: Path, out: Path) -> Path:
    """The same store as an earlier version wrote it: it does not say where patterns were
    measured."""
    shutil.copytree(store, out)
    group = zarr.open_group(out, mode="r+")
    del group["pattern_mask"]
    group.attrs["arrays"] = {}
    return out


def test_a_merge_ends_where_the_patterns_do(finished: Path, tmp_path: Path) -> None:
    """What a method gives outside the measured band is rounding, and two halves that round alike
    agree on nothing: neither FSC nor resolution goes on there, whatever the store records."""
    edge_A = json.loads((finished / "metrics.json").read_text())["measured_to_A"]
    store = open_results(finished / "phased.zarr")
    corner = np.abs(np.fft.fft2(store.wave([0])[0]))[store.read("pattern_mask").shape[0] // 2]  # type: ignore[index]
    assert corner.max() > 0
    recorded = merged(finished / "phased.zarr", tmp_path / "new")
    old = merged(old_store(finished / "phased.zarr", tmp_path / "old.zarr"), tmp_path / "old")
    for found in (recorded, old):
        assert found["measured_to_A"] == pytest.approx(edge_A)
        assert found["fsc_0p143_A"] >= 0.999 * edge_A


def test_a_merge_of_images_phases_ends_where_the_patterns_do(views: Path, tmp_path: Path) -> None:
    """And the half maps are compared where there are phases: beyond, a mask alone correlates."""
    code, text = run(
        "phase", views, "--out", tmp_path / "i.zarr", "--method", "image", "--limit", "40", *SET
    )
    assert code == 0, text
    results = open_results(tmp_path / "i.zarr")
    pairs = open_pairs(views, settings=load_settings(overrides=QUICK))
    np.testing.assert_array_equal(results.read("pattern_mask"), pairs.pattern_mask)
    radius = np.argwhere(pairs.pattern_mask) - pairs.m // 2
    edge_A = pairs.box_A / np.floor(np.hypot(*radius.T) + 0.5).max()
    recorded = merged(tmp_path / "i.zarr", tmp_path / "new")
    old = merged(old_store(tmp_path / "i.zarr", tmp_path / "old.zarr"), tmp_path / "old")
    assert recorded["measured_to_A"] == old["measured_to_A"] == pytest.approx(edge_A)
    # The images say nothing finer than their aperture passes, 6.5 mrad: 3.86 Å.
    for found in (recorded, old):
        assert found["fsc_0p143_A"] > 3.7


def test_phased_waves_make_a_start(views: Path, finished: Path, tmp_path: Path) -> None:
    """A run that starts from phases that are right has them from its first look on."""
    words = ["--start", str(finished / "phased.zarr"), "--iterations", "5"]
    out = tmp_path / "out"
    code, text = run("reconstruct", views, "--out", out, *SET, *words)
    assert code in (0, 3), text
    rows = (out / "history.csv").read_text().splitlines()
    column = rows[0].split(",").index("agreement")
    assert float(rows[1].split(",")[column]) > 0.6


def test_missing_cone_of_one_direction_and_of_a_tilt_series() -> None:
    """One direction leaves out its own axis altogether; tilts to 60° leave a cone of 30°."""
    same = np.repeat(np.eye(3)[None], 12, 0)
    assert missing_cone_deg(same) == pytest.approx(90, abs=3)
    tilts = np.radians(np.arange(-60, 61, 5))
    turned = np.array(
        [[[1, 0, 0], [0, np.cos(t), -np.sin(t)], [0, np.sin(t), np.cos(t)]] for t in tilts]
    )
    turns = np.radians(np.arange(0, 180, 10))
    spun = np.array(
        [[[np.cos(t), -np.sin(t), 0], [np.sin(t), np.cos(t), 0], [0, 0, 1]] for t in turns]
    )
    conical = np.einsum("aij,bjk->abik", turned, spun).reshape(-1, 3, 3)
    assert missing_cone_deg(conical) == pytest.approx(30, abs=4)


Refusal = Callable[[Path, Path, Path], list[str | Path]]
REFUSALS: dict[str, tuple[Refusal, str]] = {
    "fewer than ten views": (
        lambda v, p, t: ["reconstruct", v, "--out", t / "o", "--views", "9"],
        "at least 10",
    ),
    "no orientations": (
        lambda v, p, t: ["reconstruct", p, "--out", t / "o"],
        "--find-orientations",
    ),
    "no such molecule": (
        lambda v, p, t: ["reconstruct", v, "--out", t / "o", "--structure", "none"],
        "holds ball",
    ),
    "no such method": (
        lambda v, p, t: ["reconstruct", v, "--out", t / "o", "--method", "magic"],
        "choose many-views or merge",
    ),
    "given and to be found": (
        lambda v, p, t: [
            "reconstruct", p, "--out", t / "o", "--find-orientations", "--refine-orientations",
        ],
        "leave out",
    ),
    "too few views to find orientations": (
        lambda v, p, t: [
            "reconstruct", v, "--out", t / "o", "--find-orientations", "--views", "15",
        ],
        "give 20 or more",
    ),
    "found by a setting, and given": (
        lambda v, p, t: [
            "reconstruct", p, "--out", t / "o", "--set", "many_views.orientations=find",
            "--orientations", t / "no.star",
        ],
        "leave out --orientations",
    ),
    "orientations to a merge": (
        lambda v, p, t: [
            "reconstruct", p, "--out", t / "o", "--method", "merge", "--find-orientations",
        ],
        "Leave out --find-orientations",
    ),
    "no such device": (
        lambda v, p, t: ["reconstruct", v, "--out", t / "o", "--device", "meta"],
        "use auto, cpu or cuda",
    ),
    "no such angles": (
        lambda v, p, t: ["reconstruct", p, "--out", t / "o", "--orientations", t / "no.star"],
        "no.star",
    ),
    "pairs to merge": (
        lambda v, p, t: ["reconstruct", p, "--out", t / "o", "--method", "merge"],
        "result store",
    ),
    "a molecule heavier than its box holds": (
        lambda v, p, t: ["reconstruct", v, "--out", t / "o", "--mass-kda", "400"],
        "--mass-kda",
    ),
    "not a store's name": (
        lambda v, p, t: ["phase", v, "--out", t / "o", "--method", "many-views"],
        ".zarr",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS, ids=list(REFUSALS))
def test_bad_input_is_refused_in_one_sentence(
    case: str, views: Path, pairs: Path, tmp_path: Path
) -> None:
    make, remedy = REFUSALS[case]
    code, text = run(*make(views, pairs, tmp_path))
    assert code == 2
    assert remedy in text
    assert "\n" not in text.strip()
    assert not (tmp_path / "o" / "metrics.json").exists()


def test_rows_must_match_pairs(pairs: Path, views: Path, tmp_path: Path) -> None:
    rotation = open_simulation(views).rotation
    assert rotation is not None
    write_relion_angles(tmp_path / "few.star", rotation[:5])
    with pytest.raises(DiffraganError, match=r"5 rows and .* 60 pairs"):
        choose_views(open_pairs(pairs), orientations=tmp_path / "few.star")
    (tmp_path / "empty.star").write_text("data_x\n\nloop_\n_rlnImageName #1\n1@a.mrcs\n")
    with pytest.raises(DiffraganError, match="no RELION angles"):
        read_orientations(tmp_path / "empty.star")


def test_several_molecules_need_a_choice(simulated: Path, published: Settings) -> None:
    with pytest.raises(DiffraganError, match="--structure"):
        choose_views(open_pairs(simulated, settings=published))


def test_nothing_finished_is_lost(finished: Path, views: Path, tmp_path: Path) -> None:
    """A finished folder is not written over, nor an unfinished one of other settings."""
    code, text = run("reconstruct", views, "--out", finished, *SET)
    assert code == 2
    assert "--overwrite" in text
    kept = (finished / "metrics.json").read_bytes()
    merge = ("reconstruct", finished / "phased.zarr", "--method", "merge", "--out")
    code, text = run(*merge, finished)
    assert code == 2
    assert "--overwrite" in text
    assert (finished / "metrics.json").read_bytes() == kept
    half_way = tmp_path / "half"
    shutil.copytree(finished, half_way)
    (half_way / "metrics.json").unlink()
    (half_way / ".run").mkdir()
    (half_way / ".run" / "run.json").write_text('{"input": "other"}')
    code, text = run("reconstruct", views, "--out", half_way, *SET)
    assert code == 2
    assert "unfinished" in text
    code, text = run(*merge, half_way)
    assert code == 2
    assert "unfinished" in text
    assert merged(finished / "phased.zarr", half_way, "--overwrite")["rounds"] == 1
    assert not (half_way / ".run").exists()


@pytest.mark.parametrize("left", ["an earlier version's", "half a file"])
def test_a_state_that_cannot_go_on_is_refused(
    left: str, views: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions pickled classes by the places of their modules; a sentence says what to do,
    and nothing of the run is lost by it."""
    from diffragan.reconstruction import solve as module

    monkeypatch.setattr(module, "_SAVE_EVERY_S", 0.0)
    store, out = open_pairs(views, settings=settings), tmp_path / "o"

    def stop(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
        if stage == "iterations" and done == 3:
            raise KeyboardInterrupt

    def go(progress: Any = stop) -> None:
        solve_views(store, choose_views(store, limit=20), out, settings, progress=progress)

    with pytest.raises(KeyboardInterrupt):
        go()
    state = out / ".run" / "state.pt"
    if left == "half a file":
        state.write_bytes(state.read_bytes()[:5000])
    else:
        old = types.ModuleType("diffragan.reconstruct.start")
        image = dataclasses.make_dataclass("ImageMap", ["volume"])
        image.__module__ = old.__name__
        old.ImageMap = image  # type: ignore[attr-defined]
        for name in ("diffragan.reconstruct", old.__name__):
            monkeypatch.setitem(sys.modules, name, old)
        torch.save({"halves": [{"image": image(torch.ones(3))}], "seconds": 1.0}, state)
    before = state.read_bytes()
    with pytest.raises(DiffraganError, match=r"state\.pt is of an earlier version.*--overwrite"):
        go()
    assert state.read_bytes() == before
