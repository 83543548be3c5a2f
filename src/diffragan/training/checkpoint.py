"""The state of a training run in one file, from which it goes on bit by bit.

A checkpoint holds tensors, numbers, strings, lists and dictionaries only, so
`torch.load(weights_only=True)` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from diffragan.errors import DiffraganError
from diffragan.files.atomic import save_tensors
from diffragan.networks.scaling import TargetScale
from diffragan.settings import Settings
from diffragan.settings.old_keys import present_keys

FORMAT = 1
NAME = "checkpoint.pt"
# What may change from one leg of a run to the next: how long it runs and how often it saves.
FREE_KEYS = ("train.epochs", "train.max_steps", "train.checkpoint_every_s")


@dataclass
class TrainProgress:
    """Where a run is: `epoch` whole epochs and `position` batches of the next are done."""

    step: int = 0
    epoch: int = 0
    position: int = 0
    best_frc: float | None = None
    best_step: int = 0
    seconds: float = 0.0


@dataclass
class TrainState:
    """Everything that a step changes, by the network's name, and the published generator's target
    scale as it was at the start."""

    networks: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    target: TargetScale | None = None
    progress: TrainProgress = field(default_factory=TrainProgress)

    @property
    def generator(self) -> nn.Module:
        """The network that is trained for its own sake."""
        return self.networks["generator"]

    @property
    def discriminator(self) -> nn.Module:
        """Its adversary."""
        return self.networks["discriminator"]


def save_checkpoint(path: Path, state: TrainState, identity: Mapping[str, Any]) -> None:
    """Write the run's state; the last good file stays until the new one is whole.

    `identity` (plain JSON) says which settings and data the run has; `load_checkpoint` asks for
    the same.

    Raises:
        DiffraganError: a weight is not finite, or the disk refuses.
    """
    for name, module in state.networks.items():
        if not all(bool(p.isfinite().all()) for p in module.parameters()):
            raise DiffraganError(
                f"The {name}'s weights stopped being finite before step {state.progress.step}; "
                f"{path} still holds the last good state, lower train.learning_rate."
            )
    tree = {
        "format": FORMAT,
        "identity": json.dumps(identity),
        **{name: module.state_dict() for name, module in state.networks.items()},
        **{f"{name}_optimizer": one.state_dict() for name, one in state.optimizers.items()},
        "target": None if state.target is None else vars(state.target),
        "progress": vars(state.progress),
        # No step draws from these today; they are kept so that one that does resumes exactly.
        "random": {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        },
    }
    save_tensors(path, tree)


def load_checkpoint(path: Path, state: TrainState, identity: Mapping[str, Any]) -> TrainState:
    """Put a saved state into fresh networks and optimizers of the same settings, and return it.

    Raises:
        DiffraganError: the file is damaged or of another format, or comes from other settings or
            data; the message names the first difference.
    """
    try:
        tree: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version, saved = tree["format"], present_keys(json.loads(tree["identity"]))
    except Exception as error:  # torch.load has no exception of its own
        raise DiffraganError(
            f"The checkpoint {path} can't be read ({type(error).__name__}); remove it to start "
            "anew, or choose another --out."
        ) from None
    if version != FORMAT:
        raise DiffraganError(
            f"The checkpoint {path} has format {version}, and this release reads {FORMAT}; finish "
            "the run with the release that started it."
        )
    difference = first_difference(saved, json.loads(json.dumps(identity)))
    if difference is not None:
        key, old, new = difference
        raise DiffraganError(
            f"{path.parent} holds a run with {key} = {old}, not {new}; use the same to go on with "
            "it, or choose another --out."
        )
    for name, module in state.networks.items():
        module.load_state_dict(tree[name])
    for name, optimizer in state.optimizers.items():
        optimizer.load_state_dict(tree[f"{name}_optimizer"])
    state.target = None if tree["target"] is None else TargetScale(**tree["target"])
    state.progress = TrainProgress(**tree["progress"])
    torch.set_rng_state(tree["random"]["cpu"])
    if torch.cuda.is_available() and len(tree["random"]["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(tree["random"]["cuda"])
    return state


def run_identity(settings: Settings, structures: Mapping[str, str], n_items: int) -> dict[str, Any]:
    """What must stay the same for a run to go on: settings that act, structures and items."""
    tree = settings.model_dump(mode="json")
    for key in FREE_KEYS:
        section, name = key.split(".")
        del tree[section][name]
    used = ("seed", "energy_ev", "pattern", "image", "projection", "network", "train", "conditions")
    return {
        **{key: tree[key] for key in used if key in tree},
        "structures": dict(structures),
        "items": n_items,
    }


def first_difference(old: Any, new: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """Dotted key and both values where two JSON trees first differ; None where they agree."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            difference = first_difference(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
            if difference is not None:
                return difference
        return None
    return None if old == new else (key, old, new)
