"""What lies at a path, as the parts that the page shows of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffragan.errors import DiffraganError, one_line
from diffragan.files.store import Store, open_results, store_kind
from diffragan.pairs.open import open_pairs
from diffragan.settings import settings_from_dict, settings_to_toml
from diffragan.view.curves import Chart, folder_charts
from diffragan.view.items import Items, items_of_results
from diffragan.view.maps import MapView, reconstruction_words
from diffragan.view.scans import ScanView, is_scan

_MAPS = ("map.mrc", "extended.mrc", "half1.mrc", "half2.mrc", "mask.mrc")


@dataclass(frozen=True)
class Opened:
    """A path and the parts of it that can be looked at.

    kind: what it is, in a word or two. says: sentences that open the page. numbers: what is told
    of it, in words. settings_toml: those of the run. items: pairs or results. map: a map.
    scan: a scan's positions. charts: curves of the whole.
    """

    path: Path
    kind: str
    says: Sequence[str] = ()
    numbers: Mapping[str, str] = field(default_factory=dict)
    settings_toml: str = ""
    items: Items | None = None
    map: MapView | None = None
    scan: ScanView | None = None
    charts: Sequence[Chart] = ()

    @property
    def tabs(self) -> list[str]:
        """The page's views, the first to open with."""
        shown = {"scan": self.scan, "map": self.map, "pairs": self.items, "curves": self.charts}
        return [*(name for name, part in shown.items() if part), "about"]


def open_path(path: Path) -> Opened:
    """What lies at a path: a store, a folder of `reconstruct`, `atoms` or `scan`, or a map.

    Raises:
        DiffraganError: nothing is there, it is none of these, or it is damaged.
    """
    name = path.name.lower()
    if name.endswith((".zarr", ".zarr.zip")):
        return _store(path)
    if name.endswith((".mrc", ".map", ".ccp4")):
        view = MapView(path, {"map": path}, {})
        numbers = {"map": f"{view.n} x {view.n} x {view.n} voxels of {view.voxel_A:.4g} Å"}
        return Opened(path, "map", (), numbers, map=view)
    if path.is_dir():
        return _scan(path) if is_scan(path) else _folder(path)
    if not path.exists():
        raise DiffraganError(f"There is nothing at {path}; check the name.")
    raise DiffraganError(
        f"{path} can't be viewed; give a store (.zarr), a map (.mrc), or a folder of `diffragan "
        "reconstruct`, `atoms` or `scan`."
    )


def _store(path: Path) -> Opened:
    kind = store_kind(path)
    if kind == "result":
        results = open_results(path)
        items = items_of_results(results)
        numbers = {"method": results.method} | _numbers(results)
        numbers["input"] = ", ".join(str(entry.get("path")) for entry in results.inputs)
        says = [items.missing] if items.missing else []
        store: Store = results
    else:
        pairs = open_pairs(path)
        items = Items(pairs, None)
        store = pairs.store  # type: ignore[attr-defined]
        numbers = _numbers(store) | {"truth": "beside the pairs" if pairs.has_truth else "none"}
        says = []
        if kind == "simulation":
            says = ["Exit waves, shown as the default settings would image them."]
    toml = settings_to_toml(settings_from_dict(store.settings))
    return Opened(path, f"{kind} store", says, numbers, toml, items)


def _numbers(store: Store) -> dict[str, str]:
    molecules = ", ".join(
        info.stem + (f" ({info.mass_kda:.1f} kDa)" if info.mass_kda else "")
        for info in store.structures[:12]
    )
    rows = {
        "items": f"{store.n}",
        "molecules": molecules,
        "field": f"{store.box_A:g} Å",
        "energy": f"{store.energy_ev / 1000:g} keV",
        "written by": f"diffragan {store.header.get('version')}",
    }
    return {name: value for name, value in rows.items() if value}


def _folder(path: Path) -> Opened:
    files = {Path(name).stem: path / name for name in _MAPS if (path / name).is_file()}
    metrics = _metrics(path)
    if not files or not metrics:
        raise DiffraganError(
            f"{path} is no finished folder of `diffragan reconstruct`, `atoms` or `scan`; give "
            "one, a store (.zarr) or a map (.mrc)."
        )
    atoms = "atoms" in metrics
    if atoms:
        from diffragan.atoms.page import numbers as atoms_numbers

        says, numbers = [str(metrics.get("verdict", ""))], atoms_numbers(metrics)
    else:
        says, numbers = reconstruction_words(path, metrics)
    views = path / ("waves.zarr" if atoms else "phased.zarr")
    settings = path / "settings.toml"
    return Opened(
        path,
        "atoms" if atoms else "reconstruction",
        [*says, *metrics.get("warnings", ())],
        numbers,
        settings.read_text("utf-8") if settings.is_file() else "",
        items_of_results(open_results(views)) if views.exists() else None,
        map=MapView(path, files, metrics),
        charts=folder_charts(path),
    )


def _scan(path: Path) -> Opened:
    scan, settings = ScanView(path), path / "settings.toml"
    items = Items(open_pairs(path / "pairs.zarr"), None) if (path / "pairs.zarr").exists() else None
    toml = settings.read_text("utf-8") if settings.is_file() else ""
    return Opened(path, "scan", scan.says, scan.numbers, toml, items, scan=scan)


def _metrics(path: Path) -> dict[str, Any]:
    file = path / "metrics.json"
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise DiffraganError(f"{file} can't be read ({one_line(error)}); make it anew.") from None
    return found if isinstance(found, dict) else {}
