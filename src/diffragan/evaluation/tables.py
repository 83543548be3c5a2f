"""The scores as CSV text."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import numpy as np

from diffragan.evaluation.scores import Curves, Scores, spread
from diffragan.files.store import ResultStore
from diffragan.fourier.correlation import band_means, resolution_at, solved


def frc_csv(results: ResultStore, scores: Scores) -> str:
    """Mean curves and their spread as CSV, for all items and each structure."""
    groups = [("all", np.arange(results.n))]
    groups += [
        (structure.stem, np.flatnonzero(results.structure_index == i))
        for i, structure in enumerate(results.structures)
    ]
    rows: list[list[Any]] = []
    for name in ("wave", "projection", "image"):
        curves: Curves | None = getattr(scores, name)
        if curves is None:
            continue
        for stem, chosen in groups:
            if len(chosen):
                columns = zip(curves.q, *spread(curves, chosen), strict=True)
                rows += [
                    [name, stem, f"{1 / q:.5f}", *(f"{float(x):.6f}" for x in (q, *rest))]
                    for q, *rest in columns
                ]
    header = ["frc_of", "structure", "resolution_A", "q_per_A", "mean", "p10", "p90"]
    return _csv(header, rows)


def item_table(results: ResultStore, scores: Scores) -> str:
    """One row per item as CSV: its FRC by band, SSIM, R, solved or not; empty where not known.

    `item` is the index in the input. FRC columns are of the wave, or of the projection for a
    method that gives no wave; those named `projection_` are always of the projection.
    """
    columns: dict[str, list[Any]] = {
        "item": results.items.tolist(),
        "stem": [
            results.structures[i].stem if i < len(results.structures) else ""
            for i in results.structure_index
        ],
    }
    for prefix, curves in (("", scores.primary), ("projection_", scores.projection)):
        if curves is None:
            continue
        columns[f"{prefix}frc_0p5_A"] = [resolution_at(row, curves.q) for row in curves.values]
        for band, means in band_means(curves.values, curves.q).items():
            if means is not None:
                columns[f"{prefix}frc_{band}"] = means.tolist()
        columns[f"{prefix}solved"] = solved(curves.values, curves.q).int().tolist()
    columns.update({name: values.tolist() for name, values in scores.per_item.items()})
    if results.r_factor is not None:
        columns["r_factor"] = results.r_factor.tolist()
    if results.solved is not None:
        columns["judged_solved"] = results.solved.astype(int).tolist()
    rows = [[_cell(value) for value in row] for row in zip(*columns.values(), strict=True)]
    return _csv(list(columns), rows)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.5g}" if math.isfinite(value) else ""
    return value


def _csv(header: list[str], rows: list[list[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
