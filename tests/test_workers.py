"""Which worker runs which test: what is shared is made once, and what takes long begins first."""

from __future__ import annotations

from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

from conftest import LONGEST, TOGETHER, ByGroup, group

TESTS = Path(__file__).parent


@pytest.mark.parametrize("name", TOGETHER)
def test_files_with_one_fixture_go_to_one_worker(name: str) -> None:
    """Whatever a test's parameters; other files go by themselves."""
    assert {group(f"tests/{file}::test_it[a::b]") for file in TOGETHER[name]} == {name}
    assert group("tests/test_optics.py::test_it") == "tests/test_optics.py"


def test_the_files_are_there() -> None:
    """Under these names; a file that was moved would lose its place without a word."""
    for file in (*LONGEST, *(file for files in TOGETHER.values() for file in files)):
        assert (TESTS / file).is_file(), file


def test_xdist_asks_for_groups() -> None:
    """By the name of the method that answers here; by another, every file's fixtures would be made
    by every worker."""
    assert callable(LoadScopeScheduling._split_scope)
    assert ByGroup._split_scope is not LoadScopeScheduling._split_scope
