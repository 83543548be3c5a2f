"""One HTML page about built atoms: how many are confirmed, and how far they carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from diffragan import __version__
from diffragan.atoms.molecule.molecule import Molecule
from diffragan.atoms.torsions import phi_psi_deg
from diffragan.report.html import ReportFigure, write_page
from diffragan.report.plotting import BLUE, GREEN, ORANGE, PURPLE, SOFT, frc_axes, legend, styled
from diffragan.report.viewer import close_ups
from diffragan.report.viewer.scene import Scene, ShownAtoms, residue_names, scene_text

_FINEST_A = 0.88


@dataclass(frozen=True)
class AtomsReport:
    """Built atoms and what is told of them.

    metrics: as metrics.json. scene: what the page lets turn, atoms among it.
    volume: (n, n, n) the measured map, [z, y, x], rotation centre at [n // 2] * 3. voxel_A: its
    voxel. settings_toml: those of the run. molecule: what the atoms were read as.
    """

    metrics: Mapping[str, Any]
    scene: Scene
    volume: NDArray[Any]
    voxel_A: float
    settings_toml: str
    molecule: Molecule | None = None

    @property
    def atoms(self) -> ShownAtoms:
        """Every atom, as the viewer has it."""
        assert self.scene.atoms is not None
        return self.scene.atoms


def write_atoms_report(out: Path, report: AtomsReport) -> Path:
    """Writes report.html and figures/*.png into `out` and returns the page's path."""
    metrics = report.metrics
    return write_page(
        out,
        "atoms.html",
        [figure for make in FIGURES if (figure := make(report)) is not None],
        molecule=metrics["molecule"],
        failed=not metrics["solved"],
        summary=[metrics["verdict"], *_meaning(metrics)],
        warnings=[],
        scene=report.scene,
        scene_text=scene_text(report.scene),
        numbers=numbers(metrics),
        provenance={
            "reconstruction": metrics.get("reconstruction"),
            "software": f"diffragan {__version__}",
        },
        conditions={},
        run="run",
        settings=report.settings_toml,
    )


@styled
def resolution_figure(report: AtomsReport) -> ReportFigure | None:
    """Correlation with the truth by resolution: expected from the other half's patterns, and with
    a known structure the true one."""
    figure = Figure(figsize=(6.8, 4.6), layout="constrained")
    axis = figure.add_subplot()
    frc_axes(axis, _FINEST_A)
    free, truth = report.metrics["free"], report.metrics.get("truth_fsc")
    axis.plot(
        1 / np.array(free["resolution_A"]),
        np.array(free["correlation"], dtype=float),
        color=BLUE,
        label="expected, by patterns of the other half set",
    )
    if truth:
        q = 1 / np.array(truth["resolution_A"])
        axis.plot(q, truth["fsc"], color=ORANGE, marker="o", ms=3, label="FSC with the structure")
        for key, style in (("moved_0.1_A", "--"), ("moved_0.3_A", ":")):
            label = f"its own atoms moved by {key.split('_')[1]} Å"
            axis.plot(q, truth[key], color=SOFT, ls=style, label=label)
    axis.text(0.99, 0.03, "the model's alone", color=PURPLE, ha="right", transform=axis.transAxes)
    axis.set_ylabel("correlation")
    legend(axis)
    caption = (
        "How far the atoms are right. Inside the measured bands the blue curve needs no truth: the "
        "atoms of each half set predict the patterns of the other. Past 1.254 Å (extrapolated) "
        "nothing was measured; what the map shows there follows from the atoms alone."
    )
    return ReportFigure("resolution", figure, caption, "Correlation by resolution.")


@styled
def weights_figure(report: AtomsReport) -> ReportFigure | None:
    """Weight against B of every atom."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.add_subplot()
    atoms = report.atoms
    for which, colour, label in (
        (atoms.confirmed, GREEN, "confirmed by both half sets"),
        (~atoms.confirmed, ORANGE, "not confirmed"),
    ):
        axis.scatter(atoms.weights[which], atoms.b_A2[which], s=7, color=colour, label=label)
    axis.set(xlabel="weight, carbons", ylabel="B, Å²")
    axis.legend(frameon=False, fontsize=8)
    caption = (
        "Every atom by what it scatters and how far it is smeared. Carbons with hydrogens scatter "
        "more, sulphurs about twice; faint atoms with a large B are noise."
    )
    return ReportFigure("weights", figure, caption, "Weight and B factor of every atom.")


@styled
def residues_figure(report: AtomsReport) -> ReportFigure | None:
    """B factor and fit to the map by residue; none where no residues are known."""
    atoms = report.atoms
    if not atoms.residues:
        return None
    figure = Figure(figsize=(10.6, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    rows = ((upper, atoms.b_A2, "B, Å²"), (lower, atoms.fit, "fit to the map"))
    for axis, values, label in rows:
        means = [close_ups.mean_known(values[list(one.atoms)]) for one in atoms.residues]
        axis.plot(range(len(means)), means, color=BLUE, marker="o", ms=3)
        axis.set_ylabel(label)
        axis.spines["top"].set_visible(False)
    names = residue_names(atoms.residues)
    every = max(1, len(names) // 20)
    lower.set_xticks(range(0, len(names), every), names[::every], rotation=60)
    caption = "Mean B factor of each residue, and how well its atoms fit the measured map."
    return ReportFigure("residues", figure, caption, "B factor and fit by residue.")


@styled
def ramachandran_figure(report: AtomsReport) -> ReportFigure | None:
    """Phi and psi of every residue; none where no residues are known."""
    if report.molecule is None or not report.molecule.residues:
        return None
    angles = phi_psi_deg(report.molecule)
    glycine = np.array([residue.name == "GLY" for residue in report.molecule.residues])
    figure = Figure(figsize=(4.8, 4.6), layout="constrained")
    axis = figure.add_subplot()
    for which, marker, colour, label in (
        (~glycine, "o", BLUE, "residue"), (glycine, "^", ORANGE, "glycine")
    ):  # fmt: skip
        axis.scatter(
            angles[which, 0], angles[which, 1], s=18, marker=marker, color=colour, label=label
        )
    for words, x, y in (("β", -120, 150), ("α", -65, -15), ("left-handed α", 60, 75)):
        axis.text(x, y, words, color=SOFT, ha="center", va="center")
    ticks = range(-180, 181, 60)
    axis.set(xlim=(-180, 180), ylim=(-180, 180), xlabel="φ, °", ylabel="ψ, °", aspect="equal")
    axis.set(xticks=ticks, yticks=ticks)
    axis.axhline(0, color=SOFT, linewidth=0.6, zorder=0)
    axis.axvline(0, color=SOFT, linewidth=0.6, zorder=0)
    legend(axis)
    caption = (
        "Torsion angles of the main chain (Ramachandran plot). Nothing in how atoms are built "
        "knows of them, so residues that lie where those of proteins do speak for the trace; only "
        "glycines are free of it."
    )
    return ReportFigure("ramachandran", figure, caption, "Phi and psi of every residue.")


def close_ups_figure(report: AtomsReport) -> ReportFigure | None:
    """The map around its best and worst atoms; none without atoms."""
    if not len(report.atoms):
        return None
    return close_ups.close_ups(report.volume, report.voxel_A, report.atoms)


FIGURES = (
    resolution_figure, close_ups_figure, residues_figure, ramachandran_figure, weights_figure,
)  # fmt: skip


def numbers(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The page's table: what it is, and its value in words."""
    atoms = metrics["atoms"]
    rows = {
        "atoms built, expected": f"{atoms['n']}, {atoms['expected']}",
        "confirmed by both half sets": str(atoms["confirmed"]),
        "would be confirmed by chance": f"{atoms['confirmed_by_chance']:.1f}",
        "riding hydrogens": str(atoms["hydrogens"]),
        "R of the views used": f"{atoms['r_work']:.3f}",
        "R of views never seen (other half)": f"{atoms['r_free']:.3f}",
        "R of the map": f"{atoms['r_map']:.3f}",
    }
    if atoms["free_correlation"] is not None:
        rows["expected correlation, 4 to 1.25 Å"] = f"{atoms['free_correlation']:.3f}"
    if "recall" in atoms:
        rows["recall within 0.5 Å"] = f"{atoms['recall']:.3f}"
        rows["precision, of the confirmed"] = f"{atoms['confirmed_precision']:.3f}"
        rows["rms of right atoms"] = f"{atoms['rms_A']:.3f} Å"
    for element, row in atoms.get("elements_confusion", {}).items():
        read = [f"{n} as {e}" for e, n in row.items() if n]
        if read:
            what = "atoms that are none" if element == "none" else f"atoms of {element}"
            rows[f"{what}, read"] = ", ".join(read)
    for name, row in atoms.get("hetero", {}).items():
        rows[f"{name} beside the chain"] = (
            f"{row['true']}; found {row['found']}, confirmed {row['confirmed']}, named "
            f"{row['named']}; called so elsewhere {row['wrong']}"
        )
    model = metrics.get("model", {})
    if model.get("residues"):
        pieces = len(model["fragments"])
        rows["residues read"] = f"{model['residues']}, in {pieces} piece{'s' * (pieces > 1)}"
        rows["mean probability of their types"] = f"{model['mean_type_probability']:.3f}"
    if model.get("beside_the_chain"):
        rows["beside the chain"] = model["beside_the_chain"]
    if model.get("sequence_fits"):
        rows["of the sequence, in the model"] = f"{model['sequence_coverage']:.3f}"
        rows["docking, over shuffled sequences"] = f"{model['docking_z']:.0f} standard deviations"
    if "residues_right" in model:
        rows["residues right, type and number"] = f"{model['residues_right']:.3f}"
        rows["rms of the main chain"] = f"{model['main_chain_rms_A'] or float('nan'):.3f} Å"
    if "types_right" in model:
        rows["residues of the right type, of all"] = f"{model['types_right']:.3f}"
    rows["views"] = str(metrics["n_views"])
    rows["time"] = f"{metrics['seconds']:.0f} s"
    return rows


def _meaning(metrics: Mapping[str, Any]) -> list[str]:
    if not metrics["solved"]:
        return ["Don't interpret these atoms, whatever the figures below show."]
    return [
        "Inside the measured band the atoms explain the patterns; past 1.254 Å nothing was "
        "measured, and what the model's map shows there follows from the atoms alone.",
    ]
