"""The device that a run computes on, by its name, and what goes there."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

from diffragan.errors import DiffraganError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


STAYS = {"stays on the CPU": True}  # metadata of a field that `to_device` leaves where it is


def pick_device(name: str) -> torch.device:
    """The torch device of that name; `auto` is the GPU where there is one.

    Raises:
        DiffraganError: no such device on this machine.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise DiffraganError(f"There is no device '{name}'; use auto, cpu or cuda.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DiffraganError("No CUDA device was found; use --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DiffraganError(
            f"There is no '{name}': {torch.cuda.device_count()} CUDA devices were found, from "
            "cuda:0 on."
        )
    return device


def to_device(record: T, device: torch.device) -> T:
    """A copy of a dataclass whose tensors, and those of the dataclasses in it, lie on a device.

    Nothing is computed anew, fields that the record derives from others among it. Fields with the
    metadata `STAYS` are left where they are.
    """
    moved = copy.copy(record)
    for field in dataclasses.fields(record):  # type: ignore[arg-type]
        if not field.metadata.get("stays on the CPU"):
            value = _on(getattr(record, field.name), device)
            object.__setattr__(moved, field.name, value)
    return moved


def _on(value: Any, device: torch.device) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_on(part, device) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_device(value, device)
    return value
