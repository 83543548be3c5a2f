"""The map of the house agrees with the house, and its examples run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_guide import blocks

import diffragan as dg
from diffragan.evaluation.item_metrics import PER_ITEM
from diffragan.phasing import solvers
from diffragan.phasing.methods import METHODS
from diffragan.report import pair_page
from test_rooms import MODULES, SOURCE

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "architecture.md").read_text("utf-8")
ROOMS = sorted({p.parent for p in MODULES} - {SOURCE})


def rows() -> Iterator[tuple[str, str]]:
    """Room, and all that is said of it, from the table of rooms."""
    part = PAGE.split("## Where is what")[1].split("\n## ")[0]
    for line in part.splitlines():
        if line.startswith("| `"):
            room, rest = line.removeprefix("| ").split(" | ", 1)
            yield room, rest


@pytest.mark.parametrize("folder", ROOMS, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_every_room_is_on_the_map(folder: Path) -> None:
    """A room that is missing in the table or in the picture is not found."""
    name = folder.relative_to(SOURCE).as_posix()
    assert any(f"`{name}/`" in room for room, _ in rows())
    assert f"{folder.name}/" in (DOCS / "rooms.svg").read_text("utf-8")


def test_every_module_of_the_root_is_on_the_map() -> None:
    """The few that belong to no room are named one by one."""
    named = " ".join(room for room, _ in rows())
    for path in SOURCE.glob("*.py"):
        if not path.name.startswith("__"):
            assert f"`{path.name}`" in named, path.name


def test_files_are_where_the_map_puts_them() -> None:
    """A reader who follows the table finds the file in the room of its row."""
    for room, rest in rows():
        folders = [SOURCE / name for name in re.findall(r"`([\w/]+)/`", room)] or [SOURCE]
        for name in re.findall(r"`(\w+\.py)`", rest):
            assert any((folder / name).is_file() for folder in folders), f"{name} of {room}"


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda p: p.name)
def test_source_files_that_a_page_names_exist(page: Path) -> None:
    """Sentences name files by their path from the checkout, the package, or the 3D room."""
    places = (SOURCE.parents[1], SOURCE, SOURCE / "reconstruction")
    for name in re.findall(r"`((?:\w+/)+\w+\.py)`", page.read_text("utf-8")):
        assert any((place / name).is_file() for place in places), name


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names that the page's Python defines; what it registers goes again."""
    monkeypatch.setattr(solvers, "SOLVERS", dict(solvers.SOLVERS))
    metrics = dict(PER_ITEM)
    session: dict[str, Any] = {}
    try:
        for language, block in blocks(PAGE):
            if language == "python":
                exec(compile(block, "architecture.md", "exec", dont_inherit=True), session)
        yield session
    finally:
        METHODS.pop("cut", None)
        PER_ITEM.clear()
        PER_ITEM.update(metrics)


def test_the_solver_is_found_and_keeps_a_solution(examples: dict[str, Any]) -> None:
    """A point that both projections keep must stay where it is: the steps' parts sum to 1."""
    steps = solvers.find_solver("damped")(0.5)
    assert steps.c * (steps.a + steps.b) + steps.d + steps.e == 1


def test_the_reader_reads(examples: dict[str, Any], tmp_path: Path) -> None:
    """What was written to a bare file comes back by item."""
    raw = np.random.default_rng(0).random((3, 112, 112)).astype("<f4")
    raw.tofile(tmp_path / "three.raw")
    found = examples["read_raw"](tmp_path / "three.raw")["pattern"]
    np.testing.assert_array_equal(found[1:3], raw[1:])


def test_method_metric_and_figure_reach_the_page(
    examples: dict[str, Any],
    simulated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A method phases by its name; a metric's and a figure's one line are all they need."""
    monkeypatch.setattr(pair_page, "FIGURES", (*pair_page.FIGURES, examples["doses_figure"]))
    results = dg.phase(simulated, tmp_path / "cut.zarr", method="cut", limit=2)
    scores = dg.evaluate(results, tmp_path / "report")
    assert scores["method"] == "cut"
    assert 0 < scores["rms_difference_mean"] < 1
    assert "rms_difference" in (tmp_path / "report" / "items.csv").read_text("utf-8")
    assert (tmp_path / "report" / "figures" / "doses.png").is_file()
    assert "Dose of every image." in (tmp_path / "report" / "report.html").read_text("utf-8")
