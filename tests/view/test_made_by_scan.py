"""The page of a folder that `diffragan scan` made, of a virtual session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from devtools import browser
from diffragan.files.store import MeasurementStore
from diffragan.inspection.frames import open_frames
from diffragan.view.opened import Opened, open_path
from diffragan.view.shown import picture_of
from served import served, told
from session_world import SessionWorld


@pytest.fixture
def opened(session_world: SessionWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """The folder, opened from elsewhere than where it was made."""
    monkeypatch.chdir(tmp_path)
    return open_path(session_world.folder)


def test_every_position_and_pair_is_there(opened: Opened, session_world: SessionWorld) -> None:
    with served(opened) as address:
        scan = told(address + "api/scan")
        found = session_world.found.session
        assert scan["shape"] == [20, 20]
        assert dict(zip(scan["names"], scan["counts"], strict=True)) == found["classes"]
        assert sorted(k for k in scan["pair"] if k >= 0) == list(range(found["pairs"]))
        names = [layer["name"] for layer in scan["layers"]]
        assert names == ["overview", "dark_field", "bright_field"]
        position = scan["pair"].index(0)
        assert told(f"{address}api/item/0")["position"] == position
        assert told(f"{address}api/position/{position}")["names"] == [
            "pair/0/pattern", "pair/0/image",
        ]  # fmt: skip


def test_a_pair_lies_where_its_particle_is(opened: Opened, session_world: SessionWorld) -> None:
    """Within the beam of its position, in pixels of the overview as shown."""
    assert opened.scan is not None
    places = MeasurementStore(session_world.found.pairs).read("place")
    x, y = opened.scan.places("overview")
    _, pixel, every = opened.scan.layer("overview")
    assert every == 1
    for pair, position in opened.scan.positions_of_pairs.items():
        apart = np.hypot(
            x[position] - places[pair, 1] / pixel, y[position] - places[pair, 0] / pixel
        )
        assert apart * pixel < 55


def test_a_position_without_a_pair_shows_the_detectors_frame(
    opened: Opened, session_world: SessionWorld
) -> None:
    assert opened.scan is not None
    empty = int(np.flatnonzero(opened.scan.classes == "empty")[-1])
    frame = picture_of(opened, f"position/{empty}")
    stack = open_frames([session_world.session / "scan.h5"], "pattern", None).stack
    counts = np.asarray(stack[empty], float)
    assert frame.values.shape == counts.shape
    assert np.argmax(frame.values) == np.argmax(counts)


def test_it_is_drawn(opened: Opened, tmp_path: Path) -> None:
    """In a browser: the overview, and a pair's two pictures."""
    assert opened.scan is not None
    position = opened.scan.positions_of_pairs[0]
    with served(opened) as address, browser(tmp_path / "browser") as tab:
        tab.show(f"{address}#scan/{position}")
        tab.until("document.querySelector('#scan').dataset.drawn === 'overview'")
        tab.until("document.querySelectorAll('#position .picture[data-state=shown]').length === 2")
        assert not tab.value("document.documentElement.scrollWidth > innerWidth")
        assert not tab.console
