"""How soon `diffragan view` shows a picture, and how a hundred thousand rows scroll, in Chromium.

    python -m benchmarks.view_page STORE

The first number is from the command's start to the first picture in the page. Rows are a made-up
source of 100,000 pairs, scrolled a frame at a time: by three rows a frame, as a wheel does, and
from top to bottom by 1,000 rows a frame. Work is what the page's main thread did for a
frame (the protocol's TaskDuration); the time between frames is beside it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from devtools import Browser, browser
from served import many, served

_ROWS = 100_000
_FRAMES = 60
_SHOWN = "document.querySelector('.picture[data-state=shown]')"
_SCROLL = """(async () => {
  const table = document.querySelector("#table"), times = [];
  let rows = 0;
  table.scrollTop = 0;
  for (let k = 0; k <= FRAMES; k++) {
    table.scrollTop += STEP;
    times.push(await new Promise((done) => requestAnimationFrame(done)));
    rows = Math.max(rows, document.querySelectorAll("#table .row.body").length);
  }
  const gaps = times.slice(1).map((t, k) => t - times[k]).sort((a, b) => a - b);
  return [gaps[gaps.length >> 1], gaps.at(-1), rows];
})()""".replace("FRAMES", str(_FRAMES))
_IDLE = _SCROLL.replace("STEP", "0")
_FILLED = "!document.querySelector('#table .row.empty:not([hidden])')"


def first_picture(tab: Browser, store: str) -> float:
    """Seconds from the command to the first picture."""
    start = time.monotonic()
    words = [sys.executable, "-m", "diffragan", "view", store, "--no-browser"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, text=True, **pipes) as program:
        assert program.stdout is not None
        tab.show(program.stdout.readline().strip())
        tab.until(_SHOWN, 120)
        seconds = time.monotonic() - start
        program.terminate()
    return seconds


def work_s(tab: Browser) -> float:
    """What the page's main thread has worked so far."""
    found = tab.call("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in found if one["name"] == "TaskDuration"))


def scrolled(tab: Browser, what: str, script: str) -> None:
    """One way to scroll, told in a line."""
    before = work_s(tab)
    median, most, rows = tab.value(script)
    each = 1e3 * (work_s(tab) - before) / _FRAMES
    start = time.monotonic()
    tab.until(_FILLED)
    print(
        f"{what}: {each:.1f} ms of work a frame; {median:.0f} ms between frames, at most "
        f"{most:.0f}; {rows} rows in the page; all filled {time.monotonic() - start:.2f} s after"
    )


def main(store: str) -> None:
    """Both measurements, in words."""
    with tempfile.TemporaryDirectory() as scratch, browser(Path(scratch)) as tab:
        seconds = [first_picture(tab, store) for _ in range(3)]
        print("first picture: " + ", ".join(f"{s:.1f} s" for s in seconds))
        tab.call("Performance.enable", timeDomain="threadTicks")
        with served(many(_ROWS)) as at:
            start = time.monotonic()
            tab.show(at)
            tab.until(_SHOWN, 60)
            print(f"page of {_ROWS:,} rows with its pictures: {time.monotonic() - start:.2f} s")
            scrolled(tab, "at rest", _IDLE)
            scrolled(tab, "by three rows a frame", _SCROLL.replace("STEP", "96"))
            scrolled(tab, "by 1,000 rows a frame", _SCROLL.replace("STEP", "32000"))
            address = "'api/rows?sort=-r&filter=verdict = solved&limit=200'"
            took = tab.value(
                "(async () => { const t = performance.now();"
                f"await (await fetch({address})).json(); return performance.now() - t; }})()"
            )
            print(f"filtered and sorted anew: {took:.0f} ms")


if __name__ == "__main__":
    main(sys.argv[1])
