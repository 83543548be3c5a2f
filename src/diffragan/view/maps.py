"""A map and what lies beside it: sections, the scene that turns, words."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.mrc import read_map
from diffragan.report.html import render
from diffragan.report.map_page import map_scene
from diffragan.report.map_report import MapReport, describe_map, numbers
from diffragan.report.plotting import limits
from diffragan.report.viewer.scene import scene_text
from diffragan.view.pictures import Picture

Array = NDArray[Any]

_AXES = {"z": 0, "y": 1, "x": 2}
_RIGHT_UP = {"z": "x right, y up", "y": "x right, z up", "x": "y right, z up"}
_VOLUMES = {
    "map": "map",
    "extended": "model's map to 0.9 Å",
    "half1": "half map 1",
    "half2": "half map 2",
    "mask": "mask",
}
_SCENE = re.compile(r'<script type="application/json" id="scene">(.*?)</script>', re.DOTALL)
_LEVELS_FROM = 2_000_000


class MapView:
    """Volumes of one size, by the names of `volumes`, each a file.

    Raises:
        DiffraganError: the first is no cubic map.
    """

    def __init__(self, path: Path, files: Mapping[str, Path], metrics: Mapping[str, Any]) -> None:
        self.path, self.files, self.metrics = path, dict(files), metrics
        self._lock = Lock()
        self.read = lru_cache(maxsize=4)(self._read)
        self.first = next(iter(files))
        volume, self.voxel_A = self.read(self.first)[:2]
        self.n = len(volume)

    def _read(self, name: str) -> tuple[Array, float, tuple[float, float]]:
        """A volume [z, y, x], its voxel, and the grey levels that all its sections share."""
        if name not in self.files:
            raise DiffraganError(f"There is no map “{name}”; there are {', '.join(self.files)}.")
        volume, voxel_A = read_map(self.files[name])
        every = max(1, volume.size // _LEVELS_FROM)
        return volume, voxel_A, limits(volume.ravel()[::every])

    @property
    def json(self) -> dict[str, Any]:
        """What the page needs to know before it draws."""
        volumes = [{"name": name, "label": _VOLUMES.get(name, name)} for name in self.files]
        return {"volumes": volumes, "n": self.n, "voxel_A": self.voxel_A}

    def section(self, name: str, axis: str, index: int) -> Picture:
        """A section across an axis, z, y or x, at voxel `index` of it.

        Raises:
            DiffraganError: no such map, axis or section.
        """
        with self._lock:
            volume, voxel_A, levels = self.read(name)
        if axis not in _AXES or not 0 <= index < len(volume):
            raise DiffraganError(
                f"Sections go across x, y or z, from 0 to {len(volume) - 1}; there is no {axis} "
                f"{index}."
            )
        place = (index - len(volume) // 2) * voxel_A
        title, unit = f"{axis} = {place:.1f} Å, {_RIGHT_UP[axis]}", _VOLUMES.get(name, name)
        return Picture(volume.take(index, _AXES[axis]), levels, title, unit, voxel_A)

    def scene(self) -> str:
        """The scene that turns, as JSON: that of the folder's page where it shows atoms, else of
        the map."""
        page = self.path / "report.html"
        if "extended" in self.files and page.is_file():
            found = _SCENE.search(page.read_text("utf-8"))
            if found and json.loads(found[1]):
                return found[1]
        mask = self.read("mask")[0] if "mask" in self.files else None
        with self._lock:
            volume = self.read(self.first)[0]
        return str(scene_text(map_scene(_report(volume, self.voxel_A, mask, self.metrics))))

    def stage(self) -> str:
        """The viewer's place and its controls, as HTML."""
        return render("viewer_part.html", scene=json.loads(self.scene()))


def reconstruction_words(folder: Path, metrics: Mapping[str, Any]) -> tuple[list[str], dict]:  # type: ignore[type-arg]
    """Sentences on a reconstruction, and its numbers in words, as its page has them."""
    path = folder / "fsc.csv"
    if not path.is_file():
        return [], {}
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if float(row["q_per_A"]) > 0]
    curves = {name: torch.tensor([float(row.get(name) or "nan") for row in rows])
              for name in ("q_per_A", "half", "truth")}  # fmt: skip
    truth = None if curves["truth"].isnan().all() else curves["truth"]
    n = round(float(metrics.get("box_A", 0)) * float(metrics.get("padding", 1))
              / float(metrics.get("voxel_A", 1)))  # fmt: skip
    report = MapReport(
        np.zeros((n, 1, 1)), float(metrics.get("voxel_A", 0)), None, curves["q_per_A"],
        curves["half"], truth, [], np.zeros((0, 3, 3)), np.zeros(0), metrics, "",
    )  # fmt: skip
    return describe_map(report), numbers(report)


def _report(
    volume: Array, voxel_A: float, mask: Array | None, metrics: Mapping[str, Any]
) -> MapReport:
    """A map alone, as what makes its scene takes it."""
    inside = None if mask is None else mask > 0.5
    nothing = torch.zeros(1)
    return MapReport(volume, voxel_A, inside, nothing, nothing, None, [], np.zeros((0, 3, 3)),
                     np.zeros(0), metrics, "")  # fmt: skip
