"""The user guide, run from its first block to its last as a reader would run it."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffragan import cli
from diffragan.phasing.methods import METHODS

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"
PEPTIDE = Path(__file__).parents[1] / "data" / "ubiquitin_1_10.pdb"

# What the guide asks of real proteins, cut down to what a test can wait for.
SMALLER = (
    ("--orientations 24 --box-A 70", "--orientations 2 --box-A 70 --config small.toml --workers 1"),
    ("ubq.zarr --orientations 24", "ubq.zarr --orientations 2 --config small.toml --workers 1"),
    ("--method raar", "--method raar --starts 2 --iterations 30"),
    ("network.width=0.125", "network.width=0.0157"),
    ("train.batch_size=8", "train.batch_size=2"),
    ("train.max_steps=300", "train.max_steps=2"),
    ("--stability 4", "--stability 1"),
    # Both stand-ins are parts of ubiquitin.
    ("--test 1UBQ.pdb", "--test 1UBQ.pdb --max-identity 1"),
    # The stand-ins are small, so their store is less deep than 1AUP's.
    ("-1040.6", "-1040.0"),
    ("--config quick.toml", "--config quick.toml --workers 1"),
)
COARSE = "[simulate]\nsampling_A = 0.27\nslice_A = 10.0\n"

LEFT = (
    "prepared/1UBQ.cif",
    "prepared/1UBQ.json",
    "prepared/prepare.json",
    "waves.zarr",
    "waves.orientations.star",
    "pairs.zarr",
    "noisy.zarr",
    "phased.zarr",
    "network.zarr",
    "refined.zarr",
    "refined-report",
    "report/report.html",
    "report/metrics.json",
    "report/frc.csv",
    "report/items.csv",
    "report/figures/",
    "run/best.safetensors",
    "run/log.jsonl",
    "run/samples/",
    "run/settings.toml",
    "mine.zarr",
    "exported",
    "pair.npz",
    "pattern.h5",
    "image.mrc",
    "pair.zarr",
    "pair.png",
    "arrays-phased.zarr",
    "pair-phased.zarr",
    "stack-phased.zarr",
    "quick.zarr",
)


@pytest.fixture
def registry() -> Iterator[None]:
    """The guide adds a method; later tests don't want it."""
    yield
    METHODS.pop("cut", None)


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.M | re.S)


def shell(block: str) -> Iterator[list[str]]:
    """The words of each command of a console block, made smaller."""
    for line in block.splitlines():
        assert line.startswith("$ diffragan "), line
        for said, tested in SMALLER:
            line = line.replace(said, tested)
        yield shlex.split(line.removeprefix("$ "))


def commands() -> set[str]:
    """Names of all commands."""
    from typer.main import get_command

    found: dict[str, Any] = vars(get_command(cli.app))["commands"]
    return set(found)


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command, run in this process."""
    monkeypatch.setattr(sys, "argv", words)
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: None) -> None:
    """Every block runs, every command ends well, and what the guide names is there afterwards."""
    monkeypatch.chdir(tmp_path)
    atoms = PEPTIDE.read_text("utf-8").splitlines(keepends=True)
    Path("1UBQ.pdb").write_text("".join(atoms), "utf-8")
    shorter = [a for a in atoms if not (a.startswith("ATOM") and int(a[22:26]) == 1)]
    Path("1AUP.pdb").write_text("".join(shorter), "utf-8")
    Path("small.toml").write_text(COARSE, "utf-8")

    text = GUIDE.read_text("utf-8")
    session: dict[str, Any] = {}
    for language, block in blocks(text):
        if language == "console":
            for words in shell(block):
                assert run(words, monkeypatch) == 0, shlex.join(words)
        elif language == "toml":
            Path(block.split("\n")[0].removeprefix("# ")).write_text(block, "utf-8")
        elif language == "text":  # what takes too long; each of its commands is tried elsewhere
            assert all(line.split()[1] in commands() for line in block.splitlines()), block
        else:
            assert language == "python"
            exec(compile(block, "guide.md", "exec", dont_inherit=True), session)

    for name in LEFT:
        assert name in text
        assert Path(name).exists(), name
        assert not name.endswith("/") or any(Path(name).iterdir()), name
    metrics = json.loads(Path("report/metrics.json").read_text("utf-8"))
    assert metrics["frc_of"] == "wave"
    assert set(metrics["structures"]) == {"1UBQ", "1AUP"}
    assert json.loads(Path("network-report/metrics.json").read_text("utf-8"))["stability"]
    assert json.loads(Path("pair-report/metrics.json").read_text("utf-8"))["truth"] is False
    assert session["results"].method == "cut"
    # Every key in the list of numbers is one that `evaluate` writes.
    explained = text.split("## What the numbers mean")[1].split("\n**What")[0]
    keys = set(re.findall(r"^- `(\w+)`", explained, flags=re.M))
    assert len(keys) >= 8
    assert keys <= set(json.loads(Path("refined-report/metrics.json").read_text("utf-8")))


def test_the_guide_needs_every_substitution() -> None:
    """No substitution is left over from an older guide."""
    console = "".join(block for language, block in blocks(GUIDE.read_text("utf-8")))
    for said, _ in SMALLER:
        assert said in console
