"""The registry of methods: complete wherever it is asked for, and strict about options."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from diffragan.errors import DiffraganError
from diffragan.phasing.method import (
    ITERATION_OPTIONS,
    Context,
    Method,
    as_method,
)
from diffragan.phasing.methods import METHODS
from diffragan.phasing.registry import check_options
from diffragan.settings import PhaseSettings

OPTIONS = set(PhaseSettings.model_fields) | {"weights", "many_views"}
BUILT_IN = ["image", "published", "network", "raar", "hybrid", "many-views"]


FIRST = [
    "diffragan.phasing.methods",
    "diffragan.phasing.method",
    "diffragan.phasing.methods.hybrid",
    "diffragan.phasing.run",
]
# A process for each of its words, which imports that first; what takes long and is not ours is
# imported once, before they part.
_PROGRAM = """
import importlib, os, sys
import matplotlib.figure, numba, scipy.ndimage, torch, zarr

assert not any(name.startswith("diffragan") for name in sys.modules)
for first in sys.argv[1:]:
    child = os.fork()
    if not child:
        code = 1
        try:
            importlib.import_module(first)
            from diffragan.phasing.methods import METHODS

            print(first, *METHODS, flush=True)
            code = 0 if all(METHODS[name].run for name in METHODS) else 1
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0, first
"""


@pytest.fixture(scope="module")
def registries() -> dict[str, list[str]]:
    """The methods that a process knows, by the module that it imported first."""
    command = [sys.executable, "-c", _PROGRAM, *FIRST]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    return {line[0]: line[1:] for line in lines}


@pytest.mark.parametrize("first", FIRST)
def test_the_registry_is_complete_whatever_is_imported_first(
    first: str, registries: dict[str, list[str]]
) -> None:
    """A registry that fills as modules are imported lists what happened to be imported."""
    assert registries[first][: len(BUILT_IN)] == BUILT_IN


def test_names_cost_no_import() -> None:
    """`--help` lists the methods, and importing PyTorch for that would take seconds."""
    code = (
        "import sys\n"
        "from diffragan.phasing.methods import METHODS\n"
        "print(METHODS.describe())\n"
        "assert not {'torch', 'zarr', 'pydantic'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in BUILT_IN)


def test_what_the_methods_are() -> None:
    """The facts that run, report and help take from the records."""
    assert [name for name in BUILT_IN if METHODS[name].joint] == ["many-views"]
    networks = ["published", "network", "hybrid"]
    assert [name for name in BUILT_IN if METHODS[name].needs_weights] == networks
    assert [name for name in BUILT_IN if METHODS[name].invents] == networks
    assert METHODS["raar"].takes == OPTIONS - {"weights", "many_views", "samples", "sample"}
    assert {"solver", "starts", "time_budget_s", "force"} <= ITERATION_OPTIONS
    for name in BUILT_IN:
        assert METHODS[name].takes <= OPTIONS


@pytest.mark.parametrize("option", sorted(OPTIONS))
@pytest.mark.parametrize("name", BUILT_IN)
def test_an_option_is_taken_or_refused_by_name(name: str, option: str) -> None:
    """Nothing that a user types is dropped in silence."""
    word = f"--{option}"
    if option in METHODS[name].takes:
        check_options(name, {word: option}, METHODS)
        return
    with pytest.raises(DiffraganError) as refused:
        check_options(name, {word: option}, METHODS)
    message = str(refused.value)
    assert f"'{name}' does not take {word} (" in message
    for other in BUILT_IN:
        assert (other in message.split("(")[1]) == (option in METHODS[other].takes)


def test_an_alias_is_the_method_itself() -> None:
    """`raar` runs RRR, so the family has a name of its own."""
    assert METHODS["projections"] is METHODS["raar"]
    assert METHODS.canonical("projections") == "raar"
    assert "projections" in METHODS
    assert "projections" not in list(METHODS)


def test_a_joint_method_has_no_batches() -> None:
    """Called like the others it says what to do instead of failing inside."""
    method = Method(lambda batch, context: pytest.fail("ran"), joint=True)
    with pytest.raises(DiffraganError, match="together"):
        method(torch.zeros(1), Context())  # type: ignore[arg-type]


def test_what_is_no_method_is_refused() -> None:
    """A plug-in that names the wrong thing is told at once, not at its first batch."""
    with pytest.raises(DiffraganError, match="'mine' is a int, neither a function"):
        as_method(3, "mine")
    with pytest.raises(DiffraganError, match=r"^There is no method 'magic'; choose from image, "):
        METHODS["magic"]
    assert METHODS.get("magic") is None
