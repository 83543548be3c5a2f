"""The runs that end in a map, from pairs or phased waves to a folder of results.

Every way to a map is an entry of `METHODS`, which names the options that it takes.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from diffragan.devices import pick_device
from diffragan.engine.processes import first_alone, start_processes, wait_for_all
from diffragan.errors import DiffraganError
from diffragan.evaluation.known_model import read_model
from diffragan.files.store import ResultStore, open_results
from diffragan.inspection.doubts import pair_doubts
from diffragan.pairs.open import open_all
from diffragan.pairs.pairs import Pairs
from diffragan.phasing.method import Method
from diffragan.phasing.registry import check_options
from diffragan.phasing.solvers import find_solver
from diffragan.progress import Progress, Warn, no_progress
from diffragan.reconstruction.checkpoint import SCRATCH, clear
from diffragan.reconstruction.choose_views import ViewSelection, choose_views
from diffragan.reconstruction.merge_results import merge_results
from diffragan.reconstruction.orientations.finders import find_finder
from diffragan.reconstruction.outputs import (
    FINISHED,
    PHASED,
    Destination,
    write_map_folder,
    write_views,
)
from diffragan.reconstruction.solve import solve_views
from diffragan.settings import Settings, load_settings

MapInput = Pairs | Sequence[Path]


@dataclass(frozen=True)
class ReconstructionOptions:
    """What may be said of a reconstruction, beyond its input and its place.

    image: the images, where they lie in files of their own. box_A: side of the field of array
    files. mass_kda: molecular weight; none: the input's, or told from the map.
    orientations: RELION .star with the angles of every pair, in order; none: the input's own.
    start: result store of the same pairs, whose phased waves make the start.
    structure: the molecule, of an input that holds several. limit: so many views, spread evenly.
    phased: where the result store goes, FOLDER/phased.zarr if not given.
    model: a known structure, in any frame, that the map is held against and not made from.
    settings: how the run goes, the default preset if not given. device: auto, cpu, cuda, cuda:1.
    """

    image: tuple[Path, ...] = ()
    box_A: float | None = None
    mass_kda: float | None = None
    orientations: Path | None = None
    start: Path | None = None
    structure: str | None = None
    limit: int | None = None
    phased: Path | None = None
    model: Path | None = None
    settings: Settings | None = None
    device: str = "auto"

    @property
    def given(self) -> list[str]:
        """Names of those that were given."""
        return [f.name for f in fields(self) if getattr(self, f.name) != f.default]


@dataclass(frozen=True, repr=False)
class Reconstruction:
    """A finished reconstruction: its folder, and what metrics.json says."""

    folder: Path
    metrics: dict[str, Any]
    store: Path | None = None

    def __repr__(self) -> str:
        state = "converged" if self.converged else "not converged"
        return (
            f"Reconstruction('{self.folder}': {self.metrics['molecule']}, "
            f"{self.metrics['n_views']} views, {self.resolution_A:.2f} Å, {state})"
        )

    @property
    def converged(self) -> bool:
        """Whether the run ended by itself with phases beyond the images'."""
        return bool(self.metrics["converged"])

    @property
    def resolution_A(self) -> float:
        """The resolution claimed; of merged waves, where the half maps' FSC falls to 0.143."""
        return float(self.metrics.get("resolution_A", self.metrics["fsc_0p143_A"]))

    @property
    def map(self) -> Path:
        """The map of all views, .mrc."""
        return self.folder / "map.mrc"

    @property
    def half_maps(self) -> tuple[Path, Path]:
        """The half sets' maps, .mrc."""
        return self.folder / "half1.mrc", self.folder / "half2.mrc"

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"

    @property
    def phased(self) -> ResultStore | None:
        """The phased views, where the method phases any."""
        return None if self.store is None else open_results(self.store)

    @property
    def summary(self) -> str:
        """The result in words, a few lines."""
        metrics = self.metrics
        if "verdict" not in metrics:
            agree = (
                f"Half maps of {metrics['n_views']} views agree to {metrics['fsc_0p143_A']:.2f} Å."
            )
            return "\n".join([agree, *self._truth_lines(), *self._model_lines()])
        lines = [metrics["verdict"]]
        if self.converged:
            lines.append(
                f"{metrics['views_used']} of {metrics['n_views']} views, "
                f"R {metrics['r_factor']:.3f}, "
                f"{metrics['rounds']} iterations, {metrics['seconds']:.0f} s."
            )
        else:
            lines[0] = "NOT CONVERGED. " + lines[0]
        if metrics["truth_fsc_0p5_A"] is not None:
            wave = metrics["views"]["frc_0p5_A"]
            lines.append(
                "With the truth: the map's FSC falls to 0.5 at "
                f"{metrics['truth_fsc_0p5_A']:.2f} Å, the phased waves' mean FRC at {wave:.2f} Å."
            )
        lines.append(f"Hand: {metrics['hand']}.")
        return "\n".join(lines + self._model_lines())

    def _truth_lines(self) -> list[str]:
        """What the truth says of maps that another program made, where there is one."""
        metrics, lines = self.metrics, []
        if metrics.get("truth_fsc_0p5_A") is not None:
            lines.append(
                f"With the truth: the map's FSC falls to 0.5 at {metrics['truth_fsc_0p5_A']:.2f} Å."
            )
        if metrics.get("orientation_error_deg"):
            lines.append(
                f"Orientations lie {metrics['orientation_error_deg']:.1f}° from the given ones in "
                f"the median; hand: {metrics['hand']}."
            )
        return lines

    def _model_lines(self) -> list[str]:
        """What the known structure says, where one was given."""
        if "model" not in self.metrics:
            return []
        model = self.metrics["model"]
        outside = ", ".join(model["unmatched"]) or "none"
        return [
            f"Against the model: FSC 0.5 at {model['fsc_0p5_A']:.2f} Å, hand {model['hand']}, "
            f"median correlation by residue {model['residue_correlation_median']:.2f}; residues "
            f"outside the density: {outside}."
        ]


