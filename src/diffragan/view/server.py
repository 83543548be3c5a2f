"""The page's server: addresses to parts of what was opened, for one browser on this machine.

Every address begins with a token that only the printed URL tells; nothing but GET is answered, and
only under the machine's own name, so that no other page can reach in.
"""

from __future__ import annotations

import shlex
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.resources import files
from secrets import compare_digest
from threading import Lock
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffragan import __version__
from diffragan.errors import DiffraganError
from diffragan.view.opened import Opened
from diffragan.view.scans import ScanView
from diffragan.view.shown import charts_of, picture_of, png_of

_NAMES = ("127.0.0.1", "localhost", "[::1]")
_TYPES = {"css": "text/css", "js": "text/javascript", "html": "text/html", "svg": "image/svg+xml"}
_MOST_ROWS = 500
_CACHE_BYTES = 64 << 20
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "style-src-attr 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Lets through GET under the machine's own names and with the token, and nothing else."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self.app, self.token = app, token
        self.hosts = {f"{name}:{port}" for name in _NAMES} | (set(_NAMES) if port == 80 else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await (refusal or self.app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        if Headers(scope=scope).get("host", "").lower() not in self.hosts:
            return PlainTextResponse("This page answers under 127.0.0.1 only.", 403)
        given = scope["path"].lstrip("/").partition("/")[0]
        if not compare_digest(given.encode(), self.token.encode()):
            return PlainTextResponse("Open the address that diffragan view printed.", 403)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("Nothing can be changed here.", 405, {"Allow": "GET"})
        return None


class Pages:
    """Answers to the page's questions on one opened path.

    made: PNGs by their addresses, the latest up to 64 MB.
    """

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.made: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()

    @property
    def routes(self) -> list[Route]:
        """Addresses below the token."""
        answers: Mapping[str, Callable[[Request], Response]] = {
            "/": self.page,
            "/static/{name}": self.static,
            "/api/source": self.source,
            "/api/rows": self.rows,
            "/api/item/{row:int}": self.item,
            "/api/charts": self.charts,
            "/api/scan": self.scan,
            "/api/position/{position:int}": self.position,
            "/api/scene": self.scene,
            "/api/stage": self.stage,
            "/picture/{name:path}": self.picture,
        }
        return [Route(path, _plainly(answer)) for path, answer in answers.items()]

    def page(self, request: Request) -> Response:
        return HTMLResponse(_static("index.html"))

    def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        text = self._scripts.get(name)
        if text is None:
            return PlainTextResponse("There is no such file.", 404)
        return Response(text, media_type=_TYPES[name.rsplit(".", 1)[1]])

    @cached_property
    def _scripts(self) -> dict[str, bytes]:
        own = files("diffragan.view") / "static"
        known = {one.name: one.read_bytes() for one in own.iterdir() if one.is_file()}
        viewer = files("diffragan.report") / "viewer"
        for name in ("3Dmol-min.js", "contour.js", "viewer.js", "viewer.css"):
            known[name] = (viewer / name).read_bytes()
        return {name: text for name, text in known.items() if name.rsplit(".", 1)[1] in _TYPES}

    def source(self, request: Request) -> Response:
        opened, items = self.opened, self.opened.items
        told: dict[str, Any] = {
            "path": str(opened.path), "name": opened.path.resolve().name, "kind": opened.kind,
            "says": list(opened.says), "numbers": list(opened.numbers.items()),
            "settings": opened.settings_toml, "tabs": opened.tabs, "version": __version__,
            "command": shlex.join(["diffragan", "view", str(opened.path)]),
            "map": opened.map and opened.map.json,
        }  # fmt: skip
        if items is not None:
            told["items"] = {"n": items.n, "kinds": list(items.kinds), "missing": items.missing}
        return JSONResponse(told)

    def rows(self, request: Request) -> Response:
        asked, items = request.query_params, self.opened.items
        if items is None:
            raise DiffraganError("There are no pairs here.")
        sort, filter_ = asked.get("sort", ""), asked.get("filter", "")
        order = items.table.order(sort, filter_)
        offset, limit = _whole(asked.get("offset")), min(_whole(asked.get("limit")), _MOST_ROWS)
        told: dict[str, Any] = {"total": len(order), "n": items.n, "offset": offset}
        told["rows"] = items.table.page(order, offset, limit)
        if "at" in asked:
            place = (order == _whole(asked["at"])).nonzero()[0]
            told["place"] = int(place[0]) if len(place) else None
        if "columns" in asked:
            told["columns"] = [
                {"name": c.name, "label": c.label, "unit": c.unit, "about": c.about, "bar": c.bar,
                 "names": list(c.names), "middle": items.table.middle(c.name),
                 "varies": items.table.varies(c.name)}
                for c in items.table.columns.values()
            ]  # fmt: skip
            told |= {"later": items.later, "warning": items.warning}
        if name := asked.get("histogram"):
            told["histogram"] = items.table.histogram(name, items.table.passing(filter_))
        return JSONResponse(told)

    def item(self, request: Request) -> Response:
        items, row = self.opened.items, request.path_params["row"]
        if items is None:
            raise DiffraganError("There are no pairs here.")
        trust, scan = items.trust(row), self.opened.scan
        return JSONResponse({
            "row": row, "title": items.title(row), "facts": items.facts(row),
            "kinds": list(items.kinds), "trust": trust and trust.json,
            "position": scan and scan.positions_of_pairs.get(row),
        })  # fmt: skip

    def charts(self, request: Request) -> Response:
        return JSONResponse([chart.json for chart in charts_of(self.opened)])

    def scan(self, request: Request) -> Response:
        return JSONResponse(self._scan.json)

    def position(self, request: Request) -> Response:
        scan, position = self._scan, request.path_params["position"]
        items, pair = self.opened.items, scan.pair(position)
        facts, names = scan.facts(position), [f"position/{position}"]
        if items is not None and pair is not None:
            names = [f"pair/{pair}/{kind}" for kind in items.kinds]
        row, column = divmod(position, scan.shape[1])
        return JSONResponse({
            "title": f"row {row}, column {column}", "facts": facts, "pair": pair, "names": names,
        })  # fmt: skip

    @property
    def _scan(self) -> ScanView:
        if self.opened.scan is None:
            raise DiffraganError("There is no scan here.")
        return self.opened.scan

    def scene(self, request: Request) -> Response:
        if self.opened.map is None:
            raise DiffraganError("There is no map here.")
        return Response(self.opened.map.scene(), media_type="application/json")

    def stage(self, request: Request) -> Response:
        if self.opened.map is None:
            raise DiffraganError("There is no map here.")
        return HTMLResponse(self.opened.map.stage())

    def picture(self, request: Request) -> Response:
        """`NAME.json` tells what a picture is, `NAME.png` are its pixels, `NAME.png?figure` is the
        figure to keep."""
        name, _, form = request.path_params["name"].rpartition(".")
        if form == "json":
            return JSONResponse(picture_of(self.opened, name).about)
        if form != "png":
            return PlainTextResponse("There is no such picture.", 404)
        figure = "figure" in request.query_params
        headers = {"Cache-Control": "private, max-age=600"}
        if figure:
            kept = name.replace("/", "-")
            headers["Content-Disposition"] = f'attachment; filename="{kept}.png"'
        key = f"{name}?{figure}"
        with self._lock:
            made = self.made.get(key)
        if made is None:
            made = png_of(self.opened, name, figure=figure)
            self._keep(key, made)
        return Response(made, media_type="image/png", headers=headers)

    def _keep(self, key: str, made: bytes) -> None:
        with self._lock:
            self.made[key] = made
            while sum(map(len, self.made.values())) > _CACHE_BYTES and len(self.made) > 1:
                self.made.popitem(last=False)


def application(opened: Opened, token: str, port: int) -> ASGIApp:
    """The server of one opened path, behind its guard."""
    return Guard(Starlette(routes=[Mount(f"/{token}", routes=Pages(opened).routes)]), token, port)


def _plainly(answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """Bad requests and damaged files are told in their sentence."""

    def inner(request: Request) -> Response:
        try:
            return answer(request)
        except DiffraganError as error:
            return JSONResponse({"error": str(error)}, 422)

    return inner


def _whole(text: str | None) -> int:
    try:
        return max(0, int(text or 0))
    except ValueError:
        raise DiffraganError(f"“{text}” is no whole number.") from None


def _static(name: str) -> str:
    return (files("diffragan.view") / "static" / name).read_text("utf-8")
