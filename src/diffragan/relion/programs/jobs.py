"""RELION's steps towards a map: known angles, ab initio, gold-standard refinement, postprocess.

Each is one job of RELION's own interface with its words, by the version at hand. A job that was
interrupted goes on from its last whole iteration, and one that is finished is not run again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffragan.errors import DiffraganError
from diffragan.progress import Progress
from diffragan.relion.programs.call import Watch, run_program
from diffragan.relion.programs.find import Relion, mpi_environment, mpi_words
from diffragan.settings import RelionSettings

_ITERATION = re.compile(r"run_it(\d+)_optimiser\.star")
# Files that a whole iteration leaves beside its optimiser, with one reference and with two halves.
_WHOLE = (
    ("_data.star", "_sampling.star", "_model.star", "_class001.mrc"),
    ("_data.star", "_sampling.star", "_half1_model.star", "_half2_model.star"),
)


@dataclass(frozen=True)
class RelionProject:
    """A folder in which RELION's jobs are run on one STAR file of particles.

    folder: names in STAR files count from it. star: the particles' file in it.
    diameter_A: of the circle that holds a molecule. ctf: whether images have a contrast transfer
    that their STAR file tells. seed: of what RELION draws.
    """

    relion: Relion
    folder: Path
    star: str
    settings: RelionSettings
    diameter_A: float
    seed: int
    progress: Progress
    ctf: bool = False

    def log(self, name: str) -> Path:
        """Where the output of a job is kept."""
        return self.folder / "logs" / f"{name}.log"

    def call(
        self, name: str, words: Sequence[str], total: int | None = None, *, mpi: bool = False
    ) -> None:
        """Run a program in the folder; errors as `run_program`."""
        environment = mpi_environment() if mpi else None
        watch = Watch(f"RELION, {name}", self.progress, total)
        self.progress(watch.stage, 0, total)
        run_program(words, self.folder, self.log(name), watch, environment)


@dataclass(frozen=True)
class RefinedMaps:
    """What a job leaves: the map of all images, the unfiltered half maps, and the particles' STAR
    with the orientations in use."""

    map: Path
    halves: tuple[Path, Path]
    data: Path


def known_angles(project: RelionProject, *, weighted: bool) -> RefinedMaps:
    """The map and the half maps of images whose orientations are known, by `relion_reconstruct`.

    Args:
        weighted: whether images count by their `rlnParticleFigureOfMerit`.
    """
    folder = project.folder / "known"
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, more in (("all", []), ("half1", ["--subset", "1"]), ("half2", ["--subset", "2"])):
        file = folder / f"{name}.mrc"
        words = ["relion_reconstruct", "--i", project.star, "--o", f"known/{name}.part.mrc"]
        words += ["--sym", project.settings.symmetry, *more]
        words += ["--fom_weighting"] if weighted else []
        words += ["--ctf"] if project.ctf else []
        if not file.exists():
            project.call("known angles", words)
            _given(folder / f"{name}.part.mrc", project.log("known angles")).rename(file)
        made.append(file)
    return RefinedMaps(made[0], (made[1], made[2]), project.folder / project.star)


def initial_model(project: RelionProject) -> tuple[Path, Path]:
    """A map from nothing, and the STAR file with the orientations that it was made with.

    By stochastic gradient descent (`--sgd`) in RELION 3.1, by VDAM (`--grad`) from version 4 on.
    """
    total = project.settings.initial_iterations
    name = f"initial/run_it{total:03d}"
    files = project.folder / f"{name}_class001.mrc", project.folder / f"{name}_data.star"
    if not all(_filled(file) for file in files):
        (project.folder / "initial").mkdir(exist_ok=True)
        project.call("ab initio", initial_model_words(project), total)
    log = project.log("ab initio")
    return _given(files[0], log), _given(files[1], log)


def initial_model_words(project: RelionProject) -> list[str]:
    """The command line of the ab initio job."""
    settings, total = project.settings, project.settings.initial_iterations
    last = last_iteration(project.folder / "initial")
    words = ["relion_refine", "--o", "initial/run"]
    words += ["--continue", f"initial/{last}"] if last else ["--i", project.star, "--denovo_3dref"]
    if project.relion.descends_by_gradient:
        words += ["--iter", str(total), *([] if last else ["--grad"])]
    else:
        begin, end = max(total // 5, 1), max(total // 5, 1)
        ini_A, fin_A = settings.initial_resolution_A
        words += [] if last else ["--sgd"]
        words += ["--sgd_ini_iter", str(begin), "--sgd_fin_iter", str(end)]
        words += ["--sgd_inbetween_iter", str(total - begin - end)]
        words += ["--sgd_ini_resol", f"{ini_A:g}", "--sgd_fin_resol", f"{fin_A:g}"]
        words += ["--sgd_ini_subset", str(settings.initial_subset[0])]
        words += ["--sgd_fin_subset", str(settings.initial_subset[1])]
        words += ["--sgd_write_iter", str(max(total // 10, 1))]
    if not last:
        words += ["--K", "1", "--sym", settings.symmetry, "--flatten_solvent", "--zero_mask"]
        words += _common(project)
    words += ["--oversampling", "1", "--healpix_order", str(settings.initial_healpix_order)]
    words += ["--maxsig", str(settings.initial_poses)]
    words += ["--offset_range", f"{settings.offset_range_px:g}", "--offset_step", "2", "--pad", "1"]
    return [*words, *_computing(project), *settings.initial_arguments]


def place_images(project: RelionProject, reference: str) -> Path:
    """The STAR file with the orientations of all images against a map that is improved on the way,
    by expectation and maximisation of `relion_refine`."""
    total = project.settings.place_iterations
    data = project.folder / f"place/run_it{total:03d}_data.star"
    if not _filled(data):
        (project.folder / "place").mkdir(exist_ok=True)
        last = last_iteration(project.folder / "place")
        words = ["relion_refine", "--o", "place/run", "--iter", str(total)]
        if last:
            words += ["--continue", f"place/{last}"]
        else:
            words += ["--i", project.star, "--ref", reference, "--K", "1"]
            words += ["--ini_high", f"{project.settings.low_pass_A:g}", "--tau2_fudge", "2"]
            words += ["--firstiter_cc"]  # as in `auto_refine_words`
            words += ["--sym", project.settings.symmetry, "--flatten_solvent", "--zero_mask"]
            words += ["--norm", "--scale", *_common(project)]
        words += ["--oversampling", "1", "--healpix_order", str(project.settings.healpix_order)]
        words += ["--maxsig", str(project.settings.initial_poses), "--offset_step", "2"]
        words += ["--offset_range", f"{project.settings.offset_range_px:g}", "--pad", "1"]
        project.call("placing images", [*words, *_computing(project)], total)
    return _given(data, project.log("placing images"))


def auto_refine(
    project: RelionProject,
    reference: str,
    *,
    local: bool,
    mask: str | None = None,
    star: str | None = None,
) -> RefinedMaps:
    """Gold-standard refinement of two half sets that never meet, by `relion_refine_mpi`.

    Args:
        reference: the map to start from, filtered to `relion.low_pass_A`.
        local: whether orientations are looked for near the given ones alone.
        mask: a map from 0 to 1 in the folder, of where the molecule is.
        star: the table with the given orientations, where it is not the project's.

    Raises:
        DiffraganError: it fails, or ends without converging.
    """
    done = project.folder / "refine"
    maps = RefinedMaps(
        done / "run_class001.mrc",
        (done / "run_half1_class001_unfil.mrc", done / "run_half2_class001_unfil.mrc"),
        done / "run_data.star",
    )
    files = (maps.map, *maps.halves, maps.data)
    if not all(_filled(file) for file in files):
        done.mkdir(exist_ok=True)
        words = auto_refine_words(project, reference, local=local, mask=mask, star=star)
        launcher = mpi_words(project.settings.launcher, project.settings.ranks)
        project.call("auto-refine", [*launcher, *words], mpi=True)
    for file in files:
        _given(file, project.log("auto-refine"))
    return maps


def auto_refine_words(
    project: RelionProject,
    reference: str,
    *,
    local: bool,
    mask: str | None = None,
    star: str | None = None,
) -> list[str]:
    """The command line after the launcher's words; arguments as `auto_refine`."""
    settings = project.settings
    last = last_iteration(project.folder / "refine")
    words = ["relion_refine_mpi", "--o", "refine/run"]
    if last:
        words += ["--continue", f"refine/{last}"]
    else:
        order = 4 if local else settings.healpix_order
        words += ["--auto_refine", "--split_random_halves", "--i", star or project.star]
        words += ["--ref", reference, "--ini_high", f"{settings.low_pass_A:g}"]
        # A map by gradient descent is many times too weak for the images that made it.
        words += ["--firstiter_cc"] if project.settings.orientations == "find" else []
        words += ["--oversampling", "1", "--healpix_order", str(order)]
        words += ["--auto_local_healpix_order", "4", "--sym", settings.symmetry]
        words += ["--offset_range", f"{settings.offset_range_px:g}", "--offset_step", "2"]
        words += ["--low_resol_join_halves", f"{settings.join_halves_A:g}", "--norm", "--scale"]
        words += ["--flatten_solvent", "--zero_mask", *_common(project)]
        words += ["--auto_ignore_angles", "--auto_resol_angles"]
    if mask is not None:
        words += ["--solvent_mask", mask, "--solvent_correct_fsc"]
    words += ["--pad", "2"]
    return [*words, *_computing(project), *settings.refine_arguments]


