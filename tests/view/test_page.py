"""The page in Chromium, with real clicks and keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from devtools import Browser, browser
from diffragan.files.mrc import write_map
from diffragan.files.store import ResultStore
from diffragan.view.opened import Opened, open_path
from page import ball
from served import many, served

READY = "document.body.dataset.state === 'ready'"
OVERFLOWS = "document.documentElement.scrollWidth > innerWidth"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for the module's tests."""
    with browser(tmp_path_factory.mktemp("browser")) as one:
        yield one


@pytest.fixture(scope="module")
def rows() -> Iterator[str]:
    """A page of a hundred thousand pairs."""
    with served(many(100_000)) as at:
        yield at


def shown(tab: Browser, address: str, **window: object) -> None:
    """Opens a page anew and waits until it stands."""
    tab.show("about:blank")
    tab.console.clear()
    tab.show(address, **window)  # type: ignore[arg-type]
    tab.until(READY)


def chosen(tab: Browser) -> str:
    """Title of the item that is shown."""
    return str(tab.value("document.querySelector('#item h2').textContent"))


def test_of_many_rows_only_those_in_sight_are_in_the_page(tab: Browser, rows: str) -> None:
    """Scrolled to any place, the rows there are those of the order."""
    shown(tab, rows)
    tab.until("document.querySelector('#count').textContent === '100,000'")
    for part in (0.31, 0.77, 1.0, 0.0):
        first = tab.value(
            "(() => { const t = document.querySelector('#table'); t.scrollTop = "
            f"{part} * (t.scrollHeight - t.clientHeight); return t.scrollTop / 32; }})()"
        )
        tab.until(
            "[...document.querySelectorAll('#table .row.body:not([hidden])')]"
            f".some((row) => row.firstChild.textContent === '{int(first) + 3}')"
        )
        assert tab.value("document.querySelectorAll('#table .row.body').length") < 60
        tab.until("!document.querySelector('#table .row.empty:not([hidden])')")
    assert not tab.console


def test_keys_choose_and_a_filter_keeps(tab: Browser, rows: str) -> None:
    """Arrows, End, a slash and a filter; the command follows, and opens the same view again."""
    shown(tab, rows)
    tab.until("document.querySelector('#item h2').textContent === 'item 0'")
    tab.key("ArrowDown")
    tab.key("ArrowDown")
    tab.until("document.querySelector('#item h2').textContent === 'item 2'")
    tab.key("End")
    tab.until("document.querySelector('#item h2').textContent === 'item 99999'")
    tab.key("/")
    assert tab.value("document.activeElement.id") == "filter"
    tab.type("r < 0.2 verdict = solved")
    tab.until("document.querySelector('#count').textContent.startsWith('16,')")
    tab.key("Enter")
    tab.click("#table .head button:nth-child(2)")
    tab.until("document.querySelector('#table [data-sorted=up]')")
    tab.key("Home")
    tab.until("document.querySelector('#item h2').textContent === 'item 99998'")
    command = tab.value("document.querySelector('#command').textContent")
    assert command.endswith("--open 'pairs/99998?sort=r&filter=r < 0.2 verdict = solved'")
    fragment = command.split("--open ")[1].strip("'")
    shown(tab, rows + "#" + fragment)
    tab.until("document.querySelector('#item h2').textContent === 'item 99998'")
    assert tab.value("document.querySelector('#filter').value") == "r < 0.2 verdict = solved"
    assert not tab.console


def test_the_view_to_begin_with_is_in_the_address(tab: Browser) -> None:
    """Encoded, so that the printed line is one word."""
    with served(many(300), 'pairs/12?sort=-r&filter=r < 0.49 verdict = "not solved"') as at:
        assert " " not in at
        assert '"' not in at
        shown(tab, at)
        tab.until("document.querySelector('#item h2').textContent === 'item 12'")
        words = tab.value("document.querySelector('#filter').value")
        assert words == 'r < 0.49 verdict = "not solved"'
    tab.key("ArrowDown")
    tab.until("document.querySelector('.picture .why')?.textContent.includes('start it again')")


