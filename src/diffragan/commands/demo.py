"""diffragan demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffragan.terminal import (
    note,
    progress_bars,
    show_reconstruction,
    wide_console,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# How to see what comes before pairs.
SESSION = """\
Pairs come from a session at the microscope, a scan of many molecules and an overview image of them.
To look through a small virtual one (some minutes):
  diffragan prepare 1UBQ --out prepared
  diffragan simulate-scan prepared --scan-shape 24,24 --molecules 90 --dose 1000 \\
    --image-dose 1000 --set session.orientations=24 --out session
  diffragan scan session/scan.h5 --overview session/overview.mrc --mass-kda 8.6 --out found
  diffragan view found
"""
METHODS = ("image", "published", "network", "raar")
_COMPARED = ("projection_frc", "ssim_mean", "seconds_per_image", "judged_solved_fraction")
_RESIDUES = ("residues_right", "main_chain_rms_A", "sequence_coverage")
SHELLS_A = (8.0, 6.0, 5.0, 4.0, 3.0, 2.0)


def demo(
    out: Annotated[Path, typer.Option(help="folder to write")] = Path("demo-out"),
) -> None:
    """Phase a bundled example four ways, then many views together into a map and its atoms.

    The example is one protein in a few orientations: patterns to 1.25 Å and noisy images to 5 Å,
    as an instrument would give them. It is phased from the image alone, by the paper's network
    and by ours, with bundled weights that never saw it, and by projection algorithms. A second
    example, 300 counted patterns of a small protein with its images, is phased in 3D into a map,
    and the map's atoms are built. The truths lie beside the pairs and are used only to judge.

    Writes OUT/report.html, metrics.json, figures and the phased stores, OUT/many-views with the
    map and OUT/atoms with the atoms, each with its own report.

    Examples:

        diffragan demo --out demo-out
    """
    import shutil
    import time
    from dataclasses import replace

    from diffragan.api import evaluate
    from diffragan.engine.items import choose_items
    from diffragan.pairs.open import open_pairs
    from diffragan.phasing.run import load_context, phase_pairs
    from diffragan.phasing.stability import stability
    from diffragan.report.pair_page import write_report
    from diffragan.settings import load_settings

    began = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    # The stores the demo leaves point at their input, so the input lies beside them.
    example = out / "pairs.zarr.zip"
    shutil.copyfile(example_path(), example)

    console = wide_console()
    console.print(SESSION, soft_wrap=True, highlight=False)
    compared: dict[str, Any] = {}
    for name in METHODS:
        settings = load_settings("published", values={"phase.method": name})
        pairs = open_pairs(example, settings=settings)
        store = out / f"phased_{name}.zarr"
        with progress_bars() as progress:
            phase_pairs(pairs, store, pairs.settings, overwrite=True, progress=progress)
        evaluation = evaluate(store, input=pairs)
        compared[name] = dict(evaluation)
    metrics = compared[METHODS[-1]]
    context = load_context(METHODS[-1])
    metrics["stability"] = stability(pairs, choose_items(pairs.n, 2), pairs.settings, context)
    metrics["compared"] = {
        name: {key: numbers[key] for key in _COMPARED} for name, numbers in compared.items()
    }
    metrics["many_views"] = many_views(out / "many-views", console)
    metrics["atoms"] = atoms_of(out / "many-views", out / "atoms", console)
    page = write_report(out, replace(evaluation, metrics=metrics), command="diffragan demo")
    molecule = pairs.structures[0]
    console.print(
        f"\n{molecule.stem}, {molecule.mass_kda:.1f} kDa, {pairs.n} orientations; the weights "
        "never saw it.\n"
    )
    console.print(comparison_table(compared))
    console.print(_verdict(compared))
    console.print(f"Report: {page}  ({time.perf_counter() - began:.0f} s)", soft_wrap=True)


def example_path() -> Path:
    """The bundled pairs, a measurement store with the truth beside them."""
    from importlib import resources

    return Path(str(resources.files("diffragan").joinpath("data", "example.zarr.zip")))


def views_path() -> Path:
    """The bundled views of one molecule: counted patterns and images, with orientations."""
    from importlib import resources

    return Path(str(resources.files("diffragan").joinpath("data", "views.zarr.zip")))


def many_views(out: Path, console: Console) -> dict[str, Any]:
    """Phase the bundled views together; what is worth telling of the result."""
    import shutil

    from diffragan import api

    out.mkdir(parents=True, exist_ok=True)
    pairs = out / "views.zarr.zip"
    shutil.copyfile(views_path(), pairs)
    console.print("Many views of one molecule, phased together in 3D:")
    with progress_bars() as progress:
        made = api.reconstruct(
            pairs,
            out,
            command="diffragan demo",
            device="cpu",
            overwrite=True,
            progress=progress,
            warn=lambda text: note(f"diffragan: {text}"),
        )
    show_reconstruction(made)
    metrics = made.metrics
    keys = ("converged", "resolution_A", "fsc_0p143_A", "n_views", "rounds", "seconds")
    summary = {name: metrics[name] for name in keys} | {"truth_fsc_0p5_A": truth_resolution_A(out)}
    console.print(
        f"With the truth: the map's FSC falls to 0.5 at {summary['truth_fsc_0p5_A']:.2f} Å; its "
        "images, taken alone, end at 5 Å.\n"
    )
    return summary


def atoms_of(folder: Path, out: Path, console: Console) -> dict[str, Any]:
    """Build the map's atoms; what is worth telling of them, with the bundled structure."""
    from importlib import resources

    from diffragan import api
    from diffragan.files.atomic import write_atomically
    from diffragan.molecules.clean import chain_sequence
    from diffragan.molecules.fetch import read_coordinates

    model = Path(str(resources.files("diffragan").joinpath("data", "views_model.cif.gz")))
    chain = read_coordinates(model)[0][0][0]
    fasta = folder / "sequence.fasta"
    write_atomically(fasta, f">{model.name}\n{chain_sequence(chain)}\n".encode())
    console.print("The map's atoms, refined against the patterns, and named by the sequence:")
    with progress_bars() as progress:
        built = api.build_atoms(
            folder, out, model=model, sequence=fasta, overwrite=True, progress=progress
        )
    console.print(built.summary + "\n", soft_wrap=True)
    fsc = built.metrics["truth_fsc"]
    names = ("n", "confirmed", "recall", "confirmed_precision", "rms_A", "r_work", "r_free")
    numbers = {name: built.metrics["atoms"][name] for name in names}
    at = dict(zip(fsc["resolution_A"], fsc["fsc"], strict=True))
    residues = {name: built.metrics["model"][name] for name in _RESIDUES}
    last = {"fsc_at_0p9_A": at[0.9], "seconds": built.metrics["seconds"]}
    return numbers | residues | last


