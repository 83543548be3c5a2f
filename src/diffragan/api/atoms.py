"""From a map and its patterns to atoms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffragan.api.sources import Source, as_paths
from diffragan.progress import Progress, no_progress

if TYPE_CHECKING:
    from diffragan.atoms.run import AtomsRun
    from diffragan.reconstruction.run import Reconstruction
    from diffragan.settings import Settings


def build_atoms(  # long: what it may be told, as the command lists it
    reconstruction: Reconstruction | Path | str,
    out: Path | str,
    *,
    model: Path | str | None = None,
    mass_kda: float | None = None,
    sequence: Path | str | None = None,
    input: Source = (),
    settings: Settings | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> AtomsRun:
    """Atoms of a many-views reconstruction, refined against its patterns, in a folder; an
    interrupted run goes on.

    Args:
        reconstruction: a folder of `reconstruct`, or what it returned.
        model: a known structure (.cif, .pdb) to judge by; nothing of it is used to build.
        mass_kda: molecular weight, where the reconstruction does not tell it.
        sequence: a FASTA file of the protein; a model with names and numbers is then built. If it
            is another protein's, `refusal` of the result says so.
        input: the pairs, where they are not any more where the run found them.
        settings: how atoms are built (section `atoms`) and the seed; none: the default preset.

    Raises:
        DiffraganError: the folder, its pairs or the model will not do, or `out` is finished.
    """
    from diffragan.atoms import run
    from diffragan.files.integrity.lock import locked

    folder = reconstruction if isinstance(reconstruction, Path | str) else reconstruction.folder
    with locked(Path(out)):
        return run.build_atoms(
            Path(folder),
            Path(out),
            run.AtomsOptions(
                model=None if model is None else Path(model),
                mass_kda=mass_kda,
                sequence=None if sequence is None else Path(sequence),
                inputs=tuple(as_paths(input)),
                settings=settings,
            ),
            overwrite=overwrite,
            progress=progress,
        )
