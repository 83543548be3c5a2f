"""The state of an unfinished run in its scratch folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from diffragan.errors import DiffraganError
from diffragan.files.atomic import save_tensors, write_atomically
from diffragan.fourier.volumes import CPU
from diffragan.pairs.pairs import Pairs
from diffragan.reconstruction.choose_views import ViewSelection
from diffragan.reconstruction.many_views import HalfMaps
from diffragan.reconstruction.maps.views import Views
from diffragan.settings import Settings
from diffragan.settings.old_keys import present_keys

SCRATCH = ".run"


STATE = "state.pt"


_FORMAT = 2  # of the state file; the first named classes of its own


def run_key(
    pairs: Pairs, chosen: ViewSelection, settings: Settings, start_waves: Path | None
) -> dict[str, Any]:
    """What an unfinished run must share with the command that goes on with it."""
    given = chosen.rotations
    return {
        "input": pairs.sha256,
        "items": [int(chosen.items[0]), int(chosen.items[-1]), len(chosen.items)],
        "orientations": None if given is None else float((given**3).sum().round(6)),
        "shifts": float((chosen.shifts_A**3).sum().round(6)),
        "box_A": pairs.box_A,
        "energy_ev": pairs.optics.energy_ev,
        "mass_kda": chosen.mass_kda,
        "start": None if start_waves is None else str(start_waves.resolve()),
        "settings": settings.model_dump(
            mode="json", include={"seed", "image", "pattern", "many_views"}
        ),
    }


def claim(scratch: Path, key: dict[str, Any]) -> None:
    """Make the scratch folder this run's, or find it so.

    Raises:
        DiffraganError: another run's state lies there.
    """
    record = scratch / "run.json"
    if record.exists() and _recorded_key(record) != json.loads(json.dumps(key)):
        raise DiffraganError(
            f"{scratch.parent} holds an unfinished run with other settings or inputs; go on with "
            "those, choose another --out, or pass --overwrite."
        )
    scratch.mkdir(parents=True, exist_ok=True)
    write_atomically(record, json.dumps(key).encode())


def _recorded_key(record: Path) -> dict[str, Any]:
    """The key that lies in a scratch folder, its settings under their present names."""
    key: dict[str, Any] = json.loads(record.read_text("utf-8"))
    return key | {"settings": present_keys(key.get("settings", {}))}


def clear(out: Path) -> None:
    """Remove what a finished run no longer needs."""
    shutil.rmtree(out / SCRATCH, ignore_errors=True)


def save_state(path: Path, half_maps: HalfMaps, seconds: float) -> None:
    """Write the run's state in one step; its tensors are the CPU's, wherever the run is."""
    kept = {"format": _FORMAT, "run": half_maps.state(), "seconds": seconds}
    save_tensors(path, kept)


def restored(
    path: Path, views: Views, settings: Settings, mass_kda: float | None
) -> tuple[HalfMaps, float]:
    """The run as `save_state` left it, on the views' device, and the seconds it had taken.

    Raises:
        DiffraganError: an earlier version left it, or the file is damaged.
    """
    try:
        kept = torch.load(path, weights_only=True, map_location=CPU)
    except (UnpicklingError, RuntimeError, EOFError, OSError):
        kept = None
    if not isinstance(kept, dict) or kept.get("format") != _FORMAT:
        raise DiffraganError(
            f"{path} is of an earlier version or damaged, so the run can't go on; pass --overwrite "
            "to begin anew."
        )
    half_maps = HalfMaps.from_state(
        kept["run"], views, settings.many_views, mass_kda, settings.seed
    )
    return half_maps, float(kept["seconds"])
