"""From a reconstruction to atoms: built three times, confirmed, judged, written."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffragan.atoms.building.build import build, expected_atoms
from diffragan.atoms.checkpoint import SCRATCH, claim, clear, read_built, save_built
from diffragan.atoms.comparison.confirm import confirmed
from diffragan.atoms.comparison.known_model import compared, fit_to_atoms, pulls
from diffragan.atoms.comparison.position_error import position_errors
from diffragan.atoms.molecule.docking import read_fasta
from diffragan.atoms.molecule.judge import against_structure
from diffragan.atoms.molecule.model import build_model
from diffragan.atoms.molecule.molecule import read_molecule
from diffragan.atoms.outputs import FINISHED, write_atoms_folder
from diffragan.atoms.reconstruction_folder import (
    ReconstructionFolder,
    open_views,
    read_reconstruction,
)
from diffragan.atoms.result import AtomsResult, doubts_about_mass
from diffragan.atoms.waves import grid_of
from diffragan.errors import DiffraganError
from diffragan.evaluation.known_model import KnownModel, read_model
from diffragan.files.atomic import write_atomically
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.likelihood.patterns import pattern_target
from diffragan.reconstruction.maps.views import Views
from diffragan.settings import Settings, load_settings, settings_to_toml


@dataclass(frozen=True)
class AtomsRun:
    """A finished `atoms` folder, and the metrics that it holds."""

    path: Path
    metrics: dict[str, Any]
    solved: bool

    @property
    def refusal(self) -> str | None:
        """Why a sequence was not used, in words; None where it was, or none was given."""
        said: str | None = self.metrics.get("model", {}).get("refusal")
        return said

    @property
    def summary(self) -> str:
        """The result in words."""
        atoms, lines = self.metrics["atoms"], [self.metrics["verdict"]]
        lines.append(
            f"R {atoms['r_work']:.3f} of the views used, {atoms['r_free']:.3f} of views never "
            f"seen; {self.metrics['seconds']:.0f} s."
        )
        if "recall" in atoms:
            fsc = self.metrics["truth_fsc"]
            at = dict(zip(fsc["resolution_A"], fsc["fsc"], strict=True))
            lines.append(
                f"With the structure: {atoms['recall']:.0%} of its atoms found to "
                f"{atoms['rms_A']:.2f} Å, {atoms['confirmed_precision']:.1%} of the confirmed "
                f"ones right; FSC {at[1.25]:.2f} at 1.25 Å, {at[0.9]:.2f} at 0.90 Å (the "
                "model's, past the measurement)."
            )
        model = self.metrics.get("model", {})
        if "idealised_rms_A" in model and model["idealised_rms_A"] is not None:
            gaps = ", ".join(model["gaps"])
            lines.append(
                f"Model: {model['sequence_coverage']:.0%} of the sequence, "
                + (f"not built {gaps}, " if gaps else "")
                + f"docking score {model['docking_z']:.0f} standard deviations over shuffled "
                f"sequences; made ideal by {model['idealised_rms_A']:.3f} Å rms."
            )
        if "residues_right" in model:
            lines.append(
                f"With the structure: {model['residues_right']:.0%} of its residues right, main "
                f"chain to {model['main_chain_rms_A'] or float('nan'):.2f} Å."
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        atoms = self.metrics["atoms"]
        return f"AtomsRun({str(self.path)!r}: {atoms['confirmed']} of {atoms['n']} confirmed)"


@dataclass(frozen=True)
class AtomsOptions:
    """What may be said of building atoms, beyond the reconstruction and the folder.

    model: a known structure to judge by, in any frame; nothing of it is used to build.
    mass_kda: molecular weight, if the reconstruction does not tell it.
    sequence: a FASTA file; residues are docked to it and a model is built.
    inputs: the pairs' files, where they have moved.
    settings: how atoms are built, the default preset if not given.
    """

    model: Path | None = None
    mass_kda: float | None = None
    sequence: Path | None = None
    inputs: tuple[Path, ...] = ()
    settings: Settings | None = None


def build_atoms(
    source: Path,
    out: Path,
    options: AtomsOptions = AtomsOptions(),
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> AtomsRun:
    """Atoms of a folder of `reconstruct`, refined against its patterns, into a folder; an
    interrupted run goes on with the set that it was at.

    Raises:
        DiffraganError: the folder, its pairs or the model will not do, `out` is finished, or
            holds an unfinished run with other settings.
    """
    # A run that was killed after its last file and before its scratch folder went may end.
    if (out / FINISHED).exists() and not (out / SCRATCH).exists() and not overwrite:
        raise DiffraganError(
            f"{out} holds finished atoms; choose another --out, or pass --overwrite."
        )
    folder = read_reconstruction(source)
    mass = options.mass_kda or folder.metrics.get("mass_kda")
    if not mass:
        raise DiffraganError(
            f"{source} tells no molecular weight, and the number of atoms follows from it; give "
            "--mass-kda."
        )
    known = None if options.model is None else read_model(options.model)
    sequence = None if options.sequence is None else read_fasta(options.sequence)
    settings = options.settings or load_settings()
    scratch = claim(out, folder, mass, settings, anew=overwrite)
    pairs, views = open_views(folder, scratch, options.inputs, progress)
    result = build_halves(folder, views, expected_atoms(mass), scratch, settings, progress)
    views = replace(views, rotations=result.all_views.rotations)
    if result.solved:
        progress("reading the molecule", 0, 1)
        molecule = read_molecule(result.atoms, result.confirmed.numpy(), sequence)
        result = replace(result, molecule=molecule, model=build_model(molecule))
        progress("reading the molecule", 1, 1)
    comparison: dict[str, Any] = {}
    if known is not None:
        given = folder.orientations_given
        comparison = _against(result, known, views, given=given)
    write_atomically(out / "settings.toml", settings_to_toml(settings).encode())
    result = replace(result, warnings=_doubts(folder, result, mass))
    metrics = write_atoms_folder(out, result, folder, pairs, views, comparison, progress=progress)
    clear(out)
    return AtomsRun(out, metrics, result.solved)


def _doubts(folder: ReconstructionFolder, result: AtomsResult, mass_kda: float) -> tuple[str, ...]:
    """In sentences, what makes the atoms doubtful."""
    warnings = doubts_about_mass(result, mass_kda)
    if not folder.metrics.get("converged", True):
        warnings.insert(0, f"The map of {folder.path} did not converge, so its peaks may be noise.")
    return tuple(warnings)


def _against(
    result: AtomsResult, known: KnownModel, views: Views, *, given: bool
) -> dict[str, Any]:
    """The metrics of a known structure: of atoms, and of the molecule that they make."""
    field = (views.optics.energy_ev, views.optics.box_A)
    fit = fit_to_atoms(result.all_views, result.confirmed, known, given=given)
    out = compared(result.all_views, result.confirmed, known, field, fit)
    heavy = fit(known.places_A[known.heavy])
    out["atoms"] |= pulls(result.atoms.positions_A.double().numpy(), result.errors_A.numpy(), heavy)
    if result.molecule is not None:
        found = against_structure(result.molecule, result.model, known, fit)
        of_atoms = ("elements_confusion", "elements_right", "hetero")
        out["atoms"] |= {name: found.pop(name) for name in of_atoms if name in found}
        out["model"] |= found
    return out


def build_halves(
    folder: ReconstructionFolder,
    views: Views,
    expected: int,
    scratch: Path,
    settings: Settings,
    progress: Progress = no_progress,
) -> AtomsResult:
    """Atoms of all views and of each half set, and which of the first the others confirm.

    Args:
        scratch: keeps each set's atoms for a run that goes on later.
    """
    began = time.perf_counter()
    built = []
    sets = {"all views": views, "half 1": views.every_second(0), "half 2": views.every_second(1)}
    for (name, some), volume in zip(sets.items(), folder.maps.values(), strict=True):
        kept = scratch / f"{name.replace(' ', '_')}.pt"
        one = read_built(kept)
        if one is None:

            def progress_of_set(
                stage: str, done: int, total: int | None = None, word: str = "", of: str = name
            ) -> None:
                progress(f"{stage}, {of}", done, total, word)

            one = build(
                volume, folder.mask, folder.trust, some, expected, settings.atoms, progress_of_set
            )
            save_built(kept, one)
        built.append(one)
    all_views, first, second = built
    halves = (first.atoms, second.atoms)
    grid = grid_of(views, views.curved)
    seen = [
        replace(sets[name], rotations=half.rotations)
        for name, half in (("half 1", first), ("half 2", second))
    ]
    sums = tuple(
        pattern_target(other).sums(grid.spectrum(half.atoms, half.riding))
        for half, other in zip((first, second), reversed(seen), strict=True)
    )
    agreed = confirmed(all_views.atoms, halves, settings.seed)
    return AtomsResult(
        all_views,
        (first, second),
        agreed,
        position_errors(all_views.atoms, halves, agreed.sure),
        (sums[0], sums[1]),
        expected,
        time.perf_counter() - began,
    )
