"""Plug-ins: packages that offer entry points, as the package sees them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from diffragan.errors import DiffraganError
from diffragan.files.store import open_results
from diffragan.pairs.open import open_pairs
from diffragan.plugins import load_plugins
from diffragan.settings import Settings
from plugin_packages import install

TESTS = Path(__file__).parent
EXAMPLE = TESTS / "plugin_example"
SOURCE = Path(__file__).parents[1] / "src"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_offered_objects_come_by_name(site: Path) -> None:
    """An entry point's name is the plug-in's; other groups stay out."""
    install(
        site,
        "offers_two",
        "one, two = 1, 2\n",
        "[diffragan.tried]\nfirst = offers_two:one\n[diffragan.other]\nsecond = offers_two:two\n",
    )
    assert load_plugins("diffragan.tried") == {"first": 1}
    assert load_plugins("diffragan.nobody") == {}


def test_a_broken_plug_in_is_named(site: Path) -> None:
    """Whatever its import raises, the user learns which package to repair."""
    install(site, "breaks", "1 / 0\n", "[diffragan.tried]\nbad = breaks:thing\n")
    with pytest.raises(DiffraganError, match=r"'bad' of the package breaks .*ZeroDivisionError"):
        load_plugins("diffragan.tried")


def test_two_claims_on_one_name_are_refused(site: Path) -> None:
    """Which of two packages wins would hang on the order of their folders."""
    for name in ("claims_a", "claims_b"):
        install(site, name, "thing = 1\n", f"[diffragan.tried]\nsame = {name}:thing\n")
    with pytest.raises(DiffraganError, match=r"claims_. and claims_. both offer 'same'"):
        load_plugins("diffragan.tried")


# A solver, a method and a reader, from the command line.


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the example package, installed."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text("utf-8"))["project"]
    entries = ""
    for group, offered in project["entry-points"].items():
        entries += f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in offered.items())
    folder = tmp_path_factory.mktemp("site")
    install(folder, "plugin_example", (EXAMPLE / "plugin_example.py").read_text("utf-8"), entries)
    return folder


@pytest.fixture(scope="module")
def pair_file(
    simulated: Path, published: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Patterns and images of two pairs in the example's own kind of file."""
    pairs = open_pairs(simulated, settings=published)
    images = pairs.image([0, 5])
    patterns = np.zeros_like(images)
    low = (images.shape[-1] - pairs.m) // 2
    patterns[:, low : low + pairs.m, low : low + pairs.m] = pairs.pattern([0, 5])
    path = tmp_path_factory.mktemp("files") / "two.pair"
    with path.open("wb") as file:
        np.save(file, np.stack([patterns, images]))
    return path


# One process for several commands, since each would take seconds to start.
SEVERAL = """
import json, sys
from quick_runs import run
print("\\n" + json.dumps([run(*words) for words in json.loads(sys.argv[1])]))
"""


def diffragan(site: Path | None, *commands: Sequence[str | Path]) -> list[tuple[int, str]]:
    """Exit codes and outputs of commands in a process of their own, with or without the example
    installed."""
    folders = [str(SOURCE), str(TESTS)] + ([] if site is None else [str(site)])
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, json.dumps([[*map(str, words)] for words in commands])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
    )
    assert done.returncode == 0, done.stderr
    return [(code, text) for code, text in json.loads(done.stdout.splitlines()[-1])]


def test_a_plug_in_of_ten_lines_serves_the_commands(
    example: Path, pair_file: Path, tmp_path: Path
) -> None:
    """Its reader opens the file, its method and its solver phase it, `evaluate` judges both, and
    `--help` lists the method."""
    commands: list[list[str | Path]] = [["phase", "--help"]]
    short = ["--method", "raar", "--starts", "1", "--iterations", "12", "--force"]
    runs = {
        "zero-phases": ["--method", "zero-phases"],
        "raar": [*short, "--set", "phase.solver=averaged"],
    }
    for method, words in runs.items():
        out = tmp_path / f"{method}.zarr"
        commands.append(["phase", pair_file, "--out", out, "--box-A", "70", *words])
        commands.append(["evaluate", out, "--out", tmp_path / method])
    done = diffragan(example, *commands)
    assert [code for code, _ in done] == [0] * 5, done
    assert "zero-phases" in done[0][1]
    for method in runs:
        assert open_results(tmp_path / f"{method}.zarr").method == method
        assert (tmp_path / method / "report.html").exists()
    wave = open_results(tmp_path / "zero-phases.zarr").wave([0])
    assert wave is not None
    spectrum = np.fft.fft2(wave[0])
    assert float(np.abs(np.angle(spectrum[np.abs(spectrum) > 1e-3])).max()) < 1e-2


def test_without_the_package_its_names_are_unknown(pair_file: Path, tmp_path: Path) -> None:
    """What the plug-in offers comes from it alone."""
    out = tmp_path / "p.zarr"
    phase: list[str | Path] = ["phase", pair_file, "--out", out]
    kind, method = diffragan(None, [*phase, "--box-A", "70"], [*phase, "--method", "zero-phases"])
    assert kind[0] == method[0] == 2
    assert "no kind this package reads" in kind[1]
    assert "no method 'zero-phases'" in method[1]
