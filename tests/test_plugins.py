"""Plug-ins: packages that offer entry points, as the package sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffragan.errors import DiffraganError
from diffragan.plugins import load_plugins
from plugin_packages import install


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
