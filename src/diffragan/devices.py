"""The device that a run computes on, by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffragan.errors import DiffraganError

if TYPE_CHECKING:
    import torch


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
