"""Chromium driven through its DevTools protocol over two pipes: real clicks and keys."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from browser import chromium

_WORDS = (
    "--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run",
    "--enable-unsafe-swiftshader", "--use-angle=swiftshader", "--hide-scrollbars",
    "--force-prefers-reduced-motion", "--disable-dev-shm-usage",
)  # fmt: skip
_CODES = {
    "ArrowDown": 40, "ArrowUp": 38, "ArrowLeft": 37, "ArrowRight": 39, "End": 35, "Home": 36,
    "Enter": 13, "Escape": 27, "PageDown": 34,
}  # fmt: skip


class Browser:
    """One tab. console: errors and warnings that the page told."""

    def __init__(self, scratch: Path) -> None:
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # The protocol's pipes are the program's file descriptors 3 and 4.
        shell = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
        words = [chromium(), *_WORDS, f"--user-data-dir={scratch / 'profile'}", "about:blank"]
        self._program = subprocess.Popen(
            ["/bin/bash", "-c", shell, *words],
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._rest, self._number = b"", 0
        self.console: list[str] = []
        self._session = ""
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in targets if one["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        os.close(self._write)  # Chromium ends with its pipe
        try:
            self._program.wait(10)
        except subprocess.TimeoutExpired:
            self._program.kill()
            self._program.wait()
        os.close(self._read)

    def call(self, method: str, **asked: Any) -> dict[str, Any]:
        """One call of the protocol and its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": asked}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            told = self._message()
            if told.get("id") == self._number:
                assert "error" not in told, f"{method}: {told['error']}"
                result: dict[str, Any] = told["result"]
                return result

    def _message(self, timeout_s: float = 180) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], timeout_s)
            assert ready, "Chromium does not answer"
            some = os.read(self._read, 1 << 20)
            assert some, "Chromium ended"
            self._rest += some
        one, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(one)
        self._listen(told.get("method", ""), told.get("params", {}))
        return told

    def _listen(self, method: str, told: dict[str, Any]) -> None:
        if method == "Log.entryAdded" and told["entry"]["level"] in ("warning", "error"):
            self.console.append(told["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("warning", "error"):
            self.console.append(str([one.get("value") for one in told["args"]]))
        elif method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description", details["text"]))

    def value(self, script: str) -> Any:
        """What an expression of JavaScript gives, awaited."""
        asked = {"expression": script, "awaitPromise": True, "returnByValue": True}
        told = self.call("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, script: str, timeout_s: float = 30) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + timeout_s
        while not self.value(f"Boolean({script})"):
            assert time.monotonic() < end, f"never true: {script}\n{self.console}"
            time.sleep(0.03)

    def show(
        self, address: str, width: int = 1400, height: int = 900, scheme: str = "light"
    ) -> None:
        """Opens an address in a window of this size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def click(self, selector: str, part_x: float = 0.5, part_y: float = 0.5) -> None:
        """A click with the mouse on an element, at parts of its width and height."""
        box = self.value(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)}); "
            "one.scrollIntoView({ block: 'nearest' }); const b = one.getBoundingClientRect(); "
            "return [b.left, b.top, b.width, b.height]; })()"
        )
        x, y = box[0] + part_x * box[2], box[1] + part_y * box[3]
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name: str) -> None:
        """One key, pressed and released."""
        text = name if len(name) == 1 else ""
        code = _CODES.get(name, ord(name.upper()) if text else 0)
        asked: dict[str, Any] = {"key": name, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **asked)
        self.call("Input.dispatchKeyEvent", type="keyUp", **asked)

    def type(self, words: str) -> None:
        """Text into what has the focus."""
        self.call("Input.insertText", text=words)

    def screenshot(self, path: Path) -> None:
        """The window as a PNG file."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def browser(scratch: Path) -> Iterator[Browser]:
    """A browser with a fresh profile in `scratch`."""
    with Browser(scratch) as one:
        yield one
