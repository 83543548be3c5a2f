"""What goes wrong with RELION is told in one plain sentence, and goes on where it stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import starfile

import diffragan as dg
from chiral_results import M, chiral_store
from diffragan.errors import DiffraganError
from diffragan.relion.programs.call import Watch, failure, reason_of_failure, run_program
from diffragan.relion.programs.find import Relion, find_relion, mpi_environment
from diffragan.relion.programs.jobs import (
    RelionProject,
    auto_refine_words,
    initial_model_words,
    last_iteration,
)
from diffragan.rotations import quasi_uniform
from diffragan.settings import RelionSettings, load_settings
from quick_runs import run
from relion import stand_in

FEW = 8


def store(path: Path, **arrays: Any) -> Path:
    """Eight results of the chiral molecule."""
    return chiral_store(path, quasi_uniform(FEW, 1), **arrays).path


def particles(folder: Path, side: int = 12, **columns: Any) -> Path:
    """A STAR file of noise with the given columns of its optics group."""
    folder.mkdir(exist_ok=True)
    images = np.random.default_rng(0).normal(size=(FEW, side, side)).astype(np.float32)
    with mrcfile.new(folder / "x.mrcs", images) as file:
        file.set_image_stack()
    n = len(columns.get("rlnImagePixelSize", [1.5]))
    optics = {"rlnOpticsGroup": np.arange(n) + 1, "rlnImagePixelSize": [1.5] * n} | columns
    table: dict[str, Any] = {"rlnImageName": [f"{k + 1}@x.mrcs" for k in range(FEW)]}
    table |= {name: np.zeros(FEW) for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")}
    table["rlnOpticsGroup"] = np.arange(FEW) % n + 1
    import pandas as pd

    starfile.write(
        {"optics": pd.DataFrame(optics), "particles": pd.DataFrame(table)}, folder / "x.star"
    )
    return folder / "x.star"


REFUSED: dict[str, tuple[Callable[[Path], Path], list[str], str]] = {
    "no orientations": (
        lambda t: store(t / "p.zarr", with_rotations=False), [], "--find-orientations",
    ),
    "one image in a half set": (
        lambda t: store(t / "p.zarr", solved=np.arange(FEW) < 3), [], "half sets of 2 and 1",
    ),
    "blank images alone": (
        lambda t: store(t / "p.zarr", waves=np.ones((FEW, M, M), np.complex64)), [], "8 of 8",
    ),
    "mixed pixel sizes": (
        lambda t: particles(t / "s", rlnImagePixelSize=[1.5, 1.7]), [], "rlnImagePixelSize",
    ),
    "an odd box": (lambda t: particles(t / "s", side=13), [], "relion.size_px=12"),
    "an odd size": (lambda t: store(t / "p.zarr"), ["--set", "relion.size_px=33"], "multiple of 2"),
    "two processes": (lambda t: store(t / "p.zarr"), ["--set", "relion.ranks=2"], "relion.ranks"),
    "another method's settings": (
        lambda t: store(t / "p.zarr"), ["--set", "many_views.beta=0.5"], "many_views.beta",
    ),
    "a start": (lambda t: store(t / "p.zarr"), ["--start", "x.zarr"], "does not take --start"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_before_relion_runs(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, words, remedy = REFUSED[case]
    stand_in(monkeypatch, tmp_path / "bin", relion_reconstruct="echo run >> ran; exit 1")
    source = make(tmp_path)
    code, text = run("reconstruct", source, "--engine", "relion", "--out", tmp_path / "o", *words)
    assert code == 2
    assert remedy in text
    assert "\n" not in text.strip()
    assert not (tmp_path / "o").exists()


def test_without_relion_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the files alone can be had all the same."""
    source = store(tmp_path / "p.zarr")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    code, text = run("reconstruct", source, "--engine", "relion", "--out", tmp_path / "o")
    assert code == 2
    assert "apt-get install relion" in text
    assert not (tmp_path / "o").exists()
    words = ("--engine", "relion", "--export-only", "--out", tmp_path / "files")
    code, text = run("reconstruct", source, *words)
    assert code == 0, text
    assert (tmp_path / "files" / "relion" / "particles.star").exists()
    code, text = run("reconstruct", source, "--export-only", "--out", tmp_path / "no")
    assert code == 2
    assert "--engine relion" in text


