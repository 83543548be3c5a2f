"""An unfinished run's folder: whose it is, and that what goes on from it ends as it would have."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffragan.errors import DiffraganError
from diffragan.pairs.open import open_pairs
from diffragan.reconstruction import many_views
from diffragan.reconstruction.checkpoint import claim
from diffragan.reconstruction.choose_views import choose_views
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.search_result import OrientationSearchResult
from diffragan.reconstruction.solve import solve_views
from diffragan.settings import Settings
from quick_runs import QUICK, SET, run


def test_a_run_begun_under_old_names_of_settings_goes_on(tmp_path: Path) -> None:
    """The same values under a renamed key are the same run; another value is another run."""
    settings = Settings().model_dump(mode="json", include={"seed", "many_views"})
    key = {"input": "ab", "settings": settings}
    old = json.loads(json.dumps(key))
    many_views = old["settings"]["many_views"]
    many_views["polish"] = many_views.pop("error_reduction_iterations")
    many_views["hold_iterations"] = many_views.pop("image_weight_iterations")
    record = tmp_path / "run.json"
    record.write_text(json.dumps(old))
    claim(tmp_path, key)
    assert json.loads(record.read_text()) == key
    many_views["polish"] += 1
    record.write_text(json.dumps(old))
    with pytest.raises(DiffraganError, match="other settings"):
        claim(tmp_path, key)


def test_an_interrupted_run_ends_where_it_would_have(
    ball_views: Path, ball_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while it iterates and during error reduction, a run comes to the same bits."""
    from diffragan.reconstruction import solve as module

    monkeypatch.setattr(module, "_SAVE_EVERY_S", 0.0)
    brief = {"iterations": 7, "error_reduction_iterations": 4, "resolution_steps_A": (2.0,)}
    shorter = ball_settings.many_views.model_copy(update=brief)
    settings = ball_settings.model_copy(update={"many_views": shorter})
    store = open_pairs(ball_views, settings=settings)
    chosen = choose_views(store, limit=20)

    def go(out: Path, stop_at: int | None) -> Any:
        def tell(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
            if stage == "iterations" and done == stop_at:
                raise KeyboardInterrupt

        return solve_views(store, chosen, out, settings, progress=tell)

    whole = go(tmp_path / "whole", None)
    last = whole.half_maps.iteration
    assert last >= 14
    for stop_at in (5, last - 2):
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "parts", stop_at)
    resumed = go(tmp_path / "parts", None)
    assert resumed.half_maps.iteration == last
    np.testing.assert_array_equal(resumed.combined.map.numpy(), whole.combined.map.numpy())
    assert resumed.half_maps.history == whole.half_maps.history


# A run of a few iterations that stops at one of them, or goes to its end and leaves its map.
PARTIAL_RUN = """
import sys
from pathlib import Path

import numpy as np

from diffragan.pairs.open import open_pairs
from diffragan.reconstruction import solve
from diffragan.reconstruction.choose_views import choose_views
from diffragan.settings import load_settings

views, out, stop_at, *overrides = sys.argv[1:]


def interrupt(stage, done, total=None, word="", /):
    if stage == "iterations" and done == int(stop_at):
        raise KeyboardInterrupt


solve._SAVE_EVERY_S = 0.0
settings = load_settings(overrides=overrides)
pairs = open_pairs(Path(views), settings=settings)
try:
    solution = solve.solve_views(
        pairs, choose_views(pairs, limit=20), Path(out), settings, progress=interrupt
    )
except KeyboardInterrupt:
    sys.exit()
np.save(Path(out) / "map.npy", solution.combined.map.numpy())
"""


def test_a_run_interrupted_where_loops_were_first_compiled_resumes_to_the_same_bits(
    ball_views: Path, tmp_path: Path
) -> None:
    """The process that first compiles the loops computes by the machine code that later ones load.
    With an empty cache one process compiles and stops, another goes on; a third runs through."""
    few = ["many_views.iterations=6", "many_views.error_reduction_iterations=4"]
    few += ["many_views.resolution_steps_A=[]", "many_views.padding=1"]
    environment = os.environ | {
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        "NUMBA_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }

    def go(name: str, stop_at: int) -> None:
        words = [str(ball_views), str(tmp_path / name), str(stop_at), *QUICK, *few]
        subprocess.run(
            [sys.executable, "-c", PARTIAL_RUN, *words], env=environment, check=True, timeout=300
        )

    go("parts", 9)  # late: the last bits of sums take some iterations to show
    assert (tmp_path / "parts" / ".run" / "state.pt").exists()
    assert not (tmp_path / "parts" / "map.npy").exists()
    assert any((tmp_path / "cache").rglob("*.nbc")), "the loops were compiled for this test"
    go("parts", 0)
    go("through", 0)
    resumed, through = (np.load(tmp_path / name / "map.npy") for name in ("parts", "through"))
    np.testing.assert_array_equal(resumed, through)


def test_doubtful_orientations_are_told_also_after_a_resume(
    ball_views: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A search whose starts disagree is warned of, once, on the console and in metrics.json, and a
    run that goes on does not search again."""
    from diffragan.reconstruction import solve as module
    from diffragan.reconstruction.orientations.finders import FINDERS

    searches: list[int] = []

    def search(seen: Views, mass_kda: float | None, *_: object) -> OrientationSearchResult:
        searches.append(len(seen))
        assert seen.rotations[:, 0, 0].eq(1).all()  # nothing is told
        pairs = open_pairs(ball_views)
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
    words: list[str | Path] = ["reconstruct", ball_views, "--out", tmp_path / "o", *SET]
    words += ["--find-orientations", "--iterations", "3", "--views", "20"]
    words += ["--set", "many_views.resolution_steps_A=[2.0]"]
    assert run(*words)[0] != 0
    assert (tmp_path / "o" / ".run" / "state.pt").exists()
    monkeypatch.setattr(many_views.HalfMaps, "step", step)
    _, text = run(*words)
    text = " ".join((text + capsys.readouterr().err).split())
    assert searches == [20]
    assert text.count("No two of 2 random starts came to the same map") == 1
    metrics = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert "doubtful" in metrics["warnings"][-1]


@pytest.mark.parametrize("left", ["an earlier version's", "half a file"])
def test_a_state_that_cannot_go_on_is_refused(
    left: str,
    ball_views: Path,
    ball_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Earlier versions pickled classes by the places of their modules; a sentence says what to do,
    and nothing of the run is lost by it."""
    from diffragan.reconstruction import solve as module

    monkeypatch.setattr(module, "_SAVE_EVERY_S", 0.0)
    store, out = open_pairs(ball_views, settings=ball_settings), tmp_path / "o"

    def stop(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
        if stage == "iterations" and done == 3:
            raise KeyboardInterrupt

    def go(progress: Any = stop) -> None:
        solve_views(store, choose_views(store, limit=20), out, ball_settings, progress=progress)

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
