"""A scan's folder: its positions where they lie, with the patterns that belong to them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from devtools import Browser, browser
from diffragan.errors import DiffraganError
from diffragan.view.opened import open_path
from diffragan.view.shown import picture_of
from phased_world import World
from scan_folder import CENTRE, COLUMNS, PAIRED, PIXEL_A, ROWS, class_of, make_scan_folder, place_A
from served import served, told

READY = "document.body.dataset.state === 'ready'"


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished scan of 12 x 16 positions and five pairs."""
    return make_scan_folder(tmp_path_factory.mktemp("scan") / "session", world.blind.path)


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Its page."""
    with served(open_path(folder)) as at:
        yield at


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for the module's tests."""
    with browser(tmp_path_factory.mktemp("browser")) as one:
        yield one


def test_positions_lie_where_the_table_puts_them(address: str) -> None:
    """In pixels of the overview, each with its class."""
    scan = told(address + "api/scan")
    assert scan["shape"] == [ROWS, COLUMNS]
    for k in (0, 37, ROWS * COLUMNS - 1):
        x, y = place_A(k)
        assert scan["x"][k] == pytest.approx(x / PIXEL_A, abs=0.01)
        assert scan["y"][k] == pytest.approx(y / PIXEL_A, abs=0.01)
        assert scan["names"][scan["class"][k]] == class_of(k)
    assert sum(scan["counts"]) == ROWS * COLUMNS
    assert [layer["name"] for layer in scan["layers"]] == ["overview", "dark_field", "bright_field"]


def test_a_large_overview_is_reduced_and_keeps_its_places(folder: Path, tmp_path: Path) -> None:
    """Of 5,000 pixels a side at most 2,048 are shown; a spot stays under its position."""
    import json
    import shutil

    import mrcfile

    large = tmp_path / "large"
    shutil.copytree(folder, large)
    values = np.zeros((4200, 5000), np.float32)
    x, y = place_A(37)
    pixel = 0.3
    values[
        round(y / pixel) - 2 : round(y / pixel) + 3, round(x / pixel) - 2 : round(x / pixel) + 3
    ] = 9
    with mrcfile.new(large / "overview.mrc", overwrite=True) as mrc:
        mrc.set_data(values)
    session = json.loads((large / "session.json").read_text()) | {"overview_pixel_A": pixel}
    (large / "session.json").write_text(json.dumps(session))
    opened = open_path(large)
    assert opened.scan is not None
    shown = opened.scan.picture("overview").values
    assert max(shown.shape) <= 2048
    weight = shown / shown.sum()
    rows, columns = np.indices(shown.shape)
    at_x, at_y = (values[37] for values in opened.scan.places("overview"))
    assert (weight * columns).sum() == pytest.approx(at_x, abs=0.25)
    assert (weight * rows).sum() == pytest.approx(at_y, abs=0.25)


def test_a_position_has_its_own_pattern(address: str, folder: Path) -> None:
    """That of its pair where there is one, else the frame of the scan's file."""
    paired, single = told(f"{address}api/position/{PAIRED[2]}"), told(f"{address}api/position/41")
    assert paired["names"] == ["pair/2/pattern", "pair/2/image"]
    assert paired["pair"] == 2
    assert single["names"] == ["position/41"]
    assert dict(single["facts"])["class"] == class_of(41)
    opened = open_path(folder)
    frame = picture_of(opened, "position/41")
    assert np.argmax(frame.values) == 41
    assert frame.centre == (CENTRE[1], CENTRE[0])
    assert told(f"{address}api/item/2")["position"] == PAIRED[2]


