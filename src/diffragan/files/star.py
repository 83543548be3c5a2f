"""STAR files as RELION writes and reads them: particles, angles, FSC."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.files.csv import write_history
from diffragan.files.mrc import as_array, read_mrc_stack, write_image_stack
from diffragan.rotations import relion_angles, rotations_from_relion


def write_relion_angles(path: Path, rotations: NDArray[np.float64]) -> None:
    """A STAR file with one row of RELION angles per orientation."""
    import pandas as pd
    import starfile

    names = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    table = pd.DataFrame(np.round(relion_angles(rotations), 6), columns=names)
    temporary = path.with_name(path.name + ".tmp")
    starfile.write({"particles": table}, temporary, overwrite=True)
    temporary.replace(path)


def read_particles(path: Path) -> Mapping[str, Any]:
    import starfile

    tables = starfile.read(path, always_dict=True)
    particles = tables.get("particles", next(iter(tables.values())))
    if "rlnImageName" not in particles:
        raise DiffraganError(f"{path} has no rlnImageName column; give RELION particles.")
    names = [str(name).split("@") for name in particles["rlnImageName"]]
    places = [(int(number) - 1, (path.parent / file)) for number, file in names]
    stacks = {file: read_mrc_stack(file) for _, file in places}
    pixel = next(iter(stacks.values()))["pixel_A"]
    if "optics" in tables:
        optics = tables["optics"]
        for name in ("rlnImagePixelSize", "rlnVoltage", "rlnImageSize"):
            if name in optics and optics[name].nunique() > 1:
                values = ", ".join(f"{v:g}" for v in optics[name].unique())
                raise DiffraganError(
                    f"The optics groups of {path} differ in {name} ({values}); pairs of one box "
                    "and one energy are needed, so give a file for each."
                )
        if "rlnImagePixelSize" in optics:
            pixel = float(optics["rlnImagePixelSize"].iloc[0])
    found: dict[str, Any] = {
        "pattern": _Gathered([(stacks[f]["pattern"], i) for i, f in places]),
        "pixel_A": pixel,
    }
    angles = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    if all(name in particles for name in angles):
        from diffragan.rotations import rotations_from_relion

        found["rotation"] = rotations_from_relion(particles[angles].to_numpy(float))
    if "rlnOriginXAngst" in particles and "rlnOriginYAngst" in particles:
        found["shifts_A"] = -particles[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy(float)
    return found


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


def read_orientations(file: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotations (n, 3, 3) and shifts (n, 2), x and y of the molecule in Å, of a RELION STAR file.

    rlnOriginXAngst is how an image must be moved to centre its molecule, so its sign is turned.

    Raises:
        DiffraganError: not a STAR file, or one without angles.
    """
    import starfile

    if not file.exists():
        raise DiffraganError(f"There is no file {file}; check --orientations.")
    try:
        tables = starfile.read(file, always_dict=True)
        particles = tables.get("particles", next(iter(tables.values())))
        angles = particles[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float)
        shifts = np.zeros((len(angles), 2))
        for k, name in enumerate(("rlnOriginXAngst", "rlnOriginYAngst")):
            if name in particles:
                shifts[:, k] = -particles[name].to_numpy(float)
    except (KeyError, ValueError, StopIteration, UnicodeDecodeError, TypeError, AttributeError):
        raise DiffraganError(
            f"{file} has no RELION angles (rlnAngleRot, rlnAngleTilt, rlnAnglePsi for every "
            "particle); give a STAR file of particles."
        ) from None
    if not (np.isfinite(angles).all() and np.isfinite(shifts).all()):
        raise DiffraganError(f"{file} has angles or shifts that are no numbers; repair the file.")
    return rotations_from_relion(angles), shifts


# What RELION writes for the resolution of shell 0, which has none.
NO_RESOLUTION_A = 999.0


# RELION's default; nothing uses it, as the projections carry no CTF.
AMPLITUDE_CONTRAST = 0.1


_STAR_CURVES = {
    "half": "rlnFourierShellCorrelationCorrected",
    "masked": "rlnFourierShellCorrelationMaskedMaps",
    "unmasked": "rlnFourierShellCorrelationUnmaskedMaps",
}