MapRun = Callable[[MapInput, Destination, ReconstructionOptions, Progress, Warn], Reconstruction]


@dataclass(frozen=True)
class ReconstructionMethod:
    """One way to a map.

    run: makes it. takes: the fields of `ReconstructionOptions` that it reads, and sections of the
    settings.
    """

    run: MapRun
    takes: frozenset[str]


METHODS: dict[str, ReconstructionMethod] = {}


def reconstruction_method(name: str, *options: str) -> Callable[[MapRun], MapRun]:
    """Register a function as a way to a map that takes these options."""

    def register(run: MapRun) -> MapRun:
        METHODS[name] = ReconstructionMethod(run, frozenset(options))
        return run

    return register


def reconstruct(
    source: MapInput,
    destination: Destination,
    options: ReconstructionOptions = ReconstructionOptions(),
    *,
    method: str = "many-views",
    progress: Progress = no_progress,
    warn: Warn = warnings.warn,
) -> Reconstruction:
    """A map of one molecule by the method of that name, in a folder.

    Args:
        source: pairs, or files of pairs; for `merge` one result store.
        warn: told in a sentence what makes the result doubtful.

    Raises:
        DiffraganError: input that will not do, an option that the method does not take, or
            another reconstruction at the destination.
    """
    check_options(method, {name: name for name in options.given}, METHODS)
    return METHODS[method].run(source, destination, options, progress, warn)


def _doubted(pairs: Pairs, selection: ViewSelection, warn: Warn) -> ViewSelection:
    """The selection with what makes its pairs doubtful, told."""
    doubts = pair_doubts(pairs, selection.items)
    _tell((*selection.warnings, *doubts), warn)
    return replace(selection, warnings=(*selection.warnings, *doubts))


