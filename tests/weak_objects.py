"""Weak phase objects in tiny simulation stores, and the settings that train on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffragan.errors import DiffraganError
from diffragan.files.store_header import StructureInfo, info_to_json
from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.settings import Settings, load_settings

N_PX, BOX_A = 64, 70.0


def write_store(
    path: Path, stems: tuple[str, ...] = ("a", "b", "c"), per: int = 3, **header: Any
) -> Path:
    """A simulation store of weak phase objects: sums of Gaussians 3 Å wide."""
    n_px, box, poison = header.pop("n_px", N_PX), header.pop("box", BOX_A), header.pop("nan", -1)
    mark = header.pop("version_of_a", "hash")
    rng = np.random.default_rng(len(stems))
    axis = (np.arange(n_px) - n_px // 2) * box / n_px
    n = len(stems) * per
    writer = StoreWriter(
        path,
        "simulation",
        n,
        {
            "exit_wave": ArraySpec((n_px, n_px), "complex64", "1"),
            "rotation": ArraySpec((3, 3), "float64", "1"),
            "structure": ArraySpec((), "int32", "index"),
        },
        {
            "optics": {"energy_ev": 200e3, "box_A": box, "centre_to_exit_A": 35.0, **header},
            "structures": info_to_json([StructureInfo(s, sha256=f"{mark}-{s}") for s in stems]),
            "settings": {},
        },
    )
    writer.put("rotation", np.tile(np.eye(3), (n, 1, 1)))
    writer.put("structure", np.repeat(np.arange(len(stems)), per))
    for item in range(n):
        phase = np.zeros((n_px, n_px))
        for y, x in rng.normal(0, box / 8, (20, 2)):
            distance = (axis[:, None] - y) ** 2 + (axis[None, :] - x) ** 2
            phase += 0.1 * np.exp(-distance / (2 * 3.0**2))
        wave = np.exp(1j * phase).astype(np.complex64)[None]
        writer.write([item], exit_wave=wave * (np.nan if item == poison else 1))
    writer.finish()
    return path


def settings(**values: Any) -> Settings:
    """The published preset, narrowed; `__` stands for the dot of a key."""
    small = {
        "network__width": 1 / 128,
        "train__batch_size": 2,
        "train__learning_rate": 2e-4,
        "train__validation_structures": ("c",),
        "train__validation_items": 2,
        "train__max_steps": 5,
        "train__augment": True,
        **values,
    }
    return load_settings("published", values={k.replace("__", "."): v for k, v in small.items()})


def sentence(call: Callable[[], object], *names: str) -> None:
    """The call is refused in one plain sentence that has these words."""
    with pytest.raises(DiffraganError) as caught:
        call()
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    for name in names:
        assert name in message