def test_a_crash_is_told_by_its_own_line_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELION's word for what went wrong, where its log lies; and nothing that looks finished."""
    source, out = store(tmp_path / "p.zarr"), tmp_path / "o"
    crash = (
        'echo " + Back-projecting all images ..."; echo "in: x.cpp, line 5" >&2\n'
        'echo "ERROR: " >&2; echo "Too little of everything!" >&2; exit 1'
    )
    stand_in(monkeypatch, tmp_path / "bin", relion_reconstruct=crash)
    words = ("reconstruct", source, "--engine", "relion", "--out", out)
    code, text = run(*words)
    assert code == 2
    assert "Too little of everything!" in text
    assert str(out / "relion" / "logs" / "known angles.log") in text
    assert not (out / "metrics.json").exists()
    stand_in(monkeypatch, tmp_path / "bin", relion_reconstruct="kill -9 $$")
    code, text = run(*words)
    assert code == 2
    assert "killed" in text
    assert "memory" in text
    stand_in(monkeypatch, tmp_path / "bin", relion_reconstruct="exit 0")
    code, text = run(*words)
    assert code == 2
    assert "ended without writing" in text
    code, text = run(*words, "--set", "relion.size_px=16")
    assert code == 2
    assert "unfinished run" in text


def test_blank_images_are_left_out_and_said(tmp_path: Path) -> None:
    """One bad exposure among eight does not end the run."""
    good = chiral_store(tmp_path / "g.zarr", quasi_uniform(FEW, 1))
    waves = np.array(good.wave(slice(0, FEW)))
    waves[3] = 1
    told: list[str] = []
    source = store(tmp_path / "p.zarr", waves=waves)
    star = dg.relion_particles(source, tmp_path / "o", warn=told.append)
    assert "1 of 8 images" in told[0]
    assert "number 4" in told[0]
    table = starfile.read(star, always_dict=True)["particles"]
    assert table["diffraganItem"].tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert table["rlnRandomSubset"].tolist() == [1, 2, 1, 1, 2, 1, 2]


def test_fewer_views_are_spread_over_both_halves(tmp_path: Path) -> None:
    """Every second of eight would be one half set alone."""
    star = dg.relion_particles(store(tmp_path / "p.zarr"), tmp_path / "o", limit=5)
    table = starfile.read(star, always_dict=True)["particles"]
    assert len(table) == 5
    assert sorted(table["rlnRandomSubset"]) == [1, 1, 1, 2, 2]


def test_the_reason_of_a_failure() -> None:
    """The line after the last ERROR, whichever way RELION writes it; MPI's word for signals."""
    text = "x\nERROR: \nERROR: output directory does not exist!\n=== Backtrace  ===\nrefine()\n"
    assert reason_of_failure(text) == "output directory does not exist!"
    assert reason_of_failure("all is well\rno memory left") == "no memory left"
    assert reason_of_failure("") == "nothing"
    mpi = "mpirun noticed that process rank 2 with PID 0 on node a exited on signal 9 (Killed)."
    assert "memory" in failure("relion_refine_mpi", 137, mpi, Path("log"))
    assert "SIGSEGV" in failure("relion_refine", -11, "", Path("log"))


def test_progress_is_read_from_what_relion_prints(tmp_path: Path) -> None:
    """Its iterations and resolution, across bars that are drawn over each other."""
    told: list[tuple[Any, ...]] = []
    watch = Watch("refine", lambda *words: told.append(words))
    for part in (
        " Auto-refine: Iteration= 2\n Auto-refine: Resolu", "tion= 8.75 (no gain for 0 iter)\n",
        " Auto-refine: Angular step= 3.75 degrees; local searches= false\n",
        " Expectation iteration 2\n 0/ 9 sec ~~(,_,\">\r 3/ 9 sec ..~~(,_,\">",
    ):  # fmt: skip
        watch.feed(part)
    assert told[-1] == ("refine", 1, None, "(8.8 Å, angles by 3.8°)")
    told.clear()
    for line in ("Stochastic Gradient Descent", "Gradient optimisation"):
        Watch("ab initio", lambda *words: told.append(words)).feed(f" {line} iteration 7 of 50\n")
    assert told == [("ab initio", 6, 50, "")] * 2