def truth_resolution_A(out: Path) -> float:
    """Where the FSC of OUT/map.mrc with the bundled true map falls to 0.5, Å."""
    from importlib import resources

    import numpy as np
    import torch

    from diffragan.files.mrc import read_map
    from diffragan.fourier.correlation import fsc, resolution_at
    from diffragan.fourier.volumes import centred, resized, uncentred
    from diffragan.optics import q_from_angle

    with resources.files("diffragan").joinpath("data", "views_truth.npz").open("rb") as file:
        archive = np.load(file)
        true = torch.from_numpy(archive["volume"].astype(np.float32))
        box_A = float(archive["box_A"])
    volume, voxel_A = read_map(out / "map.mrc")
    # A map padded in space has a wider box; its middle is what the truth holds.
    padded = torch.from_numpy(volume.copy())
    side = round(box_A / voxel_A / 2) * 2
    low = padded.shape[0] // 2 - side // 2
    middle = padded[low : low + side, low : low + side, low : low + side]
    curve = fsc(middle, centred(resized(uncentred(true), side)))
    q = torch.arange(len(curve), dtype=torch.float64) / (side * voxel_A)
    measured = (q > 0) & (q <= q_from_angle(20.0, 200e3))
    return resolution_at(curve[measured], q[measured], 0.5)


def comparison_table(compared: dict[str, Any]) -> Table:
    """Mean FRC of projection and target by resolution, a row per method."""
    from rich import box
    from rich.table import Table

    table = Table(
        title="Mean FRC of the phased projection with its target, by resolution",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    table.add_column("phases from", no_wrap=True)
    for shell in SHELLS_A:
        table.add_column(f"{shell:g} Å", justify="right", no_wrap=True)
    for name in ("0.5 at, Å", "SSIM", "s/image"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, metrics in compared.items():
        frc = metrics["projection_frc"]
        table.add_row(
            name,
            *[f"{value_at(frc['frc'], shell):.2f}" for shell in SHELLS_A],
            f"{frc['frc_0p5_A']:.2f}",
            f"{metrics['ssim_mean']:.2f}",
            f"{metrics['seconds_per_image']:.2f}",
        )
    return table


def value_at(curve: dict[str, list[float]], shell_A: float) -> float:
    """The curve's mean at the ring nearest to a resolution."""
    q = [1 / resolution for resolution in curve["resolution_A"]]
    nearest = min(range(len(q)), key=lambda k: abs(q[k] - 1 / shell_A))
    return curve["mean"][nearest]


def _verdict(compared: dict[str, Any]) -> str:
    """Where each method's phases end, in words; the bundled truth decides."""
    end = {name: compared[name]["projection_frc"]["frc_0p5_A"] for name in METHODS}
    wave = compared["raar"]
    further = "beyond" if end["published"] < 0.95 * end["image"] else "no further than"
    ours = "further" if end["network"] < 0.95 * end["image"] else "no further than the image"
    return (
        f"The image's own phases end at {end['image']:.1f} Å (mean FRC 0.5). The published "
        f"network's end at {end['published']:.1f} Å, {further} the image; what its projection "
        "shows past that looks like a protein and is not this one. The network that draws maps "
        f"between measured amplitudes phases {ours}, to {end['network']:.1f} Å, and draws nothing "
        "beyond 2.5 Å. Projection algorithms, started from the image's "
        "phases and given nothing else but the pattern, end at "
        f"{end['raar']:.1f} Å (the wave's FRC at {wave['frc_0p5_A']:.2f} Å; the pattern was "
        f"measured to {wave['measured_to_A']:.2f} Å); without looking at the truth they call "
        f"{_solved_count(wave)} of {wave['n']} solved.\n"
    )


def _solved_count(metrics: dict[str, Any]) -> int:
    """How many results the method itself calls solved."""
    return round(float(metrics["judged_solved_fraction"] or 0) * int(metrics["n"]))
