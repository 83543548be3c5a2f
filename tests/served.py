"""A page of `diffragan view` served from this process, and a source of as many pairs as wanted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
from numpy.typing import NDArray

from diffragan.files.store import Selection
from diffragan.optics import Optics
from diffragan.pairs.pairs import Pairs
from diffragan.settings import Settings
from diffragan.view.items import VERDICTS, Items
from diffragan.view.opened import Opened
from diffragan.view.running import bound, server_on
from diffragan.view.table import Column, named_column


@contextmanager
def served(opened: Opened, fragment: str = "") -> Iterator[str]:
    """Its address, token and all."""
    told: Queue[str] = Queue()
    with bound(0) as listener:
        server = server_on(listener, opened, told.put, fragment)
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield told.get(timeout=20)
        finally:
            server.should_exit = True
            thread.join(10)


def fetched(address: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers by their names in small letters, and body."""
    try:
        with urlopen(Request(address, method=method, headers=headers), timeout=20) as answer:
            return answer.status, _small(answer.headers), answer.read()
    except HTTPError as error:
        with error:
            return error.code, _small(error.headers), error.read()


def _small(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def told(address: str) -> Any:
    """The JSON at an address."""
    return json.loads(fetched(address)[2])


class ManyPairs(Pairs):
    """n pairs of 16 x 16 pixels; pair k has one bright pixel in its image, at k modulo 256."""

    def __init__(self, n: int) -> None:
        self.n, self.path = n, Path("many.zarr")
        self.optics, self.settings = Optics(200e3, 32.0, 0.0), Settings()
        self.pattern_mask = np.ones((16, 16), dtype=bool)
        self.structures, self.structure_index = (), np.zeros(n, dtype=np.int64)
        self.rotation = None

    def pattern(self, items: Selection) -> NDArray[np.float32]:
        return np.full((len(np.atleast_1d(items)), 16, 16), 0.01, np.float32)  # type: ignore[arg-type]

    def image(self, items: Selection) -> NDArray[np.float32]:
        chosen = np.atleast_1d(np.asarray(items))
        images = np.ones((len(chosen), 256), np.float32)
        images[np.arange(len(chosen)), chosen % 256] = 2
        return images.reshape(-1, 16, 16)

    def image_dose(self, items: Selection) -> NDArray[np.float64]:
        return np.full(len(np.atleast_1d(items)), np.inf)  # type: ignore[arg-type]


def many(n: int) -> Opened:
    """n pairs as if they were phased: R falls with the item, every third is not solved, and every
    hundredth has no R."""
    items = Items(ManyPairs(n), None)
    rows = np.arange(n)
    r = np.where(rows % 100 == 7, np.nan, 0.5 - 0.4 * rows / n)
    items.table.add(Column("r", "R", r, form=".3f"))
    items.table.add(Column("trust", "trust", rows % 101 / 100, form=".2f", bar=True))
    words = [VERDICTS[int(k % 3 == 0)] for k in rows]
    items.table.add(named_column("verdict", "verdict", words, first=VERDICTS))
    return Opened(Path("many.zarr"), "result store", items=items)