def test_an_interrupted_program_is_ended(tmp_path: Path) -> None:
    """Whatever stops this process stops RELION too, and what it said stays in the log."""

    def stop(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
        raise KeyboardInterrupt

    script = (
        "import os,time; print(' Expectation iteration 1', os.getpid(), flush=True); time.sleep(60)"
    )
    log = tmp_path / "logs" / "x.log"
    with pytest.raises(KeyboardInterrupt):
        run_program([sys.executable, "-c", script], tmp_path, log, Watch("x", stop))
    pid = int(log.read_text().split()[-1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_killed_run_leaves_no_program_behind(tmp_path: Path) -> None:
    """RELION ends with the run that called it, which a signal ends without a word."""
    inner = "import os,time; print('pid', os.getpid(), flush=True); time.sleep(60)"
    log = tmp_path / "x.log"
    outer = (
        "import sys; from pathlib import Path\n"
        "from diffragan.relion.programs.call import Watch, run_program\n"
        f"run_program([sys.executable, '-c', {inner!r}], Path({str(tmp_path)!r}), "
        f"Path({str(log)!r}), Watch('x', lambda *words: None))"
    )
    run_of_it = subprocess.Popen([sys.executable, "-c", outer])
    pid = 0
    for _ in range(600):
        said = log.read_text().splitlines() if log.exists() else []
        if said and said[-1].startswith("pid"):
            pid = int(said[-1].split()[1])
            break
        time.sleep(0.1)
    assert pid
    run_of_it.kill()
    run_of_it.wait()
    for _ in range(100):
        if not alive(pid):
            break
        time.sleep(0.1)
    assert not alive(pid)


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be collected does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def project(folder: Path, version: tuple[int, int] = (3, 1), **settings: Any) -> RelionProject:
    """A project of which no program is run."""
    return RelionProject(
        Relion(version), folder, "particles.star", RelionSettings(**settings), 40.0, 7,
        lambda *words: None,
    )  # fmt: skip


def test_each_version_is_spoken_to_in_its_own_words(tmp_path: Path) -> None:
    """RELION 3.1 descends by --sgd with its own schedule, 4 and 5 by --grad."""
    old, new = (initial_model_words(project(tmp_path, v)) for v in ((3, 1), (5, 0)))
    assert "--sgd" in old
    assert "--grad" not in old
    assert (
        sum(int(old[old.index(f"--sgd_{w}_iter") + 1]) for w in ("ini", "inbetween", "fin")) == 50
    )
    assert "--grad" in new
    assert new[new.index("--iter") + 1] == "50"
    assert not any("sgd" in word for word in new)
    for words in (old, new):
        assert "--denovo_3dref" in words
        assert "--ctf" not in words


def whole(folder: Path, number: int, *ends: str) -> None:
    for end in ("optimiser.star", "data.star", "sampling.star", *ends):
        (folder / f"run_it{number:03d}_{end}").write_text("x")


def test_it_goes_on_from_the_last_whole_iteration(tmp_path: Path) -> None:
    """An iteration that was being written when the run was killed is not gone on from."""
    job = tmp_path / "refine"
    job.mkdir()
    assert last_iteration(job) is None
    words = auto_refine_words(project(tmp_path), "a.mrc", local=False, mask="m.mrc")
    assert words[words.index("--ref") + 1] == "a.mrc"
    assert "--continue" not in words
    whole(job, 9, "half1_model.star", "half2_model.star")
    whole(job, 10, "half1_model.star")
    (job / "run_it011_optimiser.star").write_text("")
    assert last_iteration(job) == "run_it009_optimiser.star"
    words = auto_refine_words(project(tmp_path), "a.mrc", local=False)
    assert words[words.index("--continue") + 1] == "refine/run_it009_optimiser.star"
    assert "--ref" not in words


def test_a_map_of_another_scale_is_compared_by_correlation_first(tmp_path: Path) -> None:
    """One by gradient descent; and found orientations may be kept near, from their own table."""
    found = auto_refine_words(project(tmp_path, orientations="find"), "a.mrc", local=False)
    assert "--firstiter_cc" in found
    assert found[found.index("--healpix_order") + 1] == "2"
    near = auto_refine_words(project(tmp_path), "a.mrc", local=True, star="initial/x.star")
    assert "--firstiter_cc" not in near
    assert near[near.index("--i") + 1] == "initial/x.star"
    assert near[near.index("--healpix_order") + 1] == "4"


def test_a_version_that_is_not_told_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, tmp_path / "bin", relion_refine="echo no such library >&2; exit 127")
    with pytest.raises(DiffraganError, match="no such library"):
        find_relion()
    stand_in(
        monkeypatch, tmp_path / "bin", relion_refine='echo "RELION version: 5.0.1-commit-1a2b"'
    )
    assert find_relion().version == (5, 0)
    assert find_relion().descends_by_gradient


def test_only_root_is_allowed_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """By variables, which launchers other than Open MPI's do not stumble over."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "OMPI_ALLOW_RUN_AS_ROOT" not in mpi_environment()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert mpi_environment()["OMPI_ALLOW_RUN_AS_ROOT"] == "1"


def test_settings_of_relion_are_its_own(tmp_path: Path) -> None:
    assert load_settings(values={"relion.size_px": 64}).relion.size_px == 64
    code, text = run("reconstruct", tmp_path / "x.zarr", "--out", tmp_path / "o", "--engine", "x")
    assert code == 2
    assert "fourier or relion" in text
