"""The state of an unfinished run: each set's atoms, once they are built, in OUT/.run."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from diffragan.atoms.building.build import Built
from diffragan.atoms.model.atoms import Atoms, Riding
from diffragan.atoms.reconstruction_folder import ReconstructionFolder
from diffragan.errors import DiffraganError
from diffragan.files.atomic import save_tensors, write_atomically
from diffragan.files.store import file_sha256
from diffragan.reconstruction.likelihood.ring_sums import RingSums
from diffragan.settings import Settings

SCRATCH = ".run"


def claim(
    out: Path, folder: ReconstructionFolder, mass_kda: float, settings: Settings, *, anew: bool
) -> Path:
    """Make OUT/.run this run's, or find it so; its path.

    Args:
        anew: whatever lies there is dropped.

    Raises:
        DiffraganError: the state of a run with other input or settings lies there.
    """
    scratch = out / SCRATCH
    if anew:
        clear(out)
    key = {
        "reconstruction": [file_sha256(folder.path / f"{name}.mrc") for name in folder.maps],
        "pairs": [entry.get("sha256") for entry in folder.results.inputs],
        "mass_kda": mass_kda,
        "settings": settings.model_dump(mode="json", include={"seed", "atoms"}),
    }
    record = scratch / "run.json"
    if record.exists() and json.loads(record.read_text("utf-8")) != json.loads(json.dumps(key)):
        raise DiffraganError(
            f"{out} holds an unfinished run with other settings or input; go on with those, choose "
            "another --out, or pass --overwrite."
        )
    scratch.mkdir(parents=True, exist_ok=True)
    write_atomically(record, json.dumps(key).encode())
    return scratch


def clear(out: Path) -> None:
    """Remove what a finished run no longer needs."""
    shutil.rmtree(out / SCRATCH, ignore_errors=True)


def save_built(path: Path, built: Built) -> None:
    """Write one set's atoms in one step."""
    kept: dict[str, Any] = {name: asdict(getattr(built, name)) for name in _RECORDS}
    plain = {"history": list(built.history), "asked_for": built.asked_for}
    save_tensors(path, kept | plain | {"rotations": built.rotations})


def read_built(path: Path) -> Built | None:
    """What `save_built` wrote; None where it did not, or the file is damaged."""
    try:
        kept = torch.load(path, weights_only=True)
        records = {name: kind(**kept[name]) for name, kind in _RECORDS.items()}
        history = tuple(kept["history"])
        return Built(
            **records,
            rotations=kept["rotations"],
            history=history,
            asked_for=kept["asked_for"],
        )
    except (UnpicklingError, RuntimeError, EOFError, OSError, KeyError, TypeError):
        return None


_RECORDS: dict[str, Any] = {
    "atoms": Atoms,
    "riding": Riding,
    "used": RingSums,
    "watched": RingSums,
}
