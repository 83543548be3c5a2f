"""What a reconstruction starts from: which views, their orientations, and whether they will do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.star import items_in, read_orientations
from diffragan.files.store import ResultStore
from diffragan.pairs.pairs import Pairs
from diffragan.rotations import quasi_uniform

LEAST_VIEWS = 10


LEAST_TO_FIND = 20


_CONE_WARNING_DEG = 10.0


@dataclass(frozen=True)
class ViewSelection:
    """The views of one molecule.

    items: (v,) indices in the input. rotations: (v, 3, 3), or None where they are to be found.
    shifts_A: (v, 2), x and y of the molecule in its image. mass_kda: None where not known.
    """

    items: NDArray[np.int64]
    rotations: NDArray[np.float64] | None
    shifts_A: NDArray[np.float64]
    molecule: str
    mass_kda: float | None
    warnings: tuple[str, ...]


def choose_views(
    pairs: Pairs,
    *,
    structure: str | None = None,
    limit: int | None = None,
    orientations: Path | None = None,
    find: bool = False,
    mass_kda: float | None = None,
) -> ViewSelection:
    """The views to work on, checked.

    Args:
        structure: the molecule to take of a store that holds several.
        limit: so many views, spread evenly. orientations: STAR file with a row per pair, or rows
            that tell the pair that they are of; pairs that it leaves out take no part.
        find: the orientations are to be found; none are needed.
        mass_kda: molecular weight; the store's if not given.

    Raises:
        DiffraganError: too few views, several molecules, no orientations, or too small a field.
    """
    index = _molecule(pairs, structure)
    items = np.flatnonzero(pairs.structure_index == index)
    given = None if find else _orientations(pairs, orientations)
    if given is not None:
        items = items[given.known[items]]
    if limit is not None and limit < len(items):
        items = items[(np.arange(limit) * len(items)) // limit]
    if len(items) < LEAST_VIEWS:
        raise DiffraganError(
            f"{pairs.name} gives {len(items)} views of {pairs.structures[index].stem}; a "
            f"reconstruction needs at least {LEAST_VIEWS}, phase fewer one by one with "
            "`diffragan phase --method raar`."
        )
    if find and len(items) < LEAST_TO_FIND:
        raise DiffraganError(
            f"{pairs.name} gives {len(items)} views, too few to find orientations from nothing; "
            f"give {LEAST_TO_FIND} or more, or orientations (--orientations)."
        )
    info = pairs.structures[index]
    warnings = []
    if info.diameter_A > 1.1 * pairs.box_A:
        raise DiffraganError(
            f"{info.stem} is {info.diameter_A:.0f} Å across and the field {pairs.box_A:g} Å; "
            f"measure or simulate it in a field of at least {info.diameter_A:.0f} Å."
        )
    if info.diameter_A > 0.95 * pairs.box_A:
        warnings.append(
            f"{info.stem} is {info.diameter_A:.0f} Å across in a field of {pairs.box_A:g} Å: its "
            "ends wrap around or are cut off."
        )
    rotations, shifts = None, np.zeros((len(items), 2))
    if given is not None:
        rotations, shifts = given.rotations[items], given.shifts_A[items]
        warnings += _cone_warning(rotations)
    mass = mass_kda or info.mass_kda or None
    return ViewSelection(items, rotations, shifts, info.stem, mass, tuple(warnings))


def missing_cone_deg(rotations: NDArray[np.float64]) -> float:
    """Half angle of the largest cone in Fourier space that no central slice enters, degrees.

    A slice holds all directions at right angles to its view's beam, so direction d is missed by
    asin |d . beam|, at the least over all views. From one direction only it is 90 degrees.
    """
    beams = rotations[:, 2, :]
    directions = quasi_uniform(4000)[:, 2, :]
    nearest = np.abs(directions @ beams.T).min(1).max()
    return float(np.degrees(np.arcsin(min(nearest, 1.0))))


def mergeable(results: ResultStore) -> NDArray[np.float64]:
    """The orientations (v, 3, 3) of results that can make a map.

    Raises:
        DiffraganError: no waves, no orientations, several molecules or too few views.
    """
    if not results.has("wave"):
        raise DiffraganError(
            f"{results.path} has projections only (method '{results.method}'); merging needs "
            "waves, as image, raar, hybrid and many-views give them."
        )
    if results.rotation is None:
        raise DiffraganError(
            f"{results.path} tells no orientations; phase pairs that have them, or reconstruct "
            "the pairs with --method many-views --find-orientations."
        )
    if len(np.unique(results.structure_index)) > 1:
        raise DiffraganError(
            f"{results.path} holds several molecules; a map is made of one, so phase one "
            "structure's pairs."
        )
    if results.n < LEAST_VIEWS:
        raise DiffraganError(
            f"{results.path} holds {results.n} views; a map needs at least {LEAST_VIEWS}."
        )
    return results.rotation


def _molecule(pairs: Pairs, structure: str | None) -> int:
    stems = [s.stem for s in pairs.structures]
    if structure is not None:
        if structure not in stems:
            raise DiffraganError(
                f"{pairs.name} holds no '{structure}'; it holds {', '.join(stems[:8])}."
            )
        return stems.index(structure)
    present = np.unique(pairs.structure_index)
    if len(present) > 1:
        names = ", ".join(stems[int(i)] for i in present[:8])
        raise DiffraganError(
            f"{pairs.name} holds views of {len(present)} molecules ({names}); choose one with "
            "--structure."
        )
    return int(present[0])


def _cone_warning(rotations: NDArray[np.float64]) -> list[str]:
    cone = missing_cone_deg(rotations)
    if cone <= _CONE_WARNING_DEG:
        return []
    return [
        f"No view's slice comes closer than {cone:.0f}° to some directions: a missing cone of "
        f"{cone:.0f}° half angle, along which the map is smeared; add views from the side."
    ]


@dataclass(frozen=True)
class _Given:
    """Orientations of all pairs of an input: rotations (n, 3, 3), shifts_A (n, 2), and known (n,),
    for which of them they are told."""

    rotations: NDArray[np.float64]
    shifts_A: NDArray[np.float64]
    known: NDArray[np.bool_]


def _orientations(pairs: Pairs, file: Path | None) -> _Given:
    """Orientations from a STAR file or the input itself."""
    every = np.ones(pairs.n, dtype=bool)
    if file is not None:
        rotations, shifts = read_orientations(file)
        if (items := items_in(file)) is not None:
            return _by_item(pairs, file, items, rotations, shifts)
        if len(rotations) != pairs.n:
            raise DiffraganError(
                f"{file} has {len(rotations)} rows and {pairs.name} {pairs.n} pairs; give one row "
                "per pair, in the same order."
            )
        return _Given(rotations, shifts, every)
    if pairs.rotation is None:
        raise DiffraganError(
            f"{pairs.unoriented}; give them with --orientations FILE.star, or have "
            "them found with --find-orientations."
        )
    shifts = np.zeros((pairs.n, 2)) if pairs.shifts_A is None else pairs.shifts_A
    return _Given(pairs.rotation, shifts, every)


def _by_item(
    pairs: Pairs,
    file: Path,
    items: NDArray[np.int64],
    rotations: NDArray[np.float64],
    shifts: NDArray[np.float64],
) -> _Given:
    """Rows in any order, of some of the pairs, each with the number of its pair."""
    if len(np.unique(items)) != len(items) or items.min() < 0 or items.max() >= pairs.n:
        raise DiffraganError(
            f"{file} tells orientations of pairs that {pairs.name} does not have, or twice of one "
            f"(diffraganItem runs from {items.min()} to {items.max()}, and there are {pairs.n} "
            "pairs); give the input that its particles were phased from."
        )
    all_rotations, all_shifts = np.tile(np.eye(3), (pairs.n, 1, 1)), np.zeros((pairs.n, 2))
    known = np.zeros(pairs.n, dtype=bool)
    all_rotations[items], all_shifts[items], known[items] = rotations, shifts, True
    return _Given(all_rotations, all_shifts, known)
