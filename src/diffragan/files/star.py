"""RELION's STAR files, read and written: particles and what is known of them.

RELION's words meet the package's here alone. Its angles (rot, tilt, psi) are ZYZ, see
`diffragan.rotations`. Its origin is the move that centres an image, in Å: a molecule that lies
at +3 Å in x has rlnOriginXAngst -3. Its defocus is positive for underfocus and counts from the
molecule, as `image.defocus_A` does in array files; its astigmatism is that of `optics.Defocus`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError, one_line
from diffragan.files.atomic import write_atomically
from diffragan.files.mrc import read_mrc_stack, write_image_stack
from diffragan.rotations import relion_angles, rotations_from_relion

ITEM_COLUMN = "diffraganItem"  # of particles, their place in the input that was phased
_ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
_ORIGINS = ["rlnOriginXAngst", "rlnOriginYAngst"]
_DEFOCUS = {
    "defocus_u_A": "rlnDefocusU",
    "defocus_v_A": "rlnDefocusV",
    "defocus_angle_deg": "rlnDefocusAngle",
}


@dataclass(frozen=True)
class Particles:
    """What a STAR file tells of `count` images beside their pixels.

    rotations: (count, 3, 3), r' = R r, projection along z; None where they are not known.
    shifts_A: (count, 2) x and y of the molecule from its image's centre, pixel [n // 2, n // 2].
    columns: further ones by RELION's name, (count,) each, as `rlnRandomSubset`.
    """

    count: int
    rotations: NDArray[np.float64] | None = None
    shifts_A: NDArray[Any] | None = None
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def pose_columns(particles: Particles) -> dict[str, NDArray[Any]]:
    """Angles, where known, and origins as RELION has them."""
    columns: dict[str, NDArray[Any]] = {}
    if particles.rotations is not None:
        angles = relion_angles(np.asarray(particles.rotations, dtype=np.float64))
        columns = dict(zip(_ANGLES, angles.T, strict=True))
    shifts = particles.shifts_A
    moves = np.zeros((particles.count, 2)) if shifts is None else -np.asarray(shifts, float)
    return columns | dict(zip(_ORIGINS, moves.T, strict=True))


def _poses(path: Path, table: Any) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Rotations and shifts of a table of particles; None where it has no such columns."""
    rotations = shifts = None
    try:
        if all(name in table for name in _ANGLES):
            rotations = rotations_from_relion(_finite(table[_ANGLES]))
        if any(name in table for name in _ORIGINS):
            given = [table[n] if n in table else np.zeros(len(table)) for n in _ORIGINS]
            shifts = -_finite(np.stack(given, -1))
    except (ValueError, TypeError):
        raise DiffraganError(
            f"{path} has angles or shifts that are no numbers; repair the file."
        ) from None
    return rotations, shifts


def _finite(values: Any) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=float)
    if not np.isfinite(numbers).all():
        raise ValueError
    return numbers


