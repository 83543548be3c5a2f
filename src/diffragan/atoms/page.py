"""One HTML page about built atoms: how many are confirmed, and how far they carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from diffragan.files.atomic import write_atomically
from diffragan.fourier.correlation import BAND_EDGES_A
from diffragan.report.html import ReportFigure, png

_MEASURED, _MODEL, _DOUBTFUL = "#1b6ca8", "#b5541c", "#9a9a9a"


@dataclass(frozen=True)
class AtomsReport:
    """metrics: as metrics.json. weights, b_A2, confirmed: (n,) of every atom."""

    metrics: Mapping[str, Any]
    weights: NDArray[Any]
    b_A2: NDArray[Any]
    confirmed: NDArray[np.bool_]


def write_atoms_report(out: Path, report: AtomsReport) -> Path:
    """Writes report.html and figures/*.png into `out` and returns the page's path."""
    drawn = [figure for make in FIGURES if (figure := make(report)) is not None]
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for one in drawn:
        write_atomically(out / "figures" / f"{one.name}.png", png(one.figure))
    write_atomically(out / "report.html", _page(report, drawn).encode())
    return out / "report.html"


def resolution_figure(report: AtomsReport) -> ReportFigure | None:
    """Correlation with the truth by resolution: told by the other half's patterns, and with a
    known structure the true one."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.add_subplot()
    free, truth = report.metrics["free"], report.metrics.get("truth_fsc")
    axis.plot(
        1 / np.array(free["resolution_A"]),
        np.array(free["correlation"], dtype=float),
        color=_MEASURED,
        label="expected, by patterns of the other half set",
    )
    if truth:
        q = 1 / np.array(truth["resolution_A"])
        axis.plot(q, truth["fsc"], color=_MODEL, marker="o", ms=3, label="FSC with the structure")
        for key, style in (("moved_0.1_A", "--"), ("moved_0.3_A", ":")):
            label = f"its own atoms moved by {key.split('_')[1]} Å"
            axis.plot(q, truth[key], color=_DOUBTFUL, ls=style, label=label)
    edge = 1 / BAND_EDGES_A[1]
    axis.axvspan(edge, 1.15, color="#f8ecdf", zorder=0)
    axis.text(edge + 0.01, 0.05, "model only", color=_MODEL, fontsize=8)
    axis.set(xlabel="spatial frequency, 1/Å", ylabel="correlation", ylim=(0, 1.02), xlim=(0, 1.15))
    axis.legend(frameon=False, fontsize=8, loc="lower left")
    caption = (
        "How far the atoms are right. Inside the measured band the blue curve needs no truth: the "
        "atoms of each half set predict the patterns of the other. Past 1.254 Å nothing was "
        "measured; what the map shows there follows from the atoms alone."
    )
    return ReportFigure("resolution", figure, caption, "correlation by resolution")


def weights_figure(report: AtomsReport) -> ReportFigure | None:
    """Weight against B of every atom."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axis = figure.add_subplot()
    for which, colour, label in (
        (report.confirmed, _MEASURED, "confirmed by both half sets"),
        (~report.confirmed, _DOUBTFUL, "not confirmed"),
    ):
        axis.scatter(report.weights[which], report.b_A2[which], s=7, color=colour, label=label)
    axis.set(xlabel="weight, carbons", ylabel="B, Å²")
    axis.legend(frameon=False, fontsize=8)
    caption = (
        "Every atom by what it scatters and how far it is smeared. Carbons with hydrogens scatter "
        "more, sulphurs about twice; faint atoms with a large B are noise."
    )
    return ReportFigure("weights", figure, caption, "weight and B factor of every atom")


FIGURES = (resolution_figure, weights_figure)


def _page(report: AtomsReport, drawn: list[ReportFigure]) -> str:
    metrics = report.metrics
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in _rows(metrics)
    )
    figures = "".join(
        f'<figure><img src="figures/{one.name}.png" alt="{escape(one.alt)}">'
        f"<figcaption>{escape(one.caption)}</figcaption></figure>"
        for one in drawn
    )
    state = "" if metrics["solved"] else ' class="failed"'
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>Atoms of {escape(str(metrics['molecule']))}</title><style>{_STYLE}</style>"
        f"<h1>Atoms of {escape(str(metrics['molecule']))}</h1>"
        f"<p{state}>{escape(metrics['verdict'])}</p>"
        "<p>atoms.cif holds the confirmed atoms as chain A and the others as chain B; extended.mrc "
        "is the potential of all of them to 0.9 Å, a model's map and no measurement beyond "
        f"1.254 Å.</p><table>{rows}</table>{figures}</html>\n"
    )


def _rows(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    atoms = metrics["atoms"]
    rows = [
        ("atoms built, expected", f"{atoms['n']}, {atoms['expected']}"),
        ("confirmed by both half sets", str(atoms["confirmed"])),
        ("would be confirmed by chance", f"{atoms['confirmed_by_chance']:.1f}"),
        ("R of the views used", f"{atoms['r_work']:.3f}"),
        ("R of views never seen (other half)", f"{atoms['r_free']:.3f}"),
        ("R of the map", f"{atoms['r_map']:.3f}"),
    ]
    if atoms["free_correlation"] is not None:
        rows.append(("expected correlation, 4 to 1.25 Å", f"{atoms['free_correlation']:.3f}"))
    if "recall" in atoms:
        rows += [
            ("recall within 0.5 Å", f"{atoms['recall']:.3f}"),
            ("precision, of the confirmed", f"{atoms['confirmed_precision']:.3f}"),
            ("rms of right atoms", f"{atoms['rms_A']:.3f} Å"),
        ]
    return rows


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse}th{text-align:left;font-weight:500;padding:.2rem 1.5rem .2rem 0}
figure{margin:2rem 0}img{max-width:100%}figcaption{color:#555;font-size:.9rem}
.failed{color:#a11;font-weight:600}
"""
