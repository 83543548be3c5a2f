"""What files tell of the lens, held against the settings that were given by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.microscope.imaging import drawn_defocus
from diffragan.optics import DEFOCUS_ARRAYS, Defocus
from diffragan.settings import Settings, given_by_hand, settings_from_dict

# Settings that a file may tell as one number: its name for each, and how far two values count as
# one.
_NUMBERS = {"energy_ev": ("energy_ev", 1.0), "image.cs_mm": ("cs_mm", 0.01)}
# Turns the phase of the contrast transfer at 5 Å by 0.03 rad at 200 keV.
_SAME_DEFOCUS_A = 10.0


@dataclass(frozen=True)
class RecordedLens:
    """What files tell of the lens.

    numbers: setting (`energy_ev`, `image.cs_mm`) to its value and the file that tells it.
    defocus: of each image, and the file that tells it; None where none does.
    """

    numbers: Mapping[str, tuple[float, Path]] = field(default_factory=dict)
    defocus: tuple[Defocus, Path] | None = None


def recorded_lens(files: Sequence[tuple[Path, Mapping[str, Any]]], n: int) -> RecordedLens:
    """What the files of n pairs tell, the images' before the patterns': a pattern has no defocus.

    Args:
        files: path and arrays of the patterns' file, then of the images' where they lie apart.

    Raises:
        DiffraganError: files that contradict each other, or a defocus for another number of images.
    """
    numbers: dict[str, tuple[float, Path]] = {}
    for key, (name, close) in _NUMBERS.items():
        values = [(float(arrays[name]), path) for path, arrays in reversed(files) if name in arrays]
        if not values:
            continue
        numbers[key] = values[0]
        (first, file), (last, other) = values[0], values[-1]
        if key == "energy_ev" and abs(first - last) > close:
            raise DiffraganError(
                f"{other} tells an energy of {last / 1e3:g} keV and {file} one of "
                f"{first / 1e3:g} keV; a pair is taken at one, so correct one of the files."
            )
    for path, arrays in reversed(files):
        defocus = _defocus(path, arrays, n)
        if defocus is not None:
            return RecordedLens(numbers, (defocus, path))
    return RecordedLens(numbers)


def _defocus(path: Path, arrays: Mapping[str, Any], n: int) -> Defocus | None:
    """Of each image, where a file tells it."""

    def column(name: str) -> NDArray[np.float64]:
        values = np.asarray(arrays[name], dtype=np.float64)
        if not np.isfinite(values).all():
            raise DiffraganError(f"{path} has no number for every '{name}'; repair the file.")
        if values.size == 1:
            return np.full(n, values.item())
        if values.shape != (n,):
            raise DiffraganError(
                f"{path} holds {n} images and '{name}' of shape {values.shape}; give one number, "
                "or one for each image."
            )
        return values

    u, v, angle = DEFOCUS_ARRAYS
    if u not in arrays:
        return Defocus.of(column("defocus_A")) if "defocus_A" in arrays else None
    along = column(u)
    across = column(v) if v in arrays else along
    if angle in arrays:
        return Defocus(along, across, column(angle))
    apart = float(np.abs(along - across).max(initial=0))
    if apart > _SAME_DEFOCUS_A:
        raise DiffraganError(
            f"The images of {path} are astigmatic (defocus U and V up to {apart:.4g} Å apart), and "
            "the file does not tell the angle of U (rlnDefocusAngle, defocus_angle_deg); add it."
        )
    return Defocus.of((along + across) / 2)


def lens_of_images(
    lens: RecordedLens, settings: Settings, n: int
) -> tuple[Settings, Defocus | None]:
    """The settings with the lens as the files of n pairs tell it, and the defocus of each image,
    None where all have `image.defocus_A` and no astigmatism.

    Defoci that differ by more than 10 Å are each image's own, and the settings get their mean.

    Raises:
        DiffraganError: a setting given by hand disagrees with a file, or a file's value can't be.
    """
    changes: dict[str, Any] = {"image": {}}
    for key, (value, file) in lens.numbers.items():
        section, _, name = key.rpartition(".")
        _check_possible(file, key, value)
        if given_by_hand(settings, key):
            mine = getattr(getattr(settings, section) if section else settings, name)
            if abs(value - mine) > _NUMBERS[key][1]:
                raise _disagreement(file, key, f"{value:.10g}", f"{mine:.10g}")
            continue
        (changes[section] if section else changes)[name] = value
    defocus: Defocus | None = None
    if lens.defocus is not None:
        defocus, file = lens.defocus
        for values in (defocus.u_A, defocus.v_A):
            for value in (values.min(), values.max()):
                _check_possible(file, "image.defocus_A", float(value))
        defocus, mean = _summary(defocus)
        _check_hand(file, defocus, mean, settings)
        changes["image"] |= {
            k: v for k, v in mean.items() if not given_by_hand(settings, f"image.{k}")
        }
    image = settings.image.model_copy(update=changes.pop("image"))
    if lens.defocus is None:
        defocus = drawn_defocus(image.model_copy(update={"defocus_spread_A": 0.0}), range(n))
    return settings.model_copy(update={"image": image, **changes}), defocus


def _summary(defocus: Defocus) -> tuple[Defocus | None, dict[str, float]]:
    """What has to be known of each image, None where one defocus does for all; and the mean lens,
    as settings of images have it."""
    terms = defocus.terms_A
    _, a, b = terms.mean(0)
    astigmatism = 2 * math.hypot(a, b)
    mean = {
        "defocus_A": float((defocus.u_A.mean() + defocus.v_A.mean()) / 2),
        "astigmatism_A": astigmatism if astigmatism > _SAME_DEFOCUS_A else 0.0,
        "astigmatism_angle_deg": 0.0,
    }
    if mean["astigmatism_A"]:
        mean["astigmatism_angle_deg"] = math.degrees(math.atan2(b, a)) / 2
    turned = 2 * np.hypot(terms[:, 1] - a, terms[:, 2] - b)
    if max(np.ptp(terms[:, 0]), turned.max()) > _SAME_DEFOCUS_A:
        return defocus, mean
    if not mean["astigmatism_A"]:
        return None, mean
    alike = np.full(len(defocus), mean["defocus_A"])
    return Defocus.of(alike, mean["astigmatism_A"], mean["astigmatism_angle_deg"]), mean


def _check_hand(
    file: Path, defocus: Defocus | None, mean: Mapping[str, float], settings: Settings
) -> None:
    """Refuses a defocus or an astigmatism that was given by hand and is not the file's."""
    if defocus is None:
        defocus = Defocus.of(np.array([mean["defocus_A"]]))
    terms, image = defocus.terms_A, settings.image
    if given_by_hand(settings, "image.defocus_A"):
        apart = np.abs(terms[:, 0] - image.defocus_A).max()
        if apart > _SAME_DEFOCUS_A:
            theirs = _worded(terms[:, 0])
            raise _disagreement(file, "image.defocus_A", theirs, f"{image.defocus_A:.10g}")
    names = ("astigmatism_A", "astigmatism_angle_deg")
    by_hand = [name for name in names if given_by_hand(settings, f"image.{name}")]
    if by_hand:
        size, angle = (getattr(image, n) if n in by_hand else mean[n] for n in names)
        at_hand = Defocus.of(np.zeros(1), size, angle).terms_A
        if 2 * np.hypot(*(terms - at_hand).T[1:]).max() > _SAME_DEFOCUS_A:
            theirs = f"{_worded(defocus.u_A - defocus.v_A)} at {_worded(defocus.angle_deg)} degrees"
            mine = f"{size:.10g} at {angle:.10g} degrees"
            raise _disagreement(file, "image.astigmatism_A", theirs, mine)


def _worded(values: NDArray[np.float64]) -> str:
    low, high = (f"{value:.6g}" for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _disagreement(file: Path, key: str, theirs: str, mine: str) -> DiffraganError:
    return DiffraganError(
        f"{file} tells {key} = {theirs}, and {key} = {mine} was given by hand; leave out the "
        "setting if the file is right, or correct the file."
    )


def _check_possible(file: Path, key: str, value: float) -> None:
    """Refuses what a setting can't be, whoever tells it."""
    section, _, name = key.rpartition(".")
    try:
        settings_from_dict({section: {name: value}} if section else {name: value})
    except DiffraganError as error:
        raise DiffraganError(f"{file} tells what can't be: {error}") from None