def read_orientations(file: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotations (n, 3, 3) and shifts (n, 2), x and y of the molecule in Å, of a RELION STAR file.

    Raises:
        DiffraganError: not a STAR file, or one without angles.
    """
    if not file.exists():
        raise DiffraganError(f"There is no file {file}; check --orientations.")
    try:
        rotations, shifts = _poses(file, _tables(file)[0])
    except (KeyError, ValueError, StopIteration, UnicodeDecodeError, TypeError, AttributeError):
        rotations = shifts = None
    if rotations is None:
        raise DiffraganError(
            f"{file} has no RELION angles (rlnAngleRot, rlnAngleTilt, rlnAnglePsi for every "
            "particle); give a STAR file of particles."
        )
    return rotations, np.zeros((len(rotations), 2)) if shifts is None else shifts


def items_in(file: Path) -> NDArray[np.int64] | None:
    """(n,) which pair of the input each row is of, by the column of the particles that this package
    writes and that RELION keeps; None where the file has none."""
    try:
        return np.asarray(read_column(file, ITEM_COLUMN), dtype=np.int64)
    except (DiffraganError, ValueError, TypeError):
        return None


def by_stack(file: Path, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of the rows of a table (n, ...) in the order of its stack, as RELION may sort rows.

    Raises:
        DiffraganError: the table does not hold every image of one stack once.
    """
    places = [int(str(name).partition("@")[0]) - 1 for name in read_column(file, "rlnImageName")]
    if sorted(places) != list(range(len(places))):
        raise DiffraganError(f"{file} does not name each image of one stack once; was it changed?")
    ordered = np.empty_like(values)
    ordered[places] = values
    return ordered


def write_relion_angles(path: Path, rotations: NDArray[np.float64]) -> None:
    """A STAR file with one row of RELION angles per orientation."""
    angles = np.round(relion_angles(rotations), 6)
    write_tables(path, {"particles": dict(zip(_ANGLES, angles.T, strict=True))})


def read_column(path: Path, name: str, table: str = "particles") -> list[Any]:
    """A column of a STAR file, or the one value of a list of values.

    Raises:
        DiffraganError: no such file, table or column.
    """
    import starfile

    try:
        found = starfile.read(path, always_dict=True)[table][name]
    except Exception as error:  # starfile and pandas have several words for a damaged file
        raise DiffraganError(
            f"{path} has no column {name} in a table '{table}' ({one_line(error)}); is it whole?"
        ) from None
    return [found] if isinstance(found, str | int | float) else list(found)


def read_particles(path: Path) -> Mapping[str, Any]:
    """RELION particles: their images as `pattern`, which may lie in several stacks, and what the
    file tells of `pixel_A`, `rotation`, `shifts_A`, `energy_ev`, `cs_mm`, `defocus_u_A`,
    `defocus_v_A` and `defocus_angle_deg`, the last three (n,).

    Raises:
        DiffraganError: no particles, a stack that is not there, particles or optics groups that
            differ in what all pairs of an input share, or a lens that the image model does not
            have.
    """
    particles, optics = _tables(path)
    if "rlnImageName" not in particles:
        raise DiffraganError(f"{path} has no rlnImageName column; give RELION particles.")
    gathered, pixel = _gathered(path, list(particles["rlnImageName"].astype(str)))
    table = _ParticleTable(path, particles, optics)
    arrays: dict[str, Any] = {
        "pattern": gathered,
        "pixel_A": table.one("rlnImagePixelSize", 1e-6) or pixel,
        **_lens(table),
    }
    table.one("rlnImageSize", 0)
    rotations, shifts = _poses(path, particles)
    return arrays | {
        name: value
        for name, value in (("rotation", rotations), ("shifts_A", shifts))
        if value is not None
    }


def _tables(path: Path) -> tuple[Any, Any]:
    """Particles and optics groups, the latter None where there are none."""
    import starfile

    tables = starfile.read(path, always_dict=True)
    return tables.get("particles", next(iter(tables.values()))), tables.get("optics")


def _gathered(path: Path, names: list[str]) -> tuple[_Gathered, float | None]:
    """The images of `NUMBER@STACK` names, and the pixel that the first stack's header tells."""
    places: list[tuple[Path, int]] = []
    for name in names:
        number, at, stack = name.partition("@")
        if not at or not number.strip().isdigit():
            raise DiffraganError(
                f"{path} calls an image '{name}'; RELION's rlnImageName is NUMBER@STACK."
            )
        places.append((Path(stack), int(number) - 1))
    stacks = {file: read_mrc_stack(_located(path, file)) for file in {f for f, _ in places}}
    first = stacks[places[0][0]]
    for file, place in places:
        count, *sides = stacks[file]["pattern"].shape
        if not 0 <= place < count:
            raise DiffraganError(f"{path} asks for image {place + 1} of {file}, which has {count}.")
        if sides != list(first["pattern"].shape[1:]):
            raise DiffraganError(
                f"The images that {path} names differ in size ({file} and {places[0][0]}); give a "
                "file for each size."
            )
    return _Gathered([(stacks[f]["pattern"], i) for f, i in places]), first["pixel_A"]


def _located(star: Path, name: Path) -> Path:
    """The stack that a STAR file names.

    RELION's names count from the project's folder, where it is run; others count from the file.
    """
    folder = star.resolve().parent
    for place in (folder, Path.cwd(), *folder.parents):
        if (place / name).is_file():
            return place / name
    raise DiffraganError(
        f"There is no stack {name}, which {star} names: it lies neither in {folder}, nor in the "
        f"working folder {Path.cwd()}, nor in a folder above the STAR file; copy it there."
    )


class _Gathered:
    """A stack whose items lie in several files."""

    def __init__(self, places: list[tuple[Any, int]]) -> None:
        self._places = places

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._places), *self._places[0][0].shape[1:])

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, items: Any) -> NDArray[Any]:
        chosen = np.arange(len(self))[items]
        return np.stack([self._places[i][0][self._places[i][1]] for i in np.atleast_1d(chosen)])


@dataclass(frozen=True)
class _ParticleTable:
    """What a STAR file tells of its particles, each by itself or by optics groups."""

    path: Path
    particles: Any
    optics: Any

    @property
    def _grouped(self) -> bool:
        return all("rlnOpticsGroup" in table for table in (self.particles, self.optics))

    def column(self, name: str) -> NDArray[np.float64] | None:
        """(n,) values of each particle, its own or its optics group's; None where not told."""
        if name in self.particles:
            values = self.particles[name]
        elif self.optics is None or name not in self.optics:
            return None
        elif self._grouped:
            groups = self.optics.set_index("rlnOpticsGroup")[name]
            values = groups.reindex(self.particles["rlnOpticsGroup"])
        elif self.optics[name].nunique() > 1:
            raise DiffraganError(
                f"{self.path} tells several values of {name} and no rlnOpticsGroup of its "
                "particles; add that column."
            )
        else:
            values = np.full(len(self.particles), self.optics[name].iloc[0])
        numbers = np.asarray(values, dtype=float)
        if not len(numbers) or not np.isfinite(numbers).all():
            raise DiffraganError(f"{self.path} has no number for every {name}; repair the file.")
        return numbers

    def one(self, name: str, close: float) -> float | None:
        """The value that all particles share up to `close`, None where not told."""
        values = self.column(name)
        if values is None:
            return None
        if np.ptp(values) > close:
            whose, several = "particles", [f"{value:g}" for value in np.unique(values)]
            if name not in self.particles:
                whose, groups = "optics groups", self.particles["rlnOpticsGroup"]
                by_group = dict(zip(groups, values, strict=True))
                several = [f"{value:g} in group {group}" for group, value in by_group.items()]
            raise DiffraganError(
                f"The {whose} of {self.path} differ in {name} ({', '.join(several[:4])}); pairs of "
                "one box, one energy and one spherical aberration are needed, so give a file for "
                "each."
            )
        return float(np.unique(values).mean())


