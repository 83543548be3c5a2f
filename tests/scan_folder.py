"""A folder as a scan leaves it, small, with every position known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mrcfile
import numpy as np

from diffragan.files.atomic import write_atomically
from diffragan.files.csv import csv_text

ROWS, COLUMNS, STEP_A, PIXEL_A = 12, 16, 60.0, 5.0
CLASSES = ("empty", "molecule", "ice", "carbon", "several")
PAIRED = (20, 37, 54, 100, 150)  # positions of the five pairs
CENTRE = (11.5, 12.0)  # y, x


def place_A(position: int) -> tuple[float, float]:
    """x and y of a position in the overview: the scan is turned a little, and begins at 80, 60."""
    row, column = divmod(position, COLUMNS)
    turn = 0.05
    return (
        80 + STEP_A * (column * np.cos(turn) - row * np.sin(turn)) + 30,
        60 + STEP_A * (column * np.sin(turn) + row * np.cos(turn)),
    )


def class_of(position: int) -> str:
    """Molecules where pairs come from, carbon in the last column, and others here and there."""
    if position in PAIRED:
        return "molecule"
    if position % COLUMNS == COLUMNS - 1:
        return "carbon"
    return {3: "ice", 9: "several"}.get(position % 29, "empty")


def make_scan_folder(out: Path, pairs: Path, scan: bool = True) -> Path:
    """The folder at `out` with a copy of five pairs.

    Args:
        scan: whether the scan's own file lies beside it: frame k has its brightest pixel, but for
            the beam, at k modulo 576 of 24 x 24.
    """
    out.mkdir(parents=True)
    n = ROWS * COLUMNS
    frames = np.random.default_rng(0).poisson(2, (n, 24, 24)).astype(np.uint16)
    frames.reshape(n, -1)[np.arange(n), np.arange(n) % 576] = 500
    file = out.parent / f"{out.name}_frames.npy"
    if scan:
        np.save(file, frames)
    places = np.array([place_A(k) for k in range(n)])
    yx = np.mgrid[:180, :220] * PIXEL_A
    image = np.random.default_rng(1).normal(100, 6, (180, 220))
    for k in PAIRED:
        x, y = places[k]
        image -= 30 * np.exp(-((yx[1] - x) ** 2 + (yx[0] - y) ** 2) / (2 * 25.0**2))
    dark = frames.sum((1, 2)).reshape(ROWS, COLUMNS)
    for name, values, pixel in (
        ("overview", image, PIXEL_A),
        ("dark_field", dark, STEP_A),
        ("bright_field", dark.max() - dark, STEP_A),
    ):
        with mrcfile.new(out / f"{name}.mrc") as mrc:
            mrc.set_data(values.astype(np.float32))
            mrc.voxel_size = pixel
    shutil.copytree(pairs, out / "pairs.zarr")
    rows: list[dict[str, float | int | str | None]] = [
        {
            "index": k, "row": k // COLUMNS, "column": k % COLUMNS,
            "x_A": float(places[k, 0]), "y_A": float(places[k, 1]), "class": class_of(k),
            "excess": float(40 * (class_of(k) != "empty") + k % 7), "probability": 0.9,
            "pair": PAIRED.index(k) if k in PAIRED else -1, "mass_kda": 12.5,
        }
        for k in range(n)
    ]  # fmt: skip
    write_atomically(out / "positions.csv", csv_text(rows).encode())
    session = {
        "scan": str(file), "overview": "overview.mrc", "scan_shape": [ROWS, COLUMNS],
        "step_A": STEP_A, "beam_diameter_A": 80.0, "overview_pixel_A": PIXEL_A, "threshold": 0.5,
        "centre_px": CENTRE, "pixel_per_A": 0.02, "words": ["Scan of 12 x 16 positions."],
        "lost": [{"step": "positions", "count": n}, {"step": "pairs", "count": len(PAIRED)}],
    }  # fmt: skip
    write_atomically(out / "session.json", json.dumps(session).encode())
    return out
