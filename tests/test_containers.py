"""The Dockerfile and the Apptainer definition install the same, of the versions that are locked."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
RECIPES = ("Dockerfile", "diffragan.def")
# What no constraints file says: parts of pip itself.
NOT_LOCKED = {"setuptools"}


def recipe(name: str) -> str:
    """A recipe's text."""
    return (ROOT / "release" / name).read_text("utf-8")


def installs(name: str) -> list[str]:
    """Its calls of pip, without the word that begins the line."""
    return re.findall(r"^\s*(?:RUN )?(python -m pip install .*)$", recipe(name), re.MULTILINE)


def copied(name: str) -> set[str]:
    """What it takes from the checkout."""
    if name == "Dockerfile":
        lines = re.findall(r"^COPY (.*) \S+$", recipe(name), re.MULTILINE)
        return {word for line in lines for word in line.split()}
    files = recipe(name).split("%files")[1].split("%post")[0]
    return {line.split()[0] for line in files.strip().splitlines()}


def base(name: str) -> str:
    """The image that it begins with."""
    found = re.search(r"^From:? (\S+)$", recipe(name), re.MULTILINE | re.IGNORECASE)
    assert found
    return found[1]


def test_both_recipes_install_the_same() -> None:
    """On the same Python, from the same files, by the same commands."""
    one, other = RECIPES
    assert base(one) == base(other)
    assert copied(one) == copied(other)
    assert installs(one) == installs(other) != []


@pytest.mark.parametrize("name", RECIPES)
def test_every_install_is_of_the_locked_versions(name: str) -> None:
    assert all("-c constraints.txt" in line for line in installs(name))
    assert "constraints.txt" in copied(name)


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_copied_is_there(name: str) -> None:
    assert all((ROOT / path).exists() for path in copied(name))


def declared() -> list[str]:
    """Requirements of the package, with the extras that are installed where it is used."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *extras["instruments"], *extras["tensorboard"]]


def needed(lines: Sequence[str], extras: tuple[str, ...], seen: set[str]) -> Iterator[str]:
    """Distributions that some requirements name, and that these need here."""
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        wanted = marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras))
        other = canonicalize_name(requirement.name)
        if wanted and other not in seen:
            seen.add(other)
            yield other
            below = importlib.metadata.requires(other) or []
            yield from needed(below, tuple(requirement.extras), seen)


def test_the_lock_holds_all_that_an_image_installs() -> None:
    """What our dependencies bring too, or two builds of one release would differ."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    locked = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    brought = set(needed(declared(), (), set()))
    # PyTorch names the GPU libraries of its plain wheel with their versions.
    unlocked = {n for n in brought - locked - NOT_LOCKED if not n.startswith(("nvidia-", "cuda-"))}
    assert not unlocked, f"add {sorted(unlocked)} to constraints.txt"
