"""The figure of a plan: what a pattern is worth, and how many patterns that makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from diffragan.microscope.effective_dose import Exposure
from diffragan.microscope.planning.plan import SPREADS, Plan, patterns_needed
from diffragan.report.plotting import BLUE, GREEN, ORANGE, SOFT, styled

_RESOLUTIONS_A = np.linspace(1.3, 4.0, 55)
_COLOURS = {"likelihood": BLUE, "projections": ORANGE}


@styled
def plan_figure(exposure: Exposure, plan: Plan) -> Figure:
    """Worth of a pattern against its exposure, and patterns against resolution."""
    figure = Figure(figsize=(10.6, 4.3), layout="constrained")
    axes: Any = figure.subplots(1, 2)
    tried = np.geomspace(0.2, 60, 120)
    for resolution_A, colour in ((3.0, GREEN), (2.0, BLUE), (1.4, ORANGE)):
        q = torch.tensor([1 / resolution_A], dtype=torch.float64)
        worth = [float(exposure.effective_e_per_A2(q, float(n))) for n in tried]
        axes[0].plot(tried, worth, color=colour, label=f"{resolution_A:g} Å")
    axes[0].axvline(plan.exposure_e_per_A2, color=SOFT, linewidth=0.9, linestyle=":")
    axes[0].set(xscale="log", xlabel="exposure of a pattern (e/Å²)")
    axes[0].set(ylabel="effective dose of a pattern (e/Å²)")
    axes[0].set_title("What a pattern is worth")
    axes[0].legend()
    best = [exposure.best_exposure_e_per_A2(float(d)) for d in _RESOLUTIONS_A]
    needed = [
        patterns_needed(exposure, float(d), n) for d, n in zip(_RESOLUTIONS_A, best, strict=True)
    ]
    for way, spread in SPREADS.items():
        count = np.array([each[way] for each in needed])
        axes[1].plot(_RESOLUTIONS_A, count, color=_COLOURS[way], label=f"by the {way}")
        axes[1].fill_between(
            _RESOLUTIONS_A, count / spread, count * spread, color=_COLOURS[way], alpha=0.18
        )
    axes[1].axvline(plan.resolution_A, color=SOFT, linewidth=0.9, linestyle=":")
    axes[1].set(yscale="log", xlabel="resolution (Å)", ylabel="patterns")
    axes[1].invert_xaxis()
    axes[1].set_title("Patterns, each at its best exposure")
    axes[1].legend()
    return figure
