"""Everything an evaluation leaves: metrics.json, CSV tables, figures and one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from diffragan.evaluation.evaluation import Evaluation
from diffragan.evaluation.item_metrics import PER_ITEM
from diffragan.evaluation.tables import frc_csv, item_csv, solved_column
from diffragan.files.atomic import write_atomically
from diffragan.fourier.correlation import BAND_EDGES_A
from diffragan.report.html import ReportFigure, number_text, write_page
from diffragan.report.pair_curves import (
    frc_figure,
    r_factor_figure,
    structures_figure,
    trust_figure,
)
from diffragan.report.pair_pictures import (
    difference_figure,
    frc_2d_figure,
    gallery_figure,
    ssim_figure,
)
from diffragan.report.pair_words import describe_evaluation

# In the order of the page; each gives None where the results hold nothing for it.
FIGURES = (
    frc_figure,
    trust_figure,
    gallery_figure,
    frc_2d_figure,
    ssim_figure,
    difference_figure,
    structures_figure,
    r_factor_figure,
)

BAND_NAMES = {
    "image": f"image, coarser than {BAND_EDGES_A[0]:g} Å",
    "diffraction": f"diffraction, {BAND_EDGES_A[0]:g} to {BAND_EDGES_A[1]:g} Å",
    "extrapolated": f"extrapolated, finer than {BAND_EDGES_A[1]:g} Å",
}


def write_report(out: Path, evaluation: Evaluation, *, command: str = "") -> Path:
    """Writes metrics.json, frc.csv, items.csv, figures/*.png and report.html into `out`.

    Args:
        out: folder, made if missing; files of the same names are replaced one by one.
        evaluation: if its metrics hold `stability`, the page shows it as a table:
            {perturbation: {"band_mean_frc": {band: value}, "ssim": value}}.
        command: the command line, for the page's end; "" leaves it out.

    Returns:
        the page's path.
    """
    metrics = dict(evaluation)
    stability = metrics.get("stability") or {}
    conditions = {
        "box, energy": f"{number_text(metrics['box_A'], '.4g')} Å, "
        f"{number_text(metrics['energy_ev'] / 1000, '.4g')} keV"
    }
    if metrics["seconds_per_image"] is not None:
        conditions["time"] = number_text(metrics["seconds_per_image"], ".3g", "s an image")
    page = write_page(
        out,
        "pair.html",
        draw(evaluation),
        metrics=metrics,
        summary=describe_evaluation(evaluation),
        failed=False,
        warnings=metrics.get("warnings") or [],
        bands=BAND_NAMES,
        per_item={k: v for k, v in PER_ITEM.items() if metrics[f"{k}_mean"] is not None},
        solved_column=solved_column(metrics),
        compared=metrics.get("compared") or {},
        stability={k: v for k, v in stability.items() if isinstance(v, Mapping)},
        provenance={**metrics["provenance"], "command": command or None},
        conditions=conditions,
        run="phasing",
        settings=json.dumps(metrics["settings"], indent=2, ensure_ascii=False),
    )
    write_atomically(out / "frc.csv", frc_csv(evaluation).encode())
    write_atomically(out / "items.csv", item_csv(evaluation).encode())
    text = json.dumps(metrics, indent=2, allow_nan=False) + "\n"
    write_atomically(out / "metrics.json", text.encode())
    return page


def draw(evaluation: Evaluation) -> list[ReportFigure]:
    """The figures that these results allow, in the order of the page."""
    return [made for figure in FIGURES if (made := figure(evaluation)) is not None]
