"""The scores as tables: CSV of the curves and of every item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffragan.evaluation.evaluation import Evaluation
from diffragan.evaluation.metrics import mean_and_percentiles
from diffragan.files.csv import csv_text
from diffragan.fourier.correlation import band_means, resolution_at, solved


def frc_csv(evaluation: Evaluation) -> str:
    """Mean curves and their spread as CSV, for all items and each structure."""
    results, scores = evaluation.results, evaluation.scores
    groups = [("all", np.arange(results.n))]
    groups += [
        (structure.stem, np.flatnonzero(results.structure_index == i))
        for i, structure in enumerate(results.structures)
    ]
    header = ("frc_of", "structure", "resolution_A", "q_per_A", "mean", "p10", "p90")
    rows = []
    for name in ("wave", "projection", "image"):
        curves = getattr(scores, name)
        if curves is None:
            continue
        for stem, chosen in groups:
            if len(chosen):
                for q, *rest in zip(curves.q, *mean_and_percentiles(curves, chosen), strict=True):
                    numbers = [f"{1 / q:.5f}", *(f"{float(x):.6f}" for x in (q, *rest))]
                    rows.append(dict(zip(header, [name, stem, *numbers], strict=True)))
    return csv_text(rows, header)


def item_csv(evaluation: Evaluation) -> str:
    """One row per item as CSV: its FRC by band, SSIM, R, solved or not; empty where not known.

    `item` is the index in the input. FRC columns are of the wave, or of the projection for a
    method that gives no wave; those named `projection_` are always of the projection.
    """
    results, scores = evaluation.results, evaluation.scores
    columns: dict[str, Sequence[Any]] = {"item": results.items.tolist(), "stem": evaluation.stems}
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
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return csv_text(rows, list(columns), digits=5)


def solved_column(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Head and key of the column that tells what is solved: by the truth, or else as judged."""
    if metrics["solved_fraction"] is None and metrics["judged_solved_fraction"] is not None:
        return "judged solved", "judged_solved_fraction"
    return "solved", "solved_fraction"
