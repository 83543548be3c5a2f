"""What a scan leaves beside its pairs: every position in a table, the scan as images, the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.files.atomic import write_atomically
from diffragan.files.csv import csv_text
from diffragan.files.mrc import write_image_rows
from diffragan.scan.choose import Chosen, Seen
from diffragan.scan.hits.rings import Values
from diffragan.scan.look import Looked
from diffragan.scan.page import ScanReport, write_scan_report
from diffragan.scan.placing.registration import Registration

_STRIP = 512


def write_outputs(  # long: what was found on the way
    out: Path,
    looked: Looked,
    registration: Registration,
    seen: Seen,
    chosen: Chosen,
    mass_kda: Values,
    overview: tuple[NDArray[np.float32], float],
    told: tuple[Mapping[str, Any], list[str], list[str], str],
) -> None:
    """Everything but the pairs.

    Args:
        mass_kda: (n,) of what scatters at each position. overview: the image and its pixel.
        told: what session.json is to hold, summary, warnings, and the settings as TOML.
    """
    session, summary, warnings, toml = told
    image, pixel_A = overview
    positions = registration.raster.positions()
    n = len(positions)
    pair = np.full(n, -1, np.int64)
    pair[chosen.position] = np.arange(len(chosen))
    dark, bright = looked.sums.all_rings, looked.sums.beam
    total = looked.excess.rings.sum(1)
    rows: list[dict[str, float | int | str | None]] = [
        {
            "index": k,
            "row": k // looked.shape[1],
            "column": k % looked.shape[1],
            "x_A": round(float(positions[k, 1]), 3),
            "y_A": round(float(positions[k, 0]), 3),
            "class": str(looked.classes[k]),
            "excess": round(float(total[k]), 2),
            "probability": round(float(looked.probability[k]), 5),
            "pair": int(pair[k]),
            "particle": int(seen.nearest[k]),
            "illumination": round(float(seen.lit[k]), 4),
            "others": round(float(seen.others[k]), 4),
            "mass_kda": round(float(mass_kda[k]), 3),
        }
        for k in range(n)
    ]
    write_atomically(out / "positions.csv", csv_text(rows, digits=9).encode())
    for name, values in (("dark_field", dark), ("bright_field", bright)):
        grid = values.reshape(looked.shape)
        step = float(session["step_A"])
        write_image_rows(out / f"{name}.mrc", [grid], looked.shape, step, label=name)
    strips = (image[k : k + _STRIP] for k in range(0, image.shape[0], _STRIP))
    write_image_rows(
        out / "overview.mrc", strips, (image.shape[0], image.shape[1]), pixel_A, label="overview"
    )
    write_atomically(out / "settings.toml", toml.encode())
    write_scan_report(
        out,
        ScanReport(
            session, image, pixel_A, dark.reshape(looked.shape), bright.reshape(looked.shape),
            positions, looked.classes, pair, chosen.mass_kda, summary, warnings, toml,
        ),
    )  # fmt: skip
    # Last: where it lies, the folder is whole.
    write_atomically(out / "session.json", (json.dumps(session, indent=1) + "\n").encode())
