"""The state of an unfinished run in its scratch folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from diffragan.errors import DiffraganError
from diffragan.files.atomic import save_tensors, write_atomically
from diffragan.fourier.volumes import CPU
from diffragan.pairs.pairs import Pairs
from diffragan.reconstruction import many_views
from diffragan.reconstruction.choose_views import ViewSelection
from diffragan.reconstruction.many_views import HalfMaps
from diffragan.reconstruction.maps.views import Views
from diffragan.settings import Settings

SCRATCH = ".run"


STATE = "state.pt"


_HALF_TENSORS = ("x", "map", "mask", "power")


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
    if record.exists() and json.loads(record.read_text("utf-8")) != json.loads(json.dumps(key)):
        raise DiffraganError(
            f"{scratch.parent} holds an unfinished run with other settings or inputs; go on with "
            "those, choose another --out, or pass --overwrite."
        )
    scratch.mkdir(parents=True, exist_ok=True)
    write_atomically(record, json.dumps(key).encode())


def clear(out: Path) -> None:
    """Remove what a finished run no longer needs."""
    shutil.rmtree(out / SCRATCH, ignore_errors=True)


def save_state(path: Path, solve: HalfMaps, seconds: float) -> None:
    """Write the run's state in one step; its tensors are the CPU's, wherever the run is."""
    halves = [
        {name: getattr(h, name).cpu() for name in _HALF_TENSORS}
        | {"image": h.image.to(CPU), "r_factor": h.r_factor, "second_order": h.second_order}
        | {name: getattr(h.full, name).cpu() for name in ("rotations", "shifts_A", "weights")}
        for h in solve.halves
    ]
    plain = {
        name: getattr(solve, name)
        for name in (
            "plan", "stage", "phase", "iteration", "in_stage", "stalled", "best", "exhausted",
            "history",
        )
    }  # fmt: skip
    measure = None if solve.measure is None else asdict(solve.measure)
    padding = solve.halves[0].full.flat.padding
    save_tensors(
        path,
        {
            "halves": halves,
            "plain": plain,
            "measure": measure,
            "padding": padding,
            "curved": solve.halves[0].curved,
            "seconds": seconds,
        },
    )


def restored(
    path: Path, views: Views, settings: Settings, mass_kda: float | None
) -> tuple[HalfMaps, float]:
    """The run as `save_state` left it, on the views' device, and the seconds it had taken."""
    from diffragan.reconstruction.maps.agreement import Agreement
    from diffragan.reconstruction.maps.image_map import ImageMap

    with torch.serialization.safe_globals([ImageMap]):
        kept = torch.load(path, weights_only=True, map_location=CPU)
    plain = kept["plain"]
    views = views.padded(kept["padding"])
    limit = plain["plan"][plain["stage"]]
    halves = []
    for k, found in enumerate(kept["halves"]):
        half = many_views.half_set(k, views, settings.many_views, mass_kda, settings.seed)
        half.full = replace(
            half.full,
            **{n: found[n].to(views.device) for n in ("rotations", "shifts_A", "weights")},
        )
        half.views = half.full if limit is None else half.full.limited(limit)
        for name in (*_HALF_TENSORS, "image"):
            setattr(half, name, found[name].to(views.device))
        half.r_factor, half.second_order = found["r_factor"], found["second_order"]
        half.curved = kept["curved"]
        half.prepare()
        halves.append(half)
    solve = HalfMaps((halves[0], halves[1]), settings.many_views, plain.pop("plan"))
    for name, value in plain.items():
        setattr(solve, name, value)
    solve.measure = None if kept["measure"] is None else Agreement(**kept["measure"])
    return solve, float(kept["seconds"])