def write_fsc(folder: Path, q: Tensor, curves: Mapping[str, Tensor]) -> None:
    """`fsc.csv` and `fsc.star` with one row per shell.

    The CSV names the curves as given. The STAR table `data_fsc` calls the curve between half maps
    ("half") rlnFourierShellCorrelationCorrected, "masked" and "unmasked" as RELION does, and any
    other NAME rlnFourierShellCorrelationName. Shell 0 has the resolution 999 Å, as in RELION.
    A value that is not known (nan) is an empty cell in the CSV and `nan` in the STAR table.

    Args:
        folder: must exist.
        q: (s,) spatial frequencies in 1/Å, shell k at k steps; s at least 2.
        curves: name to (s,).

    Raises:
        DiffraganError: fewer than two shells, a curve of another length, or the disk refuses.
    """
    import pandas as pd
    import starfile

    at = as_array(q).astype(np.float64)
    if len(at) < 2:
        raise DiffraganError(f"An FSC of {len(at)} shells tells nothing; give two or more.")
    values = {name: as_array(curve).astype(np.float64) for name, curve in curves.items()}
    for name, curve in values.items():
        if curve.shape != at.shape:
            raise DiffraganError(
                f"The FSC curve “{name}” has shape {curve.shape}, its frequencies {at.shape}."
            )
    with np.errstate(divide="ignore"):
        resolution = np.where(at > 0, 1 / at, NO_RESOLUTION_A)
    rows = [
        dict(zip(("q_per_A", "resolution_A", *values), map(float, row), strict=True))
        for row in zip(at, resolution, *values.values(), strict=True)
    ]
    write_history(folder / "fsc.csv", rows)
    columns: dict[str, NDArray[Any]] = {
        "rlnSpectralIndex": np.rint(at / (at[1] - at[0])).astype(int),
        "rlnResolution": at,
        "rlnAngstromResolution": resolution,
    }
    columns |= {_star_name(name): curve for name, curve in values.items()}
    # Its own word for a missing value, <NA>, is no number to other programs.
    text = starfile.to_string({"fsc": pd.DataFrame(columns)}, na_rep="nan")
    write_atomically(folder / "fsc.star", text.encode())


def write_projections(
    path: Path,
    batches: Iterable[NDArray[Any]],
    count: int,
    pixel_A: float,
    rotations: NDArray[np.float64] | None,
    energy_ev: float,
    cs_mm: float = 0,
    shifts_A: NDArray[Any] | None = None,
    extra: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """Projections as a RELION particle stack `.mrcs` with a `.star` of the same stem beside it.

    Each image is normalised as RELION wants it: the background (outside the circle inscribed in
    the box) has mean 0 and standard deviation 1. Where the background is flat, only its mean is
    taken off. Batches go to the disk one by one, so memory holds one of them.

    Args:
        path: ends in `.mrcs`.
        batches: (k, y, x) each, together `count` images of one square size, protein positive.
        count: number of images, at least 1.
        pixel_A: side of a pixel in Å.
        rotations: (count, 3, 3), r' = R r, projection along z; None leaves the angles out.
        energy_ev, cs_mm: beam energy in eV and spherical aberration in mm, for the optics table.
        shifts_A: (count, 2) as y, x in Å: RELION's origins, that is how far each image must be
            moved to bring the molecule's centre to pixel [n // 2, n // 2]. A molecule that
            lies at +3 Å in x has the origin -3 Å. Not given: 0.
        extra: further particle columns by RELION name, (count,) each, as `rlnRandomSubset`.

    Raises:
        DiffraganError: numbers of images, rotations or columns differ, an image is not square or
            not finite, or the disk refuses.
    """
    for name, found in {"rotations": rotations, "shifts_A": shifts_A, **(extra or {})}.items():
        if found is not None and len(found) != count:
            raise DiffraganError(f"{path} is to hold {count} images, but {len(found)} {name}.")
    if path.suffix != ".mrcs":
        raise DiffraganError(f"RELION knows image stacks by the suffix .mrcs; rename {path}.")
    side = write_image_stack(path, batches, count, pixel_A)
    tables = {
        "optics": {
            "rlnOpticsGroup": [1],
            "rlnOpticsGroupName": ["opticsGroup1"],
            "rlnVoltage": [energy_ev / 1000],
            "rlnSphericalAberration": [float(cs_mm)],
            "rlnAmplitudeContrast": [AMPLITUDE_CONTRAST],
            "rlnImagePixelSize": [pixel_A],
            "rlnImageSize": [side],
            "rlnImageDimensionality": [2],
        },
        "particles": _particles(path.name, count, rotations, shifts_A, extra or {}),
    }
    import pandas as pd
    import starfile

    text = starfile.to_string({name: pd.DataFrame(table) for name, table in tables.items()})
    write_atomically(path.with_suffix(".star"), text.encode())


def _particles(
    stack: str,
    count: int,
    rotations: NDArray[np.float64] | None,
    shifts_A: NDArray[Any] | None,
    extra: Mapping[str, NDArray[Any]],
) -> dict[str, Any]:
    angles: dict[str, Any] = {}
    if rotations is not None:
        columns = relion_angles(np.asarray(rotations, dtype=np.float64)).T
        names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
        angles = dict(zip(names, columns, strict=True))
    y, x = np.zeros((2, count)) if shifts_A is None else np.asarray(shifts_A, float).T
    return {
        "rlnImageName": [f"{k + 1:06d}@{stack}" for k in range(count)],
        **angles,
        "rlnOriginXAngst": x,
        "rlnOriginYAngst": y,
        "rlnOpticsGroup": np.ones(count, dtype=int),
        **{name: np.asarray(column) for name, column in extra.items()},
    }


def _star_name(curve: str) -> str:
    plain = "".join(part[:1].upper() + part[1:] for part in curve.replace("-", "_").split("_"))
    return _STAR_CURVES.get(curve, f"rlnFourierShellCorrelation{plain}")