def _lens(table: _ParticleTable) -> dict[str, Any]:
    """Energy, spherical aberration and each particle's defocus, where the file tells them.

    RELION's CTF phase is -pi lambda U q² + pi/2 Cs lambda³ q⁴ (its `CTF::getGamma`, U =
    rlnDefocusU), the lens's chi here with defocus_A = U: no sign is turned.
    """
    lens: dict[str, Any] = {}
    if (kilovolts := table.one("rlnVoltage", 1e-6)) is not None:
        lens["energy_ev"] = 1e3 * kilovolts
    if (cs_mm := table.one("rlnSphericalAberration", 1e-6)) is not None:
        lens["cs_mm"] = cs_mm
    if (phase := table.column("rlnPhaseShift")) is not None and np.abs(phase).max() > 1:
        raise DiffraganError(
            f"{table.path} tells a phase plate (rlnPhaseShift up to {np.abs(phase).max():g} "
            "degrees), which the image model does not have; give images taken without one."
        )
    for name, relion in _DEFOCUS.items():
        if (values := table.column(relion)) is not None:
            lens[name] = values
    return lens


# RELION's default; nothing uses it where the images carry no CTF.
AMPLITUDE_CONTRAST = 0.1


def write_projections(
    path: Path,
    batches: Iterable[NDArray[Any]],
    particles: Particles,
    pixel_A: float,
    energy_ev: float,
    cs_mm: float = 0,
    *,
    amplitude: float = AMPLITUDE_CONTRAST,
) -> None:
    """Projections as a RELION particle stack `.mrcs` with a `.star` of the same stem beside it.

    Each image is normalised as RELION wants it: the background (outside the circle inscribed in
    the box) has mean 0 and standard deviation 1. Where the background is flat, only its mean is
    taken off. Batches go to the disk one by one, so memory holds one of them.

    Args:
        path: ends in `.mrcs`.
        batches: (k, y, x) each, together one image of one square size a particle, at least one,
            protein positive.
        pixel_A: side of a pixel in Å.
        energy_ev, cs_mm: beam energy in eV and spherical aberration in mm, for the optics table.
        amplitude: part of amplitude contrast, for images with a contrast transfer.

    Raises:
        DiffraganError: numbers of images, rotations or columns differ, an image is not square or
            not finite, or the disk refuses.
    """
    count = particles.count
    known = {"rotations": particles.rotations, "shifts_A": particles.shifts_A}
    for name, values in {**known, **particles.columns}.items():
        if values is not None and len(values) != count:
            raise DiffraganError(f"{path} is to hold {count} images, but {len(values)} {name}.")
    if path.suffix != ".mrcs":
        raise DiffraganError(f"RELION knows image stacks by the suffix .mrcs; rename {path}.")
    side = write_image_stack(path, batches, count, pixel_A)
    optics = {
        "rlnOpticsGroup": [1],
        "rlnOpticsGroupName": ["opticsGroup1"],
        "rlnVoltage": [energy_ev / 1000],
        "rlnSphericalAberration": [float(cs_mm)],
        "rlnAmplitudeContrast": [amplitude],
        "rlnImagePixelSize": [pixel_A],
        "rlnImageSize": [side],
        "rlnImageDimensionality": [2],
    }
    table: dict[str, Any] = {
        "rlnImageName": [f"{k + 1:06d}@{path.name}" for k in range(count)],
        **pose_columns(particles),
        "rlnOpticsGroup": np.ones(count, dtype=int),
        **{name: np.asarray(column) for name, column in particles.columns.items()},
    }
    write_tables(path.with_suffix(".star"), {"optics": optics, "particles": table})


def write_tables(path: Path, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Tables of columns by their names, as one STAR file; errors as `write_atomically`."""
    import pandas as pd
    import starfile

    # Its own word for a missing value, <NA>, is no number to other programs.
    text = starfile.to_string(
        {name: pd.DataFrame(table) for name, table in tables.items()}, na_rep="nan"
    )
    write_atomically(path, text.encode())
