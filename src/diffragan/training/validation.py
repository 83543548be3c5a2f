"""How good the generator is on structures that it never saw, and a picture of it."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from diffragan.files.atomic import write_atomically
from diffragan.fourier.correlation import BAND_EDGES_A, frc, ring_q
from diffragan.networks.generator import propose
from diffragan.networks.scaling import TargetScale, projection_from_output
from diffragan.optics import q_from_angle
from diffragan.settings import Settings
from diffragan.training.data import VALIDATION_EPOCH, ExitWaves, Items, make_train_batch

ITEMS_AT_ONCE = 8
GRID_ROWS = 4


@dataclass(frozen=True)
class Validation:
    """Agreement of proposed and true projections.

    mean: FRC, averaged over rings of the measured band, items, then proteins.
    by_structure: the same by protein, with its parts in the image and diffraction bands.
    curve: FRC per ring k at q = k / L, averaged over items, then proteins; (rings,).
    """

    mean: float
    by_structure: dict[str, dict[str, float]]
    curve: Tensor


def validate(
    generator: nn.Module,
    data: ExitWaves,
    items: Items,
    settings: Settings,
    scale: TargetScale,
    device: torch.device,
    grid: Path | None = None,
) -> Validation:
    """FRC of the generator's projections with the truth, protein by protein.

    Noise and dropout are the same at every call. `grid` names a PNG of the first items.
    """
    curves: list[Tensor] = []
    rows: list[list[Tensor]] = []
    for start in range(0, len(items), ITEMS_AT_ONCE):
        chosen = items[start : start + ITEMS_AT_ONCE]
        batch = make_train_batch(
            data.load(chosen), chosen, data.optics, settings, scale, VALIDATION_EPOCH, device
        )
        output = propose(generator, batch.inputs, batch.dropout_seeds)
        made = projection_from_output(output, settings.network, scale, data.n_px)
        curves.append(frc(made, batch.projection).double().cpu())
        for i in range(min(GRID_ROWS - len(rows), len(chosen))):
            rows.append([batch.inputs[i, 0], batch.inputs[i, 1], made[i], batch.projection[i]])
    if grid is not None:
        draw_grid(rows, grid)
    return mean_over_proteins(torch.cat(curves), data, items, settings)


def mean_over_proteins(
    curves: Tensor, data: ExitWaves, items: Items, settings: Settings
) -> Validation:
    """Means by protein, then over proteins, of FRC curves (items, rings)."""
    q = ring_q(data.n_px, data.optics.box_A)
    q_max = q_from_angle(settings.pattern.max_angle_mrad, data.optics.energy_ev)
    measured = (q > 0) & (q <= q_max)
    coarse = measured & (q < 1 / BAND_EDGES_A[0])
    bands = {"frc": measured, "image": coarse, "diffraction": measured & ~coarse}
    by_structure: dict[str, dict[str, float]] = {}
    means = []
    for number in np.unique(data.structure[items]):
        own = torch.from_numpy(np.flatnonzero(data.structure[items] == number))
        mean = curves[own].mean(0)
        means.append(mean)
        by_structure[data.structures[number].stem] = {
            name: float(mean[band].mean()) if bool(band.any()) else 0.0
            for name, band in bands.items()
        }
    average = float(np.mean([row["frc"] for row in by_structure.values()]))
    return Validation(average, by_structure, torch.stack(means).mean(0))


def draw_grid(rows: list[list[Tensor]], path: Path) -> None:
    """PNG of rows pattern / image / output / target; output and target share their grey scale."""
    from matplotlib.figure import Figure

    titles = ("pattern", "image", "output", "target")
    figure = Figure(figsize=(8, 2 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), 4, squeeze=False)
    for row, panels in zip(axes, rows, strict=True):
        arrays = [panel.detach().float().cpu().numpy() for panel in panels]
        low, high = np.percentile(arrays[3], [0.5, 99.5])
        for i, (axis, array) in enumerate(zip(row, arrays, strict=True)):
            limits = {"vmin": low, "vmax": high} if i > 1 else {}
            axis.imshow(array, cmap="gray", interpolation="nearest", **limits)
            axis.set_axis_off()
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    content = BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_atomically(path, content.getvalue())