def postprocess(project: RelionProject, maps: RefinedMaps, mask: str, pixel_A: float) -> Path:
    """RELION's own FSC of two half maps inside a mask, with phases made random to see what the
    mask does, and the sharpened map: the STAR file of its curves.

    The half maps are given in pairs of names that hold `half1` and `half2`.
    """
    (project.folder / "postprocess").mkdir(exist_ok=True)
    half = maps.halves[0].relative_to(project.folder)
    words = ["relion_postprocess", "--i", str(half), "--o", "postprocess/run", "--mask", mask]
    words += ["--angpix", f"{pixel_A:.6f}", "--auto_bfac", "--autob_lowres", "10"]
    file = project.folder / "postprocess" / "run.star"
    if not _filled(file):
        project.call("postprocess", words)
    return _given(file, project.log("postprocess"))


def last_iteration(folder: Path) -> str | None:
    """The optimiser file of the last iteration that a job wrote as a whole, None at its start."""
    found: list[tuple[int, str]] = []
    for file in folder.glob("run_it*_optimiser.star"):
        match = _ITERATION.fullmatch(file.name)
        root = file.name.removesuffix("_optimiser.star")
        whole = any(all(_filled(folder / f"{root}{end}") for end in ends) for ends in _WHOLE)
        # Iteration 0 is the start, which is as quickly made anew.
        if match is not None and int(match[1]) and whole and _filled(file):
            found.append((int(match[1]), file.name))
    return max(found)[1] if found else None