@reconstruction_method(
    "many-views", "many_views", "relion", *(f.name for f in fields(ReconstructionOptions))
)
def from_pairs(
    source: MapInput,
    destination: Destination,
    options: ReconstructionOptions,
    progress: Progress,
    warn: Warn,
) -> Reconstruction:
    """Views phased together in 3D; an interrupted run is continued by the same call."""
    out, device = destination.folder, pick_device(options.device)
    start_processes(device)
    destination.check(options.phased)
    settings = options.settings or load_settings()
    weight = {} if options.mass_kda is None else {"mass_kda": options.mass_kda}
    many = settings.many_views.model_copy(update=weight)
    find = many.orientations == "find"
    if find and options.orientations is not None:
        raise DiffraganError(
            f"Orientations are to be found, so {options.orientations} has no use; leave out "
            "--orientations or many_views.orientations=find."
        )
    model = None if options.model is None else read_model(options.model)
    find_solver(many.solver)
    if find:
        find_finder(many.find_by)
    pairs = _opened(source, settings, options)
    settings = pairs.settings.model_copy(update={"many_views": many})
    selection = choose_views(
        pairs,
        structure=options.structure,
        limit=options.limit,
        orientations=options.orientations,
        find=find,
        mass_kda=many.mass_kda,
    )
    selection = _doubted(pairs, selection, warn)
    destination.make()
    wait_for_all()
    try:
        solution = solve_views(
            pairs,
            selection,
            out,
            settings,
            start_waves=options.start,
            device=device,
            progress=progress,
        )
    except torch.OutOfMemoryError:
        raise DiffraganError(
            f"{device} has too little memory for this; go on with --device cpu, which takes up "
            "what was finished."
        ) from None
    _tell(solution.selection.warnings[len(selection.warnings) :], warn)
    with first_alone() as first:
        if first:
            store = options.phased or out / PHASED
            folder = write_views(out, store, solution, pairs, settings, progress)
            write_map_folder(out, replace(folder, model=model), destination.command)
            clear(out)
    return _finished(out, options.phased or out / PHASED)


def _tell(warnings: Sequence[str], warn: Warn) -> None:
    for warning in warnings:
        warn(warning)


def _opened(source: MapInput, settings: Settings, options: ReconstructionOptions) -> Pairs:
    if not isinstance(source, Sequence):
        return source
    return open_all(source, settings=settings, images=options.image, box_A=options.box_A)


@reconstruction_method("merge", "mass_kda", "model")
def from_waves(
    source: MapInput,
    destination: Destination,
    options: ReconstructionOptions,
    progress: Progress,
    warn: Warn,
) -> Reconstruction:
    """The waves of a result store in one map, whatever phased them."""
    if not isinstance(source, Sequence):
        raise DiffraganError(
            f"{source.name} holds pairs; method 'merge' takes a result store of waves."
        )
    if len(source) != 1:
        raise DiffraganError(
            f"Method 'merge' takes one result store, not {len(source)}; give the pairs that they "
            "came from together to method 'many-views'."
        )
    out = destination.folder
    destination.check()
    if (out / SCRATCH).exists() and not destination.overwrite:
        raise DiffraganError(
            f"{out} holds an unfinished run; finish it, choose another --out, or pass --overwrite."
        )
    model = None if options.model is None else read_model(options.model)
    words = destination.command
    metrics = merge_results(source[0], out, command=words, mass_kda=options.mass_kda, model=model)
    clear(out)
    return Reconstruction(out, metrics)


def map_beside(store: Path) -> Path:
    """The folder of the map that `phase` makes on its way to a result store P.zarr: P_map."""
    return store.with_name(f"{store.name.removesuffix('.zarr')}_map")


def finished_map(store: Path) -> Reconstruction | None:
    """The reconstruction beside a result store, None where there is none."""
    folder = map_beside(store)
    if not (folder / FINISHED).exists():
        return None
    return _finished(folder, store)


def _finished(folder: Path, store: Path) -> Reconstruction:
    return Reconstruction(folder, json.loads((folder / FINISHED).read_text("utf-8")), store)


def phase_together(  # long: as `phasing.method.JointRun`
    pairs: Pairs,
    out: Path,
    settings: Settings,
    *,
    limit: int | None,
    device: str,
    overwrite: bool,
    command: str,
    progress: Progress,
    warn: Warn,
) -> None:
    """The run of `reconstruct`, with its phased views at `out` and its map in a folder beside."""
    options = ReconstructionOptions(limit=limit, phased=out, settings=settings, device=device)
    destination = Destination(map_beside(out), overwrite, command)
    reconstruct(pairs, destination, options, progress=progress, warn=warn)


PHASING_METHOD = Method(phase_together, joint=True)
