"""What a run of several classes leaves beside their folders: a table of views, numbers, a page."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from diffragan import __version__
from diffragan.files.atomic import write_atomically
from diffragan.pairs.pairs import Pairs
from diffragan.reconstruction.choose_views import ViewSelection
from diffragan.reconstruction.classes.page import write_classes_page
from diffragan.reconstruction.classes.sorted_views import SortedViews, sorted_right
from diffragan.reconstruction.outputs import FINISHED, Destination, peak_memory_mb
from diffragan.settings import Settings, settings_to_toml

STAR = "particles.star"


def write_classes_folder(
    destination: Destination,
    pairs: Pairs,
    selection: ViewSelection,
    found: SortedViews,
    results: list[dict[str, Any]],
    settings: Settings,
    seconds: float,
) -> dict[str, Any]:
    """particles.star, settings.toml, report.html, and last metrics.json, whose content comes back.

    Args:
        results: metrics of each class's reconstruction.
    """
    out = destination.folder
    found.write_star(out / STAR, selection.items)
    metrics = classes_metrics(pairs, selection, found, results, settings, seconds)
    write_atomically(out / "settings.toml", settings_to_toml(settings).encode())
    write_classes_page(out, found, metrics, settings, destination.command)
    write_atomically(out / FINISHED, (json.dumps(metrics, indent=1) + "\n").encode())
    return metrics


def classes_metrics(
    pairs: Pairs,
    selection: ViewSelection,
    found: SortedViews,
    results: list[dict[str, Any]],
    settings: Settings,
    seconds: float,
) -> dict[str, Any]:
    """The numbers of metrics.json."""
    thrown, *sizes = found.sizes()
    sure = found.probability.max(1).values[found.number > 0]
    metrics: dict[str, Any] = {
        "method": "classes",
        "version": __version__,
        "molecule": f"{found.classes} classes",
        "converged": all(each["converged"] for each in results),
        "classes": [
            {"folder": f"class{k}", "views": size}
            | {name: each[name] for name in ("converged", "verdict", "resolution_A", "r_factor")}
            | {name: each[name] for name in ("truth_fsc_0p5_A", "hand")}
            for k, (size, each) in enumerate(zip(sizes, results, strict=True), 1)
        ],
        "n_views": len(selection.items),
        "thrown_out": thrown,
        "foreign_below": settings.classes.foreign_below,
        "mean_probability": float(sure.mean()) if len(sure) else None,
        "held_out_log_likelihood": found.means,
        "sorted_right": None,
        "box_A": pairs.box_A,
        "seconds": seconds,
        "peak_memory_mb": peak_memory_mb(),
        "warnings": [*selection.warnings, *found.warnings],
    }
    truth = pairs.structure_index[selection.items]
    if len(np.unique(truth)) > 1:
        metrics["sorted_right"] = sorted_right(found.number.numpy(), truth)
    return metrics | {"summary": _summary(metrics)}


def _summary(metrics: dict[str, Any]) -> list[str]:
    """The result in words."""
    lines = []
    for each in metrics["classes"]:
        state = "" if each["converged"] else "NOT CONVERGED. "
        lines.append(f"{each['folder']}: {each['views']} views. {state}{each['verdict']}")
    lines.append(
        f"{metrics['thrown_out']} of {metrics['n_views']} views were thrown out: no class explains "
        "them better than no map at all."
    )
    if metrics["sorted_right"] is not None:
        lines.append(
            f"By the molecules that the input names {metrics['sorted_right']:.1%} of the views are "
            "sorted right."
        )
    return lines