def clear_iterations(project: RelionProject) -> None:
    """Remove the maps of iterations between, which a finished job no longer needs."""
    for job in ("initial", "refine"):
        for file in (project.folder / job).glob("run_it*"):
            if str(file.relative_to(project.folder)) not in _kept(project):
                file.unlink()
    for part in project.folder.glob("**/*.part.mrc"):
        part.unlink()
    shutil.rmtree(project.folder / "scratch", ignore_errors=True)


def _kept(project: RelionProject) -> set[str]:
    last = f"initial/run_it{project.settings.initial_iterations:03d}"
    return {f"{last}_class001.mrc", f"{last}_data.star"}


def _common(project: RelionProject) -> list[str]:
    """Words of every job that compares images with a map, at its start."""
    words = ["--particle_diameter", f"{project.diameter_A:.0f}", "--random_seed", str(project.seed)]
    # Normalised they are, outside the box's circle and not the molecule's.
    return [*words, "--dont_check_norm", *(["--ctf"] if project.ctf else [])]


def _computing(project: RelionProject) -> list[str]:
    words = ["--dont_combine_weights_via_disc", "--preread_images", "--pool", "10"]
    words += ["--j", str(project.settings.threads)]
    return words + (["--gpu"] if project.settings.gpu else [])


def _filled(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _given(file: Path, log: Path) -> Path:
    if not _filled(file):
        raise DiffraganError(
            f"RELION ended without writing {file}; its log {log} may say why, and the same command "
            "tries again."
        )
    return file
