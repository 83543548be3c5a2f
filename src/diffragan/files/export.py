"""Phased results for other programs: MRC and TIFF stacks, RELION particles, tables."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan import __version__
from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.files.csv import write_history
from diffragan.files.mrc import write_image_stack
from diffragan.files.star import Particles, write_projections
from diffragan.files.store import ResultStore
from diffragan.files.tiff import write_tiff_stack
from diffragan.fourier.grids import resample
from diffragan.progress import Progress, no_progress
from diffragan.rotations import relion_angles

PARTS = ("wave", "projection")
FORMATS = ("mrc", "tiff", "star")
SUMMARY = "export.json"
_BATCH = 16

Batches = Callable[[], Iterator[NDArray[np.float32]]]


@dataclass(frozen=True)
class ExportStack:
    """One stack of images to be written: (n, side, side) float32 of `box_A` / side Å a pixel."""

    name: str
    content: str
    unit: str
    n: int
    side: int
    box_A: float
    batches: Batches

    @property
    def pixel_A(self) -> float:
        """Side of a pixel, Å."""
        return self.box_A / self.side


# Real numbers of complex waves: the file's name, what it holds, its unit, and how it is made.
_WAVE: dict[str, tuple[tuple[str, str, str, Callable[[Any], NDArray[Any]]], ...]] = {
    "amplitude-phase": (
        ("wave-amplitude", "amplitude of the wave", "unit plane wave", np.abs),
        ("wave-phase", "phase of the wave, from -pi to pi", "rad", np.angle),
    ),
    "real-imaginary": (
        ("wave-real", "real part of the wave", "unit plane wave", np.real),
        ("wave-imaginary", "imaginary part of the wave", "unit plane wave", np.imag),
    ),
}


def export_results(
    results: ResultStore,
    out: Path,
    *,
    parts: Sequence[str] = (),
    formats: Sequence[str] = FORMATS,
    wave_as: str = "amplitude-phase",
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """A folder of files that other programs open, made from a result store.

    Stacks are written batch by batch. All lies in `OUT.part` until it is whole; an interrupted
    export is begun anew.

    Args:
        parts: `wave`, `projection`; none named: those that the store has.
        formats: `mrc` and `tiff` (the store's numbers, float32), `star` (particles for RELION).
        wave_as: `amplitude-phase` or `real-imaginary`.
        overwrite: replace the folder of an earlier export.

    Returns:
        The folder. `export.json` in it says what each file holds and where it came from.

    Raises:
        DiffraganError: a part that the store lacks, an unknown word, or a folder that is there.
    """
    _check("format", formats, FORMATS)
    _check("way to write a wave", (wave_as,), tuple(_WAVE))
    chosen = _parts(results, parts)
    _refuse_a_folder_in_use(out, overwrite)
    stacks = [s for part in chosen for s in _stacks(results, part, wave_as)]
    work = out.with_name(out.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    items = item_columns(results)
    files: dict[str, Any] = {}
    total = sum(name != "star" for name in formats) * len(stacks) + ("star" in formats)
    for stack in stacks:
        for name in formats:
            if name != "star":
                files |= _write_stack(work, stack, name)
                progress("stacks", len(files), total)
    if "star" in formats:
        files |= write_particles(work / "particles.mrcs", results)
        progress("stacks", total, total)
    names = list(items)
    rows = [dict(zip(names, row, strict=True)) for row in zip(*items.values(), strict=True)]
    write_history(work / "items.csv", rows)
    text = json.dumps(_summary(results, files), indent=1, ensure_ascii=False)
    write_atomically(work / SUMMARY, (text + "\n").encode())
    if out.exists():
        shutil.rmtree(out)
    work.replace(out)
    return out


def item_columns(results: ResultStore) -> dict[str, list[Any]]:
    """What is known of each result, one list of n a column.

    `slice` counts from 1, as RELION does; `item` is the index in the input. `trust` is the mean
    over the rings of the pattern, `solved` the run's own verdict; columns that the store does not
    know are left out.
    """
    stems = [structure.stem for structure in results.structures]
    columns: dict[str, list[Any]] = {
        "slice": list(range(1, results.n + 1)),
        "item": results.items.tolist(),
    }
    if stems:
        columns["structure"] = [stems[i] for i in results.structure_index]
    if results.rotation is not None:
        for name, angle in zip(
            ("rot_deg", "tilt_deg", "psi_deg"), relion_angles(results.rotation).T, strict=True
        ):
            columns[name] = angle.tolist()
    if results.solved is not None:
        columns["solved"] = results.solved.astype(int).tolist()
    if results.trust is not None:
        columns["trust"] = results.trust[:, 1:].mean(-1, dtype=np.float64).tolist()
    if results.r_factor is not None:
        columns["r_factor"] = results.r_factor.tolist()
    return columns


def _check(what: str, words: Sequence[str], allowed: Sequence[str]) -> None:
    for word in words:
        if word not in allowed:
            raise DiffraganError(f"There is no {what} '{word}'; use {', '.join(allowed)}.")
    if not words:
        raise DiffraganError(f"An export needs a {what}; name one of {', '.join(allowed)}.")


def _parts(results: ResultStore, parts: Sequence[str]) -> list[str]:
    stored = [part for part in PARTS if results.has(part)]
    chosen = list(parts) or stored
    _check("part", chosen, PARTS)
    for part in chosen:
        if part not in stored:
            raise DiffraganError(
                f"{results.path} holds no {part}s, as '{results.method}' gives none; leave that "
                "part out."
            )
    return chosen


def _refuse_a_folder_in_use(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out.is_dir() and (out / SUMMARY).is_file()):
        raise DiffraganError(f"{out} is there and no export; choose another --out.")
    if not overwrite:
        raise DiffraganError(
            f"{out} holds a finished export; choose another --out, or pass --overwrite."
        )


def _stacks(results: ResultStore, part: str, wave_as: str) -> list[ExportStack]:
    if part == "projection":
        side = results.projection([0]).shape[-1]
        content = f"intensity at {_defocus_A(results):g} Å defocus, mean about 1"

        def projections() -> Iterator[NDArray[np.float32]]:
            return (results.projection(block) for block in _blocks(results.n))

        unit = "mean intensity"
        return [ExportStack(part, content, unit, results.n, side, results.box_A, projections)]
    side = _wave(results, slice(0, 1)).shape[-1]

    def of(make: Callable[[Any], NDArray[Any]]) -> Batches:
        return lambda: (
            make(_wave(results, block)).astype(np.float32) for block in _blocks(results.n)
        )

    return [
        ExportStack(name, content, unit, results.n, side, results.box_A, of(make))
        for name, content, unit, make in _WAVE[wave_as]
    ]


def _write_stack(folder: Path, stack: ExportStack, form: str) -> dict[str, Any]:
    path = folder / f"{stack.name}.{'mrcs' if form == 'mrc' else 'tif'}"
    if form == "mrc":
        write_image_stack(
            path,
            stack.batches(),
            stack.n,
            stack.pixel_A,
            normalise=False,
            label=f"diffragan {stack.name}",
        )
    else:
        shape = (stack.n, stack.side, stack.side)
        write_tiff_stack(path, stack.batches(), shape, stack.pixel_A)
    return {
        path.name: {
            "content": stack.content,
            "unit": stack.unit,
            "shape": [stack.n, stack.side, stack.side],
            "pixel_A": stack.pixel_A,
        }
    }


def write_particles(
    path: Path,
    results: ResultStore,
    *,
    rows: NDArray[np.integer[Any]] | None = None,
    shifts_A: NDArray[Any] | None = None,
    side_px: int | None = None,
) -> dict[str, Any]:
    """Results as RELION particles: a stack `.mrcs`, and its STAR file of the same stem beside it.

    An image is the imaginary part of the wave, which is the projected potential with protein
    bright and has no contrast transfer to correct, at the sampling of the measured band; of a
    method that gives no wave it is the projection. The background has mean 0 and standard
    deviation 1.

    Beside orientations the table holds `rlnRandomSubset` (even rows of the store and odd ones, as
    the package's own half maps have them), `rlnParticleFigureOfMerit` (`particle_weights`, which
    `relion_reconstruct --fom_weighting` reads), and what the run itself says in columns that
    RELION passes on: diffraganSolved, diffraganTrust, diffraganRFactor, diffraganItem.

    Args:
        path: ends in `.mrcs`. rows: which results, all if not given.
        shifts_A: (len(rows), 2) x and y of the molecule in its image, none: it is centred.
        side_px: images are cut or padded to this side in Fourier space, an even number of pixels.

    Returns:
        What export.json says of the two files.
    """
    chosen = np.arange(results.n) if rows is None else np.asarray(rows)
    waves = results.has("wave")
    first = particle_images(results, chosen[:1])
    side = side_px or int(first.shape[-1])

    def batches() -> Iterator[NDArray[np.floating[Any]]]:
        for block in _blocks(len(chosen)):
            yield particle_images(results, chosen[block], side)

    items = item_columns(results)
    names = {"solved": "Solved", "trust": "Trust", "r_factor": "RFactor", "item": "Item"}
    columns = {f"diffragan{names[n]}": np.asarray(items[n])[chosen] for n in names if n in items}
    columns |= {
        "rlnRandomSubset": chosen % 2 + 1,
        "rlnParticleFigureOfMerit": particle_weights(results)[chosen],
    }
    rotations = None if results.rotation is None else results.rotation[chosen]
    particles = Particles(len(chosen), rotations, shifts_A, columns)
    pixel_A = results.box_A / side
    write_projections(path, batches(), particles, pixel_A, results.energy_ev)
    what = "imaginary part of the wave" if waves else "projection"
    about = {
        "content": f"{what}, protein bright, background of mean 0 and standard deviation 1",
        "unit": "standard deviation of the background",
        "shape": [len(chosen), side, side],
        "pixel_A": pixel_A,
    }
    star = path.with_suffix(".star").name
    return {path.name: about, star: {"content": f"RELION particles of {path.name}"}}


def particle_images(
    results: ResultStore, rows: NDArray[np.integer[Any]], side_px: int | None = None
) -> NDArray[np.floating[Any]]:
    """(len(rows), side, side) results as RELION wants to see them, protein bright; not normalised.

    With exp(+i sigma V) the imaginary part of a wave whose direct beam has phase 0 is sigma V to
    the first order: positive where atoms are.
    """
    if results.has("wave"):
        wave = results.wave(rows)
        assert wave is not None
        beam = wave.mean((-2, -1), keepdims=True)
        # A wave without a direct beam has no phase to count from.
        images: NDArray[np.floating[Any]] = (
            wave * np.conj(beam) / np.maximum(np.abs(beam), 1e-30)
        ).imag
    else:
        # Downstream of the molecule a thin object's potential is bright, upstream it is dark.
        sign = 1 if results.centre_to_exit_A > _defocus_A(results) else -1
        images = sign * results.projection(rows)
    if side_px is None or side_px == images.shape[-1]:
        return images
    resampled: NDArray[np.floating[Any]] = resample(torch.from_numpy(images), side_px).numpy()
    return resampled


def particle_weights(results: ResultStore) -> NDArray[np.float64]:
    """(n,) how much each result should count, 0 to 1: its mean trust, 1 where the method tells
    none, and 0 where the run judged it not solved."""
    weights = np.ones(results.n)
    if results.trust is not None:
        weights = results.trust[:, 1:].mean(-1, dtype=np.float64).clip(0, 1)
    return weights if results.solved is None else weights * results.solved


def _summary(results: ResultStore, files: dict[str, Any]) -> dict[str, Any]:
    keys = ("method", "input", "weights", "structures", "optics", "settings")
    return {
        "diffragan": __version__,
        "results": str(results.path.resolve()),
        "written_by": results.header["version"],
        "axes": "[slice, y, x]; the first row is y = 0; the zero point lies at [n // 2, n // 2]",
        "plane": "waves are given at the molecule's centre plane; a positive phase is potential",
        "files": files,
        **{key: results.header.get(key) for key in keys},
    }


def _wave(results: ResultStore, block: slice) -> NDArray[np.complex64]:
    wave = results.wave(block)
    assert wave is not None
    return wave


def _defocus_A(results: ResultStore) -> float:
    return float(results.settings["projection"]["defocus_A"])


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + _BATCH, n)) for start in range(0, n, _BATCH))