def test_without_the_scans_file_it_says_so(world: World, tmp_path: Path) -> None:
    """Pairs are shown all the same."""
    opened = open_path(make_scan_folder(tmp_path / "session", world.blind.path, scan=False))
    with pytest.raises(DiffraganError, match="not there any more; only what became a pair"):
        picture_of(opened, "position/41")
    assert picture_of(opened, "pair/2/pattern").values.shape == world.blind.pattern_mask.shape


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("session.json", b"{", "can't be read as a scan"),
        ("session.json", b"{}", "can't be read as a scan"),
        ("positions.csv", b"index,row\n1,2\n", "no column column"),
        ("positions.csv", b"", "can't be read as a scan"),
    ],
)
def test_a_damaged_folder_is_refused(
    folder: Path, tmp_path: Path, file: str, content: bytes, says: str
) -> None:
    """In a sentence that names it."""
    import shutil

    shutil.copytree(folder, tmp_path / "torn")
    (tmp_path / "torn" / file).write_bytes(content)
    with pytest.raises(DiffraganError, match=re.escape(says)):
        open_path(tmp_path / "torn")


def test_a_click_on_the_overview_shows_the_position_there(tab: Browser, address: str) -> None:
    """Under the mouse, by arrow keys, on another picture, and from the pair back to the scan."""
    tab.show(address)
    tab.until(READY)
    tab.until("document.querySelector('#scan').dataset.drawn === 'overview'")
    look = tab.value(
        "(() => { const g = document.querySelector('.ground');"
        "const s = Math.min(g.clientWidth / 220, g.clientHeight / 180) * 0.96;"
        "return [s, (g.clientWidth - 220 * s) / 2, (g.clientHeight - 180 * s) / 2,"
        "g.clientWidth, g.clientHeight]; })()"
    )
    x, y = (v / PIXEL_A + 0.5 for v in place_A(PAIRED[1]))
    tab.click(
        ".ground", (look[1] + x * look[0] + 3) / look[3], (look[2] + y * look[0] - 2) / look[4]
    )
    tab.until(f"document.querySelector('#scan').dataset.shown === '{PAIRED[1]}'")
    row, column = divmod(PAIRED[1], COLUMNS)
    title = tab.value("document.querySelector('#position h2').textContent")
    assert title == f"row {row}, column {column}"
    tab.until("document.querySelectorAll('#position .picture[data-state=shown]').length === 2")
    tab.key("ArrowDown")
    tab.key("ArrowLeft")
    beside = PAIRED[1] + COLUMNS - 1
    tab.until(f"document.querySelector('#scan').dataset.shown === '{beside}'")
    tab.until("document.querySelectorAll('#position .picture:not([hidden])').length === 1")
    tab.value(
        "(() => { const layer = document.querySelector('#layer'); layer.value = 'dark_field';"
        "layer.dispatchEvent(new Event('change')); })()"
    )
    tab.until("document.querySelector('#scan').dataset.drawn === 'dark_field'")
    command = tab.value("document.querySelector('#command').textContent")
    assert command.endswith(f"--open 'scan/{beside}?layer=dark_field'")
    tab.click("#tabs [data-tab=pairs]")
    tab.until("document.querySelectorAll('#item .picture[data-state=shown]').length === 2")
    tab.until("document.querySelector('#item .goes')")
    tab.click("#item .goes")
    tab.until(f"document.querySelector('#scan').dataset.shown === '{PAIRED[0]}'")
    tab.until("document.querySelector('#position .goes')")
    tab.click("#position .goes")
    tab.until("!document.querySelector('#pairs').hidden")
    assert tab.value("document.querySelector('#item h2').textContent") == "item 0"
    assert not tab.console


@pytest.mark.parametrize("width", [1400, 500])
def test_it_fits(tab: Browser, address: str, width: int) -> None:
    """Nothing is wider than the window."""
    tab.show("about:blank")
    tab.show(f"{address}#scan/{PAIRED[0]}", width=width)
    tab.until(READY)
    tab.until("document.querySelectorAll('#position .picture[data-state=shown]').length === 2")
    assert not tab.value("document.documentElement.scrollWidth > innerWidth")
    assert not tab.console