def test_a_click_on_a_row_shows_its_pictures(tab: Browser, rows: str) -> None:
    """The image of item k has its bright pixel at k."""
    shown(tab, rows)
    tab.until("document.querySelectorAll('#table .row.body:not(.empty)').length > 20")
    tab.click("#table .row.body:nth-child(9)")
    tab.until("document.querySelector('#item h2').textContent === 'item 8'")
    tab.until("document.querySelectorAll('.picture[data-state=shown]').length === 2")
    tab.until("document.querySelector('.picture:nth-child(2) img').src.includes('pair/8/image')")
    place = tab.value(
        "(() => { const image = document.querySelector('.picture:nth-child(2) img');"
        "const c = document.createElement('canvas'); c.width = c.height = 16;"
        "const d = c.getContext('2d'); d.drawImage(image, 0, 0);"
        "const p = d.getImageData(0, 0, 16, 16).data; let k = 0;"
        "for (let i = 0; i < 256; i++) if (p[4 * i] > p[4 * k]) k = i;"
        "return [k % 16, 15 - Math.floor(k / 16)]; })()"
    )
    assert place == [8, 0]
    tab.click(".picture:nth-child(2) .frame")
    tab.until("document.querySelector('#large[open] .picture[data-state=shown]')")
    said = tab.value("document.querySelector('#large code').textContent")
    assert said == "diffragan view many.zarr --picture pair/8/image --out pair-8-image.png"
    tab.key("Escape")
    assert not tab.console


def test_a_filter_that_can_not_be_read_is_said(tab: Browser, rows: str) -> None:
    """The rows stay, and nothing else breaks."""
    shown(tab, rows)
    tab.key("/")
    tab.type("wrong < 2")
    tab.until("!document.querySelector('#refused').hidden")
    assert "no column “wrong”" in tab.value("document.querySelector('#refused').textContent")
    tab.key("Escape")
    tab.until("document.querySelector('#refused').hidden")


@pytest.mark.parametrize("width", [1400, 500])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_follows_the_system(
    tab: Browser, noisy: ResultStore, width: int, scheme: str
) -> None:
    """Nothing is wider than the window; the paper is that of the scheme until the switch turns."""
    with served(open_path(noisy.path)) as at:
        shown(tab, at, width=width, height=900, scheme=scheme)
        tab.until("document.querySelectorAll('.picture[data-state=shown]').length === 5")
        assert not tab.value(OVERFLOWS)
        bright = "getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] > 128"
        assert tab.value(bright) == (scheme == "light")
        for wanted in (True, False):
            tab.click("#theme")
            assert tab.value(bright) == wanted
        assert not tab.console


def test_a_map_turns_and_its_sections_move_each_other(tab: Browser, tmp_path: Path) -> None:
    """The viewer stands; a click in the section across z sets x and y."""
    volume = ball(48, 9.0, 1.0, (5.0, -3.0, 8.0)) + 0.01 * np.random.default_rng(0).random([48] * 3)
    write_map(tmp_path / "ball.mrc", volume, 1.0, "ball")
    opened: Opened = open_path(tmp_path / "ball.mrc")
    with served(opened) as at:
        shown(tab, at)
        tab.until("document.querySelector('#viewer')?.dataset.state === 'ready'")
        assert int(tab.value("document.querySelector('#viewer').dataset.triangles")) > 500
        tab.until("document.querySelectorAll('.sections .picture[data-state=shown]').length === 3")
        # Across z: x = 24 + 5, y = 24 - 3 of 48, which y up puts at 1 - 21.5 / 48 from the top.
        tab.click(".sections > div:nth-child(2) .frame", 29.5 / 48, 1 - 21.5 / 48)
        tab.until("document.querySelector('#command').textContent.includes('map?x=29&y=21')")
        tab.until("document.querySelectorAll('.sections img')[2].src.includes('map/x/29')")
        tab.click("#tabs [data-tab=about]")
        tab.until("document.querySelector('#about dl')")
    assert not tab.console
