"""A page opened in Chromium, as by a reader: its viewer's state, its console, a picture."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from numpy.typing import NDArray

REQUIRED = "DIFFRAGAN_REQUIRE_CHROMIUM"  # set, a missing browser is a failure
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_WORDS = (
    "--headless=new", "--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader",
    "--hide-scrollbars", "--no-first-run", "--enable-logging=stderr", "--virtual-time-budget=9000",
    "--window-size=800,900", "--force-prefers-reduced-motion", "--dump-dom",
)  # fmt: skip
# Runs a test's steps once the viewer stands; `settled` waits until what was asked for is drawn.
_DRIVER = """<script>(function () {
  const viewer = document.getElementById("viewer"), state = {};
  const part = (name) => viewer.querySelector(name);
  const settled = () => new Promise((done) => setTimeout(done, 120));
  const timer = setInterval(async () => {
    if (!viewer.dataset.state) return;
    clearInterval(timer);
    try { STEPS } catch (error) { console.error(`step failed: ${error}`); }
    await settled();
    const box = part(".stage").getBoundingClientRect();
    viewer.dataset.box = [box.left, box.top, box.right, box.bottom].map(Math.round).join(" ");
    for (const name in state) viewer.setAttribute(`data-seen-${name}`, String(state[name]));
    viewer.dataset.done = "yes";
  }, 50);
})();</script>"""


@dataclass(frozen=True)
class Opened:
    """state: the viewer's data attributes, what the steps put into `state` with "seen-" before
    its name. console: messages of the page. stage: (y, x, 3) pixels of the viewer, 0 to 1."""

    state: dict[str, str]
    console: list[str]
    stage: NDArray[np.float32]

    @property
    def drawn(self) -> float:
        """Part of the viewer's pixels that are not the background."""
        apart = np.abs(self.stage - self.stage[2, 2]).max(-1) > 0.1
        return float(apart.mean())


def chromium() -> str:
    """The browser; without one the test is skipped, or fails where the browser is required."""
    for name in _NAMES:
        if (path := shutil.which(name)) is not None:
            return path
    words = "no Chromium here, so pages are not opened in a browser"
    if os.environ.get(REQUIRED):
        pytest.fail(f"{words}, and {REQUIRED} is set; install chromium")
    pytest.skip(words)


def opened(page: Path, scratch: Path, steps: str = "", *options: str) -> Opened:
    """A page of `file://` after some steps in JavaScript.

    Args:
        scratch: an empty folder. steps: may use `viewer`, `part(selector)`, `await settled()`, and
            `state`, an object that comes back. options: further ones of the browser.
    """
    program = chromium()
    text = page.read_text("utf-8")
    driven = scratch / "driven.html"
    head, tail = text.rsplit("</body>", 1)
    driven.write_text(head + _DRIVER.replace("STEPS", steps) + "</body>" + tail, "utf-8")
    picture = scratch / "picture.png"
    words = [f"--user-data-dir={scratch / 'profile'}", f"--screenshot={picture}", driven.as_uri()]
    done = subprocess.run(
        [program, *_WORDS, *options, *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    parsed = _Viewer()
    parsed.feed(done.stdout)
    assert parsed.state.get("done"), f"the page's viewer never stood: {done.stderr[-2000:]}"
    left, top, right, bottom = (int(x) for x in parsed.state["box"].split())
    pixels: Any = matplotlib.image.imread(picture)
    console = re.findall(r":CONSOLE[:(]\d+\)?\] (.*)", done.stderr)
    return Opened(parsed.state, console, pixels[top:bottom, left:right, :3])


class _Viewer(HTMLParser):
    """Data attributes of the viewer."""

    def __init__(self) -> None:
        super().__init__()
        self.state: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if ("id", "viewer") in attrs:
            self.state = {k.removeprefix("data-"): v or "" for k, v in attrs if "data-" in k}
