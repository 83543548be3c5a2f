"""What an HTML page of a report would load and show."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """What a page would load, the texts for its pictures, its scripts, and its viewer's data."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.alts: list[str] = []
        self.scripts = 0
        self.data = ""
        self._in_data = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data") and value:
                self.loaded.append(value)
        self.scripts += tag in ("script", "link", "iframe")
        if tag == "img":
            self.alts.append(dict(attrs).get("alt") or "")
        self._in_data = ("type", "application/json") in attrs

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data += data
            self._in_data = False
